//! Reads the parts of an `open_clip_config.json`.

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// File with a checkpoint's sizes and preprocessing.
pub(super) const CONFIG_FILE: &str = "open_clip_config.json";

pub(super) fn invalid_config(reason: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("{CONFIG_FILE}: {reason}"))
}

/// The fields of one part of the file. Fields that the code does not read must
/// have their defaults, so that none is ignored.
pub(super) struct Part<'a> {
    name: &'static str,
    pub(super) fields: &'a Map<String, Value>,
}

impl<'a> Part<'a> {
    pub(super) fn of(json: &'a Value, name: &'static str) -> Result<Self> {
        let fields = json.get(name).and_then(Value::as_object);
        let fields = fields.ok_or_else(|| invalid_config(format!("it has no `{name}`")))?;
        Ok(Self { name, fields })
    }

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn count(&self, field: &str, default: u64) -> Result<u64> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|n| (1..1 << 24).contains(n))
                .ok_or_else(|| {
                    invalid_config(format!(
                        "`{}.{field}` is {value}; give a whole number of at least 1",
                        self.name
                    ))
                }),
        }
    }

    pub(super) fn number(&self, field: &str, default: f64) -> f64 {
        self.get(field).and_then(Value::as_f64).unwrap_or(default)
    }

    /// Refuses fields that are neither `known`, nor off, nor at their default.
    pub(super) fn refuse_others(&self, known: &[&str], defaults: &[(&str, Value)]) -> Result<()> {
        for (field, value) in self.fields {
            let is_off = value.is_null() || *value == Value::Bool(false) || *value == json!(0.0);
            let is_default = defaults
                .iter()
                .any(|(name, usual)| name == field && value == usual);
            if !known.contains(&field.as_str()) && !is_off && !is_default {
                return Err(invalid_config(format!(
                    "`{}.{field}` is {value}, which is not supported; supported are two transformers \
                     as in `ViT-B-32`",
                    self.name
                )));
            }
        }
        Ok(())
    }
}
