//! Options of low-rank adapters (LoRA).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Options;

/// Trains low-rank adapters instead of a model's weights (LoRA, Hu et al. 2021).
///
/// It is the option `lora` of a model. Names, defaults and meaning are those of
/// PEFT's `LoraConfig` for the task `FEATURE_EXTRACTION`.
///
/// ```
/// use finetuner_protocol::Lora;
///
/// let lora = Lora::new().r(16).lora_alpha(32.0).all_linear();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Lora {
    /// The rank of the adapters; 8 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<u64>,
    /// Scale of the adapters' output, which is multiplied by this and divided by the
    /// rank; 8 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Dropout rate of the adapters' inputs in training; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// The layers that get adapters: a list of names, or `all-linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<Value>,
    /// Modules that are trained and saved in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_to_save: Option<Vec<String>>,
    /// Whether to divide by the square root of the rank; off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_rslora: Option<bool>,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Lora {
    /// Returns PEFT's defaults: rank 8, and the layers that PEFT adapts in this type
    /// of model. If PEFT does not know the type, all linear layers get adapters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the rank of the adapters.
    #[must_use]
    pub fn r(mut self, rank: u64) -> Self {
        self.r = Some(rank);
        self
    }

    /// Sets the scale of the adapters' output, which is also divided by the rank.
    #[must_use]
    pub fn lora_alpha(mut self, alpha: f64) -> Self {
        self.lora_alpha = Some(alpha);
        self
    }

    /// Sets the dropout rate of the adapters' inputs in training.
    #[must_use]
    pub fn lora_dropout(mut self, part: f64) -> Self {
        self.lora_dropout = Some(part);
        self
    }

    /// Selects the layers with these names, or whose names end with them.
    #[must_use]
    pub fn target_modules<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.target_modules = Some(names.into());
        self
    }

    /// Selects all linear layers of the network.
    #[must_use]
    pub fn all_linear(mut self) -> Self {
        self.target_modules = Some("all-linear".into());
        self
    }

    /// Trains and saves these modules in full.
    #[must_use]
    pub fn modules_to_save<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.modules_to_save = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Divides by the square root of the rank, which keeps large ranks effective
    /// (Kalajdzievski 2023).
    #[must_use]
    pub fn use_rslora(mut self, use_rslora: bool) -> Self {
        self.use_rslora = Some(use_rslora);
        self
    }
}

impl From<Lora> for Value {
    fn from(lora: Lora) -> Self {
        // Numbers that are not finite become null, which counts as not set.
        serde_json::to_value(lora).unwrap_or_default()
    }
}

impl Options {
    /// Sets the low-rank adapters of a model; see [`Lora`].
    #[must_use]
    pub fn lora(self, lora: Lora) -> Self {
        self.with("lora", lora)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unset_settings_are_not_sent() {
        assert_eq!(Value::from(Lora::new()), json!({}));
        let lora = Lora::new().r(4).lora_alpha(8.0).target_modules(["query"]);
        let sent = json!({"r": 4, "lora_alpha": 8.0, "target_modules": ["query"]});
        assert_eq!(Value::from(lora.clone()), sent);
        let known: Lora = serde_json::from_value(sent).unwrap();
        assert_eq!(known, lora);
    }

    #[test]
    fn unknown_settings_are_kept() {
        let sent = json!({"use_dora": true, "target_modules": "all-linear"});
        let lora: Lora = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(Value::from(lora), sent);
    }
}
