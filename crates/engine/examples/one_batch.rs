//! Writes a model's results for one batch to a file, for comparisons with other
//! software: embeddings, loss, gradients, and the losses of some training steps.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example one_batch -- \
//!     model-folder inputs.safetensors outputs.safetensors
//! ```
//!
//! Inputs are `pixel_values` `[batch, 3, side, side]`, `input_ids` `[batch, tokens]` or
//! both, or `points` `[batch, points, 3]`, as the model requires. `lengths` gives the
//! lengths of texts if they differ.
//!
//! Outputs are `image_embeds`, `text_embeds`, `cloud_embeds`, `loss`, one gradient
//! `grad.{weight}` per weight, and `losses` of some steps with AdamW. A CLIP has its own
//! loss. For other models, the loss is the mean of the embeddings times the input
//! `cotangent`.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{Device, Tensor};
use clap::Parser;
use finetuner_engine::{
    cloud::CloudBatch,
    loss::clip_loss,
    models::{Input, Model, ModelConfig, ModelSetup},
    optim::Adam,
    params::{FloatFormat, RawTensor, parse_safetensors, write_safetensors},
    tokenizer::TokenBatch,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Folder with `config.json` and `model.safetensors`.
    model: PathBuf,
    inputs: PathBuf,
    outputs: PathBuf,
    #[arg(long, default_value_t = 10)]
    steps: usize,
    #[arg(long, default_value_t = 1e-5)]
    learning_rate: f64,
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let args = Args::parse();
    let config = std::fs::read(args.model.join("config.json"))?;
    let config = ModelConfig::parse(&serde_json::from_slice(&config)?)?;
    let weights = std::fs::read(args.model.join("model.safetensors"))?;
    let weights = parse_safetensors(&weights, "model.safetensors")?;
    let model = Model::new(config, weights, ModelSetup::default(), &Device::Cpu)?;
    let inputs = parse_safetensors(&std::fs::read(&args.inputs)?, "the inputs")?;
    let cotangent = inputs.get("cotangent").map(tensor).transpose()?;
    let inputs = read(&inputs)?;

    let mut outputs: HashMap<String, RawTensor> = HashMap::new();
    let mut losses = Vec::new();
    let mut optimizer = Adam::adamw().build();
    for step in 0..args.steps.max(1) {
        model.params().zero_grad();
        let pass = model.training();
        let embedded: Vec<Tensor> = inputs
            .iter()
            .map(|(_, input)| model.encode(&pass, input))
            .collect::<Result<_, _>>()?;
        let loss = match (&embedded[..], &cotangent) {
            ([texts, images], _) => clip_loss(&model, &pass, texts, images)?,
            ([one], Some(cotangent)) => (one * cotangent)?.mean_all()?,
            _ => return Err("`cotangent` is missing among the inputs".into()),
        };
        model.params().backward(&loss)?;
        losses.push(loss.to_scalar()?);
        if step == 0 {
            for ((name, _), tensor) in inputs.iter().zip(embedded) {
                let values = tensor.flatten_all()?.to_vec1()?;
                outputs.insert((*name).to_owned(), (tensor.dims().to_vec(), values));
            }
            outputs.insert("loss".to_owned(), (vec![1], losses.clone()));
            for param in model.params().iter() {
                if let Some(grad) = param.grad() {
                    let shape = param.tensor().dims().to_vec();
                    outputs.insert(format!("grad.{}", param.name()), (shape, grad.clone()));
                }
            }
        }
        optimizer.step(model.params(), args.learning_rate)?;
    }
    outputs.insert("losses".to_owned(), (vec![losses.len()], losses));
    write_safetensors(&args.outputs, &outputs, FloatFormat::F32)?;
    Ok(())
}

fn tensor((shape, values): &RawTensor) -> candle_core::Result<Tensor> {
    Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)
}

/// Reads the model's inputs, with the names of their embeddings.
fn read(inputs: &HashMap<String, RawTensor>) -> Fallible<Vec<(&'static str, Input)>> {
    let mut read = Vec::new();
    if let Some((shape, ids)) = inputs.get("input_ids") {
        let lengths: Vec<usize> = match inputs.get("lengths") {
            Some((_, lengths)) => lengths.iter().map(|n| *n as usize).collect(),
            None => vec![shape[1]; shape[0]],
        };
        let rows = ids.chunks(shape[1]).zip(&lengths);
        let ids = rows.flat_map(|(row, length)| row[..*length].iter().map(|id| *id as u32));
        let ids = ids.collect();
        read.push(("text_embeds", Input::Texts(TokenBatch::new(ids, lengths))));
    }
    if let Some(pixels) = inputs.get("pixel_values") {
        read.push(("image_embeds", Input::Images(tensor(pixels)?)));
    }
    if let Some((shape, points)) = inputs.get("points") {
        let batch = CloudBatch {
            points: points.as_chunks().0.to_vec(),
            lengths: vec![shape[1]; shape[0]],
        };
        read.push(("cloud_embeds", Input::PointClouds(batch)));
    }
    Ok(read)
}
