//! Measures training or encoding on this machine: the time of whole steps on random
//! data and of their parts, and the peak memory. Prints one line of JSON.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example train_speed -- --batch-size 8
//! ```
//!
//! `scripts/bench_training.py` runs it alternately with PyTorch.

use std::{path::PathBuf, time::Instant};

use candle_core::{Device, Tensor};
use clap::Parser;
use finetuner_engine::{
    Precision,
    lora::{LoraSpec, Targets},
    loss::{Criterion, LossSpec, Target},
    models::{Input, Model, ModelConfig, ModelKind, ModelSetup},
    optim::Adam,
    tokenizer::TokenBatch,
};
use finetuner_protocol::Loss;
use serde_json::{Value, json};

mod memory;

use memory::peak_memory_mb;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Model configuration, `config.json` [default: that of
    /// `openai/clip-vit-base-patch32`].
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Number of tokens of each text [default: the model's maximum].
    #[arg(long)]
    tokens: Option<usize>,
    /// Height and width of an image for convolutional networks, in pixels.
    #[arg(long, default_value_t = 224)]
    side: usize,
    #[arg(long, default_value_t = 6)]
    steps: usize,
    /// Trains in bfloat16, if the CPU supports it.
    #[arg(long)]
    bfloat16: bool,
    /// Trains adapters of this rank in all linear layers instead of the weights.
    #[arg(long)]
    lora: Option<usize>,
    /// Embeds without training.
    #[arg(long)]
    encode: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let config: Value = match &args.config {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => json!({"model_type": "clip"}),
    };
    // A CLIP pools a text at this token.
    let last = config["text_config"]["eos_token_id"].as_u64();
    let config = ModelConfig::parse(&config)?;
    let inputs = inputs(&config, last, &args)?;
    let clip = config.kind() == ModelKind::TextImage;
    let weights = config.random_weights(0);
    let setup = ModelSetup {
        lora: args.lora.map(|r| LoraSpec {
            r,
            target_modules: Targets::AllLinear,
            ..LoraSpec::default()
        }),
        ..ModelSetup::default()
    };
    let mut model = Model::new(config, weights, setup, &Device::Cpu)?;
    if args.bfloat16 {
        model.set_precision(Precision::Bfloat16);
    }
    // Two examples of each class.
    let labels: Vec<u32> = (0..args.batch_size as u32).map(|i| i / 2).collect();
    let loss = if clip { Loss::Clip } else { Loss::NtXent };
    let mut criterion = Criterion::new(&LossSpec::new(loss), 0, model.dim(), 0)?;
    let target = Target {
        labels: &labels,
        scores: &[],
    };

    let mut optimizer = Adam::adamw().build();
    let mut parts: [Vec<f64>; 4] = Default::default();
    let mut losses = Vec::new();
    let warm_up = 2;
    for step in 0..args.steps.max(1) + warm_up {
        let started = Instant::now();
        let mut times = [0.0; 4];
        if args.encode {
            for input in &inputs {
                model.encode(&model.inference(), input)?;
            }
            times[0] = started.elapsed().as_secs_f64();
        } else {
            model.params().zero_grad();
            let pass = model.training();
            let embedded: Vec<Tensor> = inputs
                .iter()
                .map(|input| model.encode(&pass, input))
                .collect::<Result<_, _>>()?;
            let loss = criterion.loss(&model, &pass, &embedded, target, 0, true)?;
            losses.push(loss.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?);
            let forward = started.elapsed().as_secs_f64();
            model.params().backward(&loss)?;
            let backward = started.elapsed().as_secs_f64();
            optimizer.step(model.params(), 1e-5)?;
            let whole = started.elapsed().as_secs_f64();
            times = [whole, forward, backward - forward, whole - backward];
        }
        if step >= warm_up {
            parts.iter_mut().zip(times).for_each(|(all, t)| all.push(t));
        }
    }
    let [step, forward, backward, optimizer] = parts.map(median);
    println!(
        "{}",
        json!({
            "step": step, "forward": forward, "backward": backward, "optimizer": optimizer,
            "examples_per_second": args.batch_size as f64 / step,
            "peak_mb": peak_memory_mb(),
            "trained": model.params().trained_count(),
            "losses": losses,
        })
    );
    Ok(())
}

/// Returns random texts, images, or both. `last` is the last token of each text.
fn inputs(config: &ModelConfig, last: Option<u64>, args: &Args) -> candle_core::Result<Vec<Input>> {
    let vocabulary = config.vocab_size().unwrap_or(0) as u32;
    let last = last.map_or(vocabulary.saturating_sub(1), |id| id as u32);
    let side = config.image_size().unwrap_or(args.side);
    let mut inputs = Vec::new();
    if let Some(longest) = config.max_tokens() {
        let tokens = args.tokens.unwrap_or(longest);
        let id = |i: usize| match i % tokens {
            place if place + 1 == tokens => last,
            // Any token except the special ones at both ends of the vocabulary.
            _ => 3 + (i as u32).wrapping_mul(2_654_435_761) % (vocabulary - 6),
        };
        let ids = (0..args.batch_size * tokens).map(id).collect();
        inputs.push(Input::Texts(TokenBatch::uniform(ids, tokens)));
    }
    if matches!(config.kind(), ModelKind::TextImage | ModelKind::Image) {
        let shape = (args.batch_size, 3, side, side);
        inputs.push(Input::Images(Tensor::randn(
            0f32,
            1.0,
            shape,
            &Device::Cpu,
        )?));
    }
    Ok(inputs)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
