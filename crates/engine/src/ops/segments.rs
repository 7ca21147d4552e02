//! Sequences packed into consecutive rows.

use std::sync::{Arc, OnceLock};

use super::buckets::Buckets;

/// The lengths of sequences that follow each other without gaps.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    lengths: Arc<[usize]>,
    left_out: usize,
    /// Computed at the first use, for all blocks of a network.
    buckets: Arc<OnceLock<Arc<Buckets>>>,
}

impl Segments {
    /// Creates sequences of these lengths.
    pub(crate) fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self {
            lengths: lengths.into_iter().collect(),
            left_out: 0,
            buckets: Arc::default(),
        }
    }

    /// Returns the sequences in buckets of similar lengths.
    pub(super) fn buckets(&self) -> Arc<Buckets> {
        let buckets = self
            .buckets
            .get_or_init(|| Arc::new(Buckets::of(&self.lengths)));
        Arc::clone(buckets)
    }

    /// Sets the number of positions at the start of each sequence that pooling
    /// skips, such as a prompt. At least one position of each sequence remains.
    pub(crate) fn leaving_out(self, positions: usize) -> Self {
        let shortest = self.lengths.iter().min().copied().unwrap_or(1);
        Self {
            left_out: positions.min(shortest.saturating_sub(1)),
            ..self
        }
    }

    /// Returns the number of positions at the start of each sequence that
    /// pooling skips.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Creates `count` sequences of one length.
    pub(crate) fn uniform(count: usize, length: usize) -> Self {
        Self::new(std::iter::repeat_n(length, count))
    }

    /// Returns the number of sequences.
    pub(crate) fn count(&self) -> usize {
        self.lengths.len()
    }

    pub(crate) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Returns the number of rows of all sequences.
    pub(crate) fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Returns the first row and the length of each sequence.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.lengths.iter().scan(0, |next, &length| {
            let start = *next;
            *next += length;
            Some((start, length))
        })
    }

    /// Returns the sequence and position of each row, or of one row per
    /// sequence at the positions `only`.
    pub(super) fn positions(&self, only: Option<&[usize]>) -> Vec<(usize, usize)> {
        match only {
            Some(only) => only.iter().copied().enumerate().collect(),
            None => {
                let lengths = self.lengths.iter().enumerate();
                lengths
                    .flat_map(|(sequence, length)| {
                        (0..*length).map(move |position| (sequence, position))
                    })
                    .collect()
            }
        }
    }

    /// Returns the row of one position of each sequence.
    pub(super) fn rows_of(&self, only: &[usize]) -> impl Iterator<Item = usize> {
        let starts = self.iter().map(|(start, _)| start);
        starts.zip(only).map(|(start, position)| start + position)
    }

    /// Returns the length of all sequences, if they have the same.
    pub(crate) fn common_length(&self) -> Option<usize> {
        let first = *self.lengths.first()?;
        self.lengths
            .iter()
            .all(|length| *length == first)
            .then_some(first)
    }

    /// Splits `data` into one part per sequence; `size` maps a sequence's
    /// length to that of its part.
    pub(super) fn parts<'a>(
        &self,
        mut data: &'a [f32],
        size: impl Fn(usize) -> usize,
    ) -> Vec<&'a [f32]> {
        let cut = |&length: &usize| {
            let (part, rest) = data.split_at(size(length));
            data = rest;
            part
        };
        self.lengths.iter().map(cut).collect()
    }

    pub(super) fn parts_mut<'a>(
        &self,
        mut data: &'a mut [f32],
        size: impl Fn(usize) -> usize,
    ) -> Vec<&'a mut [f32]> {
        let cut = |&length: &usize| {
            let (part, rest) = std::mem::take(&mut data).split_at_mut(size(length));
            data = rest;
            part
        };
        self.lengths.iter().map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_locate_sequences_in_rows() {
        let segments = Segments::new([3, 1, 2]);
        let positions: Vec<_> = segments.iter().collect();
        assert_eq!(positions, [(0, 3), (3, 1), (4, 2)]);
        assert_eq!((segments.count(), segments.rows()), (3, 6));
        assert_eq!(segments.common_length(), None);
        assert_eq!(Segments::uniform(4, 5).common_length(), Some(5));
    }
}
