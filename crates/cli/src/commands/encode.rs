//! `encode`: writes the embeddings of texts or images to a file.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use finetuner::local::Embeddings;
use serde::Serialize;
use serde_json::{Value, json};

use super::items::{self, Items};
use crate::{
    failure::{Failure, Result},
    output::Output,
    sources::extension,
    whole::write_whole,
};

/// `encode`.
#[derive(Debug, Args)]
pub(crate) struct Encode {
    /// Saved model: the folder of `save`, the zip of `save --zip`, or a model
    /// from `finetuner models`
    model: String,
    /// Folder of images, file of texts (one per line, .csv or .jsonl), or - for
    /// texts on standard input
    items: PathBuf,
    /// File to write: .npy for numpy, or .jsonl [default: JSON Lines on standard
    /// output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Column of a CSV file, by name or number, or member of JSON Lines
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Prompt of the model, by name, such as query
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Keep only the first N dimensions of each embedding
    #[arg(long, value_name = "N")]
    truncate_dim: Option<usize>,
    /// Number of items embedded at once
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Compute with 8-bit numbers: faster, slightly less accurate
    #[arg(long)]
    quantized: bool,
}

impl Encode {
    pub(crate) async fn run(self, output: &Output) -> Result {
        if let Some(path) = &self.output
            && !matches!(extension(path).as_str(), "npy" | "jsonl" | "ndjson")
        {
            return Err(Failure::usage(format!(
                "`--output {}`: the name must end with .npy or .jsonl",
                path.display()
            )));
        }
        let output = *output;
        tokio::task::spawn_blocking(move || self.encode(output)).await?
    }

    fn encode(self, output: Output) -> Result {
        let (items, left_out) = Items::read("ITEMS", &self.items, self.column.as_deref())?;
        if left_out > 0 {
            output.note(&format!(
                "Rows without a text are left out, {left_out} in all: the embeddings are those of \
                 the other {}",
                items.len()
            ));
        }
        let mut model = items::open(&self.model)?.batch_size(self.batch_size);
        if let Some(name) = &self.prompt {
            model = model.prompt(name)?;
        }
        if self.quantized {
            model = model.quantized();
        }
        if let Some(dim) = self.truncate_dim {
            model = model.truncate_dim(dim)?;
        }
        let embeddings = items.embed(&model, output)?;
        let Some(path) = &self.output else {
            for place in 0..items.len() {
                output.value(&line(&items, &embeddings, place))?;
            }
            return Ok(());
        };
        write(path, &items, &embeddings).map_err(|e| Failure::file("--output", path, &e))?;
        let value = json!({"path": path, "embeddings": items.len(), "dim": embeddings.dim});
        output.either(&value, || {
            let (count, dim) = (items.len(), embeddings.dim);
            format!(
                "Wrote {count} embeddings of {dim} numbers to {}",
                path.display()
            )
        })
    }
}

/// A line of the output: an item with its embedding.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    item: Value,
    embedding: &'a [f32],
}

fn line<'a>(items: &Items, embeddings: &'a Embeddings, place: usize) -> Line<'a> {
    Line {
        item: items.as_json(place),
        embedding: embeddings.get(place),
    }
}

/// Writes a temporary file and renames it, so that no partial file remains.
fn write(path: &Path, items: &Items, embeddings: &Embeddings) -> std::io::Result<()> {
    write_whole(path, |out| {
        if extension(path) == "npy" {
            return write_npy(out, embeddings);
        }
        for place in 0..items.len() {
            serde_json::to_writer(&mut *out, &line(items, embeddings, place))?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Writes an array of 32-bit floats in version 1.0 of numpy's format:
/// <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn write_npy(out: &mut (impl Write + ?Sized), embeddings: &Embeddings) -> std::io::Result<()> {
    let shape = format!("({}, {})", embeddings.len(), embeddings.dim);
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}").into_bytes();
    // Magic, version and length take 10 bytes. The format aligns the data to 64 bytes.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.resize(padded - 1, b' ');
    header.push(b'\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(&header)?;
    for value in &embeddings.values {
        out.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_of_numpy_has_an_aligned_header() {
        let embeddings = Embeddings {
            dim: 2,
            values: vec![1.0, 2.0, 3.0, 4.0],
        };
        let mut out = Vec::new();
        write_npy(&mut out, &embeddings).unwrap();
        let length = usize::from(u16::from_le_bytes([out[8], out[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = String::from_utf8_lossy(&out[10..10 + length]);
        assert!(header.contains("'shape': (2, 2)") && header.ends_with('\n'));
        assert_eq!(out.len(), 10 + length + 16);
        assert_eq!(&out[10 + length..][..4], 1.0_f32.to_le_bytes());
    }
}
