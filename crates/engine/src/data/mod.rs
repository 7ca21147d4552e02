//! Converts documents to training examples and evaluation data.

mod corpus;
mod each;
mod example;
mod images;
mod parts;
mod read;
mod scores;
mod search;
mod texts;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

pub use corpus::read_corpus;
pub use each::Documents;
use finetuner_protocol::{
    Callback, Content, Document, MoreData, NdArray, RunConfig, text::is_blank,
};
pub use images::{ImageFile, Images, Stored};
pub use parts::{Mixing, Part};
pub use read::read;
pub use search::{Named, SearchKinds, SearchSet, Searched, read_search_set};
pub(crate) use texts::{read_text, texts};
use tokenizers::NormalizedString;

use crate::{Result, cloud::check_cloud, models::ModelKind};

/// A data set, as messages name it.
///
/// Users know it by the argument they passed; the server knows it by a name that may be
/// generated.
#[derive(Clone, Copy, Debug)]
pub struct DataName<'a> {
    /// Field of the run's configuration, such as `train_data`.
    pub field: &'a str,
    /// Name of the data set.
    pub name: &'a str,
}

/// Configuration field that names the corpus for hard negatives.
pub(crate) const CORPUS: &str = "mine_hard_negatives.corpus";

impl<'a> DataName<'a> {
    /// Finds the configuration field of the data set `name`.
    #[must_use]
    pub fn of_run(config: &RunConfig, name: &'a str) -> Self {
        let is_query = |callback: &Callback| matches!(callback, Callback::EvaluationCallback(e) if e.query_data == name);
        let data = &config.data;
        let is_more = |more: &MoreData| more.name == name;
        let mined = config.hyper_parameters.mine_hard_negatives.as_ref();
        let field = if data.train_data == name {
            "train_data"
        } else if data.more_train_data.iter().any(is_more) {
            "more_train_data"
        } else if data.eval_data.as_deref() == Some(name) {
            "eval_data"
        } else if config.callbacks.iter().any(is_query) {
            "query_data"
        } else if mined.is_some_and(|mining| mining.corpus.as_deref() == Some(name)) {
            CORPUS
        } else {
            "index_data"
        };
        Self { field, name }
    }
}

impl std::fmt::Display for DataName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { field, name } = self;
        match field == name {
            true => write!(f, "`{field}`"),
            false => write!(f, "`{field}` (`{name}`)"),
        }
    }
}

/// Modalities that mark the text chunk and the image chunk of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modalities {
    /// Modality of text chunks.
    pub text: String,
    /// Modality of image chunks.
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

/// Something to embed.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A text.
    Text(Arc<str>),
    /// An encoded image: PNG, JPEG, GIF, WebP or BMP.
    Image(Arc<[u8]>),
    /// An image stored in a file.
    Stored(Stored),
    /// Features that another program computed.
    Features(Arc<[f32]>),
    /// A point cloud.
    PointCloud(Arc<[[f32; 3]]>),
}

impl Item {
    pub(crate) fn content_key(&self) -> u64 {
        match self {
            Self::Text(text) => key(&**text),
            Self::Image(bytes) => key(&**bytes),
            Self::Stored(stored) => stored.content_key(),
            Self::Features(values) => numbers_key(values),
            Self::PointCloud(points) => numbers_key(points.as_flattened()),
        }
    }
}

/// A training example.
#[derive(Clone, Debug)]
pub struct Example {
    /// Id of the document, for messages.
    pub id: String,
    /// Members: one item, a pair, a triplet, or a pair and its negatives.
    pub parts: Vec<Item>,
    /// Label that related examples share.
    pub label: String,
    /// Score of a pair, or margins of an anchor, its positive and its negatives.
    ///
    /// Empty for most losses.
    pub scores: Vec<f32>,
}

impl Example {
    /// Returns whether the example is a single text that is embedded twice.
    pub(crate) fn is_twice(&self) -> bool {
        matches!(&self.parts[..], [Item::Text(a), Item::Text(b)] if Arc::ptr_eq(a, b))
    }

    /// Creates an example of an image and its text.
    #[must_use]
    pub fn text_image(id: impl Into<String>, text: &str, image: &[u8]) -> Self {
        Self {
            id: id.into(),
            parts: vec![Item::Text(text.into()), Item::Image(image.into())],
            label: text.to_owned(),
            scores: Vec::new(),
        }
    }
}

/// Layout of the documents of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Documents with a text chunk and an image chunk.
    TextImage(Modalities),
    /// Documents with the tag `finetuner_label`, or documents with related chunks.
    Labelled(ModelKind),
    /// Documents with one item each, or with the same number of chunks each.
    Items(ModelKind),
    /// Documents with two chunks, or documents that share labels.
    Pairs(ModelKind),
    /// As [`Layout::Pairs`].
    ///
    /// Further chunks are negatives, the same number in each document.
    Ranking(ModelKind),
    /// Documents with two chunks and the tag `finetuner_score`.
    Scored(ModelKind),
    /// Documents with at least three chunks: an anchor, a positive and negatives.
    ///
    /// All documents have the same number of negatives.
    Negatives(ModelKind),
    /// As [`Layout::Negatives`], with the tag `finetuner_score`.
    ///
    /// The tag holds a margin for each negative, or the scores of the positive and of
    /// each negative.
    Margins(ModelKind),
}

impl Layout {
    /// Describes documents of this layout, in plural.
    fn describe(&self) -> &'static str {
        match self {
            Self::TextImage(_) => "text-image pairs",
            Self::Labelled(_) => "labelled documents",
            Self::Items(_) => "items to embed",
            Self::Pairs(_) | Self::Ranking(_) => "pairs",
            Self::Scored(_) => "pairs with a score",
            Self::Negatives(_) => "documents of an anchor, a match and negatives",
            Self::Margins(_) => "documents of an anchor, a match and negatives with margins",
        }
    }
}

/// Examples with the class of each.
#[derive(Clone, Debug, Default)]
pub struct TrainingSet {
    /// The examples.
    pub examples: Vec<Example>,
    /// Class index of each example: equal labels have equal indices.
    pub classes: Vec<u32>,
    /// The data sets that the examples come from, in order.
    ///
    /// Empty if there is only one.
    pub parts: Vec<Part>,
    /// Order of batches from several data sets.
    pub mixing: Mixing,
}

/// Maps labels to class indices.
#[derive(Clone, Debug, Default)]
pub struct Classes(HashMap<String, u32>);

impl Classes {
    /// Returns the number of classes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no classes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a label has a class index.
    #[must_use]
    pub fn knows(&self, label: &str) -> bool {
        self.0.contains_key(label)
    }

    /// Assigns class indices to examples. New labels get the next indices.
    #[must_use]
    pub fn number(&mut self, examples: Vec<Example>) -> TrainingSet {
        let classes = examples
            .iter()
            .map(|example| {
                let next = self.0.len() as u32;
                *self.0.entry(example.label.clone()).or_insert(next)
            })
            .collect();
        TrainingSet {
            examples,
            classes,
            ..TrainingSet::default()
        }
    }
}

impl TrainingSet {
    /// Returns the number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Returns whether there are no examples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Returns hashes of each example's class and members.
    ///
    /// Examples that share a hash are not negatives of each other.
    pub(crate) fn shared_keys(&self, range: Range<usize>) -> Vec<Vec<u64>> {
        let of = |(example, class): (&Example, &u32)| {
            let parts = example.parts.iter().map(Item::content_key);
            std::iter::once(key(class)).chain(parts).collect()
        };
        let classes = self.classes[range.clone()].iter();
        self.examples[range].iter().zip(classes).map(of).collect()
    }
}

/// Returns a hash of a value, stable within one process.
fn key(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn numbers_key(values: &[f32]) -> u64 {
    let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    key(&bits)
}

/// Splits off the share `part` of the examples for validation.
///
/// The selection is random and depends on `seed`.
#[must_use]
pub fn split(examples: Vec<Example>, part: f64, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let held_out = (examples.len() as f64 * part).round() as usize;
    let mut order = crate::draw::shuffled_order(examples.len(), seed, usize::MAX);
    let mut chosen = order.split_off(examples.len() - held_out.min(examples.len()));
    chosen.sort_unstable();
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (i, example) in examples.into_iter().enumerate() {
        if chosen.binary_search(&i).is_ok() {
            validation.push(example);
        } else {
            train.push(example);
        }
    }
    (train, validation)
}

/// Returns the features of a document, or why it has none.
fn features(document: &Document) -> Result<Vec<f32>, String> {
    let values = match &document.content {
        Some(Content::Tensor(array)) => array.to_f32(),
        _ => None,
    };
    let values = values.filter(|values| !values.is_empty());
    let values = values.ok_or("it holds no tensor of numbers")?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(format!("its tensor holds {value}"));
    }
    Ok(values)
}

/// Returns the point cloud of a document, or why it has none.
fn point_cloud(document: &Document) -> Result<Arc<[[f32; 3]]>, String> {
    let Some(Content::Tensor(array @ NdArray::Dense { shape, .. })) = &document.content else {
        return Err(
            "it holds no point cloud: give a tensor of the shape [points, 3]. The CSV option \
             `create_point_clouds` draws one from a mesh"
                .to_owned(),
        );
    };
    let &[count, 3] = shape.as_slice() else {
        return Err(format!(
            "its tensor has the shape {shape:?}; a point cloud has the shape [points, 3]"
        ));
    };
    let values = array.to_f32().unwrap_or_default();
    let points: Vec<[f32; 3]> = values.as_chunks().0.to_vec();
    if points.len() != count as usize {
        return Err("its tensor does not hold numbers".to_owned());
    }
    check_cloud(&points).map_err(|reason| format!("its point cloud {reason}"))?;
    Ok(points.into())
}

/// Returns the normal form of a label.
///
/// It is trimmed, without invisible characters, and with numbers and accents in one
/// notation.
pub(crate) fn label_meaning(label: &str) -> String {
    let seen = |c: &char| c.is_whitespace() || !is_blank(c.encode_utf8(&mut [0; 4]));
    let label: String = label.chars().filter(seen).collect();
    let label = label.trim();
    match label.parse::<f64>() {
        Ok(number) if number.is_finite() => number.to_string(),
        _ => NormalizedString::from(label).nfc().get().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(n: usize) -> Vec<Example> {
        (0..n)
            .map(|i| Example {
                id: i.to_string(),
                parts: Vec::new(),
                label: (i % 3).to_string(),
                scores: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn splitting_keeps_every_example_once() {
        let ids = |examples: &[Example]| -> Vec<String> {
            examples.iter().map(|e| e.id.clone()).collect()
        };
        let (train, validation) = split(examples(20), 0.25, 3);
        assert_eq!((train.len(), validation.len()), (15, 5));
        let mut all = [ids(&train), ids(&validation)].concat();
        all.sort_by_key(|id| id.parse::<u32>().unwrap());
        assert_eq!(all, ids(&examples(20)));
        assert_eq!(ids(&validation), ids(&split(examples(20), 0.25, 3).1));
        assert_ne!(ids(&validation), ids(&split(examples(20), 0.25, 4).1));
    }

    #[test]
    fn class_indices_of_labels_are_stable() {
        let mut classes = Classes::default();
        let train = classes.number(examples(4));
        assert_eq!(train.classes, [0, 1, 2, 0]);
        let mut more = examples(2);
        more[0].label = "new".to_owned();
        assert!(!classes.knows("new"));
        assert_eq!(classes.number(more).classes, [3, 1]);
        assert_eq!(classes.len(), 4);
    }
}
