//! Trains the small CLIP that ships with the engine, from nothing, on the
//! pictures and captions of `datasets/emoji-clip`.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example pretrain_small_clip
//! ```
//!
//! The same seed gives the same weights on one machine. A run that was stopped
//! goes on from its last epoch. At the end it writes the model in Hugging Face
//! layout and prints how well a text finds its picture.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

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
    params::{Precision, write_safetensors},
    prepare::Preparer,
    tokenizer::Tokenizer,
    train::{Checkpoint, Sampling, Trainer, TrainerOptions},
};
use finetuner_protocol::Loss;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tokenizers::{
    AddedToken, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainer},
    normalizers::{Lowercase, NFC, Sequence},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

mod emoji_clip;

use emoji_clip::{Fallible, parse_csv, read_pairs, read_rows};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

#[derive(Parser)]
struct Args {
    /// The data set's folder.
    #[arg(long, default_value = "datasets/emoji-clip")]
    data: PathBuf,
    /// Which split to train on; `fashion` takes its `pretrain.csv`.
    #[arg(long, default_value = "fashion")]
    split: String,
    /// Where the model goes.
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
    /// Show every picture with its title, never with its long caption.
    #[arg(long)]
    titles_only: bool,
    /// Blocks of the picture tower.
    #[arg(long, default_value_t = 5)]
    vision_layers: usize,
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
    println!("{} pictures of {} things", titles.len(), captions.len());

    let seen: std::collections::BTreeSet<&str> = titles.iter().map(|p| p.text.as_str()).collect();
    let words = seen
        .iter()
        .flat_map(|title| [(*title).to_owned(), captions[*title].clone()])
        .collect::<Vec<_>>();
    // Learned once: ties between equally frequent pairs fall differently each time.
    let tokenizer_path = args.out.join("tokenizer.json");
    if !tokenizer_path.exists() {
        std::fs::write(&tokenizer_path, train_tokenizer(&words)?)?;
    }
    let tokenizer_json = std::fs::read_to_string(&tokenizer_path)?;
    let tokenizer = Tokenizer::parse(tokenizer_json.as_bytes(), 32)?;
    let json = config(&tokenizer_json, args.vision_layers)?;
    let config = ModelConfig::parse(&json)?;
    let weights = config.random_weights(args.seed);
    let model = Model::new(config, weights, ModelSetup::default(), &Device::Cpu)?;
    println!("{} parameters", model.params().count());

    let steps = titles.len() / args.batch_size * args.epochs;
    let base = args.learning_rate;
    let processor = ImageProcessor::clip(64);
    let mut trainer = Trainer::new(
        model,
        Preparer {
            tokenizer: Some(tokenizer),
            processor: Some(processor.clone()),
            features: None,
        },
        Criterion::new(&LossSpec::new(Loss::Clip), 0, 0, args.seed)?,
        Adam::adamw().weight_decay(0.1).betas(0.9, 0.98).build(),
        None,
        TrainerOptions {
            batch_size: args.batch_size,
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
        Checkpoint::read(&checkpoint)?.apply(&mut trainer)?;
        println!("going on after epoch {}", trainer.position().epoch);
    }
    while trainer.position().epoch < args.epochs {
        // A picture is shown with its title or with its long caption, which
        // says what kind of thing it is.
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
        Checkpoint::of(&trainer)?.write(&checkpoint)?;
    }

    let snapshot = trainer.model.params().snapshot()?;
    write_safetensors(
        &args.out.join("model.safetensors"),
        &snapshot,
        Precision::F16,
    )?;
    let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value);
    std::fs::write(args.out.join("config.json"), pretty(&json)?)?;
    std::fs::write(
        args.out.join("preprocessor_config.json"),
        pretty(&processor.to_json())?,
    )?;
    std::fs::write(
        args.out.join("tokenizer_config.json"),
        pretty(&serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END,
            "model_max_length": 32,
        }))?,
    )?;
    report(&args)?;
    Ok(())
}

/// Up over the first twentieth of the steps, then down along a cosine.
fn cosine_with_warmup(base: f64, step: usize, total: usize) -> f64 {
    let (step, total) = (step as f64, total.max(20) as f64);
    let warmup = total / 20.0;
    if step < warmup {
        return base * (step + 1.0) / warmup;
    }
    let part = ((step - warmup) / (total - warmup)).min(1.0);
    base * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
}

/// Recall@1 and @10 of the split's queries against its index.
fn report(args: &Args) -> Fallible<()> {
    let folder = args.data.join(&args.split);
    let index = read_pairs(&args.data, &folder.join("index.csv"))?;
    let queries = read_rows(&folder.join("queries.csv"))?;
    let (texts, labels): (Vec<&str>, Vec<&str>) = queries
        .iter()
        .map(|(t, l)| (t.as_str(), l.as_str()))
        .unzip();
    let pictures: Vec<&[u8]> = index.iter().map(|pair| &*pair.image).collect();
    let encoder = Encoder::from_folder(&args.out)?;
    let asked = encoder.encode_texts(&texts)?;
    let found = encoder.encode_images(&pictures)?;
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
        "{}: recall@1 {:.3}, recall@10 {:.3} ({} queries, {} pictures)",
        args.split,
        within(1),
        within(10),
        queries.len(),
        index.len()
    );
    Ok(())
}

fn config(tokenizer: &str, vision_layers: usize) -> Fallible<serde_json::Value> {
    let tokenizer: tokenizers::Tokenizer = tokenizer.parse()?;
    let id = |token: &str| tokenizer.token_to_id(token);
    let tower = |width: usize, layers: usize, heads: usize| {
        serde_json::json!({
            "hidden_size": width, "intermediate_size": 4 * width,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 128,
        })
    };
    let (mut text, mut vision) = (tower(128, 3, 4), tower(192, vision_layers, 6));
    text["vocab_size"] = tokenizer.get_vocab_size(true).into();
    text["max_position_embeddings"] = 32.into();
    text["bos_token_id"] = id(BEGIN).into();
    text["eos_token_id"] = id(END).into();
    text["pad_token_id"] = id(END).into();
    text["model_type"] = "clip_text_model".into();
    vision["image_size"] = 64.into();
    vision["patch_size"] = 8.into();
    vision["num_channels"] = 3.into();
    vision["model_type"] = "clip_vision_model".into();
    Ok(serde_json::json!({
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 128,
        "logit_scale_init_value": 2.6592, "text_config": text, "vision_config": vision,
        "dtype": "float32",
    }))
}

/// A byte-level BPE in the manner of CLIP's, learned from the captions.
fn train_tokenizer(texts: &[String]) -> Fallible<String> {
    const SUFFIX: &str = "</w>";
    let pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let split = Split::new(
        SplitPattern::Regex(pattern.to_owned()),
        SplitDelimiterBehavior::Removed,
        true,
    )?;
    let bpe = BPE::builder()
        .end_of_word_suffix(SUFFIX.to_owned())
        .build()?;
    let mut tokenizer: TokenizerImpl<BPE, Sequence, PreTokenizers, RobertaProcessing, ByteLevel> =
        TokenizerBuilder::new()
            .with_model(bpe)
            .with_normalizer(Some(Sequence::new(vec![NFC.into(), Lowercase.into()])))
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![
                split.into(),
                ByteLevel::new(false, true, true).into(),
            ])))
            .with_post_processor(None)
            .with_decoder(None)
            .build()?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(1500)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![
            AddedToken::from(BEGIN, true),
            AddedToken::from(END, true),
        ])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .end_of_word_suffix(SUFFIX.to_owned())
        .build();
    tokenizer.train(&mut trainer, texts.iter())?;
    let special = |token: &str| {
        let id = tokenizer.token_to_id(token);
        id.map(|id| (token.to_owned(), id))
            .ok_or("a special token is missing")
    };
    let frame = RobertaProcessing::new(special(END)?, special(BEGIN)?)
        .trim_offsets(false)
        .add_prefix_space(false);
    tokenizer.with_post_processor(Some(frame));
    tokenizer.to_string(true)
}

/// Captions by title.
fn read_captions(path: &Path) -> Fallible<BTreeMap<String, String>> {
    let rows = parse_csv(&std::fs::read_to_string(path)?);
    Ok(rows
        .into_iter()
        .skip(1)
        .filter(|row| row.len() > 2)
        .map(|row| (row[1].clone(), row[2].clone()))
        .collect())
}
