//! Statistics of a mining, in the words of sentence-transformers.

use std::fmt;

/// Summary statistics of scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Median; the lower one if there are two.
    pub median: f64,
    /// Standard deviation.
    pub std: f64,
    /// Minimum.
    pub min: f64,
    /// Quartiles, linearly interpolated.
    pub quartiles: [f64; 3],
    /// Maximum.
    pub max: f64,
}

impl Spread {
    pub(super) fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Self {
                mean: f64::NAN,
                median: f64::NAN,
                std: f64::NAN,
                min: f64::INFINITY,
                quartiles: [f64::INFINITY; 3],
                max: f64::NEG_INFINITY,
            };
        };
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let quartile = |part: f64| {
            let place = part * (n - 1) as f64;
            let below = values[place.floor() as usize];
            below + (values[place.ceil() as usize] - below) * place.fract()
        };
        Self {
            mean,
            median: values[(n - 1) / 2],
            std: match n {
                1 => f64::NAN,
                _ => (squares / (n - 1) as f64).sqrt(),
            },
            min: *min,
            quartiles: [quartile(0.25), quartile(0.5), quartile(0.75)],
            max: *max,
        }
    }
}

/// Statistics of a mining. `Display` shows them as the library prints them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Number of positives, without repetitions per query.
    pub positives: usize,
    /// Number of negatives over all documents of the output.
    pub negatives: usize,
    /// Statistics of positive scores, negative scores, and their differences.
    pub spreads: [Spread; 3],
    /// Number of documents missing from the output for lack of negatives.
    pub missing: usize,
    /// Lines before the table.
    pub(super) notes: Vec<String>,
    /// Lines after the table.
    pub(super) remarks: Vec<String>,
}

impl Report {
    /// Returns the lines that the library prints.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let row = |name: &str, cells: [String; 3]| {
            let [a, b, c] = cells;
            format!("{name:<6} {a:>14} {b:>14} {c:>14}")
        };
        let mut lines = self.notes.clone();
        lines.push("Negative candidates mined, preparing dataset...".to_owned());
        let head = ["Positive", "Negative", "Difference"].map(str::to_owned);
        lines.push(row("Metric", head));
        let counts = [
            with_commas(self.positives),
            with_commas(self.negatives),
            String::new(),
        ];
        lines.push(row("Count", counts));
        type Value = fn(&Spread) -> f64;
        let values: [(&str, Value); 8] = [
            ("Mean", |s| s.mean),
            ("Median", |s| s.median),
            ("Std", |s| s.std),
            ("Min", |s| s.min),
            ("25%", |s| s.quartiles[0]),
            ("50%", |s| s.quartiles[1]),
            ("75%", |s| s.quartiles[2]),
            ("Max", |s| s.max),
        ];
        for (name, value) in values {
            lines.push(row(name, self.spreads.map(|spread| number(value(&spread)))));
        }
        lines.extend(self.remarks.iter().cloned());
        lines
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// Formats a number like Python's `:.4f`.
fn number(value: f64) -> String {
    match value.is_nan() {
        true => "nan".to_owned(),
        false => format!("{value:.4}"),
    }
}

/// Formats a number with commas between thousands.
pub(super) fn with_commas(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
