//! The kind of a dataset, determined from its first documents, and initial
//! settings for it.

use std::collections::BTreeSet;

use finetuner_protocol::{
    CLIP_SMALL, Content, Document, EFFICIENTNET_SMALL, Loss, MINILM_SMALL, Modality, SCORE_TAG,
    Task,
};

/// Kind of the documents of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text with a label each.
    LabelledTexts,
    /// An image with a label each.
    LabelledImages,
    /// Two texts or more: a match, and perhaps negatives.
    Texts,
    /// Two texts and how similar they are.
    ScoredTexts,
    /// A text and an image.
    TextAndImage,
    /// Two images or more.
    Images,
    /// Something that no default fits.
    Other,
}

/// Initial settings for a kind of dataset.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Defaults {
    pub(super) model: &'static str,
    pub(super) loss: Loss,
    pub(super) epochs: &'static str,
    pub(super) batch_size: u64,
    pub(super) learning_rate: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Image,
    Other,
}

fn kind_of(document: &Document) -> Kind {
    let named = document.modality.as_ref();
    match (&document.content, named) {
        (Some(Content::Text(_)), _) => Kind::Text,
        (Some(Content::Tensor(_)), _) => Kind::Other,
        (Some(Content::Blob(_)), Some(Modality::Mesh)) => Kind::Other,
        (Some(Content::Blob(_)), _) => Kind::Image,
        (None, Some(Modality::Image)) => Kind::Image,
        (None, _) if !document.uri.is_empty() => Kind::Image,
        _ => Kind::Other,
    }
}

/// Returns the number of different labels.
fn labels(documents: &[Document]) -> usize {
    let labels = documents.iter().filter_map(Document::label);
    labels.collect::<BTreeSet<String>>().len()
}

impl Shape {
    /// Returns the common kind of these documents.
    pub(super) fn of(documents: &[Document]) -> Self {
        let mut shapes = documents.iter().map(Self::of_one);
        let Some(first) = shapes.next() else {
            return Self::Other;
        };
        match shapes.all(|shape| shape == first) {
            // Clients upload pairs as texts with a common label, so many labels mean
            // pairs.
            true if first == Self::LabelledTexts
                && labels(documents) * 5 >= documents.len() * 2 =>
            {
                Self::Texts
            }
            true => first,
            false => Self::Other,
        }
    }

    fn of_one(document: &Document) -> Self {
        let kinds: Vec<Kind> = document.chunks.iter().map(kind_of).collect();
        let all = |wanted: Kind| kinds.iter().all(|kind| *kind == wanted);
        match kinds.len() {
            0 => match kind_of(document) {
                Kind::Text => Self::LabelledTexts,
                Kind::Image => Self::LabelledImages,
                Kind::Other => Self::Other,
            },
            1 => Self::Other,
            2 if kinds.contains(&Kind::Text) && kinds.contains(&Kind::Image) => Self::TextAndImage,
            2 if all(Kind::Text) && document.tags.contains_key(SCORE_TAG) => Self::ScoredTexts,
            _ if all(Kind::Text) => Self::Texts,
            _ if all(Kind::Image) => Self::Images,
            _ => Self::Other,
        }
    }

    /// Returns the description on the page.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::LabelledTexts => "texts with labels, or texts that belong together",
            Self::LabelledImages => "images with labels, or images that belong together",
            Self::Texts => "texts that belong together, perhaps with negatives",
            Self::ScoredTexts => "two texts and how similar they are",
            Self::TextAndImage => "an image and its text",
            Self::Images => "images with a match and perhaps negatives",
            Self::Other => "documents of several kinds",
        }
    }

    /// Returns the task of suitable models.
    pub(super) fn task(self) -> Option<Task> {
        match self {
            Self::LabelledTexts | Self::Texts | Self::ScoredTexts => Some(Task::TextToText),
            Self::TextAndImage => Some(Task::TextToImage),
            Self::LabelledImages | Self::Images => Some(Task::ImageToImage),
            Self::Other => None,
        }
    }

    /// Returns initial settings for this number of documents. The learning rates
    /// are those of the guide "Choosing a model and a loss".
    pub(super) fn defaults(self, documents: u64) -> Defaults {
        let (model, loss, epochs, learning_rate) = match self {
            Self::TextAndImage => (CLIP_SMALL, Loss::Clip, "5", "1e-4"),
            Self::Texts => (MINILM_SMALL, Loss::MultipleNegativeRanking, "3", "5e-5"),
            Self::ScoredTexts => (MINILM_SMALL, Loss::CoSent, "3", "5e-5"),
            Self::LabelledTexts | Self::Other => (MINILM_SMALL, Loss::TripletMargin, "3", "5e-5"),
            Self::LabelledImages | Self::Images => {
                (EFFICIENTNET_SMALL, Loss::TripletMargin, "5", "1e-4")
            }
        };
        Defaults {
            model,
            loss,
            epochs,
            // A batch needs several examples to compare, and an epoch several batches.
            batch_size: (documents / 8).next_power_of_two().clamp(4, 64),
            learning_rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_defaults_fit_the_kind_of_documents() {
        let text = || Document::text("a");
        let image = || Document::blob(vec![1]);
        let pair = |one: Document, two: Document| Document::new().with_chunk(one).with_chunk(two);
        for (document, shape) in [
            (text(), Shape::LabelledTexts),
            (image(), Shape::LabelledImages),
            (Document::uri("https://a/b.png"), Shape::LabelledImages),
            (pair(text(), image()), Shape::TextAndImage),
            (pair(text(), text()), Shape::Texts),
            (
                pair(text(), text()).with_tag(SCORE_TAG, "1"),
                Shape::ScoredTexts,
            ),
            (pair(image(), image()), Shape::Images),
            (Document::tensor(&[1.0], &[1]), Shape::Other),
        ] {
            assert_eq!(Shape::of(&[document.clone(), document]), shape);
        }
        let labelled = |label: &str| text().with_label(label);
        let pairs = ["a", "a", "b", "b"].map(labelled);
        assert_eq!(Shape::of(&pairs), Shape::Texts);
        let classes = ["a"; 12].map(labelled);
        assert_eq!(Shape::of(&classes), Shape::LabelledTexts);
        assert_eq!(Shape::of(&[text(), image()]), Shape::Other);
        assert_eq!(Shape::of(&[]), Shape::Other);
        let batches = [0, 10, 100, 100_000].map(|n| Shape::Texts.defaults(n).batch_size);
        assert_eq!(batches, [4, 4, 16, 64]);
    }
}
