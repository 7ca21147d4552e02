//! Converts one document to its examples.

use std::ops::RangeInclusive;

use finetuner_protocol::{
    Document, Modality,
    text::{is_blank, is_missing},
};

use super::{
    DataName, Example, Images, Item, Modalities,
    each::Fault,
    numbers::{features, point_cloud},
    texts::text,
};
use crate::{Result, models::ModelKind};

/// Returns the content of a document or chunk, of the kind that the model embeds.
pub(super) fn item(
    images: &Images,
    i: usize,
    document: &Document,
    kind: ModelKind,
) -> Result<Item, Fault> {
    Ok(match kind {
        ModelKind::Text | ModelKind::TextPairs => Item::Text(text(document)?.into()),
        ModelKind::Image => images.take(i, document)?,
        ModelKind::Features => Item::Features(features(document)?.into()),
        ModelKind::PointCloud => Item::PointCloud(point_cloud(document)?),
        ModelKind::TextImage => Err("a CLIP model trains on text-image pairs")?,
    })
}

/// Returns the label of a document, if it has one.
pub(super) fn label(document: &Document) -> Result<Option<String>, String> {
    let bad = |what: &str| {
        Err(format!(
            "its `finetuner_label` is {what}: remove such documents, or give them a label"
        ))
    };
    match document.label() {
        Some(label) if is_blank(&label) => bad("empty"),
        Some(label) if is_missing(&label) => bad(&format!("`{label}`, a missing value")),
        label => Ok(label),
    }
}

/// Returns whether a document is a single text without a label.
pub(super) fn is_alone(document: &Document) -> Result<bool, String> {
    let is_text = document.chunks.is_empty() && document.as_text().is_some();
    Ok(is_text && label(document)?.is_none())
}

/// Returns an example of a text that is embedded twice.
pub(super) fn simcse_example(i: usize, document: &Document) -> Result<Example, Fault> {
    let text = Item::Text(text(document)?.into());
    Ok(Example {
        id: document.id.clone(),
        parts: vec![text.clone(), text],
        label: format!("document {i}"),
        scores: Vec::new(),
    })
}

pub(super) fn text_image_example(
    images: &Images,
    i: usize,
    document: &Document,
    modalities: &Modalities,
) -> Result<Example, Fault> {
    let named = document.chunks.iter().any(|c| c.modality.is_some());
    let find =
        |modality: &str, by_content: &dyn Fn(&Document) -> bool| {
            let chunk = document.chunks.iter().find(|chunk| {
                if named {
                    chunk.modality.as_ref().is_some_and(|own| own == modality)
                } else {
                    by_content(chunk)
                }
            });
            chunk.ok_or_else(|| {
            let present = document.chunks.iter().map(|c| c.modality.as_ref());
            let present: Vec<&str> = present.map(|own| own.map_or("", Modality::as_str)).collect();
            format!(
                "it needs a chunk of modality `{modality}`; it has {} of modalities {present:?}",
                document.chunks.len()
            )
        })
        };
    let text_chunk = find(&modalities.text, &|c| c.as_text().is_some())?;
    let image = find(&modalities.image, &|c| c.as_text().is_none())?;
    let caption = text(text_chunk).map_err(|e| format!("its text chunk: {e}"))?;
    let image = images.take(i, image).map_err(|e| e.of("its image chunk"))?;
    let own = match label(document)? {
        None => label(text_chunk)?,
        own => own,
    };
    Ok(Example {
        id: document.id.clone(),
        label: own.unwrap_or_else(|| caption.to_owned()),
        parts: vec![Item::Text(caption.into()), image],
        scores: Vec::new(),
    })
}

/// Returns an example of a labelled document, or one for each chunk.
///
/// Chunks without labels share a generated one. It contains the name of the data set,
/// so that it differs from those of other data sets.
pub(super) fn labelled_examples(
    images: &Images,
    i: usize,
    document: &Document,
    kind: ModelKind,
    name: DataName<'_>,
) -> Result<Vec<Example>, Fault> {
    let example = |part: &Document, label: String| -> Result<Example, Fault> {
        Ok(Example {
            id: document.id.clone(),
            parts: vec![item(images, i, part, kind)?],
            label,
            scores: Vec::new(),
        })
    };
    if document.chunks.is_empty() {
        let label = label(document)?
            .ok_or("it has no tag `finetuner_label`, which marks related documents")?;
        return Ok(vec![example(document, label)?]);
    }
    let shared = label(document)?.unwrap_or_else(|| format!("document {i} of {}", name.name));
    let chunks = document.chunks.iter().enumerate();
    chunks
        .map(|(number, chunk)| {
            let own = label(chunk).map_err(Fault::from);
            own.and_then(|own| example(chunk, own.unwrap_or_else(|| shared.clone())))
                .map_err(|e| e.of(&format!("its chunk {}", number + 1)))
        })
        .collect()
}

/// Returns an example of a document's content, or of its chunks.
pub(super) fn example_of_content(
    images: &Images,
    i: usize,
    document: &Document,
    kind: ModelKind,
) -> Result<Example, Fault> {
    let count = document.chunks.len();
    if count > 0 {
        return example_of_chunks(images, i, document, kind, 1..=count);
    }
    of_parts(i, document, vec![item(images, i, document, kind)?])
}

/// Returns an example with the label of a document.
fn of_parts(i: usize, document: &Document, parts: Vec<Item>) -> Result<Example, Fault> {
    Ok(Example {
        id: document.id.clone(),
        parts,
        label: label(document)?.unwrap_or_else(|| format!("document {i}")),
        scores: Vec::new(),
    })
}

/// Returns an example whose members are the chunks of a document.
pub(super) fn example_of_chunks(
    images: &Images,
    i: usize,
    document: &Document,
    kind: ModelKind,
    count: RangeInclusive<usize>,
) -> Result<Example, Fault> {
    if !count.contains(&document.chunks.len()) {
        Err(format!(
            "it has {} chunks, but {} are needed",
            document.chunks.len(),
            count.start()
        ))?;
    }
    let parts = document.chunks.iter().enumerate().map(|(number, chunk)| {
        item(images, i, chunk, kind).map_err(|e| e.of(&format!("its chunk {}", number + 1)))
    });
    of_parts(i, document, parts.collect::<Result<_, Fault>>()?)
}

/// Returns an example of an anchor, a positive and its negatives.
pub(super) fn example_with_negatives(
    images: &Images,
    i: usize,
    document: &Document,
    kind: ModelKind,
) -> Result<Example, Fault> {
    let count = document.chunks.len();
    if count < 3 {
        Err(format!(
            "it has {count} chunks; an anchor, a match and at least one negative are needed"
        ))?;
    }
    example_of_chunks(images, i, document, kind, 3..=count)
}
