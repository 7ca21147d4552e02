//! Curves as SVG. Colours and widths are the style sheet's.

use std::fmt::Write;

use maud::PreEscaped;

use super::raw;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 12.0;
/// Curves that have a colour of their own.
pub(super) const COLOURS: usize = 6;

/// One curve.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A picture of curves over a common axis, with a table's worth of words for
/// those who can't see it.
pub(super) fn chart(title: &str, x_name: &str, curves: &[Curve]) -> PreEscaped<String> {
    let points = || {
        let all = curves.iter().flat_map(|curve| &curve.points);
        all.filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let Some(first) = points().next() else {
        return raw(String::new());
    };
    let range = |value: fn(&(f64, f64)) -> f64| {
        points().fold((value(first), value(first)), |(low, high), point| {
            (low.min(value(point)), high.max(value(point)))
        })
    };
    let (x_low, x_high) = wide(range(|p| p.0));
    let (y_low, y_high) = wide(range(|p| p.1));
    let x = |value: f64| LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y =
        |value: f64| HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP);
    let mut svg = String::new();
    let mut draw = |line: std::fmt::Arguments<'_>| {
        // Writing to a String can't fail.
        let _ = svg.write_fmt(line);
    };
    draw(format_args!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}: {}\">",
        escape(title),
        escape(&summary(curves))
    ));
    for value in ticks(y_low, y_high, 4) {
        let at = y(value);
        draw(format_args!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            number(value)
        ));
    }
    for value in ticks(x_low, x_high, 6) {
        draw(format_args!(
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(value),
            HEIGHT - 10.0,
            number(value)
        ));
    }
    draw(format_args!(
        "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        TOP + 8.0,
        escape(x_name)
    ));
    for (i, curve) in curves.iter().enumerate() {
        let good = curve
            .points
            .iter()
            .filter(|p| p.0.is_finite() && p.1.is_finite());
        let mut line = String::new();
        let mut count = 0;
        for (px, py) in good.clone() {
            let _ = write!(line, "{:.1},{:.1} ", x(*px), y(*py));
            count += 1;
        }
        let colour = i % COLOURS;
        if count == 1 {
            let Some((px, py)) = good.clone().next() else {
                continue;
            };
            draw(format_args!(
                "<circle class=\"dot c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                x(*px),
                y(*py)
            ));
        } else {
            draw(format_args!(
                "<polyline class=\"line c{colour}\" points=\"{}\"/>",
                line.trim_end()
            ));
        }
    }
    draw(format_args!("</svg>"));
    raw(svg)
}

/// The first and the last value of each curve.
fn summary(curves: &[Curve]) -> String {
    let told = curves.iter().filter_map(|curve| {
        let mut good = curve.points.iter().filter(|(_, y)| y.is_finite());
        let first = good.next()?;
        let last = good.next_back().unwrap_or(first);
        Some(format!(
            "{} from {} to {}",
            curve.name,
            number(first.1),
            number(last.1)
        ))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// A range with room for something.
fn wide((low, high): (f64, f64)) -> (f64, f64) {
    match high - low {
        width if width > 1e-12 * low.abs().max(high.abs()).max(1e-300) => (low, high),
        _ => {
            // A level line has as much room above it as it is high.
            let room = if low == 0.0 { 1.0 } else { low.abs() };
            (low - room, high + room)
        }
    }
}

/// Round numbers within a range, about as many as wanted.
fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil();
    let last = (high / step + 1e-9).floor();
    let count = (last - first).clamp(0.0, 50.0) as usize;
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

/// A number of few digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let fine = ticks(0.123, 0.456, 4);
        let expected = [0.2, 0.3, 0.4];
        assert_eq!(fine.len(), 3);
        for (a, b) in fine.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{fine:?}");
        }
    }

    #[test]
    fn curves_of_any_kind_are_drawn_and_names_escaped() {
        let curve = |points: &[(f64, f64)]| Curve {
            name: "<script>\"&".to_owned(),
            points: points.to_vec(),
        };
        let svg = chart(
            "<b>",
            "step",
            &[curve(&[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)])],
        )
        .0;
        assert!(
            svg.contains("points=\"56.0,192.0 342.0,10.0 628.0,101.0"),
            "{svg}"
        );
        assert!(svg.contains("from 1 to 2") && !svg.contains("<script") && !svg.contains("<b>"));
        assert!(
            chart("x", "step", &[curve(&[(3.0, 3.0)])])
                .0
                .contains("<circle")
        );
        assert_eq!(chart("x", "step", &[curve(&[])]).0, "");
        let odd = chart(
            "x",
            "step",
            &[curve(&[(0.0, f64::NAN), (1.0, 1.0), (2.0, 1.0)])],
        )
        .0;
        assert!(!odd.contains("NaN"), "{odd}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.5, "1.5"),
            (0.12345, "0.1235"),
            (1e-5, "1.0e-5"),
            (2e7, "2.0e7"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
