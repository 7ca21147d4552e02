//! The view of a chart: axis (step, epoch or time), scale, smoothing and range.

use maud::{Markup, html};
use serde::Deserialize;

use super::{curve::Point, ticks};
use crate::console::words::{query, seconds};

/// Maximum smoothing factor.
const MAX_SMOOTHING: f64 = 0.99;

/// Quantity on the horizontal axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Axis {
    #[default]
    Step,
    Epoch,
    Time,
}

impl Axis {
    const ALL: [Self; 3] = [Self::Step, Self::Epoch, Self::Time];

    /// Returns the value in URLs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Epoch => "epoch",
            Self::Time => "time",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Epoch => "epoch",
            Self::Time => "time of training",
        }
    }

    pub(super) fn of(self, point: &Point) -> f64 {
        match self {
            Self::Step => point.step,
            Self::Epoch => point.epoch,
            Self::Time => point.time,
        }
    }

    /// Formats a value on the axis; `step` is the distance between ticks.
    pub(super) fn text(self, value: f64, step: f64) -> String {
        match self {
            Self::Time => seconds((value * 1000.0) as i64),
            _ => ticks::text(value, step),
        }
    }
}

/// Query parameters that describe a view.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ViewQuery {
    x: String,
    scale: String,
    smooth: String,
    /// Range of the axis, and in `of` the axis that the range belongs to.
    from: String,
    to: String,
    of: String,
}

/// A validated view.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct View {
    pub(super) axis: Axis,
    /// Whether the vertical axis is logarithmic.
    pub(super) log: bool,
    /// Smoothing factor: weight of the previous smoothed value, from 0.
    pub(super) smooth: f64,
    /// Start and end of the visible range; `None` if it has no limit there.
    pub(super) from: Option<f64>,
    pub(super) to: Option<f64>,
}

impl From<&ViewQuery> for View {
    fn from(query: &ViewQuery) -> Self {
        let axis = Axis::ALL.into_iter().find(|axis| axis.word() == query.x);
        let axis = axis.unwrap_or_default();
        let number = |text: &str| text.trim().parse().ok().filter(|n: &f64| n.is_finite());
        let smooth = number(&query.smooth);
        // A range has the unit of its axis, so it is dropped when the axis
        // changes.
        let (mut from, mut to) = match query.of == axis.word() {
            true => (number(&query.from), number(&query.to)),
            false => (None, None),
        };
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            (from, to) = (None, None);
        }
        Self {
            axis,
            log: query.scale == "log",
            smooth: smooth.unwrap_or(0.0).clamp(0.0, MAX_SMOOTHING),
            from,
            to,
        }
    }
}

impl View {
    /// Returns the query parameters of this view.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let given = |is: bool, text: String| if is { text } else { String::new() };
        vec![
            (
                "x",
                given(self.axis != Axis::Step, self.axis.word().to_owned()),
            ),
            ("scale", given(self.log, "log".to_owned())),
            ("smooth", given(self.smooth > 0.0, self.smooth.to_string())),
            ("from", bound(self.from)),
            ("to", bound(self.to)),
            ("of", given(self.is_part(), self.axis.word().to_owned())),
        ]
    }

    /// Returns whether only a part of the axis is visible.
    pub(crate) fn is_part(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    /// Returns whether a value of the axis is visible.
    pub(super) fn shows(&self, x: f64) -> bool {
        self.from.is_none_or(|from| x >= from) && self.to.is_none_or(|to| x <= to)
    }

    /// Returns the visible range of an axis whose values have this range.
    pub(super) fn range(&self, (low, high): (f64, f64)) -> (f64, f64) {
        (self.from.unwrap_or(low), self.to.unwrap_or(high))
    }

    /// Smooths points with a bias-corrected exponential moving average, as
    /// TensorBoard does. `None` if the view does not smooth.
    pub(super) fn smoothed(&self, points: &[(f64, f64)]) -> Option<Vec<(f64, f64)>> {
        if self.smooth == 0.0 || points.len() < 3 {
            return None;
        }
        let (mut mean, mut weight) = (0.0, 0.0);
        let smooth = points.iter().map(|&(x, y)| {
            mean = self.smooth * mean + (1.0 - self.smooth) * y;
            weight = self.smooth * weight + (1.0 - self.smooth);
            (x, mean / weight)
        });
        Some(smooth.collect())
    }

    /// Renders the form that changes the view. `kept` are further query
    /// parameters of the page. With JavaScript, each change submits the form.
    pub(crate) fn form(&self, action: &str, kept: &[(&str, &str)]) -> Markup {
        let smooth = [0.0, 0.6, 0.9, 0.97];
        let whole = Self {
            from: None,
            to: None,
            ..*self
        };
        let mut fields = kept.to_vec();
        let own = whole.fields();
        fields.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
        let unit = if self.axis == Axis::Time {
            " (s) "
        } else {
            " "
        };
        html! {
            form .row .view method="get" action=(action) data-auto {
                @for (name, value) in kept { input type="hidden" name=(name) value=(value); }
                label { "By " select name="x" { @for axis in Axis::ALL {
                    option value=(axis.word()) selected[axis == self.axis] { (axis.word()) }
                } } }
                label { "Scale " select name="scale" {
                    option value="" { "linear" }
                    option value="log" selected[self.log] { "logarithmic" }
                } }
                label { "Smoothing " select name="smooth" {
                    @for value in smooth {
                        option value=(value) selected[value == self.smooth] {
                            @if value == 0.0 { "none" } @else { (value) }
                        }
                    }
                } }
                input type="hidden" name="of" value=(self.axis.word());
                label { "From" (unit) input .short type="number" step="any" name="from" value=(bound(self.from)); }
                label { "To" (unit) input .short type="number" step="any" name="to" value=(bound(self.to)); }
                button .quiet type="submit" { "Apply" }
                span .hint role="status" { @if self.is_part() { (self.range_text()) } }
                @if self.is_part() { a href={ (action) (query(&fields)) } { "Show all" } }
            }
        }
    }
}

impl View {
    /// Describes the visible range.
    fn range_text(&self) -> String {
        let text = |value: f64| self.axis.text(value, 0.0);
        let name = self.axis.name();
        match (self.from, self.to) {
            (Some(from), Some(to)) => format!("{name} {} to {}", text(from), text(to)),
            (Some(from), None) => format!("{name} from {}", text(from)),
            (None, Some(to)) => format!("{name} up to {}", text(to)),
            (None, None) => String::new(),
        }
    }
}

/// Formats an end of the range for its input field.
fn bound(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_read_from_an_address_and_written_to_it() {
        let query = |x: &str, scale: &str, smooth: &str| ViewQuery {
            x: x.to_owned(),
            scale: scale.to_owned(),
            smooth: smooth.to_owned(),
            ..ViewQuery::default()
        };
        let view = View::from(&query("time", "log", "0.9"));
        assert_eq!((view.axis, view.log, view.smooth), (Axis::Time, true, 0.9));
        let fields: Vec<String> = view.fields().into_iter().map(|(_, value)| value).collect();
        assert_eq!(fields, ["time", "log", "0.9", "", "", ""]);
        let part = |from: &str, to: &str, of: &str| {
            let query = ViewQuery {
                from: from.to_owned(),
                to: to.to_owned(),
                of: of.to_owned(),
                ..ViewQuery::default()
            };
            (View::from(&query).from, View::from(&query).to)
        };
        assert_eq!(part("2", "5.5", "step"), (Some(2.0), Some(5.5)));
        assert_eq!(part("2", "", "step"), (Some(2.0), None));
        for (from, to, of) in [("5", "2", "step"), ("2", "5", "time"), ("x", "NaN", "step")] {
            assert_eq!(part(from, to, of), (None, None), "{from} {to} {of}");
        }
        for odd in ["", "x", "NaN", "-1", "inf"] {
            assert_eq!(View::from(&query(odd, odd, odd)).smooth, 0.0, "{odd}");
        }
        assert_eq!(View::from(&query("", "", "7")).smooth, MAX_SMOOTHING);
    }

    #[test]
    fn smoothing_begins_at_the_first_value() {
        let view = View {
            smooth: 0.5,
            ..View::default()
        };
        let points = [(0.0, 4.0), (1.0, 1.0), (2.0, 1.0)];
        let smooth = view.smoothed(&points).unwrap();
        assert_eq!(smooth[0], (0.0, 4.0));
        assert!((smooth[1].1 - 2.0).abs() < 1e-12, "{smooth:?}");
        assert_eq!(View::default().smoothed(&points), None);
    }
}
