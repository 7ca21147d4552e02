//! Measures the loss of recall by 8-bit inference and by smaller embeddings, on the
//! data sets of `datasets/`.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example rounding -- --model clip-model
//! ```

use std::path::{Path, PathBuf};

use clap::Parser;
use finetuner_engine::{
    evaluation::Distance,
    infer::{Embeddings, Encoder},
    models::ModelKind,
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
    /// Folder of a further model, such as one that `text_to_image` saved; may be
    /// repeated.
    #[arg(long)]
    model: Vec<String>,
}

const SHIPPED: [&str; 4] = [
    "minilm-small",
    "efficientnet-small",
    "clip-small",
    "two-towers-small",
];

/// Number of candidates to rescore per result.
const MULTIPLIER: usize = 4;

/// Number of results per query.
const LIMIT: usize = 10;

fn main() -> Fallible<()> {
    let args = Args::parse();
    println!("| data, model | form | recall@1 | recall@10 |\n| --- | --- | --- | --- |");
    let shipped = SHIPPED.into_iter();
    for name in shipped.chain(args.model.iter().map(String::as_str)) {
        let encoder = match Path::new(name).is_dir() {
            true => Encoder::from_folder(name)?,
            false => Encoder::from_backbone(name)?,
        };
        let sets: &[&str] = match encoder.kind() {
            ModelKind::Text => &["fashion-glossary", "clippy-lints"],
            ModelKind::Image => &["emoji-clip/image-to-image"],
            ModelKind::TextImage => &[
                "emoji-clip/fashion",
                "emoji-clip/unseen-drawings",
                "emoji-clip/unseen-concepts",
            ],
            ModelKind::Features | ModelKind::PointCloud | ModelKind::TextPairs => {
                return Err(format!("{name} embeds neither texts nor images").into());
            }
        };
        for set in sets {
            Search::read(&args.data.join(set))?.measure(name, &encoder)?;
        }
    }
    Ok(())
}

/// A data set: index and queries, with their labels.
struct Search {
    name: String,
    /// Folder to which image paths are relative.
    root: PathBuf,
    queries: Vec<String>,
    query_labels: Vec<String>,
    index: Vec<String>,
    index_labels: Vec<String>,
}

impl Search {
    fn read(folder: &Path) -> Fallible<Self> {
        let (queries, query_labels) = read_rows(&folder.join("queries.csv"))?.into_iter().unzip();
        let (index, index_labels) = read_rows(&folder.join("index.csv"))?.into_iter().unzip();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            name: name.into_owned(),
            root: folder.parent().unwrap_or(folder).to_owned(),
            queries,
            query_labels,
            index,
            index_labels,
        })
    }

    fn measure(&self, model: &str, encoder: &Encoder) -> Fallible<()> {
        let show = |form: &str, found: Vec<Vec<usize>>| {
            let (first, all) = (self.recall(&found, 1), self.recall(&found, LIMIT));
            let model = Path::new(model).file_name().unwrap_or_default().display();
            println!(
                "| {}, {model} | {form} | {first:.3} | {all:.3} |",
                self.name
            );
        };
        let (queries, index) = self.encode(encoder)?;
        show("32 bits", by_cosine(&queries, &index)?);
        let rounded = self.encode(&encoder.clone().quantized())?;
        show("8-bit inference", by_cosine(&rounded.0, &rounded.1)?);

        let ranges = Ranges::calibrate(&index)?;
        let found = ranges
            .to_int8(&index)?
            .search(&queries, LIMIT, MULTIPLIER)?;
        show("embeddings of 8 bits, rescored", places(&found));
        let binary = index.to_binary();
        let found = binary.search(&queries, LIMIT, MULTIPLIER)?;
        show("of 1 bit, rescored", places(&found));
        let found = binary.nearest(&queries.to_binary(), LIMIT)?;
        let found = found
            .iter()
            .map(|ranking| ranking.iter().map(|found| found.index).collect());
        show("of 1 bit", found.collect());
        let half = index.dim / 2;
        let (queries, index) = (queries.truncated(half)?, index.truncated(half)?);
        show(
            "the first half of the dimensions",
            by_cosine(&queries, &index)?,
        );
        Ok(())
    }

    /// Returns the embeddings of queries and index, normalised.
    fn encode(&self, encoder: &Encoder) -> Fallible<(Embeddings, Embeddings)> {
        let encode = |items: &[String]| -> Fallible<Embeddings> {
            let found = if items.first().is_some_and(|item| item.ends_with(".png")) {
                let read = |item: &String| std::fs::read(self.root.join(item));
                let images = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
                let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
                encoder.encode_images(&images)?
            } else {
                let texts: Vec<&str> = items.iter().map(String::as_str).collect();
                encoder.encode_texts(&texts)?
            };
            Ok(found.truncated(found.dim)?)
        };
        Ok((encode(&self.queries)?, encode(&self.index)?))
    }

    /// Returns the share of queries with a relevant result among the first `limit`.
    fn recall(&self, found: &[Vec<usize>], limit: usize) -> f64 {
        let hits = found
            .iter()
            .zip(&self.query_labels)
            .filter(|(found, label)| {
                let mut found = found.iter().take(limit);
                found.any(|place| self.index_labels[*place] == **label)
            });
        hits.count() as f64 / found.len() as f64
    }
}

fn by_cosine(queries: &Embeddings, index: &Embeddings) -> Fallible<Vec<Vec<usize>>> {
    let rankings = index.search(queries, LIMIT, Distance::Cosine)?;
    let places = rankings
        .iter()
        .map(|ranking| ranking.iter().map(|found| found.index).collect());
    Ok(places.collect())
}

fn places(found: &[Vec<Found>]) -> Vec<Vec<usize>> {
    let places = found
        .iter()
        .map(|found| found.iter().map(|found| found.index).collect());
    places.collect()
}
