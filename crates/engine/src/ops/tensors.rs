//! Arithmetic for composite operations. It is outside the graph: arguments must
//! be detached.

use std::sync::OnceLock;

use candle_core::{D, DType, Tensor};

use crate::kernels::gemm::Precision;

/// Index that selects a row of zeros in [`rows_at`].
pub(super) const NO_ROW: u32 = u32::MAX;

/// Computes `a b`. With [`Precision::Bfloat16`] it rounds the factors, but sums
/// in 32 bits.
pub(super) fn product(precision: Precision, a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    if precision != Precision::Bfloat16 {
        return a.matmul(b);
    }
    let (a, b) = (a.to_dtype(DType::BF16)?, b.to_dtype(DType::BF16)?);
    // candle has no 16-bit product on the CPU.
    match a.device().is_cpu() {
        true => a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?),
        false => a.matmul(&b)?.to_dtype(DType::F32),
    }
}

/// Returns the sum of each column of `[rows, columns]`.
///
/// Uses a product: candle's own sums over the first dimension read memory with
/// a stride.
pub(super) fn column_sums(x: &Tensor) -> candle_core::Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    let ones = Tensor::ones((1, rows), x.dtype(), x.device())?;
    ones.matmul(x)?.reshape(columns)
}

/// Returns the mean over the last dimension, which keeps length 1.
pub(super) fn row_means(x: &Tensor) -> candle_core::Result<Tensor> {
    x.mean_keepdim(D::Minus1)
}

/// Returns the softmax of each row.
pub(super) fn softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Computes `1 / (1 + exp(-x))`.
pub(super) fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    x.neg()?.exp()?.affine(1.0, 1.0)?.recip()
}

/// Row indices that are used repeatedly, and therefore copied to the device
/// only once.
#[derive(Debug, Default)]
pub(super) struct Index {
    rows: Vec<u32>,
    tensor: OnceLock<Tensor>,
}

impl Index {
    pub(super) fn new(rows: Vec<u32>) -> Self {
        Self {
            rows,
            tensor: OnceLock::new(),
        }
    }

    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Selects these rows of `[rows, width]`; rows of zeros for [`NO_ROW`].
    pub(super) fn take(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let known = self.tensor.get();
        let known = known.filter(|index| index.device().same_device(x.device()));
        let index = match known {
            Some(index) => index.clone(),
            None => {
                let index = Tensor::from_slice(&self.rows, self.rows.len(), x.device())?;
                // Another thread may have set it first.
                let _ = self.tensor.set(index.clone());
                index
            }
        };
        x.contiguous()?.index_select(&index, 0)
    }
}

/// Selects rows of `[rows, width]`; rows of zeros for [`NO_ROW`].
pub(super) fn rows_at(x: &Tensor, index: &[u32]) -> candle_core::Result<Tensor> {
    let index = Tensor::from_slice(index, index.len(), x.device())?;
    x.contiguous()?.index_select(&index, 0)
}

/// Backward pass of [`rows_at`]: for each of `count` rows, sums the rows of `g`
/// that were selected from it.
///
/// Adds rows with the same target in pairs until one per target remains. That
/// takes a logarithmic number of rounds, each with all threads of the device.
/// candle's own sum adds them one after the other.
pub(super) fn sums_at(g: &Tensor, targets: &[u32], count: usize) -> candle_core::Result<Tensor> {
    let mut sources: Vec<u32> = (0..targets.len() as u32)
        .filter(|source| targets[*source as usize] != NO_ROW)
        .collect();
    sources.sort_by_key(|source| (targets[*source as usize], *source));
    let mut owners: Vec<u32> = sources.iter().map(|p| targets[*p as usize]).collect();
    let mut x = g.contiguous()?;
    while owners.windows(2).any(|pair| pair[0] == pair[1]) {
        let (mut left, mut right, mut left_owners) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        while at < owners.len() {
            let is_pair = owners.get(at + 1) == Some(&owners[at]);
            left.push(sources[at]);
            right.push(if is_pair { sources[at + 1] } else { NO_ROW });
            left_owners.push(owners[at]);
            at += if is_pair { 2 } else { 1 };
        }
        x = (rows_at(&x, &left)? + rows_at(&x, &right)?)?;
        sources = (0..left_owners.len() as u32).collect();
        owners = left_owners;
    }
    let mut index = vec![NO_ROW; count];
    for (owner, source) in owners.iter().zip(&sources) {
        index[*owner as usize] = *source;
    }
    rows_at(&x, &index)
}

/// Pads a dimension with `before` and `after` elements of `value`.
pub(super) fn padded(
    x: &Tensor,
    dim: usize,
    (before, after): (usize, usize),
    value: f32,
) -> candle_core::Result<Tensor> {
    let mut parts = Vec::new();
    let with = |count: usize| {
        let mut shape = x.dims().to_vec();
        shape[dim] = count;
        Tensor::full(value, shape, x.device())
    };
    if before > 0 {
        parts.push(with(before)?);
    }
    parts.push(x.clone());
    if after > 0 {
        parts.push(with(after)?);
    }
    match &parts[..] {
        [x] => Ok(x.clone()),
        _ => Tensor::cat(&parts, dim),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn selected_rows_accumulate_gradients() {
        let x = Tensor::arange(1f32, 9.0, &Device::Cpu).unwrap();
        let x = x.reshape((4, 2)).unwrap();
        let index = [2, NO_ROW, 0, 2, 2, 0, 2];
        let taken = rows_at(&x, &index).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(taken[0], [5.0, 6.0]);
        assert_eq!(taken[1], [0.0, 0.0]);
        let g: Vec<f32> = (0..7).flat_map(|i| [1.0, i as f32]).collect();
        let g = Tensor::from_vec(g, (7, 2), &Device::Cpu).unwrap();
        let sums = sums_at(&g, &index, 4).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(sums, [[2.0, 7.0], [0.0, 0.0], [4.0, 13.0], [0.0, 0.0]]);
    }

    #[test]
    fn products_in_bfloat16_round_only_their_factors() {
        let x = Tensor::new(&[[1.0f32 + 1.0 / 512.0, 3.0]], &Device::Cpu).unwrap();
        let y = Tensor::new(&[[1.0f32], [1.0 / 512.0]], &Device::Cpu).unwrap();
        let of = |precision| {
            let found = product(precision, &x, &y).unwrap();
            found.to_vec2::<f32>().unwrap()[0][0]
        };
        assert_eq!(of(Precision::Float32), 1.0 + 4.0 / 512.0);
        assert_eq!(of(Precision::Bfloat16), 1.0 + 3.0 / 512.0);
    }
}
