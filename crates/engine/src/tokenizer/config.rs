//! Settings of a tokenizer besides its vocabulary: `tokenizer_config.json`,
//! `special_tokens_map.json` and `added_tokens.json`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::{Error, Result, python_json};

/// Named special tokens, in the order in which transformers adds them.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Settings of a tokenizer.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// All fields of `tokenizer_config.json`, and those of
    /// `special_tokens_map.json`, where older versions stored them.
    fields: serde_json::Map<String, Value>,
    /// Tokens outside the vocabulary by ID, from the settings files.
    added: BTreeMap<u64, Value>,
    /// Whether `added` is complete, so that the list in `tokenizer.json` is
    /// ignored.
    added_is_complete: bool,
}

impl Settings {
    pub(super) fn parse(files: &HashMap<String, Vec<u8>>) -> Result<Self> {
        let object = |name: &str| -> Result<serde_json::Map<String, Value>> {
            let Some(bytes) = files.get(name) else {
                return Ok(Default::default());
            };
            match python_json::parse(bytes, name)? {
                Value::Object(fields) => Ok(fields),
                _ => Err(Error::checkpoint(format!("{name}: expected an object"))),
            }
        };
        let mut settings = Self {
            fields: object("tokenizer_config.json")?,
            ..Self::default()
        };
        if let Some(Value::Object(added)) = settings.fields.get("added_tokens_decoder") {
            for (id, token) in added {
                let id = id.parse().map_err(|_| {
                    Error::checkpoint(format!(
                        "tokenizer_config.json: `added_tokens_decoder` has the key `{id}`; give a \
                         number"
                    ))
                })?;
                settings.added.insert(id, token.clone());
            }
            settings.added_is_complete = true;
            return Ok(settings);
        }
        settings.fields.extend(object("special_tokens_map.json")?);
        let special: Vec<String> = settings
            .special()
            .map(|(_, token)| content(&token))
            .collect();
        for (token, id) in object("added_tokens.json")? {
            let id = id.as_u64().ok_or_else(|| {
                Error::checkpoint(format!(
                    "added_tokens.json: the ID of `{token}` is {id}; give a whole number"
                ))
            })?;
            let is_special = special.contains(&token);
            settings.added.insert(
                id,
                json!({"content": token, "special": is_special, "normalized": !is_special}),
            );
        }
        Ok(settings)
    }

    /// Returns a text setting.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    /// Returns a boolean setting.
    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(Error::checkpoint(format!(
                "tokenizer_config.json: `{field}` is {other}; give true or false"
            ))),
        }
    }

    /// Returns a boolean setting that may be unset.
    pub(super) fn open_flag(&self, field: &str) -> Result<Option<bool>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.flag(field, false).map(Some),
        }
    }

    /// Returns the text of a special token.
    pub(super) fn token(&self, name: &str, default: &str) -> String {
        match self.fields.get(name) {
            None | Some(Value::Null) => default.to_owned(),
            Some(token) => content(token),
        }
    }

    /// Returns the longest text in tokens, if the settings limit it.
    pub(super) fn longest(&self) -> Result<Option<usize>> {
        let fields = ["model_max_length", "max_len"];
        let given = fields.iter().find_map(|field| {
            let value = self.fields.get(*field).filter(|value| !value.is_null())?;
            Some((*field, value))
        });
        let Some((field, value)) = given else {
            return Ok(None);
        };
        match python_json::number(value) {
            // Python libraries write "no limit" as 1e30.
            Some(n) if n > 1e20 => Ok(None),
            Some(n) if n >= 1.0 => Ok(Some(n as usize)),
            _ => Err(Error::checkpoint(format!(
                "tokenizer_config.json: `{field}` is {value}; give a positive number"
            ))),
        }
    }

    /// Iterates over special tokens: named ones with their names, then further
    /// ones.
    fn special(&self) -> impl Iterator<Item = (&str, Value)> {
        let named = NAMED.iter().filter_map(|name| {
            let token = self.fields.get(*name).filter(|token| !token.is_null())?;
            Some((*name, token.clone()))
        });
        let lists = ["extra_special_tokens", "additional_special_tokens"];
        let further = lists.iter().find_map(|list| match self.fields.get(*list) {
            Some(Value::Array(tokens)) if !tokens.is_empty() => Some(tokens.clone()),
            Some(Value::Object(tokens)) if !tokens.is_empty() => {
                Some(tokens.values().cloned().collect())
            }
            _ => None,
        });
        named.chain(further.into_iter().flatten().map(|token| ("", token)))
    }

    /// Returns all tokens outside the vocabulary, in the form and order of
    /// `tokenizer.json`. `listed` are those of that file; `defaults` are the
    /// class's special tokens. Also returns the texts of tokens that are in no
    /// list.
    pub(super) fn added_tokens(
        &self,
        listed: &Value,
        defaults: &[(&str, Value)],
    ) -> (Vec<Value>, Vec<String>) {
        let mut by_id = self.added.clone();
        if !self.added_is_complete {
            for token in listed.as_array().into_iter().flatten() {
                if let Some(id) = token["id"].as_u64() {
                    by_id.insert(id, token.clone());
                }
            }
        }
        let (mut all, mut implied): (Vec<Value>, Vec<String>) = Default::default();
        let mut add = |token: &Value, special: Option<bool>, is_listed: bool| {
            let text = content(token);
            let known = all.iter().any(|known| known["content"] == text.as_str());
            if !known && !text.is_empty() {
                let flag = |name: &str| token[name].as_bool().unwrap_or(false);
                let special = special.unwrap_or_else(|| flag("special"));
                if !is_listed {
                    implied.push(text.clone());
                }
                all.push(json!({
                    "id": 0,
                    "content": text,
                    "single_word": flag("single_word"),
                    "lstrip": flag("lstrip"),
                    "rstrip": flag("rstrip"),
                    "normalized": token["normalized"].as_bool().unwrap_or(!special),
                    "special": special,
                }));
            }
        };
        let special: Vec<(&str, Value)> = self.special().collect();
        let names: Vec<String> = special.iter().map(|(_, token)| content(token)).collect();
        for token in by_id.values() {
            let named = names.contains(&content(token));
            add(token, named.then_some(true), true);
        }
        for (name, default) in defaults {
            let given = special.iter().find(|(known, _)| known == name);
            add(given.map_or(default, |(_, token)| token), Some(true), false);
        }
        for (name, token) in &special {
            add(token, Some(true), name.is_empty());
        }
        (all, implied)
    }
}

/// Returns the text of a token, which may be an object with settings.
fn content(token: &Value) -> String {
    let text = token.as_str().or_else(|| token["content"].as_str());
    text.unwrap_or_default().to_owned()
}
