//! Model options on preparation and pooling of inputs, and on the weights to
//! train.

use finetuner_protocol::Options;
use serde_json::Value;

use crate::{
    Error, Result, lora::LoraSpec, models::ModelKind, ops::Pooler, options::OptionReader,
    source::ModelSource, tokenizer::Truncation,
};

/// Reads `pooler` and `pooler_options` of `model_options`.
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
        ModelKind::Image => &["mean", "cls", "GeM"],
        _ => return Ok(None),
    };
    let options = object(read, "pooler_options")?;
    if read.value("pooler").is_none() {
        if !options.is_empty() {
            return Err(read.bad("pooler_options", "set `pooler` as well"));
        }
        return Ok(None);
    }
    let name = read.choice("pooler", "mean", choices)?;
    let read = OptionReader::new("model_options.pooler_options", Some(&options));
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

/// Reads `lora` of `model_options`.
pub(super) fn adapters(
    read: &OptionReader<'_>,
    kind: ModelKind,
    source: &ModelSource,
    freeze: bool,
) -> Result<Option<LoraSpec>> {
    if read.value("lora").is_none() {
        return Ok(None);
    }
    let lora = LoraSpec::parse(&object(read, "lora")?)?;
    if freeze {
        let reason = "`freeze` keeps the network unchanged; omit one of the two";
        return Err(Error::config("model_options.lora", reason));
    }
    if source.is_new() || kind == ModelKind::PointCloud {
        let reason = "adapters are for pretrained transformers; omit the option to train the network \
                      itself";
        return Err(Error::config("model_options.lora", reason));
    }
    Ok(Some(lora))
}

/// Reads an option that is an object, which is empty if not given.
fn object(read: &OptionReader<'_>, name: &str) -> Result<Options> {
    let Some(value) = read.value(name) else {
        return Ok(Options::default());
    };
    let options = value.as_object().cloned().map(Options::from);
    options.ok_or_else(|| read.bad(name, "give an object"))
}

/// Returns the parts of an option such as `collate_options`, each with its
/// field. The Python client sends an object per kind of input, `{"text":
/// {"max_length": 16}}`. Names may also be at the top level.
fn by_input(
    read: &OptionReader<'_>,
    name: &str,
    kind: ModelKind,
) -> Result<Vec<(String, Options)>> {
    let inputs: &[&str] = match kind {
        ModelKind::Text | ModelKind::TextPairs => &["text"],
        ModelKind::Image => &["image"],
        ModelKind::TextImage => &["text", "image"],
        ModelKind::Features => &[],
        ModelKind::PointCloud => &["pointcloud"],
    };
    let field = format!("model_options.{name}");
    let mut direct = object(read, name)?;
    let mut parts = Vec::new();
    for input in inputs {
        match direct.remove(*input) {
            None => {}
            Some(Value::Object(options)) => {
                parts.push((format!("{field}.{input}"), Options::from(options)));
            }
            Some(other) => {
                let reason = format!("it is {other}: give an object");
                return Err(Error::config(format!("{field}.{input}"), reason));
            }
        }
    }
    parts.push((field, direct));
    Ok(parts)
}

/// Refuses the first unknown option.
fn refuse(field: &str, options: &Options, known: &[&str], instead: &str) -> Result<()> {
    let unknown = |name: &&String| !known.contains(&name.as_str());
    match options.keys().find(unknown) {
        None => Ok(()),
        Some(name) => Err(Error::config(
            field,
            format!("`{name}` is {}: {instead}", options[name.as_str()]),
        )),
    }
}

/// Reads `collate_options` and `preprocess_options` of `model_options`, which
/// configure the preparation of inputs.
pub(super) fn input_options(read: &OptionReader<'_>, kind: ModelKind) -> Result<Truncation> {
    let instead = match kind {
        ModelKind::Features => "features are used unchanged; prepare them before pushing",
        ModelKind::PointCloud => {
            "points are sampled, centred at the origin and scaled to the unit sphere; set \
             `augmentation` to rotate and jitter them in training"
        }
        ModelKind::Text | ModelKind::TextPairs => {
            "texts go to the tokenizer unchanged; change them before pushing, and truncate them by \
             `collate_options`"
        }
        _ => {
            "images are prepared according to the model's `preprocessor_config.json`; change it in a \
             folder of the model, prepare images before pushing, or set `augmentation`"
        }
    };
    for (field, options) in by_input(read, "preprocess_options", kind)? {
        refuse(&field, &options, &[], instead)?;
    }
    let texts = matches!(
        kind,
        ModelKind::Text | ModelKind::TextImage | ModelKind::TextPairs
    );
    let mut collate = Options::default();
    for (field, options) in by_input(read, "collate_options", kind)? {
        if !texts || field.ends_with(".image") {
            let instead =
                "batches of images, features and point clouds have no options; omit the field";
            refuse(&field, &options, &[], instead)?;
            continue;
        }
        let instead = "the options are max_length, truncation and padding; other tokenizer settings \
                       come from the model's `tokenizer.json`";
        refuse(
            &field,
            &options,
            &["max_length", "truncation", "padding"],
            instead,
        )?;
        for (name, value) in &*options {
            if collate.insert(name.clone(), value.clone()).is_some() {
                let reason = format!("`{name}` is given twice, here and under `text`");
                return Err(Error::config(field, reason));
            }
        }
    }
    let read = OptionReader::new("model_options.collate_options", Some(&collate));
    let word = |name: &str, on: &[&str], off: &str| match read.value(name) {
        None => Ok(true),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(word)) if on.contains(&word.as_str()) => Ok(true),
        Some(Value::String(word)) if word == off => Ok(false),
        Some(_) => {
            let wanted = format!("give true, false, {} or {off}", on.join(", "));
            Err(read.bad(name, &wanted))
        }
    };
    // Texts are packed without padding, which changes no embedding.
    word("padding", &["longest", "max_length"], "do_not_pad")?;
    let on: &[&str] = match kind {
        // Both texts of a pair are truncated, the longer one first.
        ModelKind::TextPairs => &["longest_first"],
        _ => &["longest_first", "only_first", "only_second"],
    };
    let truncation = word("truncation", on, "do_not_truncate")?;
    let max_length = match read.value("max_length") {
        None => None,
        // Two of them are special tokens.
        Some(_) => Some(read.count("max_length", 0, 3)?),
    };
    Ok(Truncation {
        max_length: max_length.filter(|_| truncation),
        refuse_longer: !truncation,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pairs_are_truncated_in_one_way_only() {
        let read = |way: &str, kind| {
            let options = json!({"truncation": way, "max_length": 16});
            let options: Options = [("collate_options", options)].into_iter().collect();
            input_options(&OptionReader::new("model_options", Some(&options)), kind)
        };
        for kind in [ModelKind::Text, ModelKind::TextPairs] {
            assert_eq!(read("longest_first", kind).unwrap().max_length, Some(16));
        }
        assert!(read("only_first", ModelKind::Text).is_ok());
        for way in ["only_first", "only_second"] {
            let error = read(way, ModelKind::TextPairs).unwrap_err().to_string();
            assert!(
                error.contains("`truncation`") && error.contains(way),
                "{error}"
            );
        }
    }
}
