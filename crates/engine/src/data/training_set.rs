//! Training examples and their classes.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{item::Item, key::hash_value};

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
            std::iter::once(hash_value(class)).chain(parts).collect()
        };
        let classes = self.classes[range.clone()].iter();
        self.examples[range].iter().zip(classes).map(of).collect()
    }
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

/// One of several data sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Name of the data set.
    pub name: String,
    /// Number of examples.
    pub len: usize,
    /// Passes over the data set per epoch.
    pub weight: f64,
}

/// Order of the batches from several data sets, as in sentence-transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mixing {
    /// All batches of each data set, repeated by its weight, in random order.
    #[default]
    Proportional,
    /// One batch of each data set in turn, until one data set is exhausted.
    RoundRobin,
}

impl TrainingSet {
    /// Returns the index range of each data set's examples.
    pub(crate) fn ranges(&self) -> Vec<Range<usize>> {
        if self.parts.len() < 2 {
            return std::iter::once(0..self.len()).collect();
        }
        let mut start = 0;
        let range = |part: &Part| {
            start += part.len;
            start - part.len..start
        };
        self.parts.iter().map(range).collect()
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
