//! Writes a model as ONNX, and the engine's embeddings of some inputs.
//! `scripts/check_onnx.py` compares both. Without `--weights`, weights are random.
//!
//! ```text
//! cargo run -p finetuner-engine --example onnx_models -- \
//!     config.json inputs.safetensors output --weights model.safetensors --pooler max
//! ```

use std::{collections::HashMap, path::PathBuf};

use candle_core::{Device, Tensor};
use clap::Parser;
use finetuner_engine::{
    Pooler,
    models::{HeadConfig, Input, Model, ModelConfig, ModelSetup, OnnxFormat, OnnxInput, TokenType},
    params::{FloatFormat, RawTensor, parse_safetensors, write_safetensors},
    tokenizer::TokenBatch,
};

#[derive(Parser)]
struct Args {
    /// Model configuration, `config.json`.
    config: PathBuf,
    /// Batches by number: `{n}.input_ids` with `{n}.lengths`, `{n}.pixel_values` or
    /// `{n}.features`.
    inputs: PathBuf,
    /// Folder for `input_ids.onnx`, `pixel_values.onnx` or `features.onnx`, and
    /// `embeddings.safetensors`.
    output: PathBuf,
    /// Weights of the model.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// `gem`, or pooling modes of sentence-transformers, such as `mean` or `cls,max`.
    #[arg(long, default_value = "mean")]
    pooler: String,
    /// Adds a projection head with this output dimension.
    #[arg(long)]
    output_dim: Option<usize>,
    /// Writes the ONNX model with 8-bit weights.
    #[arg(long)]
    int8: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let config = ModelConfig::parse(&serde_json::from_slice(&std::fs::read(&args.config)?)?)?;
    let tensors = match &args.weights {
        Some(path) => parse_safetensors(&std::fs::read(path)?, "weights")?,
        None => config.random_weights(1),
    };
    let pooler = match args.pooler.as_str() {
        "gem" => Pooler::GeM { p: 3.0, eps: 1e-6 },
        names => Pooler::named(&names.split(',').collect::<Vec<_>>())?,
    };
    let head = args.output_dim.map(|outputs| HeadConfig {
        inputs: pooler.dim(config.dim()),
        outputs,
    });
    let setup = ModelSetup {
        pooler: Some(pooler),
        head,
        ..ModelSetup::default()
    };
    let model = Model::new(config, tensors, setup, &Device::Cpu)?;
    for param in model.params().iter() {
        let is_new = args.weights.is_none() || param.name().starts_with("projection_head.");
        if is_new && param.tensor().dims().len() == 1 {
            disturb(param.name(), |change| param.update(change))?;
        }
    }

    std::fs::create_dir_all(&args.output)?;
    let inputs = parse_safetensors(&std::fs::read(&args.inputs)?, "inputs")?;
    let mut written = HashMap::new();
    let mut embeddings = HashMap::new();
    for (key, tensor) in &inputs {
        let Some((batch, name)) = key.split_once('.') else {
            continue;
        };
        let Some((input, form)) = input(name, tensor, inputs.get(&format!("{batch}.lengths")))
        else {
            continue;
        };
        let input = input?;
        let found = model.encode(&model.inference(), &input)?;
        let shape = found.dims().to_vec();
        embeddings.insert(key.clone(), (shape, found.flatten_all()?.to_vec1::<f32>()?));
        written.entry(name.to_owned()).or_insert(form);
    }
    for (name, form) in written {
        let path = args.output.join(format!("{name}.onnx"));
        let format = match args.int8 {
            true => OnnxFormat::Int8,
            false => OnnxFormat::Float32,
        };
        model.save_onnx(&path, form, format)?;
    }
    let path = args.output.join("embeddings.safetensors");
    write_safetensors(&path, &embeddings, FloatFormat::F32)?;
    Ok(())
}

/// Returns one batch, and its kind of ONNX input.
fn input(
    name: &str,
    (shape, values): &RawTensor,
    lengths: Option<&RawTensor>,
) -> Option<(candle_core::Result<Input>, OnnxInput<'static>)> {
    let tensor = || Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu);
    Some(match name {
        "input_ids" => {
            let lengths: Vec<usize> = lengths?.1.iter().map(|n| *n as usize).collect();
            let rows = values.chunks(shape[1]).zip(&lengths);
            let ids = rows.flat_map(|(row, length)| row[..*length].iter().map(|id| *id as u32));
            let texts = Input::Texts(TokenBatch::new(ids.collect(), lengths));
            (Ok(texts), OnnxInput::Texts(TokenType::Int64))
        }
        "pixel_values" => {
            let form = OnnxInput::Images {
                name: "pixel_values",
                sides: [shape[2], shape[3]],
                affine: None,
            };
            (tensor().map(Input::Images), form)
        }
        "features" => {
            let form = OnnxInput::Features { length: shape[1] };
            (tensor().map(Input::Features), form)
        }
        _ => return None,
    })
}

/// Changes a parameter slightly, because initial ones and zeros would hide mistakes.
fn disturb<T>(name: &str, update: impl FnOnce(Box<dyn FnOnce(&mut [f32])>) -> T) -> T {
    let is_variance = name.ends_with("running_var");
    let seed = name.len() as f32;
    update(Box::new(move |values| {
        for (i, x) in values.iter_mut().enumerate() {
            let noise = ((i as f32 + seed) * 12.9898).sin();
            *x = match is_variance {
                true => 1.0 + 0.5 * noise,
                false => *x + 0.2 * noise,
            };
        }
    }))
}
