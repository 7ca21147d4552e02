//! `search`: searches with a model on this machine.

use std::path::PathBuf;

use clap::Args;
use finetuner::local::Distance;
use serde_json::{Value, json};

use super::items::{self, Items};
use crate::{
    failure::{Failure, Result},
    output::{self, Output},
};

/// `search`.
#[derive(Debug, Args)]
pub(crate) struct Search {
    /// Saved model: the folder of `save`, the zip of `save --zip`, or a model
    /// from `finetuner models`
    model: String,
    /// Items to search in: a folder of images, a file of texts (one per line,
    /// .csv or .jsonl), or - for texts on standard input
    items: PathBuf,
    /// Text to search for
    #[arg(value_name = "QUERY")]
    queries: Vec<String>,
    /// Image to search for; may be given several times
    #[arg(long, value_name = "FILE")]
    picture: Vec<PathBuf>,
    /// Number of matches per query
    #[arg(short = 'k', long = "matches", default_value_t = 10)]
    matches: usize,
    /// Column of a CSV file, by name or number, or member of JSON Lines
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Compute with 8-bit numbers: faster, slightly less accurate
    #[arg(long)]
    quantized: bool,
}

impl Search {
    pub(crate) async fn run(self, output: &Output) -> Result {
        if self.queries.is_empty() && self.picture.is_empty() {
            return Err(Failure::usage(
                "there is nothing to search for: give a text as QUERY, or `--picture FILE`",
            ));
        }
        let output = *output;
        tokio::task::spawn_blocking(move || self.search(output)).await?
    }

    fn search(self, output: Output) -> Result {
        let (items, _) = Items::read("ITEMS", &self.items, self.column.as_deref())?;
        for picture in &self.picture {
            std::fs::metadata(picture).map_err(|e| Failure::file("--picture", picture, &e))?;
        }
        let mut model = items::open(&self.model)?;
        if self.quantized {
            model = model.quantized();
        }
        let index = items.embed(&model, output)?;
        for queries in [Items::Texts(self.queries), Items::Images(self.picture)] {
            if queries.len() == 0 {
                continue;
            }
            let asked = queries.embed(&model, output)?;
            let found = index.search(&asked, self.matches, Distance::Cosine)?;
            for (place, ranking) in found.iter().enumerate() {
                let found = ranking.iter().map(|found| {
                    let mut value = items.as_json(found.index);
                    value["index"] = found.index.into();
                    value["score"] = json!(1.0 - found.distance);
                    value
                });
                if output.is_json() {
                    let mut value = json!({"query": queries.as_json(place)});
                    value["matches"] = found.collect::<Vec<Value>>().into();
                    output.value(&value)?;
                    continue;
                }
                output.line(&output::bold(&output::without_controls(
                    &queries.shown(place),
                )))?;
                for found in ranking {
                    let text = output::without_controls(&items.shown(found.index));
                    output.line(&format!("  {:.3}  {text}", 1.0 - found.distance))?;
                }
            }
        }
        Ok(())
    }
}
