//! Compares models loaded from open_clip's checkpoints with open_clip itself. Its results
//! come from `fixtures/make_open_clip.py`.

use candle_core::{Device, Tensor};
use finetuner_engine::{
    models::ModelKind,
    prepare::ItemRef,
    source::{HubRules, LoadOptions, LoadedModel, ModelSource},
};
use finetuner_protocol::worker::LocalModels;
use serde_json::{Value, json};

use crate::support::{
    embeddings_agree, fixture, flat, gradients_agree, json, pixels, relative_error, tensor,
    tensors, texts,
};

/// Writes a folder in open_clip's layout, with a tokenizer of two words.
fn folder(change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json("open-clip/open_clip_config.json");
    change(&mut config);
    let write = |name: &str, content: Value| {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    };
    write("open_clip_config.json", config);
    // The file that timm writes has no text settings.
    write(
        "config.json",
        json!({"architecture": "vit_base_patch32_clip_224"}),
    );
    write(
        "tokenizer.json",
        json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": null,
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 1, "end": 60}, "unk_token": "a"},
        }),
    );
    let weights = "open_clip_model.safetensors";
    std::fs::copy(
        fixture("open-clip").join(weights),
        folder.path().join(weights),
    )
    .unwrap();
    folder
}

fn load(folder: &tempfile::TempDir) -> finetuner_engine::Result<LoadedModel> {
    let name = folder.path().to_str().unwrap();
    let source = ModelSource::resolve(name, &LocalModels::Anywhere)?;
    assert_eq!(source.kind(&HubRules::default())?, ModelKind::TextImage);
    source.read()?.load(&LoadOptions::default(), &Device::Cpu)
}

#[test]
fn embeddings_equal_those_of_open_clip() {
    let values = tensors("open-clip/values.safetensors");
    for (name, quick) in [("quick", true), ("plain", false)] {
        let loaded = load(&folder(|json| {
            json["model_cfg"]["quick_gelu"] = quick.into()
        }))
        .unwrap();
        let model = loaded.model;
        let text = model.encode(&model.inference(), &texts(&values)).unwrap();
        let image = model.encode(&model.inference(), &pixels(&values)).unwrap();
        for (kind, found) in [("text", text), ("image", image)] {
            let expected = &values[&format!("{name}_{kind}")].1;
            let error = relative_error(&flat(&found), expected);
            assert!(error < 1e-5, "{name} {kind}: {error}");
        }
        let scale = model.logit_scale().unwrap().to_vec().unwrap();
        assert_eq!(scale, values["logit_scale"].1);
    }
}

#[test]
fn images_are_prepared_like_by_open_clip() {
    let (_, expected) = &tensors("open-clip/values.safetensors")["pixels"];
    let processor = load(&folder(|_| {})).unwrap().preparer.processor.unwrap();
    let image = std::fs::read(fixture("open-clip/picture.png")).unwrap();
    let mut found = vec![0.0; processor.values()];
    processor.process(&image, None, &mut found).unwrap();
    assert!(relative_error(&found, expected) < 1e-6);
}

#[test]
fn a_resnet_tower_is_refused_by_its_field() {
    let error = load(&folder(|json| {
        json["model_cfg"]["vision_cfg"]["layers"] = json!([3, 4, 6, 3])
    }));
    let error = error.map(drop).unwrap_err().to_string();
    assert!(
        error.contains("`vision_cfg.layers` is [3,4,6,3]"),
        "{error}"
    );
}

/// The model has the layout of open_clip's `xlm-roberta-base-ViT-B-32`; its results come
/// from `fixtures/make_open_clip_multi.py`.
#[test]
fn a_text_network_of_transformers_embeds_and_learns_like_in_open_clip() {
    let expected = tensors("open-clip-multi/expected.safetensors");
    let name = fixture("open-clip-multi").to_str().unwrap().to_owned();
    let source = ModelSource::resolve(&name, &LocalModels::Anywhere).unwrap();
    let kind = source.kind(&HubRules::default()).unwrap();
    assert_eq!(kind, ModelKind::TextImage);
    let files = source.read().unwrap();
    let loaded = files.load(&LoadOptions::default(), &Device::Cpu).unwrap();
    let items = [
        "a red dress",
        // Truncated to the context of 10 tokens.
        "ein rotes Kleid mit einem Hut und noch einem Hut",
        "boat",
    ]
    .map(ItemRef::Text);
    let input = loaded.preparer.prepare(&items, |_| None, &Device::Cpu);
    let model = loaded.model;
    let pass = model.training();
    let text = model.encode(&pass, &input.unwrap()).unwrap();
    let image = model.encode(&pass, &pixels(&expected)).unwrap();
    for (kind, found) in [("text", &text), ("image", &image)] {
        embeddings_agree(&format!("clip-base-multi {kind}"), found, &expected[kind].1);
    }
    let both = Tensor::cat(&[text, image], 0).unwrap();
    let loss = (both * tensor(&expected["cotangent"])).unwrap();
    gradients_agree(
        "clip-base-multi",
        &model,
        &loss.sum_all().unwrap(),
        &expected,
    );
    let backbone = finetuner_protocol::find_backbone("clip-base-multi").unwrap();
    assert!(backbone.trainable && backbone.hub_name().contains('/'));
}
