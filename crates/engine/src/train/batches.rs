//! Prepares batches of tensors from examples, on a separate thread ahead of the
//! training step.

use std::sync::{Arc, mpsc};

use candle_core::Device;

use crate::{
    Error, Result,
    data::{Example, Item, TrainingSet},
    draw::Draw,
    models::{Input, Model},
    prepare::{ItemRef, Preparer},
};

/// Number of prepared batches that wait for the training step.
const PREPARED_AHEAD: usize = 2;

/// A frozen model whose embeddings the loss also uses.
pub(crate) struct Guide {
    pub(crate) model: Model,
    pub(crate) preparer: Preparer,
}

/// The examples of one step.
pub(crate) struct Batch {
    /// One input per member of the examples.
    pub(crate) inputs: Vec<Input>,
    /// The guide's inputs, if the loss has a guide.
    pub(crate) guide: Vec<Input>,
    pub(crate) classes: Vec<u32>,
    /// Scores of all examples, with the same number for each.
    pub(crate) scores: Vec<f32>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.classes.len()
    }
}

/// One pass over a set of examples.
pub(crate) struct Batches<'a> {
    pub(crate) set: &'a TrainingSet,
    /// Indices of each batch's examples.
    pub(crate) order: Arc<Vec<Vec<usize>>>,
    pub(crate) preparer: &'a Preparer,
    /// The model whose embeddings the loss also uses.
    pub(crate) guide: Option<&'a Guide>,
    pub(crate) device: Device,
    /// In training: seed, epoch, and whether augmentation is on.
    pub(crate) draws: Option<(u64, usize, bool)>,
}

impl Batches<'_> {
    /// Calls `each` with the batches from number `first` on, and meanwhile
    /// prepares the next ones.
    ///
    /// # Errors
    /// [`Error::Data`] names the document of an example that can't be read.
    /// Errors of `each` are passed on.
    pub(crate) fn for_each(
        &self,
        first: usize,
        mut each: impl FnMut(usize, Batch) -> Result<()>,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::sync_channel(PREPARED_AHEAD);
            scope.spawn(move || {
                for (number, chosen) in self.order.iter().enumerate().skip(first) {
                    let batch = self.prepare(chosen);
                    let failed = batch.is_err();
                    // The receiver is gone if `each` has failed.
                    if send.send((number, batch)).is_err() || failed {
                        return;
                    }
                }
            });
            for (number, batch) in receive {
                each(number, batch?)?;
            }
            Ok(())
        })
    }

    /// Prepares the batch of these examples.
    pub(crate) fn prepare(&self, chosen: &[usize]) -> Result<Batch> {
        let examples: Vec<&Example> = chosen.iter().map(|i| &self.set.examples[*i]).collect();
        let inputs = match self.preparer.pairs {
            true => vec![self.pairs(&examples)?],
            false => {
                let draw = |place: usize| {
                    self.draws.map(|(seed, epoch, augment)| Draw {
                        seed,
                        epoch,
                        example: chosen[place],
                        augment,
                    })
                };
                member_inputs(&examples, self.preparer, &self.device, draw)?
            }
        };
        let guide = match self.guide {
            None => Vec::new(),
            Some(Guide { model, preparer }) => {
                let device = model.params().device();
                member_inputs(&examples, preparer, device, |_| None)?
            }
        };
        Ok(Batch {
            inputs,
            guide,
            classes: chosen.iter().map(|i| self.set.classes[*i]).collect(),
            scores: examples
                .iter()
                .flat_map(|e| e.scores.iter().copied())
                .collect(),
        })
    }

    /// Prepares the input of a cross-encoder, which reads both texts of a pair
    /// together.
    fn pairs(&self, examples: &[&Example]) -> Result<Input> {
        let texts = examples.iter().map(|example| match &example.parts[..] {
            [Item::Text(first), Item::Text(second)] => Ok([&**first, &**second]),
            _ => Err(Error::data(format!(
                "document `{}`: it must hold two texts",
                example.id
            ))),
        });
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let input = self.preparer.prepare_pairs(&texts);
        input.map_err(|e| of_document(e, examples))
    }
}

/// Adds the document's ID to an error about an item of a batch.
fn of_document(error: Error, examples: &[&Example]) -> Error {
    match error {
        Error::Item { place, reason } => {
            Error::data(format!("document `{}`: {reason}", examples[place].id))
        }
        other => other,
    }
}

/// Prepares one input per member of the examples.
fn member_inputs(
    examples: &[&Example],
    preparer: &Preparer,
    device: &Device,
    draw: impl Fn(usize) -> Option<Draw> + Sync + Copy,
) -> Result<Vec<Input>> {
    let parts = examples.first().map_or(0, |example| example.parts.len());
    let inputs = (0..parts).map(|part| {
        let items = examples.iter().filter_map(|e| e.parts.get(part));
        let items: Vec<ItemRef<'_>> = items.map(ItemRef::from).collect();
        let preparer = preparer.of_member(part);
        let input = preparer.prepare(&items, draw, device);
        input.map_err(|e| of_document(e, examples))
    });
    inputs.collect()
}
