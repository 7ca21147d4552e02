//! The configuration file of sentence-transformers' `Pooling`.

use serde_json::{Map, Value, json};

use crate::{Error, Result, ops::Pooler};

/// Boolean fields of versions before 5.4, with the pooling modes that they enable.
/// Several modes are concatenated in this order.
const FLAGS: [(&str, &str); 6] = [
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];

/// The pooling of a sentence-transformers model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pooling {
    pub(crate) pooler: Pooler,
    /// Whether pooling includes a prompt's tokens.
    pub(crate) include_prompt: bool,
}

impl Default for Pooling {
    fn default() -> Self {
        Self {
            pooler: Pooler::Mean,
            include_prompt: true,
        }
    }
}

impl Pooling {
    /// Parses a `config.json`; `shown` is its name in errors.
    pub(crate) fn parse(config: &Value, shown: &str) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("{shown}: {reason}"));
        let empty = Map::new();
        let fields = config.as_object().unwrap_or(&empty);
        let flag = |field: &str, default: bool| match &config[field] {
            Value::Null => Ok(default),
            Value::Bool(flag) => Ok(*flag),
            other => Err(bad(format!("`{field}` is {other}; give true or false"))),
        };
        let known = |field: &str| {
            let others = [
                "word_embedding_dimension",
                "embedding_dimension",
                "pooling_mode",
                "include_prompt",
            ];
            others.contains(&field) || FLAGS.iter().any(|(flag, _)| *flag == field)
        };
        if let Some(field) = fields.keys().find(|field| !known(field)) {
            return Err(bad(format!(
                "the setting `{field}` (`{}`) is not supported",
                fields[field]
            )));
        }
        let mut modes: Vec<&str> = Vec::new();
        match &config["pooling_mode"] {
            Value::String(mode) => modes.push(mode),
            Value::Array(list) => {
                for mode in list {
                    modes.push(mode.as_str().ok_or_else(|| {
                        bad(format!("`pooling_mode` is {}", config["pooling_mode"]))
                    })?);
                }
            }
            Value::Null => {
                for (field, mode) in FLAGS {
                    if flag(field, false)? {
                        modes.push(mode);
                    }
                }
                if modes.is_empty() {
                    modes.push("mean");
                }
            }
            other => return Err(bad(format!("`pooling_mode` is {other}"))),
        }
        Ok(Self {
            pooler: Pooler::named(&modes).map_err(bad)?,
            include_prompt: flag("include_prompt", true)?,
        })
    }

    /// Returns the `config.json` for a network of this width; `None` if
    /// sentence-transformers has no such pooling.
    pub(crate) fn to_json(self, width: usize) -> Option<Value> {
        let modes = self.pooler.names()?;
        let in_order: Vec<&str> = FLAGS
            .iter()
            .map(|(_, mode)| *mode)
            .filter(|mode| modes.contains(mode))
            .collect();
        if in_order != modes {
            // Versions before 5.4 can't express another order.
            return Some(json!({
                "embedding_dimension": width,
                "pooling_mode": modes,
                "include_prompt": self.include_prompt,
            }));
        }
        let mut config = json!({"word_embedding_dimension": width});
        for (field, mode) in FLAGS {
            config[field] = modes.contains(&mode).into();
        }
        config["include_prompt"] = self.include_prompt.into();
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(config: Value) -> Result<Pooling> {
        Pooling::parse(&config, "1_Pooling/config.json")
    }

    #[test]
    fn old_and_new_files_are_read_and_written_again() {
        let named = |names: &[&str]| Pooler::named(names).unwrap();
        for (config, pooler) in [
            (json!({"pooling_mode_mean_tokens": true}), Pooler::Mean),
            (json!({"word_embedding_dimension": 8}), Pooler::Mean),
            (json!({"pooling_mode_lasttoken": true}), Pooler::LastToken),
            (
                json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}),
                named(&["cls", "mean"]),
            ),
            (
                json!({"pooling_mode": "weightedmean"}),
                Pooler::WeightedMean,
            ),
            (
                json!({"pooling_mode": ["mean", "cls"], "pooling_mode_max_tokens": true}),
                named(&["mean", "cls"]),
            ),
        ] {
            let found = parse(config.clone()).unwrap();
            assert_eq!(found.pooler, pooler, "{config}");
            assert!(found.include_prompt);
            assert_eq!(parse(found.to_json(8).unwrap()).unwrap(), found);
        }
        let without = parse(json!({"include_prompt": false})).unwrap();
        assert!(!without.include_prompt);
        assert_eq!(parse(without.to_json(8).unwrap()).unwrap(), without);
        let gem = Pooling {
            pooler: Pooler::GeM { p: 3.0, eps: 1e-6 },
            include_prompt: true,
        };
        assert_eq!(gem.to_json(8), None);
    }

    #[test]
    fn unknown_modes_and_settings_are_refused_by_name() {
        for (config, part) in [
            (json!({"pooling_mode": "best"}), "`best`"),
            (json!({"pooling_mode": []}), "0 pooling modes"),
            (json!({"pooling_mode": 3}), "`pooling_mode` is 3"),
            (json!({"pooling_mode_mean_tokens": "yes"}), "mean_tokens"),
            (json!({"attention_heads": 4}), "`attention_heads` (`4`)"),
        ] {
            let error = parse(config).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains("1_Pooling/config.json"), "{error}");
        }
    }
}
