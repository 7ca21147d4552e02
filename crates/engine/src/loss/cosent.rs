//! Losses over the order of scored pairs.

use candle_core::{D, Tensor};

use super::{
    distance,
    maker::Maker,
    math::log_sum_exp,
    pairwise::{MemberLoss, Members, cosines},
};
use crate::Result;

/// `CoSENTLoss` and `AnglELoss`: `log(1 + sum(exp(s_i - s_j)))`.
///
/// The sum is over all combinations in which pair `j` has the higher score. `s` is the
/// similarity times `scale` (default 20). Equal to the losses of these names in
/// sentence-transformers.
pub(super) struct CoSent {
    scale: f64,
    similarity: fn(&Tensor, &Tensor) -> Result<Tensor>,
}

impl CoSent {
    /// CoSENT (Huang et al. 2024, doi:10.1109/TASLP.2024.3402087): cosine similarity.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Self::of(m, cosines)
    }

    /// `AnglE` (Li and Li 2023, arXiv:2309.12871); see [`angles`].
    pub(super) fn make_angle(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Self::of(m, angles)
    }

    fn of(
        m: &mut Maker<'_>,
        similarity: fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self {
            scale: m.read.positive("scale", 20.0)?,
            similarity,
        }))
    }
}

impl MemberLoss for CoSent {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let [x, y] = batch.to_f64()?;
        let found = ((self.similarity)(&x, &y)? * self.scale)?;
        let n = found.dim(0)?;
        let wanted = batch.scores()?;
        let (rows, columns) = (wanted.reshape((n, 1))?, wanted.reshape((1, n))?);
        let is_lower = rows.broadcast_lt(&columns)?;
        let apart = found
            .reshape((n, 1))?
            .broadcast_sub(&found.reshape((1, n))?)?;
        let keep = is_lower.reshape((1, n * n))?;
        // If all scores are equal, there is no order and the loss is 0.
        let keep = keep.to_dtype(apart.dtype())?;
        log_sum_exp(&apart.reshape((1, n * n))?, Some(&keep), true, 1)?
            .squeeze(0)
            .map_err(Into::into)
    }
}

/// Returns `|cos + sin|` of each row of `x` and `y`, normalised.
///
/// The halves of a vector are the real and imaginary parts of complex numbers, and the
/// sine is that of the angle between these. Vectors of odd length are padded with a
/// zero.
fn angles(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (n, dim) = x.dims2()?;
    let padded = |x: &Tensor| -> Result<Tensor> {
        let x = distance::normalize(x)?;
        if dim.is_multiple_of(2) {
            return Ok(x);
        }
        let zeros = Tensor::zeros((n, 1), x.dtype(), x.device())?;
        Ok(Tensor::cat(&[&x, &zeros], 1)?)
    };
    let (x, y) = (padded(x)?, padded(y)?);
    let half = dim.div_ceil(2);
    let halves =
        |x: &Tensor| -> Result<_> { Ok((x.narrow(1, 0, half)?, x.narrow(1, half, half)?)) };
    let ((first_x, last_x), (first_y, last_y)) = (halves(&x)?, halves(&y)?);
    let cosines = (x * y)?.sum(D::Minus1)?;
    let sines = ((last_x * first_y)? - (first_x * last_y)?)?.sum(D::Minus1)?;
    Ok((cosines + sines)?.abs()?)
}
