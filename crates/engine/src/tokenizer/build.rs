//! Builds the tokenizer that transformers would create from a model's files.
//!
//! For the classes of BERT, MPNet, RoBERTa and CLIP, transformers takes the
//! vocabulary from `tokenizer.json`, or from older files if there is none, and
//! everything else from `tokenizer_config.json`. This module writes the
//! equivalent `tokenizer.json`. Tokenizers of other classes use their own
//! `tokenizer.json` unchanged.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::config::Settings;
use crate::{Error, Result, python_json};

/// Tokenizer classes of transformers that are rebuilt from a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Bert,
    MpNet,
    Roberta,
    Clip,
    /// The `tokenizer.json` is used unchanged.
    File,
}

impl Class {
    fn named(name: &str) -> Self {
        match name.trim_end_matches("Fast") {
            "BertTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "MobileBertTokenizer"
            | "SqueezeBertTokenizer"
            | "ConvBertTokenizer"
            | "LayoutLMTokenizer"
            | "LxmertTokenizer"
            | "RetriBertTokenizer" => Self::Bert,
            "MPNetTokenizer" => Self::MpNet,
            "RobertaTokenizer" | "LongformerTokenizer" | "BartTokenizer" => Self::Roberta,
            "CLIPTokenizer" => Self::Clip,
            _ => Self::File,
        }
    }

    /// Returns the class for a `model_type`, if the files name none.
    fn of_model(model_type: &str) -> Self {
        match model_type {
            "bert" | "distilbert" | "electra" | "nomic_bert" => Self::Bert,
            "mpnet" => Self::MpNet,
            "roberta" | "longformer" => Self::Roberta,
            "clip" => Self::Clip,
            _ => Self::File,
        }
    }

    /// Returns the class's special tokens.
    fn specials(self) -> Vec<(&'static str, Value)> {
        let plain: &[(&str, &str)] = match self {
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::MpNet => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "[UNK]"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Roberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Clip => &[
                ("bos_token", "<|startoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::File => &[],
        };
        let with_settings = |(name, token): &(&'static str, &str)| {
            // MPNet's mask token includes the space before it.
            let value = match (self, *name) {
                (Self::MpNet, "mask_token") => {
                    json!({"content": token, "lstrip": true, "normalized": true})
                }
                (Self::MpNet, _) => json!({"content": token, "normalized": true}),
                _ => json!(token),
            };
            (*name, value)
        };
        plain.iter().map(with_settings).collect()
    }
}

/// A `tokenizer.json`, and the settings in a model's other files.
pub(super) struct Built {
    pub(super) json: Vec<u8>,
    /// The longest text in tokens, if `tokenizer_config.json` limits it.
    pub(super) longest: Option<usize>,
    /// Whether long texts are truncated on the left.
    pub(super) truncate_left: bool,
    /// Special tokens that the class adds although no file lists them.
    pub(super) implied: Vec<String>,
    pub(super) padding: Padding,
    /// Whether the class lowercases texts, regardless of `tokenizer.json`.
    pub(super) lowercase: bool,
}

/// Returns whether the class in the files is ignored for such models, as
/// transformers decides it.
fn names_wrong_class(model_type: &str) -> bool {
    ["modernbert", "modernbert-decoder", "siglip2", "qwen2"].contains(&model_type)
}

/// Builds the tokenizer of a model whose `config.json` is `config`.
pub(super) fn build(files: &HashMap<String, Vec<u8>>, config: &Value) -> Result<Built> {
    let settings = Settings::parse(files)?;
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let named = settings.text("tokenizer_class");
    let named = named.or(config["tokenizer_class"].as_str());
    let class = match named {
        Some(name) if !names_wrong_class(model_type) => Class::named(name),
        _ => match Class::of_model(model_type) {
            // The text model of two towers.
            Class::File => {
                let text = config["text_config"]["model_type"].as_str();
                Class::of_model(text.unwrap_or_default())
            }
            class => class,
        },
    };
    let file = match files.get("tokenizer.json") {
        Some(bytes) => Some(python_json::parse(bytes, "tokenizer.json")?),
        None => None,
    };
    let empty = Value::Null;
    let in_file = file.as_ref().map_or(&empty, |file| &file["added_tokens"]);
    let (json, implied) = match (
        Vocabulary::find(class, files, file.as_ref())?,
        files.get("tokenizer.json"),
    ) {
        (Some(vocabulary), _) => {
            let (added, implied) = settings.added_tokens(in_file, &class.specials());
            let json = vocabulary.tokenizer(class, &settings, added)?;
            (json.to_string().into_bytes(), implied)
        }
        (None, Some(bytes)) => (bytes.clone(), Vec::new()),
        (None, None) => return Err(missing(class, files)),
    };
    let named = named.unwrap_or_default().trim_end_matches("Fast");
    Ok(Built {
        json,
        padding: padding(named, &settings, file.as_ref()),
        lowercase: named == "Siglip2Tokenizer",
        longest: settings.longest()?,
        truncate_left: match settings.text("truncation_side") {
            Some(side) => side == "left",
            None => is_direction_left(file.as_ref(), "truncation"),
        },
        implied,
    })
}

/// Returns whether the direction of a part of `tokenizer.json` is left, for
/// settings that `tokenizer_config.json` lacks.
fn is_direction_left(file: Option<&Value>, part: &str) -> bool {
    file.is_some_and(|file| file[part]["direction"] == "Left")
}

/// Returns the padding of a tokenizer of this class.
fn padding(class: &str, settings: &Settings, file: Option<&Value>) -> Padding {
    let in_file = file.and_then(|file| file["padding"]["pad_token"].as_str());
    let (usual, left) = match class {
        "GemmaTokenizer" | "Siglip2Tokenizer" => (Some("<pad>"), true),
        "SiglipTokenizer" => (Some("</s>"), false),
        _ => (in_file, is_direction_left(file, "padding")),
    };
    let token = settings.token("pad_token", usual.unwrap_or_default());
    Padding {
        token: Some(token).filter(|token| !token.is_empty()),
        left: settings
            .text("padding_side")
            .map_or(left, |side| side == "left"),
    }
}

/// Returns an error with the files from which the tokenizer could be built.
fn missing(class: Class, files: &HashMap<String, Vec<u8>>) -> Error {
    let other = match class {
        Class::Bert | Class::MpNet => ", nor a vocab.txt from which to build it",
        Class::Roberta | Class::Clip => ", nor vocab.json and merges.txt from which to build it",
        Class::File => "",
    };
    let binary = files.keys().find(|name| name.ends_with(".model"));
    let binary = binary.map_or(String::new(), |name| {
        format!(" ({name} alone is not supported)")
    });
    Error::checkpoint(format!(
        "there is no tokenizer.json{other}{binary}. In Python, \
         `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` creates it"
    ))
}

/// A vocabulary, with the merges of a byte-level one.
struct Vocabulary {
    tokens: Value,
    merges: Value,
}

impl Vocabulary {
    /// Returns the vocabulary of a tokenizer to rebuild; `None` if its
    /// `tokenizer.json` is used unchanged.
    fn find(
        class: Class,
        files: &HashMap<String, Vec<u8>>,
        file: Option<&Value>,
    ) -> Result<Option<Self>> {
        let wanted = match class {
            Class::File => return Ok(None),
            Class::Bert | Class::MpNet => "WordPiece",
            Class::Roberta | Class::Clip => "BPE",
        };
        if let Some(file) = file {
            let model = &file["model"];
            // Older files don't name the type.
            let kind = model["type"].as_str().unwrap_or(wanted);
            let rebuilt = kind == wanted && model["vocab"].is_object() && class != Class::Clip;
            return Ok(rebuilt.then(|| Self {
                tokens: model["vocab"].clone(),
                merges: model["merges"].clone(),
            }));
        }
        let text = |name: &str| match files.get(name).map(|bytes| std::str::from_utf8(bytes)) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(e)) => Err(Error::checkpoint(format!("{name} is not UTF-8: {e}"))),
        };
        if wanted == "WordPiece" {
            let Some(list) = text("vocab.txt")? else {
                return Ok(None);
            };
            let tokens = list
                .lines()
                .enumerate()
                .map(|(id, token)| (token.trim_end().to_owned(), json!(id)));
            return Ok(Some(Self {
                tokens: Value::Object(tokens.collect()),
                merges: Value::Null,
            }));
        }
        let (Some(tokens), Some(merges)) = (text("vocab.json")?, text("merges.txt")?) else {
            return Ok(None);
        };
        let tokens: Map<String, Value> = serde_json::from_str(tokens)
            .map_err(|e| Error::checkpoint(format!("vocab.json: {e}")))?;
        let lines = merges.lines().enumerate();
        let merges = lines
            .filter(|(_, line)| !line.starts_with("#version") && !line.trim().is_empty())
            .map(|(number, line)| match line.trim_end().split_once(' ') {
                Some((first, second)) => Ok(json!([first, second])),
                None => Err(Error::checkpoint(format!(
                    "merges.txt: line {} is not a pair: `{line}`",
                    number + 1
                ))),
            });
        Ok(Some(Self {
            tokens: Value::Object(tokens),
            merges: merges.collect::<Result<_>>()?,
        }))
    }

    /// Returns the ID of a token in the vocabulary, or among the tokens that
    /// are added after it.
    fn id_of(&self, token: &str, added: &[Value]) -> Result<u64> {
        let words = self.tokens.as_object();
        if let Some(id) = words.and_then(|words| words.get(token)?.as_u64()) {
            return Ok(id);
        }
        let count = words.map_or(0, Map::len) as u64;
        let mut next = count..;
        for other in added {
            let text = other["content"].as_str().unwrap_or_default();
            let is_new = words.is_none_or(|words| !words.contains_key(text));
            let id = is_new.then(|| next.next()).flatten();
            if let (true, Some(id)) = (text == token, id) {
                return Ok(id);
            }
        }
        Err(Error::checkpoint(format!(
            "the tokenizer's vocabulary has no token `{token}`"
        )))
    }

    /// Returns the whole `tokenizer.json`.
    fn tokenizer(&self, class: Class, settings: &Settings, added: Vec<Value>) -> Result<Value> {
        let special = |name: &str| {
            let specials = class.specials();
            let default = specials.iter().find(|(known, _)| *known == name);
            let default = default.map_or("", |(_, token)| {
                token.as_str().or(token["content"].as_str()).unwrap_or("")
            });
            settings.token(name, default)
        };
        let pair = |name: &str| -> Result<Value> {
            let token = special(name);
            let id = self.id_of(&token, &added)?;
            Ok(json!([token, id]))
        };
        let bert = json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars", true)?,
            "strip_accents": settings.open_flag("strip_accents")?,
            "lowercase": settings.flag("do_lower_case", true)?,
        });
        let word_piece = || {
            json!({
                "type": "WordPiece",
                "unk_token": special("unk_token"),
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": self.tokens,
            })
        };
        let byte_pairs = |unknown: Option<String>, suffix: &str| {
            json!({
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": suffix,
                "fuse_unk": false,
                "byte_fallback": false,
                "vocab": self.tokens,
                "merges": self.merges,
            })
        };
        let roberta = |[first, last]: [&str; 2], trim: bool, space: bool| -> Result<Value> {
            Ok(json!({
                "type": "RobertaProcessing",
                "sep": pair(last)?,
                "cls": pair(first)?,
                "trim_offsets": trim,
                "add_prefix_space": space,
            }))
        };
        let byte_level = |space: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": space,
                "trim_offsets": true,
                "use_regex": true,
            })
        };
        let whole = |normalizer: Value, pre_tokenizer: Value, model: Value, post: Value| {
            json!({
                "version": "1.0",
                "truncation": null,
                "padding": null,
                "added_tokens": added,
                "normalizer": normalizer,
                "pre_tokenizer": pre_tokenizer,
                "post_processor": post,
                "decoder": null,
                "model": model,
            })
        };
        let words = json!({"type": "BertPreTokenizer"});
        let ends = ["cls_token", "sep_token"];
        Ok(match class {
            Class::Bert => {
                let [cls, sep] = ends.map(special);
                let (cls_id, sep_id) = (self.id_of(&cls, &added)?, self.id_of(&sep, &added)?);
                let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
                let listed =
                    |text: &str, id: u64| json!({"id": text, "ids": [id], "tokens": [text]});
                let single = [
                    token(&cls),
                    json!({"Sequence": {"id": "A", "type_id": 0}}),
                    token(&sep),
                ];
                let mut pair = single.to_vec();
                pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
                pair.push(json!({"SpecialToken": {"id": sep, "type_id": 1}}));
                let template = json!({
                    "type": "TemplateProcessing",
                    "single": single,
                    "pair": pair,
                    "special_tokens": {
                        cls.as_str(): listed(&cls, cls_id),
                        sep.as_str(): listed(&sep, sep_id),
                    },
                });
                whole(bert, words, word_piece(), template)
            }
            Class::MpNet => whole(bert, words, word_piece(), roberta(ends, true, false)?),
            Class::Roberta => {
                let space = settings.flag("add_prefix_space", false)?;
                let post = roberta(ends, settings.flag("trim_offsets", true)?, space)?;
                let normalizer = Value::Null;
                whole(normalizer, byte_level(space), byte_pairs(None, ""), post)
            }
            Class::Clip => {
                let normalizer = json!({
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "NFC"},
                        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                        {"type": "Lowercase"},
                    ],
                });
                let split = json!({
                    "type": "Sequence",
                    "pretokenizers": [
                        {
                            "type": "Split",
                            "pattern": {"Regex": CLIP_WORDS},
                            "behavior": "Removed",
                            "invert": true,
                        },
                        byte_level(false),
                    ],
                });
                let model = byte_pairs(Some(special("unk_token")), "</w>");
                let ends = ["bos_token", "eos_token"];
                whole(normalizer, split, model, roberta(ends, false, false)?)
            }
            Class::File => return Err(Error::checkpoint("the tokenizer is not rebuilt")),
        })
    }
}

/// Pattern of the words into which CLIP's tokenizer splits a text.
const CLIP_WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Padding, for models that attend to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Padding {
    /// The padding token, if the files name one.
    pub(super) token: Option<String>,
    /// Whether padding precedes the text.
    pub(super) left: bool,
}

#[cfg(test)]
mod tests;
