//! Options of losses, miners, optimizers and models: values by name.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Loss;

/// Values by name, as JSON has them. Any name may be set; the methods set
/// those that most people need.
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
    /// No options.
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

    /// How much nearer a positive must be than a negative; of
    /// `TripletMarginLoss` (0.05 there by default) and most miners (0.2).
    #[must_use]
    pub fn margin(self, margin: f64) -> Self {
        self.with("margin", margin)
    }

    /// Which triplets `TripletMarginMiner` keeps: `all` (its default), `easy`,
    /// `semihard` or `hard`.
    #[must_use]
    pub fn type_of_triplets(self, kind: &str) -> Self {
        self.with("type_of_triplets", kind)
    }

    /// What is multiplied with a similarity's inverse, above 0; of losses such
    /// as `NTXentLoss` (0.07 there by default).
    #[must_use]
    pub fn temperature(self, temperature: f64) -> Self {
        self.with("temperature", temperature)
    }

    /// Number of examples of a batch that are embedded together; an option of
    /// `CLIPLoss`, `SigLIPLoss` and `MultipleNegativeRankingLoss`. It saves memory in
    /// large batches: the gradients of the embeddings are cached, and every example is
    /// embedded twice.
    #[must_use]
    pub fn mini_batch_size(self, size: u64) -> Self {
        self.with("mini_batch_size", size)
    }

    /// How a loss or a miner of pytorch-metric-learning compares embeddings:
    /// `CosineSimilarity`, `DotProductSimilarity`, `LpDistance` or `SNRDistance`.
    #[must_use]
    pub fn distance(self, distance: impl Into<Class>) -> Self {
        self.with("distance", distance.into())
    }

    /// How a loss of pytorch-metric-learning makes one number of those of pairs,
    /// triplets or examples, such as `SumReducer`.
    #[must_use]
    pub fn reducer(self, reducer: impl Into<Class>) -> Self {
        self.with("reducer", reducer.into())
    }

    /// The loss that `MatryoshkaLoss`, `AdaptiveLayerLoss` or `Matryoshka2dLoss`
    /// is around, and its options.
    #[must_use]
    pub fn around(self, loss: impl Into<Loss>, options: impl Into<Self>) -> Self {
        let name = loss.into().as_str().to_owned();
        let options: Self = options.into();
        self.with("loss", name).with("loss_options", options.0)
    }

    /// The lengths that `MatryoshkaLoss` and `Matryoshka2dLoss` cut embeddings
    /// to.
    #[must_use]
    pub fn matryoshka_dims(self, dims: impl IntoIterator<Item = u32>) -> Self {
        let dims: Vec<u32> = dims.into_iter().collect();
        self.with("matryoshka_dims", dims)
    }

    /// The model that `GISTEmbedLoss` asks which examples are no negatives: any
    /// name that a model can be trained from.
    #[must_use]
    pub fn guide(self, model: impl Into<String>) -> Self {
        self.with("guide", model.into())
    }

    /// The model that `EmbedDistillLoss` and `DistillKLDivLoss` learn from: any
    /// name that a model can be trained from.
    #[must_use]
    pub fn teacher(self, model: impl Into<String>) -> Self {
        self.with("teacher", model.into())
    }

    /// How strongly an optimizer pulls weights to zero; 0 by default, 0.01 for
    /// `AdamW`.
    #[must_use]
    pub fn weight_decay(self, decay: f64) -> Self {
        self.with("weight_decay", decay)
    }

    /// How slowly an `Adam`'s two averages change; 0.9 and 0.999 by default.
    #[must_use]
    pub fn betas(self, first: f64, second: f64) -> Self {
        self.with("betas", vec![first, second])
    }

    /// How much of the last step `SGD` takes again; 0 by default.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        self.with("momentum", momentum)
    }

    /// Lower learning rates for earlier layers: each has this times that of the
    /// layer behind it, such as 0.98. An option of all optimizers.
    #[must_use]
    pub fn layer_wise_lr_decay(self, factor: f64) -> Self {
        self.with("layer_wise_lr_decay", factor)
    }

    /// Whether to train with the dropout of the model's `config.json`
    /// (`hidden_dropout_prob` and the like); an option of the model.
    #[must_use]
    pub fn dropout(self, dropout: bool) -> Self {
        self.with("dropout", dropout)
    }

    /// How a model makes one vector of many: `mean`, `max`, `cls` or `GeM`.
    #[must_use]
    pub fn pooler(self, pooler: &str) -> Self {
        self.with("pooler", pooler)
    }
}

/// A class of a library by its name, with options of its own: a distance or a
/// reducer of pytorch-metric-learning.
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
    /// A class with the defaults of its options.
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
