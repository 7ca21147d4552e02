//! Saves a model so that sentence-transformers loads it with the same
//! embeddings.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    LIST_FILE,
    layer::{LayerSpec, PREFIX, head_position},
    pooling::Pooling,
    prompts::{self, Prompts},
    sentence::{self, SentenceConfig},
};
use crate::{
    Error, Result,
    params::{FloatFormat, RawTensor, encode_safetensors},
    python_json,
};

/// Files: names and contents.
pub(crate) type NamedFiles = Vec<(String, Vec<u8>)>;

/// A layer of a head as a linear map that includes its normalisation.
pub(crate) struct FoldedLayer {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// `[outputs, inputs]`
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    /// Whether a ReLU follows.
    pub(crate) relu: bool,
}

/// A text model to save.
pub(crate) struct Saved<'a> {
    pub(crate) pooling: Pooling,
    /// Width of the network's output.
    pub(crate) width: usize,
    pub(crate) layers: &'a [LayerSpec],
    /// Tensors of the layers; see [`PREFIX`].
    pub(crate) tensors: &'a HashMap<String, RawTensor>,
    /// A projection head, with its normalisations merged into its weights.
    pub(crate) head: Option<Vec<FoldedLayer>>,
    pub(crate) prompts: &'a Prompts,
    pub(crate) sentence: &'a SentenceConfig,
    /// The longest text in tokens.
    pub(crate) longest: usize,
}

/// Files of the modules, and what `finetuner.json` records about them.
#[derive(Default)]
pub(crate) struct Files {
    /// Names and contents.
    pub(crate) files: NamedFiles,
    /// Positions of the projection head's layers in the module list.
    pub(crate) head: Vec<usize>,
    /// The module list if sentence-transformers can't load the model. Then
    /// there is no `modules.json`.
    pub(crate) own_list: Option<Value>,
    list: Vec<Value>,
}

impl Saved<'_> {
    /// Returns all files that sentence-transformers needs besides the network
    /// and its tokenizer.
    pub(crate) fn files(&self) -> Result<Files> {
        let mut files = Files::default();
        files.module("Transformer", &class("Transformer"));
        let pooling = self.pooling.to_json(self.width);
        if let Some(config) = &pooling {
            let folder = files.module("Pooling", &class("Pooling"));
            files.json(format!("{folder}/config.json"), config)?;
        }
        let split = head_position(self.layers);
        for (index, layer) in self.layers[..split].iter().enumerate() {
            self.add_layer(index, layer, &mut files)?;
        }
        for layer in self.head.iter().flatten() {
            files.head.push(files.list.len());
            let folder = files.module("Dense", &class("Dense"));
            let config = json!({
                "in_features": layer.inputs,
                "out_features": layer.outputs,
                "bias": true,
                "activation_function": match layer.relu {
                    true => "torch.nn.modules.activation.ReLU",
                    false => "torch.nn.modules.linear.Identity",
                },
            });
            files.json(format!("{folder}/config.json"), &config)?;
            let shape = vec![layer.outputs, layer.inputs];
            let tensors = HashMap::from([
                ("linear.weight".to_owned(), (shape, layer.weight.clone())),
                (
                    "linear.bias".to_owned(),
                    (vec![layer.outputs], layer.bias.clone()),
                ),
            ]);
            files.weights(&folder, &tensors)?;
        }
        for (index, layer) in self.layers[split..].iter().enumerate() {
            self.add_layer(split + index, layer, &mut files)?;
        }
        let list = Value::Array(std::mem::take(&mut files.list));
        match pooling {
            Some(_) => files.json(LIST_FILE.to_owned(), &list)?,
            None => files.own_list = Some(list),
        }
        files.json(
            sentence::FILES[0].to_owned(),
            &self.sentence.to_json(self.longest),
        )?;
        files.json(prompts::FILE.to_owned(), &self.prompts.to_json())?;
        Ok(files)
    }

    fn add_layer(&self, index: usize, layer: &LayerSpec, files: &mut Files) -> Result<()> {
        let folder = files.module(layer.name(), &layer.class);
        if !layer.config.is_null() {
            files.json(format!("{folder}/config.json"), &layer.config)?;
        }
        let tensors = layer.tensors().into_iter().map(|(name, _)| {
            let full = format!("{PREFIX}{index}.{name}");
            let tensor = self.tensors.get(&full).cloned();
            let missing = || Error::checkpoint(format!("the tensor `{full}` is missing"));
            Ok((name.to_owned(), tensor.ok_or_else(missing)?))
        });
        let tensors: HashMap<String, RawTensor> = tensors.collect::<Result<_>>()?;
        match tensors.is_empty() {
            true => Ok(()),
            false => files.weights(&folder, &tensors),
        }
    }
}

/// Returns a class path that old and new versions accept.
fn class(name: &str) -> String {
    format!("sentence_transformers.models.{name}")
}

impl Files {
    /// Creates a value with only these files.
    pub(crate) fn of(files: NamedFiles) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// Adds a module to the list, and returns its folder.
    fn module(&mut self, name: &str, class: &str) -> String {
        let number = self.list.len();
        let folder = match number {
            0 => String::new(),
            _ => format!("{number}_{name}"),
        };
        self.list.push(json!({
            "idx": number,
            "name": number.to_string(),
            "path": folder,
            "type": class,
        }));
        folder
    }

    fn json(&mut self, name: String, value: &Value) -> Result<()> {
        self.files.push((name, python_json::to_bytes(value)?));
        Ok(())
    }

    fn weights(&mut self, folder: &str, tensors: &HashMap<String, RawTensor>) -> Result<()> {
        let bytes = encode_safetensors(tensors, FloatFormat::F32)?;
        self.files
            .push((format!("{folder}/model.safetensors"), bytes));
        Ok(())
    }
}
