//! The recall that 8-bit inference and smaller embeddings cost on the data sets
//! of `datasets/`.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example rounding
//! ```

use std::path::{Path, PathBuf};

use clap::Parser;
use finetuner_engine::{
    evaluation::{Distance, Ranking},
    infer::{Embeddings, Encoder},
    quantize::{Found, Ranges},
};

mod rows;

use rows::{Fallible, read_rows};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "datasets")]
    data: PathBuf,
    /// A folder with a text model to measure beside `minilm-small`.
    #[arg(long)]
    model: Vec<String>,
}

/// How many times as many candidates as results are rescored.
const MULTIPLIER: usize = 4;

fn main() -> Fallible<()> {
    let args = Args::parse();
    println!("| data, model | form | recall@1 | recall@10 |\n| --- | --- | --- | --- |");
    for data in ["fashion-glossary", "clippy-lints"] {
        let models = ["minilm-small"].into_iter();
        for model in models.chain(args.model.iter().map(String::as_str)) {
            measure(&args.data.join(data), model)?;
        }
    }
    let emoji = args.data.join("emoji-clip");
    measure(&emoji.join("unseen-drawings"), "clip-small")?;
    measure(&emoji.join("image-to-image"), "efficientnet-small")
}

fn encode(encoder: &Encoder, root: &Path, items: &[String]) -> Fallible<Embeddings> {
    if items.first().is_some_and(|item| item.ends_with(".png")) {
        let read = |item: &String| std::fs::read(root.join(item));
        let pictures = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        return Ok(encoder.encode_images(&pictures)?);
    }
    let texts: Vec<&str> = items.iter().map(String::as_str).collect();
    Ok(encoder.encode_texts(&texts)?)
}

/// Embeddings of length 1.
fn unit(embeddings: &Embeddings) -> Fallible<Embeddings> {
    Ok(embeddings.truncated(embeddings.dim)?)
}

fn measure(folder: &Path, model: &str) -> Fallible<()> {
    let root = folder.parent().unwrap_or(folder);
    let split = |name: &str| -> Fallible<(Vec<String>, Vec<String>)> {
        Ok(read_rows(&folder.join(name))?.into_iter().unzip())
    };
    let (index, index_labels) = split("index.csv")?;
    let (queries, query_labels) = split("queries.csv")?;
    let open = || -> Fallible<Encoder> {
        Ok(match Path::new(model).is_dir() {
            true => Encoder::from_folder(model)?,
            false => Encoder::from_backbone(model)?,
        })
    };
    let show = |form: &str, found: Vec<Vec<usize>>| {
        let recall = |limit: usize| {
            let hits = found.iter().zip(&query_labels).filter(|(found, label)| {
                let mut found = found.iter().take(limit);
                found.any(|place| index_labels[*place] == **label)
            });
            hits.count() as f64 / query_labels.len() as f64
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let model = Path::new(model).file_name().unwrap_or_default();
        let model = model.to_string_lossy();
        let (first, tenth) = (recall(1), recall(10));
        println!("| {name}, {model} | {form} | {first:.3} | {tenth:.3} |");
    };
    let by_cosine = |queries: &Embeddings, index: &Embeddings| -> Fallible<Vec<Vec<usize>>> {
        let rankings = index.search(queries, 10, Distance::Cosine)?;
        let places = |ranking: Ranking| ranking.iter().map(|found| found.index).collect();
        Ok(rankings.into_iter().map(places).collect())
    };
    let exact = open()?;
    let exact = (
        unit(&encode(&exact, root, &queries)?)?,
        unit(&encode(&exact, root, &index)?)?,
    );
    show("32 bits", by_cosine(&exact.0, &exact.1)?);
    let rounded = open()?.quantized();
    let rounded = (
        encode(&rounded, root, &queries)?,
        encode(&rounded, root, &index)?,
    );
    show("8-bit inference", by_cosine(&rounded.0, &rounded.1)?);
    let places = |found: Vec<Vec<Found>>| {
        let places = |found: Vec<Found>| found.iter().map(|found| found.index).collect();
        found.into_iter().map(places).collect()
    };
    let int8 = Ranges::calibrate(&exact.1)?.to_int8(&exact.1)?;
    show(
        "embeddings of 8 bits",
        places(int8.search(&exact.0, 10, MULTIPLIER)?),
    );
    let binary = exact.1.to_binary();
    show(
        "of 1 bit, rescored",
        places(binary.search(&exact.0, 10, MULTIPLIER)?),
    );
    let hamming = binary.nearest(&exact.0.to_binary(), 10)?;
    let hamming = hamming
        .iter()
        .map(|ranking| ranking.iter().map(|found| found.index).collect());
    show("of 1 bit", hamming.collect());
    let half = exact.0.dim / 2;
    show(
        "half of the dimensions",
        by_cosine(&exact.0.truncated(half)?, &exact.1.truncated(half)?)?,
    );
    Ok(())
}
