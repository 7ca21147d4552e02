//! Axis scales, linear and logarithmic, with ticks at round numbers.

use crate::console::words::number;

/// Minimum number of ticks, if the range allows it.
const MIN_TICKS: usize = 3;
/// Maximum number of ticks on a logarithmic axis.
const MAX_LOG_TICKS: usize = 9;

/// Maps values to positions on an axis.
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    step: f64,
}

impl Scale {
    /// Creates a scale for a range. With `log`, the range must be positive.
    pub(super) fn new(range: (f64, f64), log: bool) -> Self {
        let (low, high) = wide(range);
        let log = log && low > 0.0;
        Self {
            low,
            high,
            log,
            step: step(low, high),
        }
    }

    /// Returns the position of a value, from 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// Returns the minimum and maximum of the axis.
    pub(super) fn range(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Returns whether the axis contains a value.
    pub(super) fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Returns the distance between two ticks; 0 on an axis with uneven ticks.
    pub(super) fn step(&self) -> f64 {
        if self.log { 0.0 } else { self.step }
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        let logarithmic = self.log.then(|| decades(self.low, self.high));
        match logarithmic {
            Some(ticks) if ticks.len() >= MIN_TICKS => ticks,
            _ => even(self.low, self.high, self.step),
        }
    }
}

/// Widens a range without extent, so that a constant curve has an axis.
fn wide((low, high): (f64, f64)) -> (f64, f64) {
    match high - low {
        width if width > 1e-12 * low.abs().max(high.abs()).max(1e-300) => (low, high),
        _ => {
            // Extends by the value above and by half of it below, so that a positive
            // range stays positive.
            let room = if low == 0.0 { 1.0 } else { low.abs() };
            (low - room / 2.0, high + room)
        }
    }
}

/// Returns the largest round step that gives an axis more than [`MIN_TICKS`] ticks.
fn step(low: f64, high: f64) -> f64 {
    let magnitude = 10f64.powf((high - low).log10().floor());
    let steps = [1.0, 0.5, 0.25, 0.2, 0.1].map(|factor| factor * magnitude);
    let enough = |step: &&f64| even(low, high, **step).len() > MIN_TICKS;
    steps
        .iter()
        .find(enough)
        .copied()
        .unwrap_or(magnitude / 10.0)
}

/// Returns the multiples of a step within a range.
fn even(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-9).ceil();
    let last = (high / step + 1e-9).floor();
    let count = (last - first + 1.0).clamp(0.0, 50.0) as usize;
    (0..count).map(|i| (first + i as f64) * step).collect()
}

/// Returns the ticks of a logarithmic axis: 1, 2 and 5 of each decade if there
/// are few decades, else powers of ten.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks = |factors: &[f64], every: i32| -> Vec<f64> {
        let powers = powers.clone().filter(|power| power.rem_euclid(every) == 0);
        let all = powers.flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
        let margin = 1e-9;
        all.filter(|tick| (low * (1.0 - margin)..=high * (1.0 + margin)).contains(tick))
            .collect()
    };
    let fine = ticks(&[1.0, 2.0, 5.0], 1);
    if fine.len() <= MAX_LOG_TICKS {
        return fine;
    }
    let every = (1..).find(|&every| ticks(&[1.0], every).len() <= MAX_LOG_TICKS);
    ticks(&[1.0], every.unwrap_or(1))
}

/// Formats a tick with as many digits as the step between ticks needs.
pub(super) fn text(value: f64, step: f64) -> String {
    let size = value.abs();
    // Rounding errors make a computed zero slightly different from 0.
    if size < step * 1e-9 {
        return "0".to_owned();
    }
    if step == 0.0 || size >= 1e6 || (size != 0.0 && size < 1e-3) {
        return number(value);
    }
    let digits = (-step.log10().floor()).clamp(0.0, 8.0) as usize;
    // Steps of 2.5 need one digit more than their power of ten.
    let is_round = |digits: usize| {
        let scaled = step * 10f64.powi(i32::try_from(digits).unwrap_or(0));
        (scaled - scaled.round()).abs() < 1e-6
    };
    let digits = if is_round(digits) { digits } else { digits + 1 };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_has_some_round_numbers() {
        // Regression: the axis of a loss from 1.95 to 1.05 had a single tick.
        for (low, high) in [
            (1.05, 1.95),
            (0.99, 1.9),
            (0.0, 1.0),
            (0.123, 0.456),
            (-3.0, 12.0),
            (1e-6, 3e-6),
            (5.0, 5.0),
            (0.0, 0.0),
            (1.0, 2000.0),
            (1e9, 1e9 + 7.0),
        ] {
            let scale = Scale::new((low, high), false);
            let ticks = scale.ticks();
            assert!((3..=12).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            for tick in ticks {
                let place = scale.place(tick);
                assert!((-1e-6..=1.0 + 1e-6).contains(&place), "{tick}: {place}");
            }
        }
    }

    #[test]
    fn logarithmic_axes_have_powers_of_ten() {
        assert_eq!(
            decades(1.0, 100.0),
            [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        );
        let many = decades(1e-9, 1e9);
        assert!((3..=9).contains(&many.len()), "{many:?}");
        // The range is too narrow for powers of ten, so steps are even.
        let narrow = Scale::new((1.1, 1.9), true);
        assert!(narrow.ticks().len() >= 3);
        assert!((narrow.place(1.1)).abs() < 1e-12);
    }

    #[test]
    fn ticks_have_the_digits_that_their_step_needs() {
        assert_eq!(text(1.5, 0.5), "1.5");
        assert_eq!(text(1.0, 0.5), "1.0");
        assert_eq!(text(0.25, 0.25), "0.25");
        assert_eq!(text(20.0, 10.0), "20");
        assert_eq!(text(-1e-17, 0.1), "0");
        assert_eq!(text(1e-5, 1e-5), "1.0e-5");
    }
}
