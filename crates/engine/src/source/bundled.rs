//! Models that ship with the engine, each in a crate behind a feature of its
//! name. The crate's README is the model card: origin, licence, training.

use std::collections::HashMap;

use super::{
    extras::Extras,
    files::{ModelFiles, SIDE_FILES},
    towers,
};
use crate::{
    Error, Result,
    modules::{self, Found, SentenceConfig},
    ops::Pooler,
    params::{RawTensor, parse_safetensors},
    python_json,
};

/// File with the longest text, in sentence-transformers' layout.
const SENTENCE_FILE: &str = "sentence_bert_config.json";

/// A model that ships with the engine.
struct Bundled {
    name: &'static str,
    /// Paths in the model's folder, and contents.
    files: &'static [(&'static str, &'static [u8])],
}

/// Defines [`MODELS`] and [`LEFT_OUT`] from pairs of a feature and its crate.
macro_rules! models {
    ($($feature:literal => $krate:ident,)*) => {
        /// The models in this build.
        const MODELS: &[Bundled] = &[$(
            #[cfg(feature = $feature)]
            Bundled { name: $krate::NAME, files: $krate::FILES },
        )*];
        /// Models whose feature is disabled in this build.
        const LEFT_OUT: &[&str] = &[$(
            #[cfg(not(feature = $feature))]
            $feature,
        )*];
    };
}

models! {
    "clip-small" => finetuner_model_clip_small,
    "efficientnet-small" => finetuner_model_efficientnet_small,
    "minilm-small" => finetuner_model_minilm_small,
    "two-towers-small" => finetuner_model_two_towers_small,
}

/// Returns the name if it is that of a bundled model.
///
/// # Errors
/// [`Error::Model`] if this build does not contain the model.
pub(super) fn find(name: &str) -> Result<Option<&'static str>> {
    if LEFT_OUT.contains(&name) {
        return Err(Error::model(
            name,
            format!(
                "this build does not contain it. Enable the feature `{name}` of \
                 `finetuner-engine`, or `bundled-models` for all bundled models"
            ),
        ));
    }
    let found = MODELS.iter().find(|model| model.name == name);
    Ok(found.map(|model| model.name))
}

/// Reads a bundled model.
pub(super) fn read(name: &str) -> Result<ModelFiles> {
    let model = MODELS.iter().find(|model| model.name == name);
    let model = model.ok_or_else(|| Error::model(name, "this build does not contain it"))?;
    let find = |file: &str| {
        let mut files = model.files.iter();
        files.find(|(name, _)| *name == file).map(|(_, b)| *b)
    };
    let json = |file: &str| {
        find(file)
            .map(|bytes| python_json::parse(bytes, file))
            .transpose()
    };
    let missing = |file: &str| Error::model(name, format!("it has no {file}"));
    let weights = find("model.safetensors").ok_or_else(|| missing("model.safetensors"))?;
    let config = json("config.json")?.ok_or_else(|| missing("config.json"))?;
    if let (Some(text), Some(image)) = (
        config["text_model"].as_str(),
        config["image_model"].as_str(),
    ) {
        // The towers are bundled models themselves. This crate has only the
        // projections.
        let mut files = towers::join(read(text)?, read(image)?, 1, 0)?;
        files.config["projection_dim"] = config["projection_dim"].clone();
        files.tensors.extend(parse_safetensors(weights, name)?);
        return Ok(files);
    }
    let side_files = SIDE_FILES
        .iter()
        .filter_map(|file| Some(((*file).to_owned(), find(file)?.to_vec())));
    Ok(ModelFiles {
        config,
        tensors: unpack(weights, name)?,
        preprocessor: json("preprocessor_config.json")?,
        side_files: side_files.collect(),
        extras: Extras {
            // All bundled text models use mean pooling.
            pooler: find(modules::LIST_FILE).map(|_| Pooler::Mean),
            ..Extras::default()
        },
        modules: Found {
            sentence: match json(SENTENCE_FILE)? {
                Some(file) => SentenceConfig::parse(file, SENTENCE_FILE)?,
                None => SentenceConfig::default(),
            },
            ..Found::default()
        },
        origins: Vec::new(),
    })
}

/// Number of values that share a scale.
const BLOCK: usize = 32;

/// Reads a safetensors file with 4-bit matrices. `{name}.q4` holds two values
/// per byte, the low half first, with 8 for zero. `{name}.scales` holds the
/// scale of each 32 values. The file's metadata holds the matrix's shape under
/// its name.
fn unpack(bytes: &[u8], name: &str) -> Result<HashMap<String, RawTensor>> {
    let bad = |what: &str| Error::checkpoint(format!("{name}: {what}"));
    let file = safetensors::SafeTensors::deserialize(bytes).map_err(|e| bad(&e.to_string()))?;
    let (_, notes) =
        safetensors::SafeTensors::read_metadata(bytes).map_err(|e| bad(&e.to_string()))?;
    let notes = notes.metadata().as_ref();
    let mut plain = parse_safetensors(bytes, name)?;
    for (packed_name, view) in file.iter() {
        let Some(tensor) = packed_name.strip_suffix(".q4") else {
            continue;
        };
        let scales = plain.remove(&format!("{tensor}.scales"));
        let (_, scales) = scales.ok_or_else(|| bad("a matrix has no scales"))?;
        let shape = notes.and_then(|notes| notes.get(tensor));
        let shape = shape.ok_or_else(|| bad("a matrix has no shape"))?;
        let shape = shape
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<usize>, _>>();
        let shape = shape.map_err(|e| bad(&e.to_string()))?;
        let count: usize = shape.iter().product();
        let halves = view.data().iter().flat_map(|byte| [byte & 15, byte >> 4]);
        let values: Vec<f32> = halves
            .take(count)
            .enumerate()
            .map(|(i, half)| {
                let scale = scales.get(i / BLOCK).copied().unwrap_or(0.0);
                (f32::from(half) - 8.0) * scale
            })
            .collect();
        plain.insert(tensor.to_owned(), (shape, values));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use finetuner_protocol::{CLIP_SMALL, EFFICIENTNET_SMALL, MINILM_SMALL, TWO_TOWERS_SMALL};

    use super::*;
    use crate::source::LoadOptions;

    #[test]
    fn every_bundled_model_is_complete() {
        let wanted = [
            (CLIP_SMALL, 3_000_000..3_300_000),
            (MINILM_SMALL, 17_000_000..18_000_000),
            (EFFICIENTNET_SMALL, 3_000_000..5_000_000),
            (TWO_TOWERS_SMALL, 20_000_000..22_000_000),
        ];
        assert_eq!(MODELS.len() + LEFT_OUT.len(), wanted.len());
        for (name, parameters) in wanted {
            let Ok(found) = find(name) else {
                let error = find(name).unwrap_err().to_string();
                assert!(error.contains(&format!("the feature `{name}`")), "{error}");
                continue;
            };
            let loaded = read(found.unwrap()).unwrap();
            let loaded = loaded.load(&LoadOptions::default(), &Device::Cpu).unwrap();
            let count = loaded.model.params().count();
            assert!(parameters.contains(&count), "{name}: {count}");
        }
        assert!(find("resnet50").unwrap().is_none());
    }

    #[test]
    fn a_bundled_model_fits_a_package() {
        // crates.io allows 10 MiB, and weights hardly compress.
        for model in MODELS {
            let bytes: usize = model.files.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes < 10 << 20, "{}: {bytes} bytes", model.name);
        }
    }
}
