//! Losses that wrap another one, over dimensions of embeddings or over layers.

use finetuner_protocol::Loss;

use super::{
    adaptive_layer::AdaptiveLayers,
    matryoshka::Matryoshka,
    spec::{LossSpec, read_wrapped_loss},
};
use crate::{Error, Result, options::OptionReader};

/// A loss with its wrappers.
pub(super) struct Wrappers {
    /// Dimensions to truncate embeddings to.
    pub(super) lengths: Option<Matryoshka>,
    /// Layers to take embeddings from.
    pub(super) layers: Option<AdaptiveLayers>,
    pub(super) inner: LossSpec,
}

impl Wrappers {
    /// Reads the options of the wrapping loss.
    ///
    /// # Errors
    /// [`Error::Config`] names an invalid option.
    pub(super) fn of(spec: &LossSpec, dim: usize) -> Result<Self> {
        let read = OptionReader::new("loss_options", spec.options.as_ref());
        let (lengths, layers) = match spec.loss {
            Loss::Matryoshka => {
                read_wrapped_loss(&read)?;
                (Some(Matryoshka::read(&read, dim, None)?), None)
            }
            Loss::AdaptiveLayer => {
                read_wrapped_loss(&read)?;
                (None, Some(AdaptiveLayers::read(&read)?))
            }
            Loss::Matryoshka2d => {
                read_wrapped_loss(&read)?;
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
        let missing = || Error::config("loss_options", "`loss`: give the name of a loss");
        Ok(Self {
            lengths,
            layers,
            inner: spec.wrapped().ok_or_else(missing)?,
        })
    }
}
