//! How curves are looked at: by step, epoch or time, on which scale, how smooth.

use maud::{Markup, html};
use serde::Deserialize;

use super::{Point, ticks};
use crate::console::words::seconds;

/// The smoothest curve that may be asked for.
const SMOOTHEST: f64 = 0.99;

/// What lies along a figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::console) enum Axis {
    #[default]
    Step,
    Epoch,
    Time,
}

impl Axis {
    const ALL: [Self; 3] = [Self::Step, Self::Epoch, Self::Time];

    /// The value in addresses.
    pub(in crate::console) fn word(self) -> &'static str {
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

    /// A place on the axis; `step` is the distance to the next one.
    pub(super) fn text(self, value: f64, step: f64) -> String {
        match self {
            Self::Time => seconds((value * 1000.0) as i64),
            _ => ticks::text(value, step),
        }
    }
}

/// The fields of an address that say how curves are looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::console) struct ViewQuery {
    x: String,
    scale: String,
    smooth: String,
}

/// How curves are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::console) struct View {
    pub(super) axis: Axis,
    /// Whether values are drawn on a logarithmic scale.
    pub(super) log: bool,
    /// The part of the last smoothed value in the next one.
    pub(super) smooth: f64,
}

impl From<&ViewQuery> for View {
    fn from(query: &ViewQuery) -> Self {
        let axis = Axis::ALL.into_iter().find(|axis| axis.word() == query.x);
        let smooth = query.smooth.parse().ok().filter(|s: &f64| s.is_finite());
        Self {
            axis: axis.unwrap_or_default(),
            log: query.scale == "log",
            smooth: smooth.unwrap_or(0.0).clamp(0.0, SMOOTHEST),
        }
    }
}

impl View {
    /// The fields of an address that stand for this view.
    pub(in crate::console) fn fields(&self) -> Vec<(&'static str, String)> {
        let given = |is: bool, text: String| if is { text } else { String::new() };
        vec![
            (
                "x",
                given(self.axis != Axis::Step, self.axis.word().to_owned()),
            ),
            ("scale", given(self.log, "log".to_owned())),
            ("smooth", given(self.smooth > 0.0, self.smooth.to_string())),
        ]
    }

    /// Points smoothed by an exponential mean that does not lean to the first
    /// value, as TensorBoard's; `None` where nothing is to be smoothed.
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

    /// The form that changes the view; `kept` are further fields of the page's
    /// address. The script sends it when something was chosen.
    pub(in crate::console) fn form(&self, action: &str, kept: &[(&str, &str)]) -> Markup {
        let smooth = [0.0, 0.6, 0.9, 0.97];
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
                button .quiet type="submit" { "Apply" }
            }
        }
    }
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
        };
        let view = View::from(&query("time", "log", "0.9"));
        assert_eq!((view.axis, view.log, view.smooth), (Axis::Time, true, 0.9));
        let fields: Vec<String> = view.fields().into_iter().map(|(_, value)| value).collect();
        assert_eq!(fields, ["time", "log", "0.9"]);
        for odd in ["", "x", "NaN", "-1", "inf"] {
            assert_eq!(View::from(&query(odd, odd, odd)).smooth, 0.0, "{odd}");
        }
        assert_eq!(View::from(&query("", "", "7")).smooth, SMOOTHEST);
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
