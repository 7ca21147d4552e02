//! Tests of initial weights.

use super::*;

#[test]
fn initial_weights_have_the_requested_shapes_and_deviations() {
    let config = ClipConfig::parse(&serde_json::json!({
        "text_config": {"num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 512},
        "vision_config": {"num_hidden_layers": 1, "hidden_size": 96},
    }))
    .unwrap();
    let weights = config.random_weights(3);
    assert_eq!(weights.len(), config.tensors().len());
    for (name, shape) in config.tensors() {
        let (found, data) = &weights[&name];
        assert_eq!((found, data.len()), (&shape, shape.iter().product()));
    }
    let spread = |name: &str| {
        let data = &weights[name].1;
        (data.iter().map(|x| x * x).sum::<f32>() / data.len() as f32).sqrt()
    };
    for (name, expected) in [
        ("text_model.embeddings.token_embedding.weight", 0.02),
        ("text_projection.weight", 64f32.powf(-0.5)),
        (
            "vision_model.encoder.layers.0.mlp.fc1.weight",
            192f32.powf(-0.5),
        ),
        (
            "vision_model.encoder.layers.0.mlp.fc2.weight",
            192f32.powf(-0.5),
        ),
    ] {
        assert!((spread(name) / expected - 1.0).abs() < 0.02, "{name}");
    }
    assert_eq!(weights, config.random_weights(3));
    assert_ne!(weights, config.random_weights(4));
}
