//! Compares a device with the CPU: the errors of embeddings, loss and gradients, or
//! the time of training steps. Prints one line of JSON.
//!
//! ```text
//! cargo build --release -p finetuner-engine --features cuda --example device_check
//! ```
//!
//! `scripts/check_gpu.py` compares it with PyTorch on the same GPU. With `--device cpu`, or
//! without a GPU, the CPU computes as a device does: with composite operations.

use std::{path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use clap::{Parser, ValueEnum};
use finetuner_engine::{
    Precision,
    loss::{Criterion, LossSpec, Target},
    models::{Input, Model, ModelConfig, ModelKind, ModelSetup},
    optim::Adam,
    params::Params,
    plan::choose_device,
    tokenizer::TokenBatch,
};
use finetuner_protocol::{Device as Asked, Loss};
use serde_json::{Value, json};

mod memory;

use memory::peak_memory_mb;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Cpu,
    Gpu,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rounding {
    Float32,
    Tf32,
    Bfloat16,
}

impl Rounding {
    fn precision(self) -> Precision {
        match self {
            Self::Float32 => Precision::Float32,
            Self::Tf32 => Precision::Tf32,
            Self::Bfloat16 => Precision::Bfloat16,
        }
    }
}

#[derive(Parser)]
struct Args {
    /// A `config.json`. The weights are random.
    config: PathBuf,
    #[arg(long, value_enum, default_value = "gpu")]
    device: Kind,
    #[arg(long, value_enum, default_value = "float32")]
    precision: Rounding,
    /// Number of pairs in a batch: a text and an image, or two items of one kind.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Maximum number of tokens of a text [default: the model's limit]. Texts have
    /// several lengths, except those of a CLIP.
    #[arg(long)]
    tokens: Option<usize>,
    /// Number of steps to time; 0 compares the device with the CPU instead.
    #[arg(long, default_value_t = 0)]
    steps: usize,
    #[arg(long)]
    gradient_checkpointing: bool,
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let args = Args::parse();
    let config: Value = serde_json::from_slice(&std::fs::read(&args.config)?)?;
    let device = match args.device {
        Kind::Cpu => Device::Cpu,
        Kind::Gpu => match choose_device(&Asked::Gpu) {
            (device, None) => device,
            (_, Some(warning)) => return Err(warning.into()),
        },
    };
    let mut own = Side::new(&config, &args, &device)?;
    own.model.set_precision(args.precision.precision());
    own.model
        .set_gradient_checkpointing(args.gradient_checkpointing);
    if device.is_cpu() {
        own.model.compute_as_on_a_device();
    }
    let found = match args.steps {
        0 => compare(&mut own, &mut Side::new(&config, &args, &Device::Cpu)?)?,
        steps => time(&mut own, steps, args.batch_size)?,
    };
    println!("{found}");
    Ok(())
}

/// A model on a device, its loss, and a batch.
struct Side {
    model: Model,
    criterion: Criterion,
    inputs: Vec<Input>,
}

impl Side {
    fn new(config: &Value, args: &Args, device: &Device) -> Fallible<Self> {
        let last = config["text_config"]["eos_token_id"].as_u64();
        let config = ModelConfig::parse(config)?;
        let inputs = inputs(&config, last, args, device)?;
        let loss = match config.kind() {
            ModelKind::TextImage => Loss::Clip,
            _ => Loss::MultipleNegativeRanking,
        };
        let weights = config.random_weights(0);
        let model = Model::new(config, weights, ModelSetup::default(), device)?;
        let criterion = Criterion::new(&LossSpec::new(loss), 0, model.dim(), 0)?;
        Ok(Self {
            model,
            criterion,
            inputs,
        })
    }

    /// Returns the embeddings and the loss of a step. The parameters hold the
    /// gradients.
    fn step(&mut self) -> Fallible<(Vec<Tensor>, f32)> {
        let model = &self.model;
        model.params().zero_grad();
        let pass = model.training();
        let parts = self.inputs.iter().map(|input| model.encode(&pass, input));
        let parts: Vec<Tensor> = parts.collect::<Result<_, _>>()?;
        let target = Target {
            labels: &[],
            scores: &[],
        };
        let loss = self.criterion.loss(model, &pass, &parts, target, 0, true)?;
        Params::backward_of([model.params(), self.criterion.params()], &loss)?;
        Ok((parts, loss.to_dtype(DType::F32)?.to_scalar()?))
    }
}

fn length(values: impl Iterator<Item = f32>) -> f64 {
    values
        .map(|x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}

/// Returns the Euclidean distance of two lists.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    length(a.iter().zip(b).map(|(a, b)| a - b))
}

fn compare(own: &mut Side, cpu: &mut Side) -> Fallible<Value> {
    let ((found, loss), (expected, expected_loss)) = (own.step()?, cpu.step()?);
    let mut embeddings: f64 = 0.0;
    for (a, b) in found.iter().zip(&expected) {
        let of = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let (a, b) = (of(a)?, of(b)?);
        embeddings = embeddings.max(apart(&a, &b) / length(b.iter().copied()));
    }
    let (mut all_apart, mut all, mut worst) = (0.0, 0.0, 0.0_f64);
    let mut pairs = Vec::new();
    for (a, b) in own.model.params().iter().zip(cpu.model.params().iter()) {
        if let (Some(a), Some(b)) = (a.gradient()?, b.gradient()?) {
            let (apart, length) = (apart(&a, &b), length(b.iter().copied()));
            all_apart += apart * apart;
            all += length * length;
            pairs.push((apart, length));
        }
    }
    let longest = pairs.iter().map(|(_, length)| *length).fold(0.0, f64::max);
    for (apart, length) in pairs {
        // A gradient of rounding errors only is compared with the largest one.
        worst = worst.max(apart / length.max(1e-3 * longest));
    }
    Ok(json!({
        "embeddings": embeddings,
        "loss": f64::from((loss - expected_loss).abs() / expected_loss.abs()),
        "gradients": (all_apart / all).sqrt(),
        "worst_gradient": worst,
    }))
}

fn time(own: &mut Side, steps: usize, batch: usize) -> Fallible<Value> {
    let mut optimizer = Adam::adamw().build();
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    let warm_up = 3;
    for step in 0..steps + warm_up {
        let started = Instant::now();
        losses.push(own.step()?.1);
        optimizer.step(own.model.params(), 1e-5)?;
        own.model.params().device().synchronize()?;
        if step >= warm_up {
            times.push(started.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let step = times[times.len() / 2];
    Ok(json!({
        "step": step,
        "examples_per_second": batch as f64 / step,
        "peak_mb": peak_memory_mb(),
        "losses": losses,
    }))
}

/// Returns a batch of texts and a batch of images, or two batches of one kind.
fn inputs(
    config: &ModelConfig,
    last: Option<u64>,
    args: &Args,
    device: &Device,
) -> candle_core::Result<Vec<Input>> {
    let batch = args.batch_size;
    let is_pair = config.kind() == ModelKind::TextImage;
    let side = config.image_size().unwrap_or(224);
    let image = |number: usize| {
        let shape = (batch, 3, side, side);
        // Pseudorandom numbers, the same on every device.
        let values = (0..batch * 3 * side * side)
            .map(|i| ((i + 7 * number) as u32).wrapping_mul(2_654_435_761) as f32)
            .map(|x| x / u32::MAX as f32 * 4.0 - 2.0);
        let values: Vec<f32> = values.collect();
        Tensor::from_vec(values, shape, device).map(Input::Images)
    };
    let texts = |number: usize| {
        let longest = config.max_tokens().unwrap_or(1);
        let longest = args.tokens.unwrap_or(longest).min(longest);
        let vocabulary = config.vocab_size().unwrap_or(8) as u32;
        let last = last.map_or(vocabulary.saturating_sub(1), |id| id as u32);
        let lengths: Vec<usize> = (0..batch)
            .map(|i| match is_pair {
                true => longest,
                // Between half of the maximum and the maximum.
                false => longest - (i * 37 + number) % (longest / 2).max(1),
            })
            .collect();
        let ids = lengths.iter().enumerate().flat_map(|(text, length)| {
            (0..*length).map(move |place| match place + 1 == *length {
                true => last,
                false => {
                    let place = (text * 97 + place * 31 + number * 13) as u32;
                    3 + place.wrapping_mul(2_654_435_761) % (vocabulary - 6)
                }
            })
        });
        Input::Texts(TokenBatch::new(ids.collect(), lengths.clone()))
    };
    match (is_pair, config.max_tokens()) {
        (true, _) => Ok(vec![texts(0), image(0)?]),
        (false, Some(_)) => Ok(vec![texts(0), texts(1)]),
        (false, None) => Ok(vec![image(0)?, image(1)?]),
    }
}
