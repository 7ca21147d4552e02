//! Draws curves as SVG. Positions are percentages, so that curves scale with the
//! page and labels keep their font size. The style sheet defines the colours.

mod curve;
mod ticks;
mod view;

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use super::words::{number, visible};
pub(crate) use curve::{Curve, Point};
use view::Axis;
pub(crate) use view::{View, ViewQuery};

/// Width and height of the plot area in SVG user units.
const PLOT_SIZE: f64 = 1000.0;
/// Number of colours. Curves beyond it reuse a colour with dashes.
pub(super) const COLOURS: usize = 8;
/// Maximum number of curves in the legend. With more, the page's table of runs is
/// the legend.
const MAX_LEGEND: usize = 12;
/// Number of dash styles: solid, dashed, dotted.
const DASH_STYLES: usize = 3;

/// A curve prepared for drawing.
struct Drawn<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
    /// The points before smoothing, if the view smooths.
    rough: Option<Vec<(f64, f64)>>,
}

/// Returns the CSS classes for colour and dashes of the curve at this index.
pub(super) fn style_of(place: usize) -> String {
    format!("c{} d{}", place % COLOURS, place / COLOURS % DASH_STYLES)
}

/// Renders a figure of curves with a common axis, and a table of the main values
/// for screen readers.
pub(super) fn figure(title: &str, curves: &[Curve], view: &View) -> Markup {
    let mut drawn: Vec<Drawn<'_>> = curves.iter().map(|curve| drawn(curve, view)).collect();
    let Some(whole) = range(drawn.iter().flat_map(|curve| &curve.points).map(|p| p.0)) else {
        return html! {};
    };
    for curve in &mut drawn {
        curve.points.retain(|(x, _)| view.shows(*x));
        if let Some(rough) = &mut curve.rough {
            rough.retain(|(x, _)| view.shows(*x));
        }
    }
    let all = || drawn.iter().flat_map(|curve| &curve.points).copied();
    let Some(values) = range(all().map(|point| point.1)) else {
        return html! { figure .figure {
            figcaption { span .title { (title) } }
            p .hint { "There are no values in this part of the axis." }
        } };
    };
    let log = view.log && all().all(|(_, y)| y > 0.0);
    let x = ticks::Scale::new(view.range(whole), false);
    let y = ticks::Scale::new(values, log);
    let name = view.axis.name();
    let summary = summary(&drawn);
    html! {
        figure .figure {
            figcaption {
                span .title { (title) }
                @if (2..=MAX_LEGEND).contains(&drawn.len()) { @for (i, curve) in drawn.iter().enumerate() {
                    span class={ "key " (style_of(i)) } { bdi { (visible(curve.name)) } }
                } }
            }
            div .chart role="img" aria-label={ (title) " by " (name) ". " (summary) }
                data-x=(view.axis.word()) data-label={ (title) " by " (name) }
                data-range={ (x.range().0) " " (x.range().1) } data-whole={ (whole.0) " " (whole.1) } {
                (labels(&y, "ys", |place, text| format!(
                    "<text x=\"100%\" y=\"{place:.2}%\" dy=\".32em\">{text}</text>"
                ), true, ticks::text))
                (field(&drawn, &x, &y))
                (labels(&x, "xs", |place, text| format!(
                    "<text x=\"{place:.2}%\" y=\"1em\" class=\"{}\">{text}</text>", anchor(place)
                ), false, |value, step| view.axis.text(value, step)))
                span .axis { (name) @if log { ", logarithmic" } }
            }
            p .reading aria-hidden="true" {}
            details .values {
                summary { (title) " as a table" }
                (table(&drawn, &view.axis))
            }
        }
    }
}

/// Returns the minimum and maximum of the values.
fn range(mut values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let first = values.next()?;
    Some(values.fold((first, first), |(low, high), value| {
        (low.min(value), high.max(value))
    }))
}

fn anchor(place: f64) -> &'static str {
    match place {
        place if place < 4.0 => "first",
        place if place > 96.0 => "last",
        _ => "middle",
    }
}

/// Prepares a curve for the view. Drops points that are not finite.
fn drawn<'a>(curve: &'a Curve, view: &View) -> Drawn<'a> {
    let points = curve
        .points
        .iter()
        .map(|point| (view.axis.of(point), point.value));
    let points: Vec<(f64, f64)> = points
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    match view.smoothed(&points) {
        None => Drawn {
            name: &curve.name,
            points,
            rough: None,
        },
        Some(smooth) => Drawn {
            name: &curve.name,
            points: smooth,
            rough: Some(points),
        },
    }
}

/// Draws the labels of an axis.
fn labels(
    scale: &ticks::Scale,
    class: &str,
    label: impl Fn(f64, &str) -> String,
    upwards: bool,
    text: impl Fn(f64, f64) -> String,
) -> PreEscaped<String> {
    let mut svg = format!("<svg class=\"{class}\" aria-hidden=\"true\">");
    for value in scale.ticks() {
        let place = scale.place(value) * 100.0;
        let place = if upwards { 100.0 - place } else { place };
        svg.push_str(&label(place, &text(value, scale.step())));
    }
    svg.push_str("</svg>");
    PreEscaped(svg)
}

/// Draws the grid and the curves.
fn field(curves: &[Drawn<'_>], x: &ticks::Scale, y: &ticks::Scale) -> PreEscaped<String> {
    let mut svg = String::from("<svg class=\"field\" aria-hidden=\"true\">");
    // Writing to a String can't fail.
    let mut draw = |text: std::fmt::Arguments<'_>| {
        let _ = svg.write_fmt(text);
    };
    for value in y.ticks() {
        let place = 100.0 - y.place(value) * 100.0;
        draw(format_args!(
            "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{place:.2}%\" y2=\"{place:.2}%\"/>"
        ));
    }
    draw(format_args!(
        "<svg viewBox=\"0 0 {PLOT_SIZE} {PLOT_SIZE}\" preserveAspectRatio=\"none\">"
    ));
    let place =
        |(px, py): (f64, f64)| (x.place(px) * PLOT_SIZE, PLOT_SIZE - y.place(py) * PLOT_SIZE);
    for (i, curve) in curves.iter().enumerate() {
        if let Some(rough) = &curve.rough {
            // The scale fits the smoothed curve. Points outside of it are left out.
            let points = rough.iter().filter(|(_, py)| y.holds(*py));
            draw(format_args!(
                "<polyline class=\"line rough {}\" points=\"{}\"/>",
                style_of(i),
                joined(points.copied().map(place))
            ));
        }
    }
    for (i, curve) in curves.iter().enumerate() {
        let raw = |value: fn(&(f64, f64)) -> f64| {
            let texts = curve.points.iter().map(|point| precise(value(point)));
            texts.collect::<Vec<_>>().join(" ")
        };
        let points = match curve.points.as_slice() {
            // A line of length zero is drawn as a dot (round line caps).
            [one] => joined([place(*one), place(*one)].into_iter()),
            points => joined(points.iter().copied().map(place)),
        };
        let single = if curve.points.len() == 1 { " dot" } else { "" };
        let name = html! { (visible(curve.name)) };
        draw(format_args!(
            "<polyline class=\"line{single} {}\" points=\"{points}\" data-name=\"{}\" \
             data-xs=\"{}\" data-ys=\"{}\"/>",
            style_of(i),
            name.0,
            raw(|p| p.0),
            raw(|p| p.1)
        ));
    }
    draw(format_args!("</svg></svg>"));
    PreEscaped(svg)
}

fn joined(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut text = String::new();
    for (x, y) in points {
        let _ = write!(text, "{x:.1},{y:.1} ");
    }
    text.truncate(text.trim_end().len());
    text
}

/// Formats a value with enough digits for the cursor of a chart.
fn precise(value: f64) -> String {
    let text = format!("{value:.5e}");
    let value: f64 = text.parse().unwrap_or(value);
    value.to_string()
}

/// Describes the first and last value of each curve, for screen readers.
fn summary(curves: &[Drawn<'_>]) -> String {
    let told = curves.iter().filter_map(|curve| {
        let (first, last) = (curve.points.first()?, curve.points.last()?);
        let name = visible(curve.name);
        Some(format!(
            "{name} from {} to {}",
            number(first.1),
            number(last.1)
        ))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Renders first, lowest, highest and last value of each curve.
fn table(curves: &[Drawn<'_>], axis: &Axis) -> Markup {
    let lowest = |points: &[(f64, f64)]| points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    let highest = |points: &[(f64, f64)]| points.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    let cell = |point: Option<(f64, f64)>| match point {
        Some((x, y)) => html! { td .number { (number(y)) " at " (axis.text(x, 0.0)) } },
        None => html! { td {} },
    };
    html! { div .scroll tabindex="0" role="region" aria-label="Values" { table {
        thead { tr {
            th scope="col" { "Curve" } th scope="col" .number { "First" }
            th scope="col" .number { "Lowest" } th scope="col" .number { "Highest" }
            th scope="col" .number { "Last" }
        } }
        tbody { @for curve in curves { tr {
            th scope="row" { bdi { (visible(curve.name)) } }
            (cell(curve.points.first().copied()))
            (cell(lowest(&curve.points)))
            (cell(highest(&curve.points)))
            (cell(curve.points.last().copied()))
        } } }
    } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        let points = points.iter().map(|&(step, value)| Point {
            step,
            epoch: step / 10.0,
            time: step * 60.0,
            value,
        });
        Curve {
            name: "<script>\"&".to_owned(),
            points: points.collect(),
        }
    }

    fn draw(points: &[(f64, f64)], view: &View) -> String {
        figure("<b>", &[curve(points)], view).0
    }

    #[test]
    fn curves_of_any_kind_are_drawn_and_names_escaped() {
        let view = View::default();
        let svg = draw(&[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)], &view);
        assert!(
            svg.contains("points=\"0.0,1000.0 500.0,0.0 1000.0,500.0\""),
            "{svg}"
        );
        assert!(svg.contains("data-ys=\"1 3 2\""), "{svg}");
        assert!(svg.contains("from 1 to 2") && !svg.contains("<script") && !svg.contains("<b>"));
        assert!(draw(&[(3.0, 3.0)], &view).contains("line dot c0"));
        assert_eq!(draw(&[], &view), "");
        let odd = draw(&[(0.0, f64::NAN), (1.0, 1.0), (2.0, 1.0)], &view);
        assert!(!odd.contains("NaN"), "{odd}");
    }

    #[test]
    fn the_view_chooses_axis_scale_and_smoothing() {
        let points = [(0.0, 100.0), (10.0, 10.0), (20.0, 1.0)];
        let view = View {
            axis: Axis::Epoch,
            log: true,
            ..View::default()
        };
        let svg = draw(&points, &view);
        assert!(
            svg.contains("points=\"0.0,0.0 500.0,500.0 1000.0,1000.0\""),
            "{svg}"
        );
        assert!(svg.contains("logarithmic") && svg.contains("data-xs=\"0 1 2\""));
        // A logarithmic scale is not possible: not all values are positive.
        let zero = draw(&[(0.0, 0.0), (1.0, 1.0)], &view);
        assert!(!zero.contains("logarithmic"), "{zero}");
        let smooth = View {
            smooth: 0.5,
            ..View::default()
        };
        let svg = draw(&points, &smooth);
        assert!(svg.contains("line rough c0"), "{svg}");
        // The selected range of the axis lies between two points.
        let part = View {
            from: Some(5.0),
            to: Some(25.0),
            ..View::default()
        };
        let svg = draw(&points, &part);
        assert!(svg.contains("data-xs=\"10 20\"") && svg.contains("data-range=\"5 25\""));
        assert!(svg.contains("data-whole=\"0 20\""), "{svg}");
        assert!(svg.contains("points=\"250.0,0.0 750.0,1000.0\""), "{svg}");
        let part = View {
            from: Some(50.0),
            ..View::default()
        };
        assert!(draw(&points, &part).contains("no values in this part"));
    }
}
