//! Mines hard negatives with an encoder, from documents to documents.

use finetuner_protocol::{Document, HardNegatives};

use super::{Format, Mined, Role, Row, Source, mine};
use crate::{
    Error, Result,
    data::{DataName, Documents, Images, Item, Layout, read, read_corpus},
    infer::{Encoder, ItemRef},
    models::ModelKind,
};

/// Default prompt names of sentence-transformers, in order of preference.
const QUERY_PROMPTS: [&str; 1] = ["query"];
const CORPUS_PROMPTS: [&str; 3] = ["document", "passage", "corpus"];

/// Names of the prompts for queries and documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// Prompt of queries; by default `query`, if the model has it.
    pub query: Option<String>,
    /// Prompt of documents.
    ///
    /// By default, the first of `document`, `passage` and `corpus` that the model has.
    pub corpus: Option<String>,
}

/// Returns the encoder with a prompt: the named one, or the first of `usual`.
fn prompted(encoder: &Encoder, named: Option<&str>, usual: &[&str]) -> Result<Encoder> {
    let prompts = encoder.prompts();
    let found = usual
        .iter()
        .find(|name| prompts.names().any(|n| n == **name));
    match named.or(found.copied()) {
        Some(name) => encoder.prompt(name),
        None => Ok(encoder.clone()),
    }
}

/// Mines negatives for pairs of documents.
///
/// Candidates are the positives of other pairs, and the corpus. Calls `progress` with
/// the number of compared documents and their total.
///
/// # Errors
/// [`Error::Config`] names an invalid option, [`Error::Data`] the invalid documents.
pub fn mine_with(
    encoder: &Encoder,
    pairs: Documents,
    corpus: Option<Documents>,
    options: &HardNegatives,
    prompts: &Prompts,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Mined> {
    let kind = encoder.kind();
    if kind == ModelKind::TextImage {
        let reason = "hard negatives are mined with a model for one kind of items; this one embeds \
                      texts and images";
        return Err(Error::data(reason));
    }
    if let Some(name) = &options.corpus {
        let reason = format!("`{name}` names data of a backend; give the documents themselves");
        return Err(Error::config("mine_hard_negatives.corpus", reason));
    }
    let names = ["pairs", "corpus"].map(|name| DataName { field: name, name });
    let images = Images::kept_in(&std::env::temp_dir())?;
    let examples = read(pairs, &Layout::Pairs(kind), names[0], &images)?;
    let corpus = match corpus {
        None => Vec::new(),
        Some(documents) => read_corpus(documents, kind, names[1], &images)?,
    };
    let pairs = examples.into_iter().map(|example| {
        let id = example.id;
        <[Item; 2]>::try_from(example.parts)
            .map_err(|parts| Error::data(format!("document `{id}` has {} parts", parts.len())))
    });
    let pairs: Vec<[Item; 2]> = pairs.collect::<Result<_>>()?;
    let batch = options.batch_size as usize;
    let queries = prompted(encoder, prompts.query.as_deref(), &QUERY_PROMPTS)?;
    let documents = prompted(encoder, prompts.corpus.as_deref(), &CORPUS_PROMPTS)?;
    let (queries, documents) = (queries.batch_size(batch), documents.batch_size(batch));
    let mut embed = |role: Role, items: &[&Item]| {
        let items: Vec<ItemRef<'_>> = items.iter().map(|item| (*item).into()).collect();
        match role {
            Role::Query => queries.encode(&items),
            Role::Document => documents.encode(&items),
        }
    };
    let source = Source {
        pairs: &pairs,
        corpus: &corpus,
        known: &[],
    };
    let mut progress = |done: usize, all: usize| {
        progress(done, all);
        Ok(())
    };
    mine(source, options, 0, &mut embed, &mut progress)
}

impl Mined {
    /// Returns the output as documents with one chunk per item, the query first.
    ///
    /// The tags `labels` and `scores` hold labels and scores. A labelled pair has
    /// `finetuner_score` instead.
    ///
    /// # Errors
    /// [`Error::Io`] if an image can't be read.
    pub fn documents(&self) -> impl Iterator<Item = Result<Document>> {
        self.rows().map(|row| document(row, self.format()))
    }
}

fn document(row: Row<'_>, format: Format) -> Result<Document> {
    let mut document = Document::new();
    for item in &row.items {
        document = document.with_chunk(chunk(item)?);
    }
    if format == Format::LabeledPair {
        let label = row.labels.first().map(|label| f64::from(*label));
        let score = row.scores.first().map(|score| f64::from(*score));
        return Ok(document.with_score(label.or(score).unwrap_or(0.0)));
    }
    if !row.labels.is_empty() {
        document = document.with_tag("labels", row.labels);
    }
    if !row.scores.is_empty() {
        document = document.with_tag("scores", row.scores);
    }
    Ok(document)
}

fn chunk(item: &Item) -> Result<Document> {
    Ok(match item {
        Item::Text(text) => Document::text(&**text),
        Item::Image(bytes) => Document::blob(&**bytes),
        Item::Stored(stored) => Document::blob(stored.read()?),
        Item::Features(values) => Document::tensor(values, &[values.len() as u32]),
        Item::PointCloud(points) => {
            Document::tensor(points.as_flattened(), &[points.len() as u32, 3])
        }
    })
}
