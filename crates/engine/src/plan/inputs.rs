//! Options of a model that say how its inputs are prepared and pooled.

use finetuner_protocol::Options;
use serde_json::Value;

use crate::{Error, Result, models::ModelKind, ops::Pooler, options::OptionReader};

/// How long texts are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cutting {
    /// The longest text in tokens, special ones included; the model's own
    /// limit where none is given.
    pub max_length: Option<usize>,
    /// Whether longer texts are refused rather than cut.
    pub refuse_longer: bool,
}

/// `pooler` and `pooler_options` of `model_options`.
pub(super) fn pooler(read: &OptionReader<'_>, kind: ModelKind) -> Result<Option<Pooler>> {
    let choices: &[&str] = match kind {
        ModelKind::Text => &[
            "mean",
            "max",
            "cls",
            "mean_sqrt_len_tokens",
            "weightedmean",
            "lasttoken",
            "GeM",
        ],
        ModelKind::Image => &["mean", "GeM"],
        _ => return Ok(None),
    };
    let options = read.value("pooler_options").and_then(Value::as_object);
    let options = options.cloned().map(Options::from);
    if read.value("pooler").is_none() {
        return Ok(None);
    }
    let name = read.choice("pooler", "mean", choices)?;
    let read = OptionReader::new("model_options.pooler_options", options.as_ref());
    let pooler = match name.as_str() {
        "GeM" => Pooler::GeM {
            p: read.positive("p", 3.0)? as f32,
            eps: read.positive("eps", 1e-6)? as f32,
        },
        name => Pooler::named(&[name]).map_err(|e| Error::config("model_options.pooler", e))?,
    };
    read.finish()?;
    Ok(Some(pooler))
}

/// `collate_options` and `preprocess_options` of `model_options`: how inputs
/// are prepared.
pub(super) fn input_options(read: &OptionReader<'_>, kind: ModelKind) -> Result<Cutting> {
    let texts = matches!(kind, ModelKind::Text | ModelKind::TextImage);
    let given = |name: &str| match read.value(name) {
        None => Ok(Options::default()),
        Some(value) => value
            .as_object()
            .cloned()
            .map(Options::from)
            .ok_or_else(|| read.bad(name, "an object is wanted")),
    };
    let refuse = |field: &str, options: &Options, known: &[&str], instead: &str| match options
        .keys()
        .find(|name| !known.contains(&name.as_str()))
    {
        None => Ok(()),
        Some(name) => Err(Error::config(
            format!("model_options.{field}"),
            format!("`{name}` is {}: {instead}", options[name.as_str()]),
        )),
    };
    let preprocess = given("preprocess_options")?;
    let instead = match kind {
        ModelKind::Features => "features are taken as they are; prepare them before pushing",
        ModelKind::Text => {
            "texts go to the tokenizer as they are; change them before pushing, and cut them by \
             `collate_options`"
        }
        _ => {
            "pictures are prepared as the model's `preprocessor_config.json` says; change it in a \
             folder of the model, prepare pictures before pushing, or set `augmentation`"
        }
    };
    refuse("preprocess_options", &preprocess, &[], instead)?;
    let collate = given("collate_options")?;
    if !texts {
        let instead = "batches of this model have nothing to set; leave it out";
        refuse("collate_options", &collate, &[], instead)?;
        return Ok(Cutting::default());
    }
    let instead = "max_length, truncation and padding are known; the tokenizer's other settings \
                   are those of the model's `tokenizer.json`";
    let known = ["max_length", "truncation", "padding"];
    refuse("collate_options", &collate, &known, instead)?;
    let read = OptionReader::new("model_options.collate_options", Some(&collate));
    let word = |name: &str, on: &[&str], off: &str| match read.value(name) {
        None => Ok(true),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(word)) if on.contains(&word.as_str()) => Ok(true),
        Some(Value::String(word)) if word == off => Ok(false),
        Some(_) => {
            let wanted = format!("true, false, {} or {off} is wanted", on.join(", "));
            Err(read.bad(name, &wanted))
        }
    };
    // Texts lie side by side without padding, which changes no embedding.
    word("padding", &["longest", "max_length"], "do_not_pad")?;
    let on = ["longest_first", "only_first", "only_second"];
    let truncation = word("truncation", &on, "do_not_truncate")?;
    let max_length = match read.value("max_length") {
        None => None,
        // Two of them are special tokens.
        Some(_) => Some(read.count("max_length", 0, 3)?),
    };
    Ok(Cutting {
        max_length: max_length.filter(|_| truncation),
        refuse_longer: !truncation,
    })
}
