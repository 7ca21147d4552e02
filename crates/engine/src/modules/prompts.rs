//! The prompts of a model: texts that are put before the texts to embed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{Error, Result};

/// The file with the prompts.
pub(crate) const FILE: &str = "config_sentence_transformers.json";
/// Prompts that every sentence-transformers model has. They are empty unless
/// its file sets them.
const STANDARD: [&str; 2] = ["query", "document"];

/// The prompts of a model by name, and the default prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    by_name: BTreeMap<String, String>,
    default: Option<String>,
    /// The file's content, which is saved again.
    file: Option<Value>,
}

impl Prompts {
    pub(crate) fn parse(file: Value) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("{FILE}: {reason}"));
        match &file["model_type"] {
            Value::Null => {}
            Value::String(kind) if kind == "SentenceTransformer" => {}
            other => {
                return Err(bad(format!(
                    "`model_type` is {other}; only models of the type \"SentenceTransformer\" are \
                     supported"
                )));
            }
        }
        if let Some(dim) = file.get("truncate_dim").filter(|dim| !dim.is_null()) {
            return Err(bad(format!(
                "`truncate_dim` is {dim}, which is not supported: remove it, and truncate the \
                 embeddings where they are used"
            )));
        }
        let mut by_name = BTreeMap::new();
        match &file["prompts"] {
            Value::Null => {}
            Value::Object(prompts) => {
                for (name, prompt) in prompts {
                    let prompt = match prompt {
                        Value::Null => "",
                        Value::String(prompt) => prompt,
                        other => {
                            return Err(bad(format!(
                                "the prompt `{name}` is {other}; give a text"
                            )));
                        }
                    };
                    by_name.insert(name.clone(), prompt.to_owned());
                }
            }
            other => return Err(bad(format!("`prompts` is {other}; give an object"))),
        }
        let default = match &file["default_prompt_name"] {
            Value::Null => None,
            Value::String(name) if by_name.contains_key(name) => Some(name.clone()),
            Value::String(name) if STANDARD.contains(&name.as_str()) => None,
            other => {
                let names: Vec<_> = by_name.keys().map(|name| format!("`{name}`")).collect();
                return Err(bad(format!(
                    "`default_prompt_name` is {other}; the prompts are {}",
                    names.join(", ")
                )));
            }
        };
        Ok(Self {
            by_name,
            default,
            file: Some(file),
        })
    }

    /// Returns name and text of the default prompt, unless it is empty.
    #[must_use]
    pub fn default_prompt(&self) -> Option<(&str, &str)> {
        let name = self.default.as_deref()?;
        let prompt = self.by_name.get(name).filter(|prompt| !prompt.is_empty())?;
        Some((name, prompt))
    }

    /// Returns the prompt of this name, which may be empty.
    ///
    /// # Errors
    /// [`Error::Config`] lists the prompts if none has this name.
    pub fn get(&self, name: &str) -> Result<&str> {
        match self.by_name.get(name) {
            Some(prompt) => Ok(prompt),
            None if STANDARD.contains(&name) && self.file.is_some() => Ok(""),
            None => {
                let names: Vec<_> = self.names().map(|name| format!("`{name}`")).collect();
                let known = match names.is_empty() {
                    true => "the model has no prompts".to_owned(),
                    false => format!("the model's prompts are {}", names.join(", ")),
                };
                Err(Error::config("prompt", format!("`{name}`: {known}")))
            }
        }
    }

    /// Returns the names of the prompts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Replaces the prompts for queries and documents. If both are equal, they
    /// become the default prompt.
    pub(crate) fn replaced(&self, query: &str, document: &str) -> Result<Self> {
        let mut file = self.to_json();
        if !file["prompts"].is_object() {
            file["prompts"] = json!({});
        }
        file["prompts"]["query"] = query.into();
        file["prompts"]["document"] = document.into();
        file["default_prompt_name"] = match query == document && !query.is_empty() {
            true => "query".into(),
            false => Value::Null,
        };
        Self::parse(file)
    }

    /// Returns the file's content, or one without prompts.
    pub(crate) fn to_json(&self) -> Value {
        self.file.clone().unwrap_or_else(|| {
            json!({
                "model_type": "SentenceTransformer",
                "prompts": {},
                "default_prompt_name": null,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_prompt_is_found_and_others_by_name() {
        let file = json!({
            "prompts": {"query": "query: ", "passage": "a ", "nothing": null},
            "default_prompt_name": "query",
            "similarity_fn_name": "cosine",
        });
        let prompts = Prompts::parse(file.clone()).unwrap();
        assert_eq!(prompts.default_prompt(), Some(("query", "query: ")));
        assert_eq!(prompts.get("passage").unwrap(), "a ");
        assert_eq!(prompts.get("document").unwrap(), "");
        assert_eq!(prompts.to_json(), file);
        let error = prompts.get("title").unwrap_err().to_string();
        assert!(
            error.contains("`title`") && error.contains("`passage`"),
            "{error}"
        );
        assert!(Prompts::default().get("query").is_err());
        let none = Prompts::parse(json!({"default_prompt_name": "query"})).unwrap();
        assert_eq!(none.default_prompt(), None);
    }

    #[test]
    fn the_prompts_of_a_run_replace_those_of_queries_and_documents() {
        let file =
            json!({"prompts": {"query": "q: ", "title": "t: "}, "default_prompt_name": "title"});
        let prompts = Prompts::parse(file).unwrap();
        let other = prompts.replaced("query: ", "passage: ").unwrap();
        assert_eq!(other.default_prompt(), None);
        let found = ["query", "document", "title"].map(|name| other.get(name).unwrap());
        assert_eq!(found, ["query: ", "passage: ", "t: "]);
        let same = Prompts::default().replaced("a: ", "a: ").unwrap();
        assert_eq!(same.default_prompt(), Some(("query", "a: ")));
        assert_eq!(Prompts::parse(same.to_json()).unwrap(), same);
    }

    #[test]
    fn a_file_of_another_kind_or_a_missing_prompt_is_refused() {
        for (file, part) in [
            (json!({"model_type": "CrossEncoder"}), "CrossEncoder"),
            (json!({"prompts": ["a"]}), "`prompts`"),
            (json!({"prompts": {"a": 1}}), "the prompt `a` is 1"),
            (
                json!({"prompts": {"a": "b"}, "default_prompt_name": "c"}),
                "`a`",
            ),
        ] {
            let error = Prompts::parse(file).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(FILE), "{error}");
        }
    }
}
