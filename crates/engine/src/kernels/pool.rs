//! Reusable scratch buffers.
//!
//! A training step needs the same large buffers as the step before. Reuse saves the
//! page faults and the zeroing of new memory. A buffer still holds the values of its
//! last user, so each user must write before it reads.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// Free buffers by length.
type Shelves = Mutex<BTreeMap<usize, Vec<Vec<f32>>>>;

/// Maximum ratio of a buffer's length to the request.
///
/// Texts of many lengths then share few buffers.
const LONGEST: usize = 4;

/// A pool of buffers. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Shelves>);

impl Pool {
    /// Returns a buffer of `len` elements with arbitrary content.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let capacity = size_class(len);
        let data = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .range_mut(capacity..=capacity.saturating_mul(LONGEST))
            .find_map(|(_, shelf)| shelf.pop())
            .unwrap_or_else(|| vec![0.0; capacity]);
        Buffer {
            data,
            len,
            pool: self.clone(),
        }
    }
}

/// Rounds up by at most an eighth.
///
/// Batches of similar shapes then share buffers.
fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(64);
    len.div_ceil(step) * step
}

/// A slice that returns to its pool when dropped.
pub(crate) struct Buffer {
    data: Vec<f32>,
    len: usize,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.pool
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(data.len())
            .or_default()
            .push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returned_buffers_are_reused_and_never_shared() {
        let pool = Pool::default();
        let mut first = pool.take(1000);
        first[0] = 7.0;
        let second = pool.take(1000);
        assert_ne!(first.as_ptr(), second.as_ptr());
        let address = first.as_ptr();
        drop(first);
        let again = pool.take(990);
        assert_eq!(
            again.as_ptr(),
            address,
            "a slightly smaller request shares the buffer"
        );
        assert_eq!(again.len(), 990);
        drop((second, again));
        assert_eq!(pool.take(300).data.len(), size_class(1000));
        assert_eq!(pool.take(100).data.len(), size_class(100));
    }

    #[test]
    fn size_classes_fit_the_request_and_waste_little() {
        for len in [1, 63, 64, 65, 1000, 4097, 1_000_003] {
            let class = size_class(len);
            assert!(
                class >= len && class <= len + (len / 8).max(64),
                "{len} -> {class}"
            );
        }
    }
}
