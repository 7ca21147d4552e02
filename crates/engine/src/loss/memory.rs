//! Cross-batch memory (Wang et al. 2020, arXiv:1912.06798).
//!
//! A loss with a memory also compares a batch with embeddings of earlier batches.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use crate::{Error, Result, params::RawTensor};

/// Ring buffer of recent embeddings and their labels.
pub(super) struct Memory {
    size: usize,
    dim: usize,
    /// Embeddings in the order of their slots.
    values: Vec<f32>,
    labels: Vec<u32>,
    /// Slot of the next embedding.
    next: usize,
}

impl Memory {
    pub(super) fn new(size: usize, dim: usize) -> Self {
        Self {
            size,
            dim,
            values: Vec::new(),
            labels: Vec::new(),
            next: 0,
        }
    }

    /// Stores a batch, and returns the slot of each example.
    pub(super) fn push(&mut self, values: &[f32], labels: &[u32]) -> Result<Vec<u32>> {
        if labels.len() > self.size {
            return Err(Error::config(
                "loss_options",
                format!(
                    "`memory_size` is {}, but a batch has {} examples; it must be at least as large",
                    self.size,
                    labels.len()
                ),
            ));
        }
        let places = labels
            .iter()
            .zip(values.chunks_exact(self.dim))
            .map(|(label, row)| {
                let place = self.next;
                if place == self.labels.len() {
                    self.labels.push(*label);
                    self.values.extend_from_slice(row);
                } else {
                    self.labels[place] = *label;
                    self.values[place * self.dim..(place + 1) * self.dim].copy_from_slice(row);
                }
                self.next = (place + 1) % self.size;
                place as u32
            });
        Ok(places.collect())
    }

    pub(super) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns all embeddings, `[slots, dim]`, in double precision.
    pub(super) fn tensor(&self) -> Result<Tensor> {
        let values: Vec<f64> = self.values.iter().map(|v| f64::from(*v)).collect();
        let shape = (self.labels.len(), self.dim);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    pub(super) fn state(&self) -> HashMap<String, RawTensor> {
        let labels = self.labels.iter().map(|l| *l as f32).collect();
        HashMap::from([
            (
                "memory".to_owned(),
                (vec![self.values.len()], self.values.clone()),
            ),
            (
                "memory_labels".to_owned(),
                (vec![self.labels.len()], labels),
            ),
            ("memory_next".to_owned(), (vec![1], vec![self.next as f32])),
        ])
    }

    pub(super) fn load_state(&mut self, state: &HashMap<String, RawTensor>) -> Result<()> {
        let get = |name: &str| {
            let found = state.get(name).map(|(_, values)| values.clone());
            found.ok_or_else(|| Error::checkpoint(format!("the state of the loss has no `{name}`")))
        };
        let (values, labels, next) = (get("memory")?, get("memory_labels")?, get("memory_next")?);
        if values.len() != labels.len() * self.dim || labels.len() > self.size {
            return Err(Error::checkpoint("the loss's memory has another size"));
        }
        self.values = values;
        self.labels = labels.iter().map(|l| *l as u32).collect();
        self.next = next.first().map_or(0, |n| *n as usize % self.size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_entries_replace_the_oldest_and_a_state_can_be_restored() {
        let mut memory = Memory::new(3, 1);
        assert_eq!(memory.push(&[1.0, 2.0], &[7, 8]).unwrap(), [0, 1]);
        assert_eq!(memory.push(&[3.0, 4.0], &[9, 10]).unwrap(), [2, 0]);
        assert_eq!(memory.labels(), [10, 8, 9]);
        assert_eq!(memory.values, [4.0, 2.0, 3.0]);
        let mut again = Memory::new(3, 1);
        again.load_state(&memory.state()).unwrap();
        assert_eq!(again.push(&[5.0], &[11]).unwrap(), [1]);
        assert!(memory.push(&[0.0; 4], &[0; 4]).is_err());
    }
}
