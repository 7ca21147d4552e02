//! The names and options of losses in a run's configuration.

use finetuner_protocol::{Loss, Miner as MinerName, Options};
use serde_json::Value;

use super::{
    class::named,
    registry::{self, LossKind, Make, Traits},
};
use crate::{Result, options::OptionReader};

/// A loss and its miner as a run's configuration names them.
#[derive(Clone, Debug)]
pub struct LossSpec {
    /// The loss.
    pub loss: Loss,
    /// Its options.
    pub options: Option<Options>,
    /// The miner.
    pub miner: Option<MinerName>,
    /// Its options.
    pub miner_options: Option<Options>,
}

impl LossSpec {
    /// A loss without options and miner.
    #[must_use]
    pub fn new(loss: Loss) -> Self {
        Self {
            loss,
            options: None,
            miner: None,
            miner_options: None,
        }
    }

    /// The loss within, where this is one around another.
    pub(super) fn wrapped(&self) -> Option<Self> {
        if !matches!(
            self.loss,
            Loss::AdaptiveLayer | Loss::Matryoshka | Loss::Matryoshka2d
        ) {
            return None;
        }
        let read = OptionReader::new("loss_options", self.options.as_ref());
        let (loss, options) = wrapped(&read).ok()?;
        Some(Self {
            loss,
            options,
            ..self.clone()
        })
    }

    /// The option that names a further model which the loss asks, and the name;
    /// nothing for a loss that asks none.
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

    /// Whether the loss is computed for earlier layers too.
    pub(crate) fn takes_layers(&self) -> bool {
        matches!(self.loss, Loss::AdaptiveLayer | Loss::Matryoshka2d)
    }

    /// The loss itself, without one around it.
    pub(crate) fn base(&self) -> Loss {
        self.wrapped()
            .map_or_else(|| self.loss.clone(), |inner| inner.loss)
    }

    /// How examples for it look; for a loss that is not known, as for most.
    pub(crate) fn kind(&self) -> LossKind {
        match registry::find(&self.base()).map(|entry| &entry.make) {
            Ok(Make::Members(kind, _)) => *kind,
            _ if self.takes_given_triplets() => LossKind::Negatives,
            _ => LossKind::Labels,
        }
    }

    /// Whether it is a loss over labels that gets its triplets from the data.
    pub(super) fn takes_given_triplets(&self) -> bool {
        self.miner == Some(MinerName::EmbeddingsAlreadyPackagedAsTriplets)
    }

    /// Whether the loss has a weight for each class: it classifies, and needs no
    /// pairs in a batch.
    pub(crate) fn has_classes(&self) -> bool {
        let entry = registry::find(&self.loss);
        matches!(entry, Ok(entry) if matches!(entry.make, Make::Labels(Traits::Classifies, _)))
    }

    /// Whether the loss has a weight for each class that it is trained on, and
    /// so knows nothing of others.
    pub(crate) fn knows_trained_classes_alone(&self) -> bool {
        let spec = self.wrapped();
        let spec = spec.as_ref().unwrap_or(self);
        let given = |name: &str| spec.options.as_ref().and_then(|options| options.get(name));
        let learns_boundaries = spec.loss == Loss::Margin
            && given("learn_beta") == Some(&Value::Bool(true))
            && given("num_classes").is_some();
        learns_boundaries || spec.has_classes()
    }
}

/// A loss named in an option, its own options beside it or in `loss_options`.
pub(super) fn nested(read: &OptionReader<'_>, name: &str) -> Result<(Loss, Option<Options>)> {
    let found = read.value(name).and_then(named);
    let (loss, inner) = found.ok_or_else(|| read.bad(name, "the name of a loss is wanted"))?;
    let beside = read.value("loss_options").and_then(Value::as_object);
    Ok((loss, inner.or(beside.cloned().map(Options::from))))
}

/// The loss that `MatryoshkaLoss` computes for each length, and
/// `AdaptiveLayerLoss` for each layer.
pub(super) fn wrapped(read: &OptionReader<'_>) -> Result<(Loss, Option<Options>)> {
    let (loss, options) = nested(read, "loss")?;
    let reason = match registry::find(&loss)?.make {
        Make::Members(LossKind::PairScores, _) => {
            format!("`{loss}` is for cross-encoders, which give no embeddings to be cut short")
        }
        Make::Members(LossKind::Items, _) => {
            format!("`{loss}` compares whole embeddings with those of a teacher")
        }
        Make::Members(..) | Make::Labels(Traits::Compares | Traits::Remembers, _) => {
            return Ok((loss, options));
        }
        Make::Labels(Traits::Classifies, _) => {
            format!("`{loss}` has weights of one length for each class, which can't be cut short")
        }
        Make::Wrapper => format!("`{loss}` can't be cut short: name the loss that it wraps"),
    };
    Err(read.bad("loss", &reason))
}
