//! A network's architecture and sizes.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{
    architecture::Architecture,
    canonical,
    classifier::{self, is_classifier},
    kind::ModelKind,
    registry,
};
use crate::{Result, params::RawTensor};

/// A network's architecture and sizes, parsed from its `config.json`.
#[derive(Clone, Debug)]
pub struct ModelConfig(pub(super) Arc<dyn Architecture>);

impl ModelConfig {
    /// Parses a `config.json` according to its `model_type`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) if the architecture is unknown or the sizes are
    /// impossible.
    pub fn parse(json: &Value) -> Result<Self> {
        registry::parse(json).map(Self)
    }

    /// Returns the kind of input of a `config.json`'s model: pairs of texts for
    /// a sequence classifier.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`].
    pub(crate) fn kind_of(json: &Value) -> Result<ModelKind> {
        let parsed = Self::parse(json)?;
        let pairs = is_classifier(json) && parsed.0.classifier().is_some();
        Ok(if pairs {
            ModelKind::TextPairs
        } else {
            parsed.kind()
        })
    }

    /// Parses the `config.json` of a cross-encoder: a text network with a
    /// classification head. If it describes no classifier, the head is a new
    /// one with one label.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`], and if the architecture has no classification
    /// head.
    pub fn parse_classifier(json: &Value) -> Result<Self> {
        classifier::parse(json).map(Self)
    }

    /// Returns the kind of data that the model embeds.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.0.kind()
    }

    /// Returns the dimension of the network's embeddings.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Returns the longest text in tokens, if the model reads texts.
    #[must_use]
    pub fn max_tokens(&self) -> Option<usize> {
        self.0.max_tokens()
    }

    /// Returns the vocabulary size, if the model reads texts.
    #[must_use]
    pub fn vocab_size(&self) -> Option<usize> {
        self.0.vocab_size()
    }

    /// Returns the height and width of images in pixels, if the network takes
    /// only one size.
    #[must_use]
    pub fn image_size(&self) -> Option<usize> {
        self.0.image_size()
    }

    /// Returns the name and shape of every tensor.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.0.tensors()
    }

    /// Returns random weights, for benchmarks, tests and training from scratch.
    /// The same seed gives the same weights.
    #[must_use]
    pub fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        self.0.random_weights(seed)
    }

    pub(crate) fn architecture(&self) -> &dyn Architecture {
        &*self.0
    }

    /// Renames tensors to the names of [`ModelConfig::tensors`] and drops
    /// others.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) lists tensors that are missing or have another
    /// shape.
    pub(crate) fn canonical(
        &self,
        tensors: HashMap<String, RawTensor>,
    ) -> Result<HashMap<String, RawTensor>> {
        canonical::canonical(&*self.0, tensors)
    }

    /// Returns each tensor's name, keyed by itself and by its name in
    /// `transformers`.
    pub(crate) fn module_names(&self) -> HashMap<String, String> {
        let tensors = self.tensors().into_iter();
        let names = tensors.flat_map(|(name, _)| {
            let theirs = self.0.module_name(&name);
            [(theirs, name.clone()), (name.clone(), name)]
        });
        names.collect()
    }

    /// Returns the name in `known` of a tensor whose name may have prefixes.
    pub(crate) fn known_name<T>(&self, name: &str, known: &HashMap<String, T>) -> Option<String> {
        canonical::known_name(&*self.0, name, known)
    }
}
