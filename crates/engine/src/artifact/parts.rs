//! The parts of a model as the Python Finetuner describes them.
//!
//! A CLIP has two parts, its towers; any other model is one part. Each part has a
//! folder with a `metadata.yml`, from which the Python client's `get_model` opens the
//! `model.onnx` in the same folder.
//!
//! The client prepares inputs with `transformers`, which it gives a name: the model's
//! hub repository, or else the folder into which the artifact is unpacked. That folder
//! also holds the tokenizer and the image processor.

use finetuner_protocol::{RunConfig, find_backbone};
use serde_json::{Value, json};

use super::state_dict::state_dict;
use crate::{
    image::{IMAGENET_MEAN, IMAGENET_STD, ImageProcessor, Resample, Resize},
    models::{Model, ModelKind, OnnxInput, TokenType, output_name},
    ops::Pooler,
    prepare::Preparer,
    source::ModelDescription,
    torch::TorchTensor,
};

/// One part of a model.
pub(super) struct Part {
    name: String,
    /// Name of the client's builder class for this network.
    builder: String,
    /// Folder below `models/`.
    pub(super) folder: String,
    /// Names of the inputs.
    pub(super) inputs: Value,
    /// Contents of `metadata.yml`.
    pub(super) metadata: Value,
    /// Inputs of the ONNX graph, if the part has one.
    pub(super) onnx: Option<OnnxInput<'static>>,
}

impl Part {
    /// Returns the name under which `select_model` finds the part.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the weights under the names of the client's builder.
    ///
    /// Returns `None` if it can't build this network.
    pub(super) fn state_dict(
        &self,
        model: &Model,
        description: &ModelDescription,
    ) -> Option<Vec<(String, TorchTensor)>> {
        let is_clip = description.config["model_type"] == "clip";
        if self.builder.starts_with("CLIP") && !is_clip {
            return None;
        }
        // The client's version of `transformers` takes the highest token id for the end
        // of the text.
        let text = &description.config["text_config"];
        let end = text["eos_token_id"].as_u64().unwrap_or(49_407);
        let tokens = text["vocab_size"].as_u64().unwrap_or(49_408);
        if self.builder == "CLIPTextBuilder" && end != 2 && end + 1 != tokens {
            return None;
        }
        state_dict(model, &self.name, &self.builder)
    }
}

/// A torchvision network that the Python client builds itself.
struct Torchvision {
    builder: &'static str,
    name: &'static str,
    /// Layer whose output is the embedding.
    layer: &'static str,
    /// Number of blocks in each stage, which identifies the network.
    depths: [u64; 4],
}

const TORCHVISION: [Torchvision; 2] = [
    Torchvision {
        builder: "ResNet50Builder",
        name: "resnet50",
        layer: "adaptiveavgpool2d_173",
        depths: [3, 4, 6, 3],
    },
    Torchvision {
        builder: "ResNet152Builder",
        name: "resnet152",
        layer: "adaptiveavgpool2d_513",
        depths: [3, 8, 36, 3],
    },
];

/// The fields of a part that depend on its kind of input.
struct Inputs {
    names: Vec<&'static str>,
    shape: Value,
    dtype: &'static str,
    dynamic: Value,
    modality: &'static str,
    preprocess: (&'static str, Value),
    collate: (&'static str, Value),
    tailor_shape: Value,
    onnx: Option<OnnxInput<'static>>,
}

/// Returns the parts of a model.
pub(super) fn parts(
    model: &Model,
    preparer: &Preparer,
    description: &ModelDescription,
    config: &RunConfig,
) -> Vec<Part> {
    let given = config.model.name.as_deref();
    let source = repository(given).unwrap_or(&config.run_name);
    let name = given.unwrap_or("model");
    let describe = |name: &str, task: &str, builder: &str, inputs: Inputs| {
        describe(model, config, source, name, task, builder, inputs)
    };
    let texts = || texts(model, description, source);
    let images = || images(preparer, source);
    match model.kind() {
        ModelKind::TextImage => vec![
            describe("clip-text", "text-to-image", "CLIPTextBuilder", texts()),
            describe(
                "clip-vision",
                "text-to-image",
                "CLIPVisionBuilder",
                images(),
            ),
        ],
        ModelKind::TextPairs => {
            let mut inputs = texts();
            if model.config().architecture().token_types() > 1 {
                inputs.names.push("token_type_ids");
            }
            inputs.onnx = Some(OnnxInput::TextPairs(TokenType::Int32));
            vec![describe(name, "text-to-text", "", inputs)]
        }
        ModelKind::Text => vec![describe(
            name,
            "text-to-text",
            "TextTransformerBuilder",
            texts(),
        )],
        ModelKind::Image => {
            let depths = &description.config["depths"];
            let known = TORCHVISION
                .iter()
                .find(|known| *depths == json!(known.depths) && model.config().dim() == 2048);
            let builder = known.map_or("", |known| known.builder);
            let mut part = describe(name, "image-to-image", builder, images());
            if let Some(known) = known {
                part.metadata["descriptor"] = known.name.into();
                part.metadata["embedding_layer"] = known.layer.into();
            }
            vec![part]
        }
        ModelKind::Features => {
            let length = preparer.features.unwrap_or(0);
            let inputs = features(length);
            let mut part = describe(name, "any", "MLPBuilder", inputs);
            part.metadata["options"] = json!(config.model.options);
            vec![part]
        }
        ModelKind::PointCloud => {
            let inputs = clouds(preparer.clouds.map_or(0, |sampler| sampler.points));
            let mut part = describe(name, "mesh-to-mesh", "MeshDataModelBuilder", inputs);
            part.metadata["options"] = json!(config.model.options);
            vec![part]
        }
    }
}

/// Returns the hub repository that a model's name refers to, if any.
fn repository(name: Option<&str>) -> Option<&str> {
    let name = name?;
    match find_backbone(name) {
        Some(backbone) => Some(backbone.hub_name()).filter(|name| name.contains('/')),
        None => Some(name).filter(|name| !name.starts_with(['/', '.']) && name.contains('/')),
    }
}

fn describe(
    model: &Model,
    config: &RunConfig,
    source: &str,
    name: &str,
    task: &str,
    builder: &str,
    inputs: Inputs,
) -> Part {
    let count = inputs.names.len();
    let mut dynamic = serde_json::Map::new();
    for name in &inputs.names {
        dynamic.insert((*name).to_owned(), inputs.dynamic.clone());
    }
    let output = output_name(model.kind());
    dynamic.insert(output.to_owned(), json!({"0": "batch-size"}));
    let of_modality = |value: Value| json!({inputs.modality: value});
    let metadata = json!({
        "name": name,
        "descriptor": source,
        "description": format!("{source}, fine-tuned by the run {}", config.run_name),
        "task": task,
        "architecture": model.config().architecture().family(),
        "builder": builder,
        "input_names": inputs.names,
        "input_shapes": vec![inputs.shape; count],
        "input_dtypes": vec![inputs.dtype; count],
        "output_name": output,
        "output_shape": ["batch-size", model.dim()],
        "dynamic_axes": dynamic,
        "preprocess_types": of_modality(inputs.preprocess.0.into()),
        "collate_types": of_modality(inputs.collate.0.into()),
        "preprocess_options": of_modality(inputs.preprocess.1),
        "collate_options": of_modality(inputs.collate.1),
        "options": pooling(model.setup().pooler),
        "embedding_layer": null,
        "output_dim": model.setup().head.map(|head| head.outputs),
        "freeze": model.setup().freeze,
        "tailor_input_shape": inputs.tailor_shape,
        "tailor_input_dtype": inputs.dtype,
        "weights": "../../model.safetensors",
    });
    Part {
        name: name.to_owned(),
        builder: builder.to_owned(),
        folder: name.replace(['/', '\\'], "-"),
        inputs: json!(inputs.names),
        metadata,
        onnx: inputs.onnx,
    }
}

fn pooling(pooler: Option<Pooler>) -> Value {
    let (name, options) = match pooler {
        None | Some(Pooler::Mean) => ("mean", json!({})),
        Some(Pooler::Max) => ("max", json!({})),
        Some(Pooler::Cls) => ("cls", json!({})),
        Some(Pooler::GeM { p, eps }) => ("GeM", json!({"p": p, "eps": eps})),
        // The client has no other poolers. The ONNX graph contains them.
        Some(other) => return json!({"pooler": other.names(), "pooler_options": {}}),
    };
    json!({"pooler": name, "pooler_options": options})
}

fn texts(model: &Model, description: &ModelDescription, source: &str) -> Inputs {
    let positions = model.config().max_tokens();
    let longest = description.max_tokens.min(positions).or(positions);
    let filled_up = model.setup().text_length;
    let (length, padding) = match filled_up {
        Some(length) => (json!(length), json!("max_length")),
        None => (json!("sequence-length"), json!(true)),
    };
    let mut dynamic = json!({"0": "batch-size"});
    if filled_up.is_none() {
        dynamic["1"] = length.clone();
    }
    let longest = filled_up.or(longest);
    Inputs {
        names: vec!["input_ids", "attention_mask"],
        shape: json!(["batch-size", length]),
        dtype: "int32",
        dynamic,
        modality: "text",
        preprocess: ("TextPreprocess", json!({})),
        collate: (
            "TransformersCollate",
            json!({"name": source, "truncation": true, "padding": padding, "max_length": longest}),
        ),
        tailor_shape: json!([longest]),
        onnx: Some(OnnxInput::Texts(TokenType::Int32)),
    }
}

fn images(preparer: &Preparer, source: &str) -> Inputs {
    let processor = preparer.processor.as_ref();
    let [height, width] = processor.map_or([0; 2], ImageProcessor::sides);
    // Use the client's own preprocessing if it equals the model's. Otherwise use that
    // of transformers, which calls its output `pixel_values`.
    let plain = processor.filter(|processor| {
        processor.resize == Resize::Exact { height, width }
            && processor.crop.is_none_or(|crop| crop == [height, width])
            && processor.resample == Resample::Bicubic
    });
    let (name, preprocess, collate) = if plain.is_some() {
        let size = json!({"height": height, "width": width});
        ("image", size, ("DefaultCollate", json!({})))
    } else {
        let nothing = json!({"normalization": false, "move_channel_axis": true, "resize": false});
        let collate = ("VisionTransformersCollate", json!({"name": source}));
        ("pixel_values", nothing, collate)
    };
    Inputs {
        names: vec![name],
        shape: json!(["batch-size", 3, height, width]),
        dtype: "float32",
        dynamic: json!({"0": "batch-size"}),
        modality: "image",
        preprocess: ("VisionPreprocess", preprocess),
        collate,
        tailor_shape: json!([3, height, width]),
        onnx: Some(OnnxInput::Images {
            name,
            sides: [height as usize, width as usize],
            affine: plain.and_then(from_imagenet),
        }),
    }
}

/// Returns factor and offset from ImageNet's normalisation to the model's.
///
/// The client applies ImageNet's. Returns `None` if they are equal.
fn from_imagenet(processor: &ImageProcessor) -> Option<([f32; 3], [f32; 3])> {
    let (mut scale, mut shift) = ([1.0; 3], [0.0; 3]);
    for channel in 0..3 {
        let (mean, std) = (processor.mean[channel], processor.std[channel]);
        // Before normalising, the client scales values to 0..1.
        let factor = (255.0 * processor.scale) as f32;
        scale[channel] = factor * IMAGENET_STD[channel] / std;
        shift[channel] = (factor * IMAGENET_MEAN[channel] - mean) / std;
    }
    (scale != [1.0; 3] || shift != [0.0; 3]).then_some((scale, shift))
}

fn features(length: usize) -> Inputs {
    Inputs {
        names: vec!["features"],
        shape: json!(["batch-size", length]),
        dtype: "float32",
        dynamic: json!({"0": "batch-size"}),
        modality: "features",
        preprocess: ("DefaultPreprocess", json!({})),
        collate: ("DefaultCollate", json!({})),
        tailor_shape: json!([length]),
        onnx: Some(OnnxInput::Features { length }),
    }
}

fn clouds(points: usize) -> Inputs {
    Inputs {
        names: vec!["pointcloud"],
        shape: json!(["batch-size", points, 3]),
        dtype: "float32",
        dynamic: json!({"0": "batch-size"}),
        modality: "pointcloud",
        preprocess: (
            "PointCloudPreprocess",
            json!({"num_points": points, "augmentation": false}),
        ),
        collate: ("DefaultCollate", json!({})),
        tailor_shape: json!([points, 3]),
        onnx: None,
    }
}
