//! Checkpoints: everything on which the rest of a run depends, in one file.
//!
//! A run that resumes from a checkpoint has the same losses as an uninterrupted
//! one. Order and augmentation of the data follow from seed, epoch and step, so
//! a checkpoint holds the position, the trained weights and the optimizer
//! state. Frozen weights come from the run's base model; a fingerprint verifies
//! that they are the same.
//!
//! Tensors are written and read one at a time, so a checkpoint needs no second
//! copy of them in memory.

use std::{collections::HashMap, path::Path};

use super::trainer::{Position, Trainer};
use crate::{
    Error, Result,
    params::{
        Params, RawTensor,
        stream::{self, Entry, Values},
    },
};

const MODEL: &str = "model/";
const OPTIMIZER: &str = "optimizer/";
const LOSS: &str = "loss/";
const LOSS_STATE: &str = "loss_state/";
const LOSS_OPTIMIZER: &str = "loss_optimizer/";
/// Name of the tensor with the position and the fingerprint of frozen weights.
const POSITION: &str = "position";
/// Number of 64-bit values in it.
const NUMBERS: usize = 6;

/// Writes the state of `trainer` to `path`. It writes a temporary file first,
/// so that a crash or a full disk leaves the previous file intact.
///
/// # Errors
/// [`Error::Io`] if the file can't be written.
pub fn write_checkpoint(trainer: &Trainer, path: &Path) -> Result<()> {
    let Position {
        epoch,
        step,
        total_steps,
        loss_sum,
        examples,
    } = trainer.position;
    let (model, loss) = (trainer.model.params(), trainer.criterion.params());
    // All values are split into 16-bit parts, which single precision represents
    // exactly. The sum is stored by its bits.
    let halves = |bits: u64| (0..4).map(move |i| ((bits >> (16 * i)) & 0xFFFF) as f32);
    let numbers: [u64; NUMBERS] = [
        epoch as u64,
        step as u64,
        total_steps as u64,
        loss_sum.to_bits(),
        examples as u64,
        model.fingerprint_of_frozen()?,
    ];
    let numbers: Vec<f32> = numbers.into_iter().flat_map(halves).collect();
    let mut entries = vec![Entry::list(POSITION.to_owned(), numbers)];
    entries.extend(model.changing().map(|param| Entry::of_param(MODEL, param)));
    entries.extend(loss.changing().map(|param| Entry::of_param(LOSS, param)));
    let state = trainer.criterion.state();
    entries.extend(state.into_iter().map(|(name, (shape, values))| Entry {
        name: format!("{LOSS_STATE}{name}"),
        shape,
        values: Values::Floats(values.into()),
    }));
    let own = trainer.loss_optimizer.iter();
    let optimizers = own
        .map(|own| (LOSS_OPTIMIZER, own))
        .chain([(OPTIMIZER, &trainer.optimizer)]);
    for (prefix, optimizer) in optimizers {
        let state = optimizer.state()?.into_iter();
        entries.extend(state.map(|(name, values)| Entry::list(format!("{prefix}{name}"), values)));
    }
    stream::write_atomically(path, &entries)
}

/// Restores the state of `trainer` that [`write_checkpoint`] wrote.
///
/// # Errors
/// [`Error::Io`] if the file can't be read; [`Error::Checkpoint`] if it is
/// incomplete or of another model. Then the trainer must not be used any more.
pub fn read_checkpoint(trainer: &mut Trainer, path: &Path) -> Result<()> {
    let mut numbers = None;
    let mut loss_state: HashMap<String, RawTensor> = HashMap::new();
    let (mut optimizer, mut loss_optimizer) = (HashMap::new(), HashMap::new());
    let (mut of_model, mut of_loss) = (0, 0);
    stream::read(path, &path.display().to_string(), |name, shape, values| {
        if name == POSITION {
            numbers = Some(values);
        } else if let Some(name) = name.strip_prefix(MODEL) {
            restore_value(trainer.model.params(), name, &shape, &values)?;
            of_model += 1;
        } else if let Some(name) = name.strip_prefix(LOSS) {
            restore_value(trainer.criterion.params(), name, &shape, &values)?;
            of_loss += 1;
        } else if let Some(name) = name.strip_prefix(LOSS_STATE) {
            loss_state.insert(name.to_owned(), (shape, values));
        } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
            optimizer.insert(name.to_owned(), values);
        } else if let Some(name) = name.strip_prefix(LOSS_OPTIMIZER) {
            loss_optimizer.insert(name.to_owned(), values);
        }
        Ok(())
    })?;
    let numbers = numbers
        .filter(|values| values.len() == 4 * NUMBERS)
        .ok_or_else(|| Error::checkpoint("it has no position"))?;
    let number = |i: usize| {
        let halves = numbers[4 * i..4 * i + 4].iter().rev();
        halves.fold(0u64, |bits, half| (bits << 16) | *half as u64)
    };
    let (model, loss) = (trainer.model.params(), trainer.criterion.params());
    if of_model != model.changing().count() || of_loss != loss.changing().count() {
        return Err(Error::checkpoint(
            "it lacks values of the model or of the loss",
        ));
    }
    if number(5) != model.fingerprint_of_frozen()? {
        return Err(Error::checkpoint(
            "the frozen weights differ from those at the start of the run: the base model has \
             changed. Start the run anew",
        ));
    }
    trainer.optimizer.load_state(optimizer)?;
    trainer.criterion.load_state(&loss_state)?;
    if let Some(own) = &mut trainer.loss_optimizer {
        own.load_state(loss_optimizer)?;
    }
    trainer.position = Position {
        epoch: number(0) as usize,
        step: number(1) as usize,
        total_steps: number(2) as usize,
        loss_sum: f64::from_bits(number(3)),
        examples: number(4) as usize,
    };
    Ok(())
}

/// Restores the value of a parameter.
fn restore_value(params: &Params, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
    let param = params.find(name).filter(|param| param.changes());
    let param = param.filter(|param| param.tensor().dims() == shape);
    let param = param.ok_or_else(|| {
        Error::checkpoint(format!(
            "`{name}` is not a trained parameter of this model, or has another shape"
        ))
    })?;
    param.update(|own| own.copy_from_slice(values))
}
