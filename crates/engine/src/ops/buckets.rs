//! Buckets: sequences of similar lengths, padded to one length. A GPU computes
//! a few large groups faster than many single sequences.

use super::tensors::{Index, NO_ROW};

/// Sequences that are computed together.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Numbers of the sequences.
    pub(super) sequences: Vec<usize>,
    /// The same numbers, as an index.
    pub(super) of_sequences: Index,
    /// Padded length: that of the longest sequence.
    pub(super) length: usize,
    /// The row of each position of each sequence; [`NO_ROW`] for padding.
    pub(super) rows: Index,
    /// Whether there is padding.
    pub(super) is_padded: bool,
}

/// All sequences, in buckets.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) all: Vec<Bucket>,
    /// The position of each row in the concatenated buckets.
    pub(super) positions: Index,
    /// The position of each sequence in the concatenated buckets.
    pub(super) order: Index,
    /// Whether the concatenated buckets equal the rows: no padding, and the
    /// same order.
    pub(super) is_plain: bool,
}

/// Smallest step between padded lengths.
const STEP: usize = 8;

/// Returns the longest length that shares a bucket with this one. At most a
/// quarter of it is padding.
fn limit(length: usize) -> usize {
    let step = (length.next_power_of_two() / 8).max(STEP);
    length.div_ceil(step) * step
}

impl Buckets {
    /// Groups sequences of these lengths, which follow each other without gaps.
    pub(super) fn of(lengths: &[usize]) -> Self {
        let starts = lengths.iter().scan(0, |next, length| {
            let start = *next;
            *next += length;
            Some(start)
        });
        let all: Vec<(usize, usize)> = starts.zip(lengths.iter().copied()).collect();
        let mut order: Vec<usize> = (0..all.len()).collect();
        if lengths.windows(2).any(|pair| pair[0] != pair[1]) {
            // A stable sort, so that each bucket keeps the order.
            order.sort_by_key(|sequence| limit(all[*sequence].1));
        }
        let mut buckets: Vec<Bucket> = Vec::new();
        let same = |a: &usize, b: &usize| limit(all[*a].1) == limit(all[*b].1);
        for sequences in order.chunk_by(same) {
            let lengths = sequences.iter().map(|sequence| all[*sequence].1);
            let length = lengths.clone().max().unwrap_or(0);
            let rows = sequences.iter().flat_map(|sequence| {
                let (start, own) = all[*sequence];
                (0..length).map(move |position| match position < own {
                    true => (start + position) as u32,
                    false => NO_ROW,
                })
            });
            buckets.push(Bucket {
                rows: Index::new(rows.collect()),
                of_sequences: Index::new(sequences.iter().map(|s| *s as u32).collect()),
                is_padded: lengths.clone().any(|own| own < length),
                sequences: sequences.to_vec(),
                length,
            });
        }
        let mut positions = vec![0; lengths.iter().sum()];
        let rows = buckets.iter().flat_map(|bucket| bucket.rows.rows());
        for (position, row) in rows.enumerate() {
            if *row != NO_ROW {
                positions[*row as usize] = position as u32;
            }
        }
        let mut of_sequence = vec![0; all.len()];
        for (rank, sequence) in order.iter().enumerate() {
            of_sequence[*sequence] = rank as u32;
        }
        Self {
            is_plain: buckets.len() <= 1 && !buckets.iter().any(|bucket| bucket.is_padded),
            all: buckets,
            positions: Index::new(positions),
            order: Index::new(of_sequence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_one_length_stay_in_order() {
        let buckets = Buckets::of(&[5; 3]);
        assert!(buckets.is_plain);
        assert_eq!(buckets.all[0].rows.rows(), (0..15).collect::<Vec<u32>>());
        assert_eq!(buckets.positions.rows(), (0..15).collect::<Vec<u32>>());
        assert!(Buckets::of(&[]).all.is_empty());
    }

    #[test]
    fn sequences_of_similar_lengths_are_padded_together() {
        let buckets = Buckets::of(&[2, 60, 3, 57]);
        let sequences: Vec<_> = buckets.all.iter().map(|b| b.sequences.clone()).collect();
        assert_eq!(sequences, [vec![0, 2], vec![1, 3]]);
        assert_eq!(buckets.all[0].rows.rows(), [0, 1, NO_ROW, 62, 63, 64]);
        assert_eq!(buckets.all[1].length, 60);
        assert_eq!(buckets.order.rows(), [0, 2, 1, 3]);
        // Each row can be found again.
        let rows = buckets.all.iter().flat_map(|b| b.rows.rows());
        let all: Vec<u32> = rows.copied().collect();
        for (row, position) in buckets.positions.rows().iter().enumerate() {
            assert_eq!(all[*position as usize], row as u32);
        }
        assert!(!buckets.is_plain);
    }

    #[test]
    fn no_more_than_a_quarter_of_a_long_sequence_is_padding() {
        for length in 1..600 {
            let most = limit(length);
            assert!(most >= length);
            assert!(most - length < (length / 4).max(STEP), "{length}: {most}");
        }
    }
}
