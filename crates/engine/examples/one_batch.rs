//! What a model computes from one batch, and how it learns from it: written to
//! a file, to be compared with other software.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example one_batch -- \
//!     model-folder inputs.safetensors outputs.safetensors
//! ```
//!
//! The inputs are `pixel_values` `[batch, 3, side, side]` and `input_ids`
//! `[batch, tokens]`. The outputs are `image_embeds`, `text_embeds`, `loss`,
//! `grad.` and the name of each weight, and `losses` of some steps with AdamW.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{Device, Tensor};
use clap::Parser;
use finetuner_engine::{
    loss::clip_loss,
    models::{Clip, ClipConfig},
    optim::{Adam, Optimizer},
    params::{Precision, RawTensor, parse_safetensors, write_safetensors},
    tokenizer::TokenBatch,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// A folder with `config.json` and `model.safetensors`.
    model: PathBuf,
    inputs: PathBuf,
    outputs: PathBuf,
    #[arg(long, default_value_t = 10)]
    steps: usize,
    #[arg(long, default_value_t = 1e-5)]
    learning_rate: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let config = ClipConfig::parse(&serde_json::from_slice(&std::fs::read(
        args.model.join("config.json"),
    )?)?)?;
    let weights = std::fs::read(args.model.join("model.safetensors"))?;
    let weights = parse_safetensors(&weights, "model.safetensors")?;
    let model = Clip::new(config, weights, &Device::Cpu)?;
    let mut inputs = parse_safetensors(&std::fs::read(&args.inputs)?, "the inputs")?;
    let mut take = |name: &str| inputs.remove(name).ok_or(format!("no `{name}`"));
    let (shape, pixels) = take("pixel_values")?;
    let pixels = Tensor::from_vec(pixels, shape, &Device::Cpu)?;
    let (shape, ids) = take("input_ids")?;
    let texts = TokenBatch {
        ids: ids.into_iter().map(|id| id as u32).collect(),
        seq: shape[1],
    };

    let mut outputs: HashMap<String, RawTensor> = HashMap::new();
    let mut losses = Vec::new();
    let mut optimizer = Adam::adamw();
    for step in 0..args.steps.max(1) {
        model.params().zero_grad();
        let pass = model.training();
        let image = model.encode_images(&pass, &pixels)?;
        let text = model.encode_texts(&pass, &texts)?;
        let loss = clip_loss(&model, &pass, &text, &image)?;
        model.params().backward(&loss)?;
        losses.push(loss.to_scalar()?);
        if step == 0 {
            for (name, tensor) in [("image_embeds", image), ("text_embeds", text)] {
                let values = tensor.flatten_all()?.to_vec1()?;
                outputs.insert(name.to_owned(), (tensor.dims().to_vec(), values));
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
    write_safetensors(&args.outputs, &outputs, Precision::F32)?;
    Ok(())
}
