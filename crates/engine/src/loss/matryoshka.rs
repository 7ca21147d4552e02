//! A loss over embeddings that are cut short.

use candle_core::Tensor;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde_json::Value;

use super::distance::normalize;
use crate::{Result, options::OptionReader};

/// `MatryoshkaLoss` (Kusupati et al. 2022, arXiv:2205.13147): the sum of another
/// loss over embeddings that are cut to several lengths and normalised, so that
/// their first values are embeddings too. Equal to the loss of this name in
/// sentence-transformers.
pub(super) struct Matryoshka {
    /// Lengths and their weights, the longest first.
    dims: Vec<(usize, f64)>,
    /// How many of them count in a step.
    per_step: usize,
}

impl Matryoshka {
    /// Reads the options beside the loss that is wrapped. `per_step` is the
    /// default of `n_dims_per_step`; none takes all.
    ///
    /// # Errors
    /// [`crate::Error::Config`] names the option that can't be used.
    pub(super) fn read(
        read: &OptionReader<'_>,
        dim: usize,
        per_step: Option<usize>,
    ) -> Result<Self> {
        let bad = |name: &str, wanted: &str| Err(read.bad(name, wanted));
        let given = read.value("matryoshka_dims").and_then(Value::as_array);
        let lengths: Option<Vec<usize>> = given.and_then(|list| {
            let length = |value: &Value| value.as_u64().filter(|n| *n > 0).map(|n| n as usize);
            list.iter().map(length).collect()
        });
        let Some(lengths) = lengths.filter(|lengths| !lengths.is_empty()) else {
            return bad(
                "matryoshka_dims",
                "a list of lengths such as [384, 128, 64] is wanted",
            );
        };
        if let Some(length) = lengths.iter().find(|length| dim > 0 && **length > dim) {
            let wanted = format!("{length} is more than the {dim} values of an embedding");
            return bad("matryoshka_dims", &wanted);
        }
        let weights = match read.value("matryoshka_weights") {
            None | Some(Value::Null) => Some(vec![1.0; lengths.len()]),
            Some(value) => value
                .as_array()
                .and_then(|list| list.iter().map(Value::as_f64).collect()),
        };
        let Some(weights) = weights.filter(|weights| weights.len() == lengths.len()) else {
            return bad("matryoshka_weights", "a number for each length is wanted");
        };
        let per_step = match read.value("n_dims_per_step").map(Value::as_i64) {
            None => per_step.unwrap_or(lengths.len()).min(lengths.len()),
            Some(Some(-1)) => lengths.len(),
            Some(Some(n)) if n > 0 => (n as usize).min(lengths.len()),
            _ => return bad("n_dims_per_step", "-1 (all) or a number above 0 is wanted"),
        };
        let mut dims: Vec<(usize, f64)> = lengths.into_iter().zip(weights).collect();
        dims.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Ok(Self { dims, per_step })
    }

    /// The sum over the lengths of this step.
    pub(super) fn sum(
        &self,
        parts: &[Tensor],
        seed: u64,
        mut loss: impl FnMut(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (length, weight) in self.of_step(seed) {
            let cut = |part: &Tensor| normalize(&part.narrow(1, 0, length)?);
            let cut: Vec<Tensor> = parts.iter().map(cut).collect::<Result<_>>()?;
            let found = loss(&cut)?.affine(weight, 0.0)?;
            sum = Some(match sum {
                None => found,
                Some(sum) => (sum + found)?,
            });
        }
        sum.map_or_else(super::math::zero, Ok)
    }

    /// The lengths that count in a step, drawn where not all do.
    fn of_step(&self, seed: u64) -> Vec<(usize, f64)> {
        let mut dims = self.dims.clone();
        if self.per_step < dims.len() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for i in 0..self.per_step {
                let j = i + (rng.next_u64() % (dims.len() - i) as u64) as usize;
                dims.swap(i, j);
            }
            dims.truncate(self.per_step);
        }
        dims
    }
}
