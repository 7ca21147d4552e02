//! All that the rest of a run depends on, in one file.
//!
//! A run stopped at a checkpoint and taken up again gives the same losses as
//! one undisturbed: order and changes of the data follow from seed, epoch and
//! number, so position, parameters and optimizer state are everything.

use std::{collections::HashMap, path::Path};

use super::trainer::{Position, Trainer};
use crate::{
    Error, Result,
    params::{FloatFormat, RawTensor, parse_safetensors, write_safetensors},
};

const MODEL: &str = "model/";
const OPTIMIZER: &str = "optimizer/";
const LOSS: &str = "loss/";
const LOSS_STATE: &str = "loss_state/";
const LOSS_OPTIMIZER: &str = "loss_optimizer/";

type Tensors = HashMap<String, RawTensor>;

/// A saved state of a [`Trainer`].
pub struct Checkpoint {
    position: Position,
    model: Tensors,
    optimizer: Tensors,
    loss: Tensors,
    loss_state: Tensors,
    loss_optimizer: Tensors,
}

impl Checkpoint {
    /// The state of `trainer` now.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn of(trainer: &Trainer) -> Result<Self> {
        Ok(Self {
            position: trainer.position,
            model: trainer.model.params().snapshot()?,
            optimizer: trainer.optimizer.state(),
            loss: trainer.criterion.params().snapshot()?,
            loss_state: trainer.criterion.state(),
            loss_optimizer: match &trainer.loss_optimizer {
                Some(optimizer) => optimizer.state(),
                None => HashMap::new(),
            },
        })
    }

    /// Puts `trainer` into this state.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the checkpoint is of another model.
    pub fn apply(self, trainer: &mut Trainer) -> Result<()> {
        trainer.model.params().restore(&self.model)?;
        trainer.optimizer.load_state(self.optimizer)?;
        trainer.criterion.params().restore(&self.loss)?;
        trainer.criterion.load_state(&self.loss_state)?;
        if let Some(optimizer) = &mut trainer.loss_optimizer {
            optimizer.load_state(self.loss_optimizer)?;
        }
        trainer.position = self.position;
        Ok(())
    }

    /// Writes the state to `path`: to a temporary name first, so that a crash
    /// leaves the file before.
    ///
    /// # Errors
    /// [`Error::Io`] where the file can't be written.
    pub fn write(self, path: &Path) -> Result<()> {
        let Position {
            epoch,
            step,
            total_steps,
            loss_sum,
            examples,
        } = self.position;
        // Counts as pairs of 16-bit halves, and the sum by its bits, so that
        // single precision holds them exactly.
        let halves = |bits: u64| (0..4).map(move |i| ((bits >> (16 * i)) & 0xFFFF) as f32);
        let position: Vec<f32> = [
            epoch as u64,
            step as u64,
            total_steps as u64,
            loss_sum.to_bits(),
            examples as u64,
        ]
        .into_iter()
        .flat_map(halves)
        .collect();
        let mut all = HashMap::from([("position".to_owned(), (vec![5, 4], position))]);
        for (prefix, tensors) in [
            (MODEL, self.model),
            (OPTIMIZER, self.optimizer),
            (LOSS, self.loss),
            (LOSS_STATE, self.loss_state),
            (LOSS_OPTIMIZER, self.loss_optimizer),
        ] {
            let named = tensors.into_iter();
            all.extend(named.map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        let temporary = path.with_extension("tmp");
        write_safetensors(&temporary, &all, FloatFormat::F32)?;
        std::fs::rename(&temporary, path).map_err(|e| Error::io(path, e))
    }

    /// Reads a state that [`Checkpoint::write`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Checkpoint`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let mut all = parse_safetensors(&bytes, &path.display().to_string())?;
        let (_, position) = all
            .remove("position")
            .filter(|(_, values)| values.len() == 20)
            .ok_or_else(|| Error::checkpoint("it has no position"))?;
        let number = |i: usize| {
            position[4 * i..4 * i + 4]
                .iter()
                .rev()
                .fold(0u64, |bits, half| (bits << 16) | *half as u64)
        };
        let position = Position {
            epoch: number(0) as usize,
            step: number(1) as usize,
            total_steps: number(2) as usize,
            loss_sum: f64::from_bits(number(3)),
            examples: number(4) as usize,
        };
        let mut take = |prefix: &str| -> Tensors {
            let names: Vec<String> = all
                .keys()
                .filter(|name| name.starts_with(prefix))
                .cloned()
                .collect();
            names
                .into_iter()
                .filter_map(|name| {
                    let tensor = all.remove(&name)?;
                    Some((name[prefix.len()..].to_owned(), tensor))
                })
                .collect()
        };
        Ok(Self {
            position,
            model: take(MODEL),
            optimizer: take(OPTIMIZER),
            loss: take(LOSS),
            loss_state: take(LOSS_STATE),
            loss_optimizer: take(LOSS_OPTIMIZER),
        })
    }
}
