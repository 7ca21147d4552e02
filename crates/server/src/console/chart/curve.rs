//! Input of the charts: curves and their points.

/// A measured value with its position in the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Step number over all epochs.
    pub(crate) step: f64,
    /// Completed epochs, with the fraction of the current one.
    pub(crate) epoch: f64,
    /// Seconds since the first step.
    pub(crate) time: f64,
    pub(crate) value: f64,
}

/// A named series of points.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}
