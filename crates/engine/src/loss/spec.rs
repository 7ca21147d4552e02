//! Names and options of a run's loss and miner.

use finetuner_protocol::{Loss, Miner as MinerName, Options};
use serde_json::Value;

use super::{
    class::parse_loss_name,
    registry::{self, LossKind, Make, Traits},
};
use crate::{Result, options::OptionReader};

/// A loss and its miner, as specified in a run's configuration.
#[derive(Clone, Debug)]
pub struct LossSpec {
    /// Name of the loss.
    pub loss: Loss,
    /// Options of the loss.
    pub options: Option<Options>,
    /// Name of the miner.
    pub miner: Option<MinerName>,
    /// Options of the miner.
    pub miner_options: Option<Options>,
}

impl LossSpec {
    /// Creates the specification of a loss without options and miner.
    #[must_use]
    pub fn new(loss: Loss) -> Self {
        Self {
            loss,
            options: None,
            miner: None,
            miner_options: None,
        }
    }

    /// Returns the wrapped loss, if this loss wraps another one.
    pub(super) fn wrapped(&self) -> Option<Self> {
        if !matches!(
            self.loss,
            Loss::AdaptiveLayer | Loss::Matryoshka | Loss::Matryoshka2d
        ) {
            return None;
        }
        let read = OptionReader::new("loss_options", self.options.as_ref());
        let (loss, options) = read_wrapped_loss(&read).ok()?;
        Some(Self {
            loss,
            options,
            ..self.clone()
        })
    }

    /// Returns the option that names a second model, and the model's name.
    ///
    /// Returns `None` if the loss uses no second model.
    pub(crate) fn guide(&self) -> Option<(&'static str, Option<String>)> {
        let spec = self.wrapped();
        let spec = spec.as_ref().unwrap_or(self);
        let option = match spec.loss {
            Loss::Gist => "guide",
            Loss::DistillKlDiv | Loss::EmbedDistill => "teacher",
            _ => return None,
        };
        let name = spec
            .options
            .as_ref()
            .and_then(|options| options.get(option));
        Some((option, name.and_then(Value::as_str).map(str::to_owned)))
    }

    /// Returns whether the loss uses the outputs of earlier layers.
    pub(crate) fn uses_layers(&self) -> bool {
        matches!(self.loss, Loss::AdaptiveLayer | Loss::Matryoshka2d)
    }

    /// Returns the loss, or the wrapped one if it wraps another.
    pub(crate) fn base(&self) -> Loss {
        self.wrapped()
            .map_or_else(|| self.loss.clone(), |inner| inner.loss)
    }

    /// Returns the kind of examples that the loss needs; labels for an unknown loss.
    pub(crate) fn kind(&self) -> LossKind {
        match registry::find(&self.base()).map(|entry| &entry.make) {
            Ok(Make::Members(kind, _)) => *kind,
            _ if self.uses_given_triplets() => LossKind::Negatives,
            _ => LossKind::Labels,
        }
    }

    /// Returns whether a loss over labels uses triplets from the data.
    pub(super) fn uses_given_triplets(&self) -> bool {
        self.miner == Some(MinerName::EmbeddingsAlreadyPackagedAsTriplets)
    }

    /// Returns whether the loss has one weight per class.
    ///
    /// Such a loss needs no pairs in a batch.
    pub(crate) fn has_classes(&self) -> bool {
        let entry = registry::find(&self.loss);
        matches!(entry, Ok(entry) if matches!(entry.make, Make::Labels(Traits::Classifies, _)))
    }

    /// Returns whether the loss has weights for the trained classes only.
    ///
    /// Such a loss can't be computed for other classes.
    pub(crate) fn is_limited_to_trained_classes(&self) -> bool {
        let spec = self.wrapped();
        let spec = spec.as_ref().unwrap_or(self);
        let given = |name: &str| spec.options.as_ref().and_then(|options| options.get(name));
        let learns_boundaries = spec.loss == Loss::Margin
            && given("learn_beta") == Some(&Value::Bool(true))
            && given("num_classes").is_some();
        learns_boundaries || spec.has_classes()
    }
}

/// Reads a loss named by an option.
///
/// Its options are in the same object or in `loss_options`.
pub(super) fn read_loss(read: &OptionReader<'_>, name: &str) -> Result<(Loss, Option<Options>)> {
    let found = read.value(name).and_then(parse_loss_name);
    let (loss, inner) = found.ok_or_else(|| read.bad(name, "give the name of a loss"))?;
    let beside = read.value("loss_options").and_then(Value::as_object);
    Ok((loss, inner.or(beside.cloned().map(Options::from))))
}

/// Reads the loss that `MatryoshkaLoss` or `AdaptiveLayerLoss` wraps.
pub(super) fn read_wrapped_loss(read: &OptionReader<'_>) -> Result<(Loss, Option<Options>)> {
    let (loss, options) = read_loss(read, "loss")?;
    let reason = match registry::find(&loss)?.make {
        Make::Members(LossKind::PairScores, _) => {
            format!("`{loss}` is for cross-encoders, which have no embeddings to truncate")
        }
        Make::Members(LossKind::Items, _) => {
            format!("`{loss}` compares complete embeddings with those of a teacher")
        }
        Make::Members(..) | Make::Labels(Traits::Compares | Traits::Remembers, _) => {
            return Ok((loss, options));
        }
        Make::Labels(Traits::Classifies, _) => {
            format!(
                "`{loss}` has one weight per class with a fixed dimension, which can't be truncated"
            )
        }
        Make::Wrapper => format!("`{loss}` can't be wrapped: name the loss that it wraps"),
    };
    Err(read.bad("loss", &reason))
}
