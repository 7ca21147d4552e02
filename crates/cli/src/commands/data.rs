//! `push`, `pull`, `data`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use finetuner::{AnnotationChange, ArtifactInfo, Content, Document, DocumentArray, Finetuner};
use serde_json::{Value, json};

use super::{
    annotations::{Tagging, show_note, show_tags},
    runs::{confirm, without_repeats},
};
use crate::{
    failure::{Failure, Result},
    output::{self, Output},
    progress::Transfer,
    session::Session,
    sources::{Reading, extension},
    whole::write_whole,
};

/// `push`.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// Name to store the data under; existing data is replaced
    name: String,
    /// A CSV, JSON Lines or Parquet file, a folder of images, a file of
    /// documents, or - for JSON Lines on standard input
    file: String,
    /// Model that the data is for, which decides the meaning of a file's columns
    /// [default: a model for texts and images]
    #[arg(long)]
    model: Option<String>,
    /// Allow others to read the data
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    reading: Reading,
}

impl Push {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let source = self.reading.source("FILE", &self.file).await?;
        if let finetuner::DataSource::Name(_) = source {
            return Err(Failure::usage(format!(
                "`FILE {}` does not exist: give the path of a file or folder",
                self.file
            )));
        }
        self.reading.check_used()?;
        let finetuner = session.connect().await?;
        let transfer = Transfer::new(*output, "Pushing");
        let mut push = finetuner
            .push(&self.name, source)
            .public(self.public)
            .on_progress(transfer.watcher());
        if let Some(model) = self.model {
            push = push.model(model);
        }
        push.await?;
        drop(transfer);
        let info = finetuner.describe_documents(&self.name).await?;
        output.either(&as_json(&info), || match info.length() {
            Some(length) => format!("Pushed {length} documents as {}", self.name),
            None => format!("Pushed {}", self.name),
        })
    }
}

/// `pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Name of the data, or OWNER/NAME for another user's public data
    name: String,
    /// File to write: .da for docarray and `push`, or .jsonl for people [default:
    /// NAME.da]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Pull {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let path = self.output.unwrap_or_else(|| {
            let name = self.name.rsplit('/').next().unwrap_or_default();
            PathBuf::from(format!("{name}.da"))
        });
        let is_text = match extension(&path).as_str() {
            "da" | "bin" | "docs" | "protobuf" => false,
            "jsonl" | "ndjson" => true,
            _ => {
                return Err(Failure::usage(format!(
                    "`--output {}`: the name must end with .da or .jsonl",
                    path.display()
                )));
            }
        };
        let finetuner = session.connect().await?;
        let documents = finetuner.pull(&self.name).await;
        let documents = documents.map_err(|error| named(error, &self.name))?;
        let count = documents.len();
        match is_text {
            true => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || write_lines(&path, &documents)).await??;
            }
            false => finetuner::save_documents(&path, documents).await?,
        }
        let value = json!({"name": self.name, "path": path, "documents": count});
        output.either(&value, || {
            format!("Wrote {count} documents to {}", path.display())
        })
    }
}

fn write_lines(path: &Path, documents: &DocumentArray) -> Result {
    let written = write_whole(path, |out| {
        (0..documents.len()).try_for_each(|place| writeln!(out, "{}", document(&documents[place])))
    });
    written.map_err(|e| Failure::file("--output", path, &e))
}

/// Converts a document to readable JSON, with only the sizes of bytes and arrays.
fn document(document: &Document) -> Value {
    let mut value = json!({"id": document.id});
    match &document.content {
        Some(Content::Text(text)) => value["text"] = text.as_str().into(),
        Some(Content::Blob(bytes)) => value["blob_bytes"] = bytes.len().into(),
        Some(_) => value["tensor"] = true.into(),
        None => {}
    }
    if !document.uri.is_empty() {
        value["uri"] = document.uri.as_str().into();
    }
    if let Some(modality) = &document.modality {
        value["modality"] = modality.as_str().into();
    }
    if !document.tags.is_empty() {
        value["tags"] = document.tags.clone().into();
    }
    if !document.chunks.is_empty() {
        let chunks = document.chunks.iter().map(self::document);
        value["chunks"] = chunks.collect::<Vec<_>>().into();
    }
    value
}

/// `data`.
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// List the data that was pushed
    List,
    /// Show information about data
    Show {
        /// Name of the data
        name: String,
    },
    /// Show, add or remove the tags of data
    Tag {
        /// Its name
        name: String,
        #[command(flatten)]
        tagging: Tagging,
    },
    /// Show or change the note of data
    Note {
        /// Its name
        name: String,
        /// The new note, "" for none; without it, the note is shown
        text: Option<String>,
    },
    /// Delete data
    Delete {
        /// Names of the data
        #[arg(required = true)]
        names: Vec<String>,
        /// Delete without asking
        #[arg(long, short)]
        yes: bool,
    },
}

impl Data {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let finetuner = session.connect().await?;
        match self {
            Self::List => {
                let data = finetuner.list_documents().await?;
                if output.is_json() {
                    return output.value(&data.iter().map(as_json).collect::<Vec<_>>());
                }
                let rows = data.iter().map(row);
                output.line(&output::table(
                    &["name", "documents", "visibility", "pushed"],
                    rows,
                ))
            }
            Self::Show { name } => {
                let info = finetuner.describe_documents(&name).await;
                let info = info.map_err(|error| named(error, &name))?;
                if output.is_json() {
                    return output.value(&as_json(&info));
                }
                let summary = info.meta_data["summary"].as_array();
                let rows = summary.into_iter().flatten().map(|item| {
                    let text = |key: &str| match &item[key] {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    vec![text("name"), text("value")]
                });
                output.line(&output::table(&["field", "value"], rows))
            }
            Self::Tag { name, tagging } => {
                let info = annotated(&finetuner, &name, tagging.change()).await?;
                show_tags(&info.annotations, output)
            }
            Self::Note { name, text } => {
                let change = text.map(|text| AnnotationChange::default().note(text));
                let info = annotated(&finetuner, &name, change).await?;
                show_note(&info.annotations, output)
            }
            Self::Delete { names: given, yes } => {
                let names = without_repeats(given);
                for name in &names {
                    let found = finetuner.describe_documents(name).await;
                    found.map_err(|error| named(error, name))?;
                }
                let what = format!("the data {}", names.join(", "));
                confirm(yes, &what, output).await?;
                for (place, name) in names.iter().enumerate() {
                    let deleted = finetuner.delete_documents(name).await;
                    deleted.map_err(|error| {
                        Failure::from(error).after_deleting(&names[..place], &names[place..])
                    })?;
                }
                let deleted = json!({"deleted": names});
                output.either(&deleted, || format!("Deleted {}", names.join(", ")))
            }
        }
    }
}

/// Applies a change of tags or note, if there is one, and returns the data's
/// description.
async fn annotated(
    finetuner: &Finetuner,
    name: &str,
    change: Option<AnnotationChange>,
) -> Result<ArtifactInfo> {
    let info = async || {
        let info = finetuner.describe_documents(name).await;
        info.map_err(|error| named(error, name))
    };
    let before = info().await?;
    let Some(change) = change else {
        return Ok(before);
    };
    finetuner.annotate_artifact(&before.id, change).await?;
    info().await
}

fn named(error: finetuner::Error, name: &str) -> Failure {
    match error.is_not_found() {
        true => Failure::not_found(format!(
            "data `{name}` does not exist; `finetuner data list` shows all data"
        )),
        false => error.into(),
    }
}

fn row(info: &ArtifactInfo) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    vec![
        text(&info.name),
        info.length().map_or_else(String::new, |n| n.to_string()),
        text(&info.visibility),
        info.updated_at
            .or(info.created_at)
            .map_or_else(String::new, |at| at.to_string()),
    ]
}

fn as_json(info: &ArtifactInfo) -> Value {
    json!({
        "id": info.id, "name": info.name, "documents": info.length(),
        "visibility": info.visibility, "created_at": info.created_at,
        "updated_at": info.updated_at, "meta_data": info.meta_data,
        "tags": info.annotations.tags, "note": info.annotations.note,
    })
}
