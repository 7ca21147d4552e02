//! Compares vision transformers, and two-tower models, with transformers
//! (`fixtures/make_vision.py`): embeddings and the gradients of all parameters.

use candle_core::Tensor;
use finetuner_engine::{
    Kernels, Pooler,
    loss::clip_loss,
    models::{Model, ModelSetup},
};

use crate::{
    support::{
        Tensors, embeddings_agree, flat, gradients_agree, json, model, pixels, relative_error,
        tensor, tensors,
    },
    towers::unpadded,
};

const BOTH: [Kernels; 2] = [Kernels::Fused, Kernels::Composite];

fn load(name: &str, pooler: Option<Pooler>, kernels: Kernels) -> (Model, Tensors) {
    // Images of another size than the model's own.
    let weights = name.trim_end_matches("-scaled");
    let setup = ModelSetup {
        pooler,
        ..ModelSetup::default()
    };
    let config = json(&format!("backbones/{weights}.json"));
    let weights = tensors(&format!("backbones/{name}.safetensors"));
    let mut model = model(&config, weights, setup);
    model.set_kernels(kernels);
    (
        model,
        tensors(&format!("backbones/{name}-values.safetensors")),
    )
}

/// Compares the gradients of the embeddings times fixed numbers.
fn check_gradients(name: &str, model: &Model, found: Tensor, values: &Tensors) {
    let loss = (found * tensor(&values["cotangent"])).unwrap();
    gradients_agree(name, model, &loss.sum_all().unwrap(), values);
}

#[test]
fn vision_transformers_embed_and_learn_like_in_transformers() {
    for name in ["vit", "dinov2", "dinov2-scaled", "dinov2-swiglu"] {
        for kernels in BOTH {
            for (expected, pooler) in [("mean", Some(Pooler::Mean)), ("cls", None)] {
                let (model, values) = load(name, pooler, kernels);
                let found = model.encode(&model.inference(), &pixels(&values)).unwrap();
                let case = format!("{name} {expected} {kernels:?}");
                embeddings_agree(&case, &found, &values[expected].1);
            }
            let (model, values) = load(name, None, kernels);
            let found = model.encode(&model.training(), &pixels(&values)).unwrap();
            check_gradients(name, &model, found, &values);
        }
    }
}

#[test]
fn a_vit_takes_only_images_of_its_own_size() {
    let (model, _) = load("vit", None, Kernels::Fused);
    let (_, values) = load("dinov2", None, Kernels::Fused);
    let error = model
        .encode(&model.inference(), &pixels(&values))
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("images of 12x12 pixels, not 16x16"),
        "{error}"
    );
}

#[test]
fn dual_encoders_of_transformers_embed_and_learn_like_in_transformers() {
    let names = ["", "-clip", "-dinov2", "-siglip"].map(|end| format!("dual-encoder{end}"));
    for (name, kernels) in names
        .iter()
        .flat_map(|name| BOTH.map(|kernels| (name, kernels)))
    {
        let (model, values) = load(name, None, kernels);
        let pass = model.training();
        let text = model.encode(&pass, &unpadded(&values)).unwrap();
        let image = model.encode(&pass, &pixels(&values)).unwrap();
        for (part, found) in [("text", &text), ("image", &image)] {
            let case = format!("{name} {part} {kernels:?}");
            embeddings_agree(&case, found, &values[part].1);
        }
        let loss = clip_loss(&model, &pass, &text, &image).unwrap();
        let error = relative_error(&flat(&loss), &values["loss"].1);
        assert!(error < 1e-5, "{name} {kernels:?}: loss {error}");
        let both = Tensor::cat(&[text, image], 0).unwrap();
        check_gradients(name, &model, both, &values);
    }
}

#[test]
fn a_tower_of_an_older_checkpoint_is_found_by_its_longer_tensor_names() {
    let config = json("backbones/dual-encoder-clip.json");
    let weights = tensors("backbones/dual-encoder-clip.safetensors").into_iter();
    let longer = weights.map(|(name, tensor)| match name.strip_prefix("vision_model.") {
        Some(rest) => (format!("vision_model.vision_model.{rest}"), tensor),
        None => (name, tensor),
    });
    let model = model(&config, longer.collect(), ModelSetup::default());
    let values = tensors("backbones/dual-encoder-clip-values.safetensors");
    let found = model.encode(&model.inference(), &pixels(&values)).unwrap();
    embeddings_agree("longer names", &found, &values["image"].1);
}
