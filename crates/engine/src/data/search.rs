//! What an evaluation searches with and in.

use finetuner_protocol::{Document, DocumentArray};
use rayon::prelude::*;

use super::{Modalities, check_picture, features, picture};
use crate::{Error, Result, infer::ItemRef, models::ModelKind};

/// What to search with and what to search in.
pub(crate) struct SearchSet<'a> {
    pub(crate) queries: Vec<Searched<'a>>,
    pub(crate) index: Vec<Searched<'a>>,
}

/// A query, or a document of the index.
pub(crate) struct Searched<'a> {
    pub(crate) id: &'a str,
    pub(crate) item: ItemRef<'a>,
    pub(crate) label: String,
    /// Where it came from, where that is known.
    pub(crate) uri: &'a str,
    /// The number of its document, counted from 0.
    pub(crate) place: usize,
}

impl Searched<'_> {
    /// What a person knows it by: its text, or where it came from.
    pub(crate) fn name(&self) -> String {
        match (&self.item, self.uri) {
            (ItemRef::Text(text), _) => (*text).to_owned(),
            (_, "") => format!("{} ({})", self.label, self.id),
            (_, uri) => uri.to_owned(),
        }
    }
}

/// What queries and index are, of a model that embeds one kind or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchKinds {
    /// What the queries are.
    pub queries: ModelKind,
    /// What the index is.
    pub index: ModelKind,
}

/// Reads what an evaluation searches with and in. A document is the item
/// itself, or has it as a chunk; without an index, the queries' documents are
/// both. Where such a document holds two chunks of one kind, the first is
/// searched with and the second found.
///
/// The label of a document is its tag `finetuner_label`, or that of its chunk;
/// without one, a pair's label is its text.
pub(crate) fn search_set<'a>(
    queries: &'a DocumentArray,
    index: Option<&'a DocumentArray>,
    kinds: SearchKinds,
    modalities: &Modalities,
    name: &str,
) -> Result<SearchSet<'a>> {
    let pairs = index.is_none() && kinds.queries == kinds.index;
    let part_of = |document: &'a Document, kind: ModelKind, second: bool| {
        if fits(document, kind) {
            return Some(document);
        }
        let modality = match kind {
            ModelKind::Text => &modalities.text,
            _ => &modalities.image,
        };
        // Modalities tell apart what a CLIP embeds.
        let named =
            kinds.queries != kinds.index && document.chunks.iter().any(|c| !c.modality.is_empty());
        let mut chunks = document
            .chunks
            .iter()
            .filter(|c| fits(c, kind) && (!named || c.modality == *modality));
        let first = chunks.next();
        if second {
            chunks.next().or(first)
        } else {
            first
        }
    };
    let read = |documents: &'a DocumentArray, kind: ModelKind, second: bool, role: &str| {
        let searched = documents.iter().enumerate().map(|(i, document)| {
            let bad = |what: &str| {
                let id = &document.id;
                Error::data(format!("document {} (`{id}`) of `{name}`: {what}", i + 1))
            };
            let part = part_of(document, kind, second);
            let part = part.ok_or_else(|| bad(&format!("{role} needs {}", wanted(kind))))?;
            let caption = document.chunks.iter().find_map(|c| c.as_text());
            let label = document
                .label()
                .or_else(|| part.label())
                .or_else(|| caption.or(part.as_text()).map(str::to_owned));
            Ok(Searched {
                id: &part.id,
                item: item(part, kind).map_err(|e| bad(&e))?,
                label: label.ok_or_else(|| bad("it has neither a `finetuner_label` nor a text"))?,
                uri: &part.uri,
                place: i,
            })
        });
        searched.collect::<Result<Vec<_>>>()
    };
    let found = read(queries, kinds.queries, false, "a query")?;
    let index = read(
        index.unwrap_or(queries),
        kinds.index,
        pairs,
        "a document of the index",
    )?;
    if found.is_empty() {
        return Err(Error::data(format!("`{name}` holds no queries")));
    }
    Ok(SearchSet {
        queries: found,
        index,
    })
}

fn fits(document: &Document, kind: ModelKind) -> bool {
    match kind {
        ModelKind::Text => document.as_text().is_some(),
        ModelKind::Features => features(document).is_ok(),
        _ => document.as_blob().is_some(),
    }
}

fn wanted(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Text => "a text",
        ModelKind::Features => "a tensor of numbers",
        _ => "a picture as a blob",
    }
}

fn item(part: &Document, kind: ModelKind) -> Result<ItemRef<'_>, String> {
    Ok(match kind {
        ModelKind::Text => ItemRef::Text(part.as_text().unwrap_or_default()),
        ModelKind::Features => ItemRef::Features(features(part)?.into()),
        _ => ItemRef::Image(picture(part)?),
    })
}

/// Checks that data can be searched with and in, as an evaluation does.
///
/// # Errors
/// [`Error::Data`] names a document that can't.
pub fn check_search_set(
    queries: &DocumentArray,
    index: Option<&DocumentArray>,
    kinds: SearchKinds,
    modalities: &Modalities,
    name: &str,
) -> Result<()> {
    let set = search_set(queries, index, kinds, modalities, name)?;
    let all = [("search with", &set.queries), ("search in", &set.index)];
    for (role, searched) in all {
        searched
            .par_iter()
            .enumerate()
            .try_for_each(|(i, searched)| {
                let ItemRef::Image(bytes) = searched.item else {
                    return Ok(());
                };
                check_picture(i, bytes).map_err(|reason| {
                    Error::data(format!(
                        "picture {} (`{}`) to {role} for `{name}`: {reason}",
                        i + 1,
                        searched.id
                    ))
                })
            })?;
    }
    Ok(())
}
