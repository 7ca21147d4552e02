//! How fast a CLIP trains on this machine: whole steps of random data, with
//! the time of their parts and the peak of the memory, as one line of JSON.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example train_speed -- --batch-size 8
//! ```
//!
//! `scripts/bench_training.py` runs it side by side with PyTorch.

use std::{path::PathBuf, time::Instant};

use candle_core::{Device, Tensor};
use clap::Parser;
use finetuner_engine::{
    loss::clip_loss,
    models::{Clip, ClipConfig},
    optim::{Adam, Optimizer},
    tokenizer::TokenBatch,
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// A `config.json`; the shapes of `openai/clip-vit-base-patch32` where
    /// none is given.
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Tokens of each text; as many as the model takes where not given.
    #[arg(long)]
    tokens: Option<usize>,
    #[arg(long, default_value_t = 6)]
    steps: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let config: Value = match &args.config {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => json!({}),
    };
    let config = ClipConfig::parse(&config)?;
    let (text, side) = (&config.text_config, config.vision_config.image_size);
    let tokens = args.tokens.unwrap_or(text.max_position_embeddings);
    let vocabulary = text.vocab_size as u32;
    let texts = TokenBatch {
        ids: (0..args.batch_size * tokens)
            .map(|i| match i % tokens {
                last if last + 1 == tokens => text.eos_token_id,
                // Any token but the special ones at the ends.
                _ => 3 + (i as u32).wrapping_mul(2_654_435_761) % (vocabulary - 6),
            })
            .collect(),
        seq: tokens,
    };
    let shape = (args.batch_size, 3, side, side);
    let pixels = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?;
    let model = Clip::new(config.clone(), config.random_weights(0), &Device::Cpu)?;

    let mut optimizer = Adam::adamw();
    let mut parts: [Vec<f64>; 4] = Default::default();
    let mut losses = Vec::new();
    let warm_up = 2;
    for step in 0..args.steps.max(1) + warm_up {
        let started = Instant::now();
        model.params().zero_grad();
        let pass = model.training();
        let image = model.encode_images(&pass, &pixels)?;
        let text = model.encode_texts(&pass, &texts)?;
        let loss = clip_loss(&model, &pass, &text, &image)?;
        losses.push(loss.to_scalar::<f32>()?);
        let forward = started.elapsed().as_secs_f64();
        model.params().backward(&loss)?;
        let backward = started.elapsed().as_secs_f64();
        optimizer.step(model.params(), 1e-5)?;
        let whole = started.elapsed().as_secs_f64();
        if step >= warm_up {
            let times = [whole, forward, backward - forward, whole - backward];
            parts.iter_mut().zip(times).for_each(|(all, t)| all.push(t));
        }
    }
    let [step, forward, backward, optimizer] = parts.map(median);
    println!(
        "{}",
        json!({
            "step": step, "forward": forward, "backward": backward, "optimizer": optimizer,
            "pairs_per_second": args.batch_size as f64 / step,
            "peak_mb": peak_memory_mb(),
            "losses": losses,
        })
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The most memory this process has held, where Linux says so.
fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024)
}
