//! Curves and their points.

/// A value, and where in the training it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Counted over all epochs.
    pub(crate) step: f64,
    /// Epochs that are done, with the part of the one that goes on.
    pub(crate) epoch: f64,
    /// Seconds since the first step.
    pub(crate) time: f64,
    pub(crate) value: f64,
}

/// One curve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}
