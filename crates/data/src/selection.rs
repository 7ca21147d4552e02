//! Selects the rows that the options `size` and `sampling_rate` keep.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{error::Result, options::Options, source::Fault, table::Row};

/// Random sample of rows. Equal seeds keep the same rows.
pub(crate) struct Sampler {
    /// `None` keeps all rows.
    rate: Option<f64>,
    random: StdRng,
}

impl Sampler {
    pub(crate) fn new(options: &Options, seed: u64) -> Self {
        Self {
            rate: options.sampling_rate,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Decides whether the next row is kept.
    pub(crate) fn keeps_next(&mut self) -> bool {
        let random = &mut self.random;
        self.rate.is_none_or(|rate| random.random::<f64>() < rate)
    }
}

/// The selected rows of a file. A row with an error counts like any other row.
pub(crate) struct Selected<I> {
    rows: I,
    sampler: Sampler,
    /// Number of rows that may still be returned.
    left: u64,
}

impl<I> Selected<I> {
    pub(crate) fn new(rows: I, options: &Options, seed: u64) -> Self {
        Self {
            rows,
            sampler: Sampler::new(options, seed),
            left: options.size.unwrap_or(u64::MAX),
        }
    }
}

impl<I: Iterator<Item = Result<Row, Fault>>> Iterator for Selected<I> {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let row = self.rows.next()?;
            if self.sampler.keeps_next() {
                self.left -= 1;
                return Some(row);
            }
        }
        None
    }
}
