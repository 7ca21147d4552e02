//! `MatryoshkaLoss`: applies a loss to truncated embeddings.

use candle_core::Tensor;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use super::distance::normalize;
use crate::{Result, draw::sample, options::OptionReader};

/// `MatryoshkaLoss` (Kusupati et al. 2022, arXiv:2205.13147).
///
/// Sums another loss over embeddings truncated to several dimensions and normalised.
/// The first values of an embedding then form an embedding too. Equal to the loss of
/// this name in sentence-transformers.
pub(super) struct Matryoshka {
    /// Dimensions and their weights, largest first.
    dims: Vec<(usize, f64)>,
    /// Number of dimensions used per step.
    per_step: usize,
}

impl Matryoshka {
    /// Reads the options except those of the wrapped loss.
    ///
    /// `per_step` is the default of `n_dims_per_step`; `None` for all.
    ///
    /// # Errors
    /// [`crate::Error::Config`] names an invalid option.
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
                "give a list of dimensions such as [384, 128, 64]",
            );
        };
        if let Some(length) = lengths.iter().find(|length| dim > 0 && **length > dim) {
            let wanted = format!("{length} is more than the {dim} dimensions of an embedding");
            return bad("matryoshka_dims", &wanted);
        }
        let weights = match read.value("matryoshka_weights") {
            None | Some(Value::Null) => Some(vec![1.0; lengths.len()]),
            Some(value) => value
                .as_array()
                .and_then(|list| list.iter().map(Value::as_f64).collect()),
        };
        let Some(weights) = weights.filter(|weights| weights.len() == lengths.len()) else {
            return bad("matryoshka_weights", "give one number for each dimension");
        };
        let per_step = match read.value("n_dims_per_step").map(Value::as_i64) {
            None => per_step.unwrap_or(lengths.len()).min(lengths.len()),
            Some(Some(-1)) => lengths.len(),
            Some(Some(n)) if n > 0 => (n as usize).min(lengths.len()),
            _ => return bad("n_dims_per_step", "give -1 (all) or a number above 0"),
        };
        let mut dims: Vec<(usize, f64)> = lengths.into_iter().zip(weights).collect();
        dims.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Ok(Self { dims, per_step })
    }

    /// Returns the weighted sum over the dimensions of this step.
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
        sum.map_or_else(super::math::zero_loss, Ok)
    }

    /// Returns the dimensions of a step, drawn at random if not all are used.
    fn of_step(&self, seed: u64) -> Vec<(usize, f64)> {
        let mut dims = self.dims.clone();
        if self.per_step < dims.len() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            sample(&mut dims, self.per_step, &mut rng);
        }
        dims
    }
}
