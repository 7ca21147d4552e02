//! Writes the documents of a synthesis run.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use finetuner_protocol::{Document, stream_frame, stream_head};

use super::mine::Candidate;
use crate::{Error, Result};

/// Writes a fixed number of documents.
pub(super) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    written: u64,
    all: u64,
    /// Number of queries so far, for document IDs.
    queries: u64,
}

impl Writer {
    /// Creates a file of `all` documents in a folder.
    pub(super) fn create(folder: &Path, all: u64) -> Result<Self> {
        let path = folder.join("train_data");
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut writer = Self {
            out: BufWriter::new(file),
            path,
            written: 0,
            all,
            queries: 0,
        };
        writer.put(&stream_head(all))?;
        Ok(writer)
    }

    /// Returns whether all documents are written.
    pub(super) fn is_full(&self) -> bool {
        self.written >= self.all
    }

    /// Writes the documents of a query: its first candidate against each of the
    /// others.
    pub(super) fn add(&mut self, query: &str, found: &[Candidate], scores: &[f32]) -> Result<()> {
        self.queries += 1;
        let (Some((matching, others)), Some((best, scores))) =
            (found.split_first(), scores.split_first())
        else {
            return Ok(());
        };
        for (number, (other, score)) in others.iter().zip(scores).enumerate() {
            if self.is_full() {
                return Ok(());
            }
            let part = |index: usize, text: &str| {
                let mut part = Document::text(text).with_modality("text");
                part.id = format!("{}-{number}-{index}", self.queries);
                part
            };
            let document = Document::new()
                .with_id(format!("{}-{number}", self.queries))
                .with_chunk(part(0, query))
                .with_chunk(part(1, &matching.text))
                .with_chunk(part(2, &other.text))
                .with_tag("finetuner_score", f64::from(best - score));
            self.written += 1;
            let frame = stream_frame(&document, self.written);
            let frame = frame.map_err(|e| Error::data(format!("query `{}`: {e}", document.id)))?;
            self.put(&frame)?;
        }
        Ok(())
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> Result<Synthesized> {
        self.out.flush().map_err(|e| Error::io(&self.path, e))?;
        Ok(Synthesized {
            file: self.path,
            documents: self.written,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .map_err(|e| Error::io(&self.path, e))
    }
}

/// Training data from a synthesis run.
#[derive(Debug)]
pub struct Synthesized {
    /// A file with the documents.
    pub file: PathBuf,
    /// The number of documents.
    pub documents: u64,
}
