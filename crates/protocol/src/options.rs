//! Options of losses, miners, optimizers and models: JSON values by name.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Loss;

/// Options of a loss, miner, optimizer or model: JSON values by name.
///
/// Any name may be set; the methods set common ones.
///
/// ```
/// use finetuner_protocol::Options;
///
/// let miner = Options::new().margin(0.3).type_of_triplets("hard");
/// let optimizer = Options::from([("weight_decay", 0.01), ("eps", 1e-6)]);
/// assert_eq!(miner["type_of_triplets"], "hard");
/// assert_eq!(optimizer["eps"], 1e-6);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(Map<String, Value>);

impl Options {
    /// Creates an empty set of options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an option.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Sets the margin between a positive and a negative.
    ///
    /// It is an option of `TripletMarginLoss` (0.05 by default) and most miners (0.2).
    #[must_use]
    pub fn margin(self, margin: f64) -> Self {
        self.with("margin", margin)
    }

    /// Sets the triplets that `TripletMarginMiner` keeps.
    ///
    /// These are `all` (the default), `easy`, `semihard` or `hard`.
    #[must_use]
    pub fn type_of_triplets(self, kind: &str) -> Self {
        self.with("type_of_triplets", kind)
    }

    /// Sets the temperature, above 0: similarities are divided by it.
    ///
    /// It is an option of losses such as `NTXentLoss` (0.07 by default).
    #[must_use]
    pub fn temperature(self, temperature: f64) -> Self {
        self.with("temperature", temperature)
    }

    /// Sets the number of examples of a batch that are embedded together.
    ///
    /// It is an option of `CLIPLoss`, `SigLIPLoss` and
    /// `MultipleNegativeRankingLoss`. It saves memory in large batches: the gradients of
    /// the embeddings are cached, and every example is embedded twice.
    #[must_use]
    pub fn mini_batch_size(self, size: u64) -> Self {
        self.with("mini_batch_size", size)
    }

    /// Sets the distance of a loss or miner of pytorch-metric-learning.
    ///
    /// It is `CosineSimilarity`, `DotProductSimilarity`, `LpDistance` or `SNRDistance`.
    #[must_use]
    pub fn distance(self, distance: impl Into<Class>) -> Self {
        self.with("distance", distance.into())
    }

    /// Sets the reducer of a loss of pytorch-metric-learning, such as `SumReducer`.
    ///
    /// It reduces the losses of pairs, triplets or examples to one number.
    #[must_use]
    pub fn reducer(self, reducer: impl Into<Class>) -> Self {
        self.with("reducer", reducer.into())
    }

    /// Sets the inner loss of a wrapper loss, and its options.
    ///
    /// Wrapper losses are `MatryoshkaLoss`, `AdaptiveLayerLoss` and `Matryoshka2dLoss`.
    #[must_use]
    pub fn inner_loss(self, loss: impl Into<Loss>, options: impl Into<Self>) -> Self {
        let name = loss.into().as_str().to_owned();
        let options: Self = options.into();
        self.with("loss", name).with("loss_options", options.0)
    }

    /// Sets the dimensions to which `MatryoshkaLoss` truncates embeddings.
    ///
    /// `Matryoshka2dLoss` has the same option.
    #[must_use]
    pub fn matryoshka_dims(self, dims: impl IntoIterator<Item = u32>) -> Self {
        let dims: Vec<u32> = dims.into_iter().collect();
        self.with("matryoshka_dims", dims)
    }

    /// Sets the guide of `GISTEmbedLoss`, a model that detects false negatives.
    ///
    /// It is any name that a model can be trained from.
    #[must_use]
    pub fn guide(self, model: impl Into<String>) -> Self {
        self.with("guide", model.into())
    }

    /// Sets the teacher model of `EmbedDistillLoss` and `DistillKLDivLoss`.
    ///
    /// It is any name that a model can be trained from.
    #[must_use]
    pub fn teacher(self, model: impl Into<String>) -> Self {
        self.with("teacher", model.into())
    }

    /// Sets the weight decay of an optimizer; 0 by default, 0.01 for `AdamW`.
    #[must_use]
    pub fn weight_decay(self, decay: f64) -> Self {
        self.with("weight_decay", decay)
    }

    /// Sets the decay rates of `Adam`'s two moments; 0.9 and 0.999 by default.
    #[must_use]
    pub fn betas(self, first: f64, second: f64) -> Self {
        self.with("betas", vec![first, second])
    }

    /// Sets the momentum of `SGD`; 0 by default.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        self.with("momentum", momentum)
    }

    /// Lowers the learning rate layer by layer towards the input.
    ///
    /// Each layer has `factor` times the rate of the next one, such as 0.98. It is an
    /// option of all optimizers.
    #[must_use]
    pub fn layer_wise_lr_decay(self, factor: f64) -> Self {
        self.with("layer_wise_lr_decay", factor)
    }

    /// Sets whether to train with the dropout of the model's `config.json`.
    ///
    /// It is an option of the model and applies `hidden_dropout_prob` and similar
    /// fields.
    #[must_use]
    pub fn dropout(self, dropout: bool) -> Self {
        self.with("dropout", dropout)
    }

    /// Sets the pooling of a model, such as `mean`, `max`, `cls` or `GeM`.
    #[must_use]
    pub fn pooler(self, pooler: &str) -> Self {
        self.with("pooler", pooler)
    }
}

/// A class of pytorch-metric-learning by name, with options.
///
/// It is a distance or a reducer.
///
/// ```
/// use finetuner_protocol::{Class, Options};
///
/// let manhattan = Class::new("LpDistance").with("p", 1).with("normalize_embeddings", false);
/// let options = Options::new().distance(manhattan).reducer("SumReducer");
/// assert_eq!(options["reducer"], "SumReducer");
/// assert_eq!(options["distance"]["options"]["p"], 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    name: String,
    options: Options,
}

impl Class {
    /// Creates a class with default options.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            options: Options::new(),
        }
    }

    /// Sets an option of the class.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options = self.options.with(name, value);
        self
    }
}

impl From<&str> for Class {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<Class> for Value {
    fn from(class: Class) -> Self {
        match class.options.is_empty() {
            true => class.name.into(),
            false => json!({"name": class.name, "options": class.options}),
        }
    }
}

impl Deref for Options {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl DerefMut for Options {
    fn deref_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }
}

impl From<Map<String, Value>> for Options {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl<K: Into<String>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Options {
    fn from(options: [(K, V); N]) -> Self {
        options.into_iter().collect()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(options: I) -> Self {
        let pairs = options.into_iter().map(|(k, v)| (k.into(), v.into()));
        Self(pairs.collect())
    }
}
