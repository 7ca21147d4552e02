//! Trains the engine's bundled small CLIP from random weights, on the images and
//! captions of `datasets/emoji-clip`.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example pretrain_small_clip
//! ```
//!
//! The same seed gives the same weights on the same machine. A stopped run resumes
//! after its last epoch. The result is a model in Hugging Face layout and its
//! text-to-image recall.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Parser;
use finetuner_engine::{
    data::{Classes, Example},
    evaluation::{Distance, Ranking, rank},
    image::ImageProcessor,
    infer::Encoder,
    loss::{Criterion, LossSpec},
    models::{Model, ModelConfig, ModelSetup},
    optim::Adam,
    params::{FloatFormat, write_safetensors},
    prepare::Preparer,
    tokenizer::Tokenizer,
    train::{Sampling, Trainer, TrainerOptions, read_checkpoint, write_checkpoint},
};
use finetuner_protocol::Loss;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

mod rows;
mod small_clip;

use rows::{Fallible, read_rows};
use small_clip::{LONGEST_TEXT, Shape, config, describe, read_captions, train_tokenizer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sizes of the bundled model.
const SHAPE: Shape = Shape {
    text_width: 128,
    text_layers: 3,
    vision_width: 192,
    vision_layers: 5,
    side: 64,
    patch: 8,
};

#[derive(Parser)]
struct Args {
    /// Folder of the data set.
    #[arg(long, default_value = "datasets/emoji-clip")]
    data: PathBuf,
    /// Split to train on; for `fashion`, its `pretrain.csv`.
    #[arg(long, default_value = "fashion")]
    split: String,
    /// Folder for the model.
    #[arg(long, default_value = "target/clip-emoji-small")]
    out: PathBuf,
    #[arg(long, default_value_t = 60)]
    epochs: usize,
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Train on titles only, without long captions.
    #[arg(long)]
    titles_only: bool,
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.out)?;
    let captions = read_captions(&args.data.join("concepts.csv"))?;
    let list = if args.split == "fashion" {
        "pretrain.csv"
    } else {
        "train.csv"
    };
    let titles = read_pairs(&args.data, &args.data.join(&args.split).join(list))?;
    println!("{} images of {} things", titles.len(), captions.len());

    let seen: std::collections::BTreeSet<&str> = titles.iter().map(|p| p.text.as_str()).collect();
    let words = seen
        .iter()
        .flat_map(|title| [(*title).to_owned(), captions[*title].clone()])
        .collect::<Vec<_>>();
    // Trained only once: the trainer breaks ties between equally frequent pairs at random.
    let tokenizer_path = args.out.join("tokenizer.json");
    if !tokenizer_path.exists() {
        std::fs::write(&tokenizer_path, train_tokenizer(&words)?)?;
    }
    let tokenizer_json = std::fs::read_to_string(&tokenizer_path)?;
    let tokenizer = Tokenizer::parse(tokenizer_json.as_bytes(), LONGEST_TEXT)?;
    let json = config(&tokenizer_json, &SHAPE)?;
    let config = ModelConfig::parse(&json)?;
    let weights = config.random_weights(args.seed);
    let model = Model::new(config, weights, ModelSetup::default(), &Device::Cpu)?;
    println!("{} parameters", model.params().count());

    let steps = titles.len() / args.batch_size * args.epochs;
    let base = args.learning_rate;
    let processor = ImageProcessor::clip(SHAPE.side);
    let mut trainer = Trainer::new(
        model,
        Preparer {
            tokenizer: Some(tokenizer.into()),
            processor: Some(processor.clone()),
            features: None,
            clouds: None,
            prompt: None,
            member_prompts: Vec::new(),
            pairs: false,
        },
        Criterion::new(&LossSpec::new(Loss::Clip), 0, 0, args.seed)?,
        Adam::adamw().weight_decay(0.1).betas(0.9, 0.98).build(),
        None,
        TrainerOptions {
            batch_size: args.batch_size,
            accumulation_steps: 1,
            dropout: false,
            sampling: Sampling::Random,
            learning_rate: Box::new(move |_, step| cosine_with_warmup(base, step, steps)),
            loss_learning_rate: 0.0,
            max_grad_norm: None,
            seed: args.seed,
            augment: true,
        },
    );
    let checkpoint = args.out.join("checkpoint.safetensors");
    if checkpoint.exists() {
        read_checkpoint(&mut trainer, &checkpoint)?;
        println!("going on after epoch {}", trainer.position().epoch);
    }
    while trainer.position().epoch < args.epochs {
        // An image's text is its title or its long caption, which also names the
        // category.
        let epoch = trainer.position().epoch;
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed ^ ((epoch as u64 + 1) << 32));
        let pairs: Vec<Example> = titles
            .iter()
            .map(|pair| {
                let text = if args.titles_only || rng.next_u32().is_multiple_of(2) {
                    &pair.text
                } else {
                    &captions[&pair.text]
                };
                Example::text_image(&pair.text, text, &pair.image)
            })
            .collect();
        let pairs = Classes::default().number(pairs);
        let mut speed = 0.0;
        let loss = trainer.epoch(&pairs, |step| {
            speed = step.examples_per_second;
            Ok(())
        })?;
        println!(
            "epoch {} of {}: loss {loss:.4}, {speed:.0} pairs/s",
            epoch + 1,
            args.epochs
        );
        write_checkpoint(&trainer, &checkpoint)?;
    }

    let snapshot = trainer.model.params().snapshot()?;
    write_safetensors(
        &args.out.join("model.safetensors"),
        &snapshot,
        FloatFormat::F16,
    )?;
    describe(&args.out, &json, &processor)?;
    report(&args)?;
    Ok(())
}

/// An image and its text.
struct Pair {
    image: Vec<u8>,
    text: String,
}

/// Reads rows of `image,text` and the images.
fn read_pairs(root: &Path, list: &Path) -> Fallible<Vec<Pair>> {
    let rows = read_rows(list)?.into_iter();
    let pairs = rows.map(|(image, text)| {
        let image = std::fs::read(root.join(image))?;
        Ok(Pair { image, text })
    });
    pairs.collect()
}

/// Returns the learning rate: linear warmup over the first 5% of steps, then cosine
/// decay.
fn cosine_with_warmup(base: f64, step: usize, total: usize) -> f64 {
    let (step, total) = (step as f64, total.max(20) as f64);
    let warmup = total / 20.0;
    if step < warmup {
        return base * (step + 1.0) / warmup;
    }
    let part = ((step - warmup) / (total - warmup)).min(1.0);
    base * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
}

/// Prints recall@1 and recall@10 of the split's queries against its index.
fn report(args: &Args) -> Fallible<()> {
    let folder = args.data.join(&args.split);
    let index = read_pairs(&args.data, &folder.join("index.csv"))?;
    let queries = read_rows(&folder.join("queries.csv"))?;
    let (texts, labels): (Vec<&str>, Vec<&str>) = queries
        .iter()
        .map(|(t, l)| (t.as_str(), l.as_str()))
        .unzip();
    let images: Vec<&[u8]> = index.iter().map(|pair| &*pair.image).collect();
    let encoder = Encoder::from_folder(&args.out)?;
    let asked = encoder.encode_texts(&texts)?;
    let found = encoder.encode_images(&images)?;
    let rankings = rank(
        &asked.values,
        &found.values,
        asked.dim,
        10,
        Distance::Cosine,
    );
    let within = |k: usize| {
        let is_hit = |(ranking, label): (&Ranking, &str)| {
            ranking.iter().take(k).any(|m| index[m.index].text == label)
        };
        let hits = rankings
            .iter()
            .zip(labels.iter().copied())
            .filter(|q| is_hit(*q));
        hits.count() as f64 / labels.len() as f64
    };
    println!(
        "{}: recall@1 {:.3}, recall@10 {:.3} ({} queries, {} images)",
        args.split,
        within(1),
        within(10),
        queries.len(),
        index.len()
    );
    Ok(())
}
