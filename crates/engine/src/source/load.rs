//! Putting a model together from its files.

use std::collections::HashMap;

use candle_core::Device;
use serde_json::Value;

use super::ModelFiles;
use crate::{
    Error, Result,
    models::{HeadConfig, Model, ModelConfig, ModelSetup},
    ops::Pooler,
    plan::Cutting,
    prepare::Preparer,
    tokenizer::Tokenizer,
};

/// How a model is put together.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// How places become one vector, in place of what the model's files say.
    pub pooler: Option<Pooler>,
    /// Length of the embeddings, where it shall be another.
    pub output_dim: Option<usize>,
    /// Whether training changes a projection head alone.
    pub freeze: bool,
    /// Decides new weights.
    pub seed: u64,
    /// How long texts are cut, in place of what the model's files say.
    pub cutting: Cutting,
}

/// A model, ready to be used.
pub struct LoadedModel {
    /// The model.
    pub model: Model,
    /// What its inputs are made with.
    pub preparer: Preparer,
    /// Its files beside the weights.
    pub description: ModelDescription,
}

/// What a saved model needs beside its weights.
pub struct ModelDescription {
    pub(crate) config: Value,
    pub(crate) side_files: HashMap<String, Vec<u8>>,
    pub(crate) max_tokens: Option<usize>,
}

impl ModelFiles {
    /// Returns whether the model has a projection head.
    pub(crate) fn has_head(&self) -> bool {
        self.extras.head.is_some()
    }

    /// Puts the model together.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the files do not fit each other;
    /// [`Error::Config`] where the options don't.
    pub fn load(mut self, options: &LoadOptions, device: &Device) -> Result<LoadedModel> {
        let config = ModelConfig::parse(&self.config)?;
        let architecture = config.architecture();
        let processor = architecture.processor(self.preprocessor.as_ref())?;
        let tokenizer = match (config.max_tokens(), self.side_files.get("tokenizer.json")) {
            (None, _) => None,
            (Some(_), None) => return Err(Error::checkpoint("tokenizer.json is missing")),
            (Some(positions), Some(json)) => {
                self.max_tokens = self
                    .max_tokens
                    .filter(|n| *n > 0)
                    .or(self.extras.max_tokens);
                if let Some(longest) = options.cutting.max_length {
                    if longest > positions {
                        return Err(Error::config(
                            "model_options.collate_options",
                            format!(
                                "`max_length` is {longest}: the model reads {positions} tokens"
                            ),
                        ));
                    }
                    self.max_tokens = Some(longest);
                }
                let longest = self.max_tokens.unwrap_or(positions).min(positions);
                Some(match options.cutting.refuse_longer {
                    true => Tokenizer::parse_uncut(json, positions)?,
                    false => Tokenizer::parse(json, longest)?,
                })
            }
        };
        let features = architecture.features();
        if architecture.begins_random() && self.tensors.is_empty() {
            self.tensors = config.random_weights(options.seed);
        }
        let dim = config.dim();
        let wanted = options.output_dim;
        let head = match (self.extras.head, wanted) {
            (Some(head), None) => Some(head),
            (Some(head), Some(wanted)) if head.outputs == wanted => Some(head),
            (Some(head), Some(wanted)) => {
                return Err(Error::config(
                    "output_dim",
                    format!(
                        "{wanted}: the model's projection head gives {}",
                        head.outputs
                    ),
                ));
            }
            (None, wanted) => {
                let outputs = wanted.unwrap_or(dim);
                // Two towers have projections that are trained under `freeze`.
                let own = architecture.frozen_dims().is_some();
                let needed = (options.freeze && !own) || outputs != dim;
                needed.then_some(HeadConfig {
                    inputs: dim,
                    outputs,
                })
            }
        };
        let setup = ModelSetup {
            pooler: options.pooler.or(self.extras.pooler),
            head,
            freeze: options.freeze,
            seed: options.seed,
        };
        Ok(LoadedModel {
            model: Model::new(config, self.tensors, setup, device)?,
            preparer: Preparer {
                tokenizer,
                processor,
                features,
            },
            description: ModelDescription {
                config: self.config,
                side_files: self.side_files,
                max_tokens: self.max_tokens,
            },
        })
    }
}
