//! Reads the queries and the index of an evaluation.

use std::collections::HashMap;

use finetuner_protocol::Document;

use super::{
    DataName, Documents, Images, Item, Modalities,
    each::{Fault, convert_documents},
    example::label,
    images,
    numbers::{features, point_cloud},
};
use crate::{Result, models::ModelKind};

/// The data of a retrieval evaluation.
#[derive(Clone, Debug)]
pub struct SearchSet {
    /// The queries.
    pub queries: Vec<Searched>,
    /// The documents to search.
    pub index: Vec<Searched>,
}

impl SearchSet {
    /// Returns the position of each query's own document in the index, if it has one.
    ///
    /// This is the document with the query's id. If several have it, it is the one at
    /// the query's place, or the first if that one has another id.
    pub(crate) fn own_documents(&self) -> Vec<Option<usize>> {
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (position, document) in self.index.iter().enumerate() {
            first.entry(&document.id).or_insert(position);
        }
        let own = self.queries.iter().map(|query| {
            let at_place = self.index.get(query.place);
            match at_place.is_some_and(|document| document.id == query.id) {
                true => Some(query.place),
                false => first.get(query.id.as_str()).copied(),
            }
        });
        own.collect()
    }
}

/// A query, or a document of the index.
#[derive(Clone, Debug)]
pub struct Searched {
    /// Id of the document or chunk that is embedded.
    pub id: String,
    /// Content to embed.
    pub item: Item,
    /// Label that a query shares with its relevant documents.
    pub label: String,
    /// Origin of the item, such as its file; empty if unknown.
    pub uri: String,
    /// Index of the document in its data set.
    pub place: usize,
}

impl Searched {
    /// Returns a name for people: the text, or where the item came from.
    pub(crate) fn name(&self) -> String {
        match (&self.item, self.uri.as_str()) {
            (Item::Text(text), _) => text.to_string(),
            // A data URI is the image itself, not its origin.
            (_, uri) if uri.is_empty() || uri.starts_with("data:") => {
                format!("{} ({})", self.label, self.id)
            }
            (_, uri) => uri.to_owned(),
        }
    }
}

/// The kinds of items in queries and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchKinds {
    /// Kind of the queries.
    pub queries: ModelKind,
    /// Kind of the index documents.
    pub index: ModelKind,
}

/// Documents with the name of their data set.
pub type Named<'a> = (Documents, DataName<'a>);

/// Reads the queries and the index of an evaluation.
///
/// The item is the document itself or one of its chunks. Without an index, the query
/// documents serve as both: if a document has two chunks of one kind, the first is the
/// query and the second goes into the index.
///
/// The label is the tag `finetuner_label` of the document or of its chunk. Without one,
/// the label of a pair is its text.
///
/// # Errors
/// [`crate::Error::Data`] lists up to ten unusable documents by number and id, with
/// what each lacks.
pub fn read_search_set(
    (queries, name): Named<'_>,
    index: Option<Named<'_>>,
    kinds: SearchKinds,
    modalities: &Modalities,
    images: &Images,
) -> Result<SearchSet> {
    let reader = Reader {
        modalities,
        images,
        mixed: kinds.queries != kinds.index,
    };
    const WITH: &str = "can't be searched with";
    const IN: &str = "can't be searched in";
    let (queries, index) = match index {
        Some((index, index_name)) => (
            convert_documents(queries, name, WITH, |i, document| {
                let part = reader.part(document, kinds.queries, false)?;
                reader.searched(i, document, part, kinds.queries)
            })?,
            convert_documents(index, index_name, IN, |i, document| {
                let part = reader.part(document, kinds.index, false)?;
                reader.searched(i, document, part, kinds.index)
            })?,
        ),
        None => {
            let both =
                convert_documents(queries, name, &format!("{WITH} and in"), |i, document| {
                    let query = reader.part(document, kinds.queries, false)?;
                    let found = reader.part(document, kinds.index, !reader.mixed)?;
                    let searched = reader.searched(i, document, query, kinds.queries)?;
                    let in_index = if std::ptr::eq(query, found) {
                        searched.clone()
                    } else {
                        reader.searched(i, document, found, kinds.index)?
                    };
                    Ok((searched, in_index))
                })?;
            both.into_iter().unzip()
        }
    };
    Ok(SearchSet { queries, index })
}

struct Reader<'a> {
    modalities: &'a Modalities,
    images: &'a Images,
    /// Whether queries and index have different kinds.
    ///
    /// Modalities then select the chunks.
    mixed: bool,
}

impl Reader<'_> {
    /// Returns the document itself, or its first chunk of this kind.
    ///
    /// Returns the second chunk if `second` is set and there is one.
    fn part<'a>(
        &self,
        document: &'a Document,
        kind: ModelKind,
        second: bool,
    ) -> Result<&'a Document, Fault> {
        if fits(document, kind) {
            return Ok(document);
        }
        let modality = match kind {
            ModelKind::Text => &self.modalities.text,
            _ => &self.modalities.image,
        };
        let named = self.mixed && document.chunks.iter().any(|c| c.modality.is_some());
        let mut chunks = document.chunks.iter().filter(|c| {
            fits(c, kind)
                && (!named
                    || c.modality
                        .as_ref()
                        .is_some_and(|own| own == modality.as_str()))
        });
        let first = chunks.next();
        let part = if second {
            chunks.next().or(first)
        } else {
            first
        };
        let wanted = match kind {
            ModelKind::Text => "a text",
            ModelKind::Features => "a tensor of numbers",
            ModelKind::PointCloud => "a point cloud",
            _ => "an image",
        };
        part.ok_or_else(|| Fault::Bad(format!("it needs {wanted}")))
    }

    fn searched(
        &self,
        i: usize,
        document: &Document,
        part: &Document,
        kind: ModelKind,
    ) -> Result<Searched, Fault> {
        let caption = document.chunks.iter().find_map(|c| c.as_text());
        let own = match label(document)? {
            None => label(part)?,
            own => own,
        };
        let label = own.or_else(|| caption.or(part.as_text()).map(str::to_owned));
        Ok(Searched {
            id: part.id.clone(),
            item: match kind {
                ModelKind::Text => Item::Text(part.as_text().unwrap_or_default().into()),
                ModelKind::Features => Item::Features(features(part)?.into()),
                ModelKind::PointCloud => Item::PointCloud(point_cloud(part)?),
                _ => self.images.take(i, part)?,
            },
            label: label.ok_or("it has neither a `finetuner_label` nor a text")?,
            uri: part.uri.clone(),
            place: i,
        })
    }
}

fn fits(document: &Document, kind: ModelKind) -> bool {
    match kind {
        ModelKind::Text => document.as_text().is_some(),
        ModelKind::Features => features(document).is_ok(),
        ModelKind::PointCloud => point_cloud(document).is_ok(),
        _ => images::holds_one(document),
    }
}
