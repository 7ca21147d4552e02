//! Builds a model from its files.

use std::{collections::HashMap, sync::Arc};

use candle_core::Device;
use serde_json::Value;

use super::{files::ModelFiles, origin::Origin};
use crate::{
    Error, Result,
    cloud::CloudSampler,
    lora::LoraSpec,
    models::{
        HeadConfig, Model, ModelConfig, ModelSetup, describe_classifier, describe_network,
        is_classifier, new_head,
    },
    modules::{Activation, ClassifierFiles, NamedFiles, Prompts, SentenceConfig},
    ops::Pooler,
    prepare::{Preparer, Prompt},
    tokenizer::{Tokenizer, Truncation},
};

/// Sets the dtype in a `config.json` to 32 bits, in which weights are always
/// saved. `transformers` loads weights in the dtype of this field.
fn with_float32(mut config: Value) -> Value {
    for field in ["dtype", "torch_dtype"] {
        if let Some(dtype) = config.get_mut(field).filter(|dtype| !dtype.is_null()) {
            *dtype = "float32".into();
        }
    }
    for tower in ["text_config", "vision_config"] {
        if let Some(own) = config.get_mut(tower).filter(|own| own.is_object()) {
            *own = with_float32(own.take());
        }
    }
    config
}

/// Options for building a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Pooling, instead of that in the model's files.
    pub pooler: Option<Pooler>,
    /// Embedding dimension, if different from the model's.
    pub output_dim: Option<usize>,
    /// Whether the network is frozen, so that only the head is trained.
    pub freeze: bool,
    /// Adapters to train instead of the network's weights.
    pub lora: Option<LoraSpec>,
    /// Seed of new weights.
    pub seed: u64,
    /// Truncation of texts, instead of that in the model's files.
    pub truncation: Truncation,
    /// The output of the model.
    pub output: OutputKind,
}

/// The output of a text model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// Embeddings.
    #[default]
    Embedding,
    /// Scores of text pairs, by the model's own classification head.
    Scores,
    /// Scores of text pairs; a model without a classification head gets a new
    /// one.
    NewScores,
}

/// A model, ready for use.
pub struct LoadedModel {
    /// The model.
    pub model: Model,
    /// Prepares the model's inputs.
    pub preparer: Preparer,
    /// The model's files other than weights.
    pub description: ModelDescription,
    /// Warnings about files that may not have the effect that their author
    /// expects.
    pub notes: Vec<String>,
}

/// The parts of a saved model other than weights.
pub struct ModelDescription {
    pub(crate) config: Value,
    pub(crate) side_files: HashMap<String, Vec<u8>>,
    /// The longest text in tokens, if the model reads texts.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sentence: SentenceConfig,
    pub(crate) prompts: Prompts,
    /// Whether pooling includes a prompt's tokens.
    pub(crate) include_prompt: bool,
    /// The files of a cross-encoder outside its network.
    pub(crate) classifier: Option<ClassifierFiles>,
    /// The model's origin on the hub; one per tower of a two-tower model.
    pub origins: Vec<Origin>,
}

impl ModelDescription {
    /// Returns the files with which sentence-transformers loads a cross-encoder
    /// whose scores have this activation; `None` for other models.
    pub(crate) fn classifier_files(
        &self,
        activation: Option<Activation>,
    ) -> Result<Option<NamedFiles>> {
        match (&self.classifier, activation, self.max_tokens) {
            (Some(files), Some(activation), Some(longest)) => {
                files.files(activation, &self.sentence, longest).map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl ModelFiles {
    /// Builds the model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the files are inconsistent; [`Error::Config`]
    /// if the options don't fit them.
    pub fn load(mut self, options: &LoadOptions, device: &Device) -> Result<LoadedModel> {
        let config = match options.output {
            OutputKind::Embedding => self.embeds()?,
            OutputKind::Scores | OutputKind::NewScores => self.classifies(options)?,
        };
        let architecture = config.architecture();
        let processor = architecture.processor(self.preprocessor.as_ref())?;
        let (tokenizer, longest) = match config.max_tokens() {
            None => (None, None),
            Some(positions) => {
                let (tokenizer, longest) =
                    self.tokenizer(&config, positions, &options.truncation)?;
                (Some(Arc::new(tokenizer)), Some(longest))
            }
        };
        let text_length = tokenizer
            .as_ref()
            .and_then(|tokenizer| tokenizer.text_length());
        let include_prompt = match self.modules.pooling {
            Some(pooling) => pooling.include_prompt,
            None => self.extras.include_prompt,
        };
        let prompt = match (&tokenizer, self.modules.prompts.default_prompt()) {
            (Some(tokenizer), Some((_, text))) => {
                Some(Prompt::new(text, tokenizer, include_prompt)?)
            }
            _ => None,
        };
        let features = architecture.features();
        let clouds = architecture.cloud_points();
        let clouds = clouds.map(|points| CloudSampler { points });
        if architecture.starts_random() && self.tensors.is_empty() {
            self.tensors = config.random_weights(options.seed);
        }
        let mut setup = ModelSetup {
            pooler: options.pooler.or(self.extras.pooler),
            modules: self.modules.layers,
            head: None,
            freeze: options.freeze,
            lora: options.lora.as_ref().map(|lora| {
                let kind = self.config["model_type"].as_str();
                lora.of_model(kind.unwrap_or_default())
            }),
            seed: options.seed,
            text_length,
            activation: None,
        };
        let scores = options.output != OutputKind::Embedding;
        let classifier = match scores {
            false => None,
            true => {
                setup.pooler = None;
                let files = self.modules.classifier.take().unwrap_or_default();
                let notes = &mut self.modules.notes;
                let activation = files.activation(&self.config, config.dim(), notes)?;
                setup.activation = Some(activation);
                Some(files)
            }
        };
        let dim = setup.body_dim(&config)?;
        let wanted = options.output_dim;
        setup.head = match (self.extras.head, wanted) {
            (Some(head), None) => Some(head),
            (Some(head), Some(wanted)) if head.outputs == wanted => Some(head),
            (Some(head), Some(wanted)) => {
                return Err(Error::config(
                    "output_dim",
                    format!(
                        "it is {wanted}, but the model's projection head has the dimension {}",
                        head.outputs
                    ),
                ));
            }
            (None, wanted) => {
                let outputs = wanted.unwrap_or(dim);
                // Two towers have projections that `freeze` does not freeze.
                let own = architecture.frozen_dims().is_some();
                let needed = (options.freeze && !own) || outputs != dim;
                needed.then_some(HeadConfig {
                    inputs: dim,
                    outputs,
                })
            }
        };
        self.tensors.extend(self.modules.tensors);
        Ok(LoadedModel {
            model: Model::new(config, self.tensors, setup, device)?,
            preparer: Preparer {
                tokenizer,
                processor,
                features,
                clouds,
                prompt,
                member_prompts: Vec::new(),
                pairs: scores,
            },
            description: ModelDescription {
                config: with_float32(self.config),
                side_files: self.side_files,
                max_tokens: longest,
                sentence: self.modules.sentence,
                prompts: self.modules.prompts,
                include_prompt,
                classifier,
                origins: self.origins,
            },
            notes: self.modules.notes,
        })
    }

    /// Parses the config of an embedding model.
    fn embeds(&mut self) -> Result<ModelConfig> {
        if self.modules.classifier.is_some() {
            return Err(Error::checkpoint(
                "its files describe a cross-encoder, which scores pairs of texts and returns no \
                 embeddings. Load it with `CrossEncoder`, and train it with \
                 `BinaryCrossEntropyLoss` or `MSELoss`",
            ));
        }
        let config = ModelConfig::parse(&self.config)?;
        describe_network(&mut self.config);
        Ok(config)
    }

    /// Parses the config of a cross-encoder. A model without a classification
    /// head gets a new one if the options allow it.
    fn classifies(&mut self, options: &LoadOptions) -> Result<ModelConfig> {
        let config = ModelConfig::parse_classifier(&self.config)?;
        if self.extras.head.take().is_some() || !self.modules.layers.is_empty() {
            self.modules.notes.push(
                "The layers after the network of the embedding model are dropped: a \
                 cross-encoder has a classification head instead"
                    .to_owned(),
            );
        }
        self.modules.layers.clear();
        self.modules.tensors.clear();
        self.modules.prompts = Prompts::default();
        if is_classifier(&self.config) {
            return Ok(config);
        }
        if options.output == OutputKind::Scores {
            return Err(Error::checkpoint(format!(
                "`architectures` of config.json is {}, which is not a sequence classifier: the model has no \
                 classification head for scores. Train it with `BinaryCrossEntropyLoss` first",
                self.config["architectures"]
            )));
        }
        let added = new_head(config.architecture(), &mut self.tensors, options.seed);
        self.modules.notes.push(format!(
            "The model is not a sequence classifier: it gets a classification head with one label, whose \
             new weights are random ({})",
            added.join(", ")
        ));
        describe_classifier(&mut self.config);
        ModelConfig::parse_classifier(&self.config)
    }

    /// Returns the tokenizer, and the longest text in tokens. The latter comes
    /// from the run's options, or else the files of sentence-transformers, or
    /// else those of the tokenizer, and is at most the network's `positions`.
    fn tokenizer(
        &self,
        config: &ModelConfig,
        positions: usize,
        truncation: &Truncation,
    ) -> Result<(Tokenizer, usize)> {
        let (mut tokenizer, limit) = Tokenizer::of_model(&self.side_files, &self.config)?;
        if let Some(rows) = config.vocab_size() {
            tokenizer.check_vocabulary(rows)?;
        }
        if config.architecture().counts_padding() {
            tokenizer.check_padding_side()?;
        }
        let sentence = &self.modules.sentence;
        if sentence.lowercase {
            tokenizer = tokenizer.lowercase()?;
        }
        if let Some(wanted) = truncation.max_length
            && wanted > positions
        {
            return Err(Error::config(
                "model_options.collate_options",
                format!("`max_length` is {wanted}: the model reads at most {positions} tokens"),
            ));
        }
        let given = [
            truncation.max_length,
            sentence.max_tokens,
            self.extras.max_tokens,
            limit,
        ];
        let longest = given.into_iter().flatten().next();
        let longest = longest.map_or(positions, |longest| longest.min(positions));
        // A model that attends to padding needs the length that Python
        // produces: the tokenizer's limit, if there is one.
        let padded = config.architecture().text_length().map(|length| {
            let limit = limit.map_or(length, |limit| limit.min(length));
            limit.max(longest)
        });
        if let Some(length) = padded {
            tokenizer = tokenizer.pad_to(length)?;
        }
        let tokenizer = match truncation.refuse_longer {
            true => tokenizer.refuse_above(padded.unwrap_or(positions)),
            false => tokenizer.truncate_at(longest)?,
        };
        Ok((tokenizer, longest))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_saved_config_names_the_dtype_of_the_weights() {
        let config = json!({
            "torch_dtype": "float16",
            "text_config": {"dtype": "bfloat16", "torch_dtype": null},
            "vision_config": null,
            "hidden_size": 4,
        });
        let expected = json!({
            "torch_dtype": "float32",
            "text_config": {"dtype": "float32", "torch_dtype": null},
            "vision_config": null,
            "hidden_size": 4,
        });
        assert_eq!(with_float32(config), expected);
        assert_eq!(with_float32(json!({})), json!({}));
    }
}
