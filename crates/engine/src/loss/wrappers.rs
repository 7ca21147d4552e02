//! Losses around another one: over lengths of the embeddings, and over layers.

use finetuner_protocol::Loss;

use super::{
    adaptive_layer::AdaptiveLayers,
    matryoshka::Matryoshka,
    spec::{LossSpec, wrapped},
};
use crate::{Error, Result, options::OptionReader};

/// What is around a loss, and the loss.
pub(super) struct Wrappers {
    /// The lengths that embeddings are cut to.
    pub(super) lengths: Option<Matryoshka>,
    /// The layers that embeddings are taken from.
    pub(super) layers: Option<AdaptiveLayers>,
    pub(super) inner: LossSpec,
}

impl Wrappers {
    /// Reads the options of the loss that is around another one.
    ///
    /// # Errors
    /// [`Error::Config`] names the option that can't be used.
    pub(super) fn of(spec: &LossSpec, dim: usize) -> Result<Self> {
        let read = OptionReader::new("loss_options", spec.options.as_ref());
        let (lengths, layers) = match spec.loss {
            Loss::Matryoshka => {
                wrapped(&read)?;
                (Some(Matryoshka::read(&read, dim, None)?), None)
            }
            Loss::AdaptiveLayer => {
                wrapped(&read)?;
                (None, Some(AdaptiveLayers::read(&read)?))
            }
            Loss::Matryoshka2d => {
                wrapped(&read)?;
                let layers = AdaptiveLayers::read(&read)?;
                (Some(Matryoshka::read(&read, dim, Some(1))?), Some(layers))
            }
            _ => {
                return Ok(Self {
                    lengths: None,
                    layers: None,
                    inner: spec.clone(),
                });
            }
        };
        read.finish()?;
        let missing = || Error::config("loss_options", "`loss`: the name of a loss is wanted");
        Ok(Self {
            lengths,
            layers,
            inner: spec.wrapped().ok_or_else(missing)?,
        })
    }
}
