//! The weights of a part under the names of the Python client's builders.
//!
//! The client's `get_model` loads them if there is no ONNX file.

use crate::{
    models::{Model, is_adapter},
    ops::Pooler,
    torch::TorchTensor,
};

/// Part, tensor name prefix and projection of each tower.
const TOWERS: [(&str, &str, &str); 2] = [
    ("clip-text", "text_model.", "text_projection.weight"),
    ("clip-vision", "vision_model.", "visual_projection.weight"),
];

/// Maps a tensor's name to the client's name, if the client has the tensor.
type Rename = Box<dyn Fn(&str) -> Option<String>>;

/// Returns the state dict of a part; `None` if the client can't build its network.
pub(super) fn state_dict(
    model: &Model,
    part: &str,
    builder: &str,
) -> Option<Vec<(String, TorchTensor)>> {
    // The client can't build models with a projection head.
    if model.setup().head.is_some() {
        return None;
    }
    let rename: Rename = match builder {
        "TextTransformerBuilder" => Box::new(|name| {
            let is_used = !name.starts_with("pooler.");
            is_used.then(|| format!("_model.{name}"))
        }),
        "CLIPTextBuilder" | "CLIPVisionBuilder" => {
            let (_, tower, projection) = TOWERS.into_iter().find(|(name, ..)| *name == part)?;
            Box::new(move |name| match name == projection {
                true => Some("_projection.weight".to_owned()),
                false => Some(format!("_model.{}", name.strip_prefix(tower)?)),
            })
        }
        "ResNet50Builder" | "ResNet152Builder"
            if matches!(model.setup().pooler, None | Some(Pooler::Mean))
                && model
                    .params()
                    .iter()
                    .all(|p| torchvision(p.name()).is_some()) =>
        {
            Box::new(torchvision)
        }
        _ => return None,
    };
    let mut tensors = Vec::new();
    let own = model.params().iter();
    for param in own.filter(|param| !is_adapter(param.name())) {
        let Some(name) = rename(param.name()) else {
            continue;
        };
        // Older versions of `transformers` saved the position ids beside the embedding
        // table.
        if let Some((folder, "weight")) = name.rsplit_once('.')
            && let Some((folder, "position_embedding" | "position_embeddings")) =
                folder.rsplit_once('.')
        {
            let rows = param.tensor().dims().first().copied().unwrap_or(0);
            let numbers = (0..rows as i64).collect();
            let name = format!("{folder}.position_ids");
            tensors.push((name, TorchTensor::Row(numbers)));
        }
        tensors.push((name, TorchTensor::Floats(param.clone())));
    }
    Some(tensors)
}

/// Returns torchvision's name of a ResNet tensor.
fn torchvision(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("embedder.embedder.") {
        return Some(match rest.split_once('.')? {
            ("convolution", part) => format!("conv1.{part}"),
            (_, part) => format!("bn1.{part}"),
        });
    }
    let parts: Vec<&str> = name.strip_prefix("encoder.stages.")?.split('.').collect();
    let [stage, "layers", block, inner @ ..] = parts.as_slice() else {
        return None;
    };
    let block = format!("layer{}.{block}", stage.parse::<usize>().ok()? + 1);
    Some(match inner {
        ["shortcut", "convolution", part] => format!("{block}.downsample.0.{part}"),
        ["shortcut", _, part] => format!("{block}.downsample.1.{part}"),
        ["layer", number, kind, part] => {
            let number = number.parse::<usize>().ok()? + 1;
            match *kind {
                "convolution" => format!("{block}.conv{number}.{part}"),
                _ => format!("{block}.bn{number}.{part}"),
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::torchvision;

    #[test]
    fn the_tensors_of_a_resnet_have_the_names_of_torchvision() {
        for (ours, theirs) in [
            ("embedder.embedder.convolution.weight", "conv1.weight"),
            (
                "embedder.embedder.normalization.running_var",
                "bn1.running_var",
            ),
            (
                "encoder.stages.0.layers.0.shortcut.convolution.weight",
                "layer1.0.downsample.0.weight",
            ),
            (
                "encoder.stages.3.layers.1.shortcut.normalization.bias",
                "layer4.1.downsample.1.bias",
            ),
            (
                "encoder.stages.2.layers.5.layer.1.convolution.weight",
                "layer3.5.conv2.weight",
            ),
            (
                "encoder.stages.2.layers.5.layer.2.normalization.running_mean",
                "layer3.5.bn3.running_mean",
            ),
        ] {
            assert_eq!(torchvision(ours).as_deref(), Some(theirs));
        }
        assert_eq!(torchvision("pooler.dense.weight"), None);
    }
}
