//! From documents to what a model trains on and is evaluated with.

mod corpus;
mod each;
mod example;
mod parts;
mod pictures;
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
pub use parts::{Mixing, Part};
pub use pictures::{PictureFile, Pictures, Stored};
pub use read::read;
pub use search::{Named, SearchKinds, SearchSet, Searched, read_search_set};
pub(crate) use texts::{read_text, texts};
use tokenizers::NormalizedString;

use crate::{Result, cloud::check_cloud, models::ModelKind};

/// A data set, as messages name it: users know it by the argument that they gave,
/// and the server by its name, which may be generated.
#[derive(Clone, Copy, Debug)]
pub struct DataName<'a> {
    /// The field of the run's configuration, such as `train_data`.
    pub field: &'a str,
    /// The name of the data set.
    pub name: &'a str,
}

/// The field with the data that hard negatives are mined from.
pub(crate) const CORPUS: &str = "mine_hard_negatives.corpus";

impl<'a> DataName<'a> {
    /// The data set `name` of a run.
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

/// Something that can be embedded.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A text.
    Text(Arc<str>),
    /// A picture as it is stored: PNG, JPEG, GIF, WebP or BMP.
    Image(Arc<[u8]>),
    /// A picture in a file.
    Stored(Stored),
    /// Features that were made elsewhere.
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

/// One example to train on.
#[derive(Clone, Debug)]
pub struct Example {
    /// The id of the document, for messages.
    pub id: String,
    /// Its members: one, two of a pair, three of a triplet, or a pair and its
    /// negatives.
    pub parts: Vec<Item>,
    /// What examples that belong together share.
    pub label: String,
    /// The score of a pair, or the margins of an anchor, its match and its
    /// negatives; most losses need none.
    pub scores: Vec<f32>,
}

impl Example {
    /// Whether it is a text alone, which is embedded twice.
    pub(crate) fn is_twice(&self) -> bool {
        matches!(&self.parts[..], [Item::Text(a), Item::Text(b)] if Arc::ptr_eq(a, b))
    }

    /// A picture and the text that belongs to it.
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

/// How the examples of a data set are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Documents with a text chunk and an image chunk.
    TextImage(Modalities),
    /// Documents with the tag `finetuner_label`, or documents whose chunks
    /// belong together.
    Labelled(ModelKind),
    /// Documents with an item, or with chunks, as many in each.
    Items(ModelKind),
    /// Documents with two chunks, or documents that share a label with
    /// another.
    Pairs(ModelKind),
    /// As [`Layout::Pairs`]; further chunks are negatives of the first one, as
    /// many in each document.
    Ranking(ModelKind),
    /// Documents with two chunks and the tag `finetuner_score`.
    Scored(ModelKind),
    /// Documents with three or more chunks: an anchor, its match, and negatives,
    /// as many in each document.
    Negatives(ModelKind),
    /// As [`Layout::Negatives`], with the tag `finetuner_score`: a margin for
    /// each negative, or the scores of the match and of each negative.
    Margins(ModelKind),
}

impl Layout {
    /// What a document of this layout is, in words.
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

/// Examples, and the class of each.
#[derive(Clone, Debug, Default)]
pub struct TrainingSet {
    /// The examples.
    pub examples: Vec<Example>,
    /// A number for each label, the same for the same.
    pub classes: Vec<u32>,
    /// The data sets that the examples are of, one after the other; none where
    /// there is a single one.
    pub parts: Vec<Part>,
    /// How their batches follow each other.
    pub mixing: Mixing,
}

/// The numbers of labels.
#[derive(Clone, Debug, Default)]
pub struct Classes(HashMap<String, u32>);

impl Classes {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a label has a number.
    #[must_use]
    pub fn knows(&self, label: &str) -> bool {
        self.0.contains_key(label)
    }

    /// Numbers the labels of some examples, new labels after the known ones.
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
    /// How many examples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Numbers for what each example holds: its class and each of its members.
    /// Two examples that share a number are no negatives of each other.
    pub(crate) fn shared_keys(&self, range: Range<usize>) -> Vec<Vec<u64>> {
        let of = |(example, class): (&Example, &u32)| {
            let parts = example.parts.iter().map(Item::content_key);
            std::iter::once(key(class)).chain(parts).collect()
        };
        let classes = self.classes[range.clone()].iter();
        self.examples[range].iter().zip(classes).map(of).collect()
    }
}

/// A number for a value, the same in one process for the same value.
fn key(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn numbers_key(values: &[f32]) -> u64 {
    let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    key(&bits)
}

/// Splits off a part of the examples to validate with, drawn at random by
/// `seed`.
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

/// The features of a document, or why there are none.
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

/// The point cloud of a document, or why there is none.
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

/// The normal form of a label: no spaces around it and no characters that can't
/// be seen, numbers and accents in one form.
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
    fn labels_get_numbers_that_last() {
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
