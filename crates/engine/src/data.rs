//! From documents to what a model trains on.

use std::sync::Arc;

use finetuner_protocol::{Document, DocumentArray};
use rayon::prelude::*;

use crate::{Error, Result, image, train::Pair};

/// Bad documents that one message lists.
const LISTED: usize = 10;
/// Pictures of a data set that are decoded to see whether they are whole. Of
/// those behind them only the head is looked at: one that is broken further in
/// is found when training comes to it.
const DECODED: usize = 20_000;

/// Which chunk of a document is the text and which the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modalities {
    /// The modality of text chunks.
    pub text: String,
    /// The modality of image chunks.
    pub image: String,
}

impl Default for Modalities {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            image: "image".to_owned(),
        }
    }
}

/// Reads text-image pairs: documents with one chunk of each modality. Where no
/// chunk names a modality, the text is the chunk that holds a text.
///
/// The label of a pair is the tag `finetuner_label` of the document or of its
/// text chunk, else its text: captions that are the same show the same thing.
///
/// # Errors
/// [`Error::Data`] lists the documents that are no such pair, by their ids and
/// up to ten of them, and says what each lacks.
pub fn pairs(documents: &DocumentArray, modalities: &Modalities, name: &str) -> Result<Vec<Pair>> {
    if documents.is_empty() {
        return Err(Error::data(format!("`{name}` holds no documents")));
    }
    let found: Vec<_> = documents
        .par_iter()
        .enumerate()
        .map(|(i, document)| pair(i, document, modalities))
        .collect();
    let mut pairs = Vec::with_capacity(documents.len());
    let mut bad = Vec::new();
    for (i, (document, found)) in documents.iter().zip(found).enumerate() {
        match found {
            Ok(pair) => pairs.push(pair),
            Err(reason) => bad.push(format!("document {} (`{}`): {reason}", i + 1, document.id)),
        }
    }
    if bad.is_empty() {
        return Ok(pairs);
    }
    let (count, all) = (bad.len(), documents.len());
    bad.truncate(LISTED);
    let more = match count - bad.len() {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    Err(Error::data(format!(
        "{count} of {all} documents of `{name}` are no text-image pairs: {}{more}",
        bad.join("; ")
    )))
}

/// Whether the picture at place `i` of a data set can be read.
fn check_picture(i: usize, bytes: &[u8]) -> Result<(), String> {
    let check = if i < DECODED {
        image::check
    } else {
        image::check_head
    };
    check(bytes).map_err(|e| match e {
        Error::Data(reason) => reason,
        other => other.to_string(),
    })
}

fn pair(i: usize, document: &Document, modalities: &Modalities) -> Result<Pair, String> {
    let named = document.chunks.iter().any(|c| !c.modality.is_empty());
    let find =
        |modality: &str, by_content: &dyn Fn(&Document) -> bool| {
            let chunk = document.chunks.iter().find(|chunk| {
                if named {
                    chunk.modality == modality
                } else {
                    by_content(chunk)
                }
            });
            chunk.ok_or_else(|| {
            let present: Vec<&str> = document.chunks.iter().map(|c| c.modality.as_str()).collect();
            format!(
                "it needs a chunk of modality `{modality}`; it has {} of modalities {present:?}",
                document.chunks.len()
            )
        })
        };
    let text = find(&modalities.text, &|c| c.as_text().is_some())?;
    let image = find(&modalities.image, &|c| c.as_text().is_none())?;
    let caption = text
        .as_text()
        .filter(|text| !text.trim().is_empty())
        .ok_or("its text chunk holds no text")?;
    let bytes = image.as_blob().ok_or_else(|| {
        if image.uri.is_empty() {
            "its image chunk holds no picture".to_owned()
        } else {
            format!(
                "its image chunk names `{}` and holds no bytes: load pictures into blobs before pushing",
                image.uri
            )
        }
    })?;
    check_picture(i, bytes)?;
    let label = document
        .label()
        .or_else(|| text.label())
        .unwrap_or_else(|| caption.to_owned());
    Ok(Pair {
        id: document.id.clone(),
        image: Arc::from(bytes),
        text: caption.to_owned(),
        label,
    })
}

/// Texts to search with and pictures to search in.
pub(crate) struct SearchSet<'a> {
    pub(crate) queries: Vec<Query<'a>>,
    pub(crate) index: Vec<Indexed<'a>>,
}

pub(crate) struct Query<'a> {
    pub(crate) id: &'a str,
    pub(crate) text: &'a str,
    pub(crate) label: String,
}

pub(crate) struct Indexed<'a> {
    pub(crate) id: &'a str,
    pub(crate) image: &'a [u8],
    pub(crate) label: String,
    /// Where the picture came from, where that is known.
    pub(crate) uri: &'a str,
    /// The number of its document, counted from 0.
    pub(crate) place: usize,
}

/// Reads what an evaluation searches with and in. Queries are texts or pairs,
/// the index is pictures or pairs; without an index, the pairs are both.
///
/// The label of a document is its tag `finetuner_label`, or that of its chunk;
/// without one, a pair's label is its text.
pub(crate) fn search_set<'a>(
    queries: &'a DocumentArray,
    index: Option<&'a DocumentArray>,
    modalities: &Modalities,
    name: &str,
) -> Result<SearchSet<'a>> {
    let index = index.unwrap_or(queries);
    let bad = |i: usize, document: &Document, what: &str| {
        Error::data(format!(
            "document {} (`{}`) of `{name}`: {what}",
            i + 1,
            document.id
        ))
    };
    // The document itself, or its chunk of the wanted kind.
    let part = |document: &'a Document, modality: &str, fits: fn(&Document) -> bool| {
        if fits(document) {
            return Some(document);
        }
        let named = document.chunks.iter().any(|c| !c.modality.is_empty());
        document
            .chunks
            .iter()
            .find(|c| fits(c) && (!named || c.modality == modality))
    };
    let label = |document: &Document, part: &Document| {
        let caption = document.chunks.iter().find_map(|c| c.as_text());
        document
            .label()
            .or_else(|| part.label())
            .or_else(|| caption.or(part.as_text()).map(str::to_owned))
    };
    let queries = queries.iter().enumerate().map(|(i, document)| {
        let part = part(document, &modalities.text, |d| d.as_text().is_some())
            .ok_or_else(|| bad(i, document, "a query needs a text"))?;
        Ok(Query {
            id: &part.id,
            text: part.as_text().unwrap_or_default(),
            label: label(document, part).unwrap_or_default(),
        })
    });
    let queries: Vec<Query<'_>> = queries.collect::<Result<_>>()?;
    let index = index.iter().enumerate().map(|(i, document)| {
        let part =
            part(document, &modalities.image, |d| d.as_blob().is_some()).ok_or_else(|| {
                bad(
                    i,
                    document,
                    "a document of the index needs a picture as a blob",
                )
            })?;
        Ok(Indexed {
            id: &part.id,
            image: part.as_blob().unwrap_or_default(),
            uri: &part.uri,
            place: i,
            label: label(document, part)
                .ok_or_else(|| bad(i, document, "it has neither a `finetuner_label` nor a text"))?,
        })
    });
    let index = index.collect::<Result<_>>()?;
    if queries.is_empty() {
        return Err(Error::data(format!("`{name}` holds no queries")));
    }
    Ok(SearchSet { queries, index })
}

/// Checks that data can be searched with and in, as an evaluation does.
///
/// # Errors
/// [`Error::Data`] names a document that can't.
pub fn check_search_set(
    queries: &DocumentArray,
    index: Option<&DocumentArray>,
    modalities: &Modalities,
    name: &str,
) -> Result<()> {
    let set = search_set(queries, index, modalities, name)?;
    let pictures = set.index.par_iter().enumerate();
    pictures
        .map(|(i, indexed)| {
            check_picture(i, indexed.image).map_err(|reason| {
                Error::data(format!(
                    "picture {} (`{}`) to search in for `{name}`: {reason}",
                    i + 1,
                    indexed.id
                ))
            })
        })
        .collect()
}

/// Splits off a part of the pairs to validate with, drawn at random by `seed`.
#[must_use]
pub fn split(pairs: Vec<Pair>, part: f64, seed: u64) -> (Vec<Pair>, Vec<Pair>) {
    let held_out = (pairs.len() as f64 * part).round() as usize;
    let mut order = crate::train::shuffled_order(pairs.len(), seed, usize::MAX);
    let mut chosen = order.split_off(pairs.len() - held_out.min(pairs.len()));
    chosen.sort_unstable();
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (i, pair) in pairs.into_iter().enumerate() {
        if chosen.binary_search(&i).is_ok() {
            validation.push(pair);
        } else {
            train.push(pair);
        }
    }
    (train, validation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of one red pixel.
    fn png() -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = ::image::RgbImage::from_pixel(1, 1, ::image::Rgb([255, 0, 0]));
        let mut out = std::io::Cursor::new(&mut bytes);
        picture
            .write_to(&mut out, ::image::ImageFormat::Png)
            .unwrap();
        bytes
    }

    fn good(text: &str) -> Document {
        Document::new()
            .with_chunk(Document::blob(png()).with_modality("image"))
            .with_chunk(Document::text(text).with_modality("text"))
    }

    #[test]
    fn reads_pairs_by_modality_by_given_names_and_without_names() {
        let array = DocumentArray::from(vec![good("a shoe")]);
        let found = pairs(&array, &Modalities::default(), "train").unwrap();
        assert_eq!(found[0].text, "a shoe");
        assert_eq!(found[0].label, "a shoe");
        assert_eq!(found[0].image[..], png());

        let mut renamed = array.clone();
        renamed[0].chunks[0].modality = "photo".to_owned();
        renamed[0].chunks[1].modality = "title".to_owned();
        renamed[0].chunks[1] = renamed[0].chunks[1].clone().with_label(7);
        let names = Modalities {
            text: "title".to_owned(),
            image: "photo".to_owned(),
        };
        assert_eq!(pairs(&renamed, &names, "train").unwrap()[0].label, "7");

        let mut unnamed = array;
        for chunk in &mut unnamed[0].chunks {
            chunk.modality.clear();
        }
        assert_eq!(pairs(&unnamed, &names, "train").unwrap()[0].text, "a shoe");
    }

    #[test]
    fn lists_every_bad_document_with_its_number_id_and_fault() {
        let mut only_text = Document::text("x");
        only_text.id = "plain".to_owned();
        let mut no_image = good("x");
        no_image.chunks.remove(0);
        let mut broken = good("x");
        broken.chunks[0] = Document::blob(&b"\x89PNG nonsense"[..]).with_modality("image");
        let mut remote = good("x");
        remote.chunks[0].content = None;
        remote.chunks[0].uri = "shoe.png".to_owned();
        let mut blank = good(" ");
        blank.id = "blank".to_owned();
        let mut cut_off = good("x");
        let whole = png();
        cut_off.chunks[0] = Document::blob(&whole[..whole.len() - 20]).with_modality("image");
        let all = vec![
            good("y"),
            only_text,
            no_image,
            broken,
            remote,
            blank,
            cut_off,
        ];
        let array = DocumentArray::from(all);
        let message = pairs(&array, &Modalities::default(), "train")
            .unwrap_err()
            .to_string();
        for part in [
            "6 of 7 documents of `train`",
            "document 2 (`plain`): it needs a chunk of modality `text`; it has 0",
            "document 3",
            "chunk of modality `image`; it has 1 of modalities [\"text\"]",
            "document 4",
            "not a readable picture",
            "document 5",
            "`shoe.png` and holds no bytes",
            "document 6 (`blank`): its text chunk holds no text",
            "document 7",
        ] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
        let many = DocumentArray::from(vec![Document::new(); 25]);
        let message = pairs(&many, &Modalities::default(), "t")
            .unwrap_err()
            .to_string();
        assert!(message.ends_with("; and 15 more"), "{message}");
        let none = pairs(&DocumentArray::new(), &Modalities::default(), "t");
        assert!(none.unwrap_err().to_string().contains("holds no documents"));
    }

    #[test]
    fn splitting_keeps_every_pair_once() {
        let array: DocumentArray = (0..20).map(|i| good(&i.to_string())).collect();
        let all = pairs(&array, &Modalities::default(), "t").unwrap();
        let (train, validation) = split(all.clone(), 0.25, 3);
        assert_eq!((train.len(), validation.len()), (15, 5));
        let mut texts: Vec<&str> = train
            .iter()
            .chain(&validation)
            .map(|p| p.text.as_str())
            .collect();
        texts.sort_by_key(|t| t.parse::<u32>().unwrap());
        assert_eq!(texts, (0..20).map(|i| i.to_string()).collect::<Vec<_>>());
        let (_, again) = split(all.clone(), 0.25, 3);
        let (_, other) = split(all, 0.25, 4);
        let ids = |pairs: &[Pair]| pairs.iter().map(|p| p.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&validation), ids(&again));
        assert_ne!(ids(&validation), ids(&other));
    }
}
