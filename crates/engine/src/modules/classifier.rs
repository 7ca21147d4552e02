//! Cross-encoders in the layout of sentence-transformers: a single sequence
//! classifier in the module list, and the activation of its scores.

use serde_json::{Value, json};

use super::{
    LIST_FILE, NamedFiles,
    dense::{Activation, TORCH},
    prompts,
    sentence::{self, SentenceConfig},
};
use crate::{Error, Result, python_json};

/// The `model_type` in the settings file.
const MODEL_TYPE: &str = "CrossEncoder";

/// The files of a cross-encoder outside its network.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClassifierFiles {
    settings: Option<Value>,
}

impl ClassifierFiles {
    /// Parses the settings of a cross-encoder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if they set a default prompt, which is not
    /// supported.
    pub(super) fn parse(settings: Option<Value>) -> Result<Self> {
        let empty = Value::Null;
        let file = settings.as_ref().unwrap_or(&empty);
        if let Some(name) = file["default_prompt_name"].as_str()
            && file["prompts"][name]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        {
            return Err(Error::checkpoint(format!(
                "{}: `default_prompt_name` is `{name}`, and prompts of cross-encoders are not \
                 supported: set it to null, and put the prompt before the texts",
                prompts::FILE
            )));
        }
        Ok(Self { settings })
    }

    /// Returns whether settings are those of a cross-encoder.
    pub(super) fn are_settings(settings: Option<&Value>) -> bool {
        settings.is_some_and(|file| file["model_type"] == MODEL_TYPE)
    }

    /// Returns the activation of the scores that the settings or `config.json`
    /// name. The default is sigmoid for one label, and the identity for
    /// several.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the activation is not supported.
    pub(crate) fn activation(
        &self,
        config: &Value,
        labels: usize,
        notes: &mut Vec<String>,
    ) -> Result<Activation> {
        let default = match labels {
            1 => Activation::Sigmoid,
            _ => Activation::Identity,
        };
        let own = self.settings.as_ref().map(|file| &file["activation_fn"]);
        let named = [
            (prompts::FILE, own.unwrap_or(&Value::Null)),
            (
                "config.json",
                &config["sentence_transformers"]["activation_fn"],
            ),
            (
                "config.json",
                &config["sbert_ce_default_activation_function"],
            ),
        ];
        let named = named
            .iter()
            .find_map(|(file, path)| Some((file, path.as_str()?)));
        let Some((file, path)) = named else {
            return Ok(default);
        };
        if !path.starts_with(TORCH) {
            notes.push(format!(
                "{file}: the activation `{path}` is not one of PyTorch's. The default is used \
                 instead, as in sentence-transformers"
            ));
            return Ok(default);
        }
        Activation::of_path(path).map_err(|reason| Error::checkpoint(format!("{file}: {reason}")))
    }

    /// Returns the files with which sentence-transformers loads a classifier
    /// whose scores have this activation.
    pub(crate) fn files(
        &self,
        activation: Activation,
        sentence: &SentenceConfig,
        longest: usize,
    ) -> Result<NamedFiles> {
        let list = json!([{
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.models.Transformer",
        }]);
        let mut network = sentence.to_json(longest);
        network["transformer_task"] = "sequence-classification".into();
        network["modality_config"] =
            json!({"text": {"method": "forward", "method_output_name": "logits"}});
        network["module_output_name"] = "scores".into();
        let mut settings = match &self.settings {
            Some(file) => file.clone(),
            None => json!({"prompts": {}, "default_prompt_name": null}),
        };
        settings["model_type"] = MODEL_TYPE.into();
        settings["activation_fn"] = activation.path().into();
        let files = [
            (LIST_FILE, list),
            (sentence::FILES[0], network),
            (prompts::FILE, settings),
        ];
        let written = files
            .iter()
            .map(|(name, json)| Ok(((*name).to_owned(), python_json::to_bytes(json)?)));
        written.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: Option<Value>, config: &Value, labels: usize) -> (Activation, usize) {
        let mut notes = Vec::new();
        let files = ClassifierFiles::parse(settings).unwrap();
        let activation = files.activation(config, labels, &mut notes).unwrap();
        (activation, notes.len())
    }

    #[test]
    fn the_activation_comes_from_settings_config_or_number_of_labels() {
        let nothing = json!({});
        assert_eq!(found(None, &nothing, 1), (Activation::Sigmoid, 0));
        assert_eq!(found(None, &nothing, 3), (Activation::Identity, 0));
        let named = |path: &str| json!({"sentence_transformers": {"activation_fn": path}});
        let tanh = named("torch.nn.modules.activation.Tanh");
        assert_eq!(found(None, &tanh, 1), (Activation::Tanh, 0));
        let old =
            json!({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"});
        assert_eq!(found(None, &old, 1), (Activation::Identity, 0));
        let settings = json!({"activation_fn": "torch.nn.modules.activation.ReLU"});
        assert_eq!(found(Some(settings), &tanh, 1), (Activation::Relu, 0));
        // Code of other packages is never run: the default is used, with a
        // note.
        assert_eq!(
            found(None, &named("mine.Curve"), 1),
            (Activation::Sigmoid, 1)
        );
        let files = ClassifierFiles::default();
        let unknown = files.activation(&named("torch.nn.Softsign"), 1, &mut Vec::new());
        let unknown = unknown.unwrap_err().to_string();
        assert!(
            unknown.contains("`torch.nn.Softsign` is not supported"),
            "{unknown}"
        );
    }

    #[test]
    fn a_prompt_before_each_pair_is_refused_and_other_settings_are_kept() {
        let prompts = json!({"default_prompt_name": "q", "prompts": {"q": "query: "}});
        let refused = ClassifierFiles::parse(Some(prompts))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("`default_prompt_name` is `q`"),
            "{refused}"
        );
        let settings = json!({"default_prompt_name": null, "prompts": {"q": "query: "}});
        let files = ClassifierFiles::parse(Some(settings)).unwrap();
        let files = files.files(Activation::Sigmoid, &SentenceConfig::default(), 16);
        let written = files
            .unwrap()
            .into_iter()
            .find(|(name, _)| name == prompts::FILE);
        let written = python_json::parse(&written.unwrap().1, prompts::FILE).unwrap();
        let expected = json!({
            "default_prompt_name": null, "prompts": {"q": "query: "},
            "model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.Sigmoid",
        });
        assert_eq!(written, expected);
    }
}
