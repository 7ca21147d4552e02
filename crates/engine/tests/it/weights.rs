//! Weights in all forms in which libraries save them: shards, half precision,
//! prefixes, PyTorch files; and files that are not weights.

use std::{collections::HashMap, path::Path};

use candle_core::Device;
use finetuner_engine::{
    params::{FloatFormat, RawTensor, write_safetensors},
    source::{LoadOptions, ModelSource},
};
use serde_json::{Value, json};

use crate::support::{Tensors, fixture, json, tensors};

/// Writes a folder with a ResNet, a network without a tokenizer.
fn folder(weights: impl FnOnce(&Path, Tensors)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json("backbones/resnet.json");
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    weights(folder.path(), tensors("backbones/resnet.safetensors"));
    folder
}

fn load(folder: &Path) -> finetuner_engine::Result<HashMap<String, RawTensor>> {
    let source = ModelSource::Folder(folder.to_owned());
    let loaded = source.read()?.load(&LoadOptions::default(), &Device::Cpu)?;
    loaded.model.params().snapshot()
}

fn error(folder: &Path) -> String {
    load(folder).unwrap_err().to_string()
}

fn save(path: &Path, tensors: &Tensors) {
    write_safetensors(path, tensors, FloatFormat::F32).unwrap();
}

fn whole() -> HashMap<String, RawTensor> {
    load(folder(|to, all| save(&to.join("model.safetensors"), &all)).path()).unwrap()
}

/// Writes two shards and their index.
fn sharded(to: &Path, all: Tensors) {
    let mut map = serde_json::Map::new();
    let mut shards = [Tensors::new(), Tensors::new()];
    let mut names: Vec<String> = all.keys().cloned().collect();
    names.sort();
    for (i, name) in names.into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i % 2 + 1);
        map.insert(name.clone(), file.into());
        shards[i % 2].insert(name.clone(), all[&name].clone());
    }
    for (i, shard) in shards.iter().enumerate() {
        save(
            &to.join(format!("model-0000{}-of-00002.safetensors", i + 1)),
            shard,
        );
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_read_by_their_index() {
    let folder = folder(sharded);
    assert_eq!(load(folder.path()).unwrap(), whole());

    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let found = error(folder.path());
    assert!(
        found.contains("1 of its 2 shards are missing: model-00002-of-00002"),
        "{found}"
    );

    for (map, wanted) in [
        (
            json!({"weight_map": {"a": "../secret"}}),
            "`a` does not name a file in the same folder",
        ),
        (
            json!({"weight_map": {"a": 3}}),
            "`a` does not name a file in the same folder",
        ),
        (json!({}), "no `weight_map`"),
    ] {
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(index, map.to_string()).unwrap();
        let found = error(folder.path());
        assert!(found.contains(wanted), "{found}");
    }
}

/// Rounds a number to another type and back.
type Rounding = fn(f32) -> f32;

#[test]
fn half_precision_is_read_exactly() {
    use safetensors::{Dtype, tensor::TensorView};
    type Bits = fn(f32) -> [u8; 2];
    let kinds: [(Dtype, Bits, Rounding); 2] = [
        (
            Dtype::F16,
            |x| half::f16::from_f32(x).to_le_bytes(),
            |x| half::f16::from_f32(x).to_f32(),
        ),
        (
            Dtype::BF16,
            |x| half::bf16::from_f32(x).to_le_bytes(),
            |x| half::bf16::from_f32(x).to_f32(),
        ),
    ];
    for (dtype, bits, rounded) in kinds {
        let folder = folder(|to, all| {
            let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = all
                .into_iter()
                .map(|(name, (shape, values))| {
                    (name, shape, values.into_iter().flat_map(bits).collect())
                })
                .collect();
            let mut views: Vec<(&str, TensorView<'_>)> = encoded
                .iter()
                .map(|(name, shape, bytes)| {
                    (
                        name.as_str(),
                        TensorView::new(dtype, shape.clone(), bytes).unwrap(),
                    )
                })
                .collect();
            let ids = [0u8; 16];
            views.push((
                "position_ids",
                TensorView::new(Dtype::I64, vec![1, 2], &ids).unwrap(),
            ));
            safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
        });
        let found = load(folder.path()).unwrap();
        for (name, (shape, values)) in whole() {
            let expected: Vec<f32> = values.into_iter().map(rounded).collect();
            assert_eq!(found[&name], (shape, expected), "{dtype:?} {name}");
        }
    }
}

#[test]
fn names_of_wrappers_and_tensors_of_other_heads_make_no_difference() {
    let expected = whole();
    for prefix in [
        "resnet.",
        "module.",
        "module.resnet.",
        "model.",
        "_orig_mod.",
    ] {
        let folder = folder(|to, all| {
            let mut renamed = Tensors::new();
            for (name, tensor) in all {
                // Stored twice, once with a prefix: the name without prefix is
                // used.
                let worse = (tensor.0.clone(), vec![0.5; tensor.1.len()]);
                renamed.insert(format!("module.{prefix}{name}"), worse);
                renamed.insert(format!("{prefix}{name}"), tensor);
            }
            renamed.insert("classifier.1.weight".to_owned(), (vec![2, 3], vec![0.0; 6]));
            renamed.insert("embeddings.position_ids".to_owned(), (vec![1], vec![0.0]));
            save(&to.join("model.safetensors"), &renamed);
        });
        assert_eq!(load(folder.path()).unwrap(), expected, "{prefix}");
    }
}

#[test]
fn all_missing_or_misshapen_tensors_are_listed_together() {
    let all = folder(|to, mut all| {
        let mut names: Vec<String> = all.keys().cloned().collect();
        names.sort();
        for name in &names[..3] {
            all.remove(name);
        }
        save(&to.join("model.safetensors"), &all);
    });
    let found = error(all.path());
    assert!(found.contains("3 of the "), "{found}");
    assert_eq!(found.matches('`').count(), 6, "{found}");

    let none = folder(|to, _| {
        let other = Tensors::from([("x".to_owned(), (vec![1], vec![0.0]))]);
        save(&to.join("model.safetensors"), &other);
    });
    let found = error(none.path());
    assert!(found.contains(" more"), "{found}");

    let shape = folder(|to, mut all| {
        all.values_mut().take(1).for_each(|(shape, values)| {
            *shape = vec![values.len(), 1, 1, 1, 1];
        });
        save(&to.join("model.safetensors"), &all);
    });
    let found = error(shape.path());
    assert!(found.contains("1 tensors have another shape"), "{found}");
}

#[test]
fn files_that_are_not_weights_are_refused_by_their_kind() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440449768\n";
    let whole = {
        let folder = folder(|to, all| save(&to.join("model.safetensors"), &all));
        std::fs::read(folder.path().join("model.safetensors")).unwrap()
    };
    let old = std::fs::read(fixture("weights/old.bin")).unwrap();
    let plain = std::fs::read(fixture("weights/plain.bin")).unwrap();
    for (file, bytes, wanted) in [
        ("model.safetensors", &pointer[..], "`git lfs pull`"),
        ("model.safetensors", pointer, "440449768 bytes"),
        ("pytorch_model.bin", pointer, "`git lfs pull`"),
        ("config.json", pointer, "config.json is a git-lfs pointer"),
        (
            "model.safetensors",
            &whole[..whole.len() - 1],
            "is cut short",
        ),
        ("model.safetensors", &whole[..40], "is cut short"),
        ("model.safetensors", &whole[..5], "is cut short"),
        ("model.safetensors", b"", "is cut short"),
        ("model.safetensors", b"<!DOCTYPE html><html>", "web page"),
        (
            "model.safetensors",
            b"no weights at all",
            "not a safetensors file",
        ),
        ("pytorch_model.bin", &old, "PyTorch before 1.6"),
        (
            "pytorch_model.bin",
            b"no weights at all",
            "not a zip archive",
        ),
        (
            "pytorch_model.bin",
            &plain[..plain.len() / 2],
            "Is it cut short?",
        ),
        ("tf_model.h5", b"x", "weights only for TensorFlow"),
        ("readme.md", b"x", "it has no model.safetensors"),
    ] {
        let folder = folder(|to, _| std::fs::write(to.join(file), bytes).unwrap());
        let found = error(folder.path());
        assert!(found.contains(wanted), "{file}: {wanted}: {found}");
        assert!(found.lines().count() == 1, "{found}");
    }
    // No truncated file causes a panic.
    for length in 0..300 {
        let bytes = &whole[..length];
        error(folder(|to, _| std::fs::write(to.join("model.safetensors"), bytes).unwrap()).path());
    }
}

#[test]
fn numbers_that_only_python_writes_are_accepted_in_a_config() {
    let folder = folder(|to, all| {
        save(&to.join("model.safetensors"), &all);
        let config = to.join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        let more = format!(
            "{{\"best\": -Infinity, \"loss\": [NaN, Infinity],{}",
            &text[1..]
        );
        assert!(serde_json::from_str::<Value>(&more).is_err());
        std::fs::write(config, more).unwrap();
    });
    assert_eq!(load(folder.path()).unwrap(), whole());
}
