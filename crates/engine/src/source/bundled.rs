//! The small models inside the engine, which need no hub. `assets/` has a card
//! for each: where it comes from, under which licence, how it was made.

use std::collections::HashMap;

use finetuner_protocol::{CLIP_SMALL, EFFICIENTNET_SMALL, MINILM_SMALL};

use super::{Extras, ModelFiles, parse_json};
use crate::{
    Error, Result,
    ops::Pooler,
    params::{RawTensor, parse_safetensors},
};

/// The name of the bundled model that is meant.
pub(super) fn find(name: &str) -> Option<&'static str> {
    [CLIP_SMALL, MINILM_SMALL, EFFICIENTNET_SMALL]
        .into_iter()
        .find(|bundled| *bundled == name)
}

macro_rules! asset {
    ($model:literal, $file:literal) => {
        &include_bytes!(concat!("../../assets/", $model, "/", $file))[..]
    };
}

pub(super) fn read(name: &str) -> Result<ModelFiles> {
    match name {
        CLIP_SMALL => files(
            asset!("clip-small", "config.json"),
            parse_safetensors(asset!("clip-small", "model.safetensors"), name)?,
            Some(asset!("clip-small", "preprocessor_config.json")),
            &[
                ("tokenizer.json", asset!("clip-small", "tokenizer.json")),
                (
                    "tokenizer_config.json",
                    asset!("clip-small", "tokenizer_config.json"),
                ),
            ],
        ),
        MINILM_SMALL => {
            let mut files = files(
                asset!("minilm-small", "config.json"),
                unpack(asset!("minilm-small", "model.safetensors"), name)?,
                None,
                &[
                    ("tokenizer.json", asset!("minilm-small", "tokenizer.json")),
                    (
                        "tokenizer_config.json",
                        asset!("minilm-small", "tokenizer_config.json"),
                    ),
                ],
            )?;
            files.extras = Extras {
                pooler: Some(Pooler::Mean),
                max_tokens: Some(128),
                ..Extras::default()
            };
            Ok(files)
        }
        _ => files(
            asset!("efficientnet-small", "config.json"),
            parse_safetensors(asset!("efficientnet-small", "model.safetensors"), name)?,
            Some(asset!("efficientnet-small", "preprocessor_config.json")),
            &[],
        ),
    }
}

fn files(
    config: &[u8],
    tensors: HashMap<String, RawTensor>,
    preprocessor: Option<&[u8]>,
    side_files: &[(&str, &[u8])],
) -> Result<ModelFiles> {
    let preprocessor = preprocessor.map(|json| parse_json(json, "preprocessor_config.json"));
    Ok(ModelFiles {
        config: parse_json(config, "config.json")?,
        tensors,
        preprocessor: preprocessor.transpose()?,
        side_files: side_files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect(),
        ..ModelFiles::default()
    })
}

/// Values that share a scale.
const BLOCK: usize = 32;

/// Unpacks matrices of four bits a value: `{name}.q4` holds two of them a
/// byte, the low half first, 8 standing for zero, and `{name}.scales` what each
/// 32 of them are multiplied with. `shape` of both is in the file's notes.
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

    use super::*;
    use crate::source::LoadOptions;

    #[test]
    fn every_bundled_model_is_whole() {
        for (name, parameters) in [
            (CLIP_SMALL, 3_000_000..3_300_000),
            (MINILM_SMALL, 17_000_000..18_000_000),
            (EFFICIENTNET_SMALL, 3_000_000..5_000_000),
        ] {
            let name = find(name).unwrap();
            let loaded = read(name).unwrap();
            let loaded = loaded.load(&LoadOptions::default(), &Device::Cpu).unwrap();
            let count = loaded.model.params().count();
            assert!(parameters.contains(&count), "{name}: {count}");
        }
        assert!(find("resnet50").is_none());
    }
}
