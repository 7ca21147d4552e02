//! Checks that labels can be used for training and evaluation.

use std::collections::BTreeSet;

use finetuner_protocol::{Document, text::start_of};

/// Maximum number of distinct labels that are kept. The rest is not checked.
const MAX_KEPT: usize = 1000;

/// The labels of documents without chunks, whose labels are their only training signal.
#[derive(Debug, Default)]
pub struct Labels {
    documents: u64,
    /// The first [`MAX_KEPT`] distinct labels.
    kept: BTreeSet<String>,
    /// Whether the checks do not apply: a document has chunks or no label, or there are
    /// more than [`MAX_KEPT`] labels.
    is_partial: bool,
}

impl Labels {
    pub(crate) fn add(&mut self, document: &Document) {
        self.documents += 1;
        if self.is_partial {
            return;
        }
        match document.label().filter(|_| document.chunks.is_empty()) {
            Some(label) if self.kept.contains(&label) => {}
            Some(label) if self.kept.len() < MAX_KEPT => drop(self.kept.insert(label)),
            _ => self.is_partial = true,
        }
    }

    /// Checks that the documents have at least two labels.
    ///
    /// # Errors
    /// Returns the reason if all documents have the same label.
    pub fn check(&self) -> Result<(), String> {
        match self.kept.first() {
            Some(label) if !self.is_partial && self.kept.len() == 1 => Err(format!(
                "all {} documents have the label `{}`: training needs at least two classes",
                self.documents,
                start_of(label)
            )),
            _ => Ok(()),
        }
    }

    /// Checks that these labels are written like those of `other`, the training data.
    ///
    /// # Errors
    /// Returns the reason if no label is in both, but two labels are the same number in
    /// different notations, such as `1` and `1.0`.
    pub fn compare(&self, other: &Self) -> Result<(), String> {
        if self.is_partial || other.is_partial || !self.kept.is_disjoint(&other.kept) {
            return Ok(());
        }
        let number = |label: &String| label.trim().parse::<f64>().ok();
        for label in &self.kept {
            let same =
                |theirs: &&String| number(label).is_some() && number(theirs) == number(label);
            if let Some(theirs) = other.kept.iter().find(same) {
                return Err(format!(
                    "none of its labels is in `train_data`, but `{}` and `{}` are the same number: \
                     write labels in the same way in both",
                    start_of(label),
                    start_of(theirs)
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[&str]) -> Labels {
        let mut all = Labels::default();
        for label in labels {
            all.add(&Document::text("a").with_tag(finetuner_protocol::LABEL_TAG, *label));
        }
        all
    }

    #[test]
    fn one_class_is_an_error() {
        assert!(
            labels(&["a", "a"])
                .check()
                .unwrap_err()
                .contains("all 2 documents")
        );
        assert_eq!(labels(&["a", "b"]).check(), Ok(()));
        let mut with_pair = labels(&["a"]);
        with_pair.add(&Document::new().with_chunk(Document::text("b")));
        assert_eq!(with_pair.check(), Ok(()));
        assert_eq!(Labels::default().check(), Ok(()));
    }

    #[test]
    fn numbers_in_different_notations_are_errors() {
        let train = labels(&["1", "1", "2", "2"]);
        let reported = labels(&["1.0", "2.0"]).compare(&train).unwrap_err();
        assert!(reported.contains("`1.0` and `1`"), "{reported}");
        // Evaluation data may have other classes than the training data.
        assert_eq!(labels(&["3.0", "4.0"]).compare(&train), Ok(()));
        assert_eq!(labels(&["1", "3.0"]).compare(&train), Ok(()));
        let many: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(labels(&["1.0"]).compare(&labels(&many)), Ok(()));
    }
}
