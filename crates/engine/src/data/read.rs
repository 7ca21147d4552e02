//! Reads training data of every layout.

use std::collections::HashMap;

use super::{
    DataName, Documents, Example, Images, Item, Layout,
    each::convert_documents,
    example::{
        example_of_chunks, example_of_content, example_with_negatives, is_alone, labelled_examples,
        simcse_example, text_image_example,
    },
    scores,
};
use crate::{Error, Result, models::ModelKind};

/// Reads the examples of a data set.
///
/// The label of a text-image pair is the tag `finetuner_label` of the document or of
/// its text chunk, or else the text: equal captions describe the same thing. If no
/// chunk has a modality, the text chunk is the one with a text.
///
/// # Errors
/// [`Error::Data`] lists up to ten documents that do not have the layout, by number and
/// id, with what each lacks.
pub fn read(
    documents: Documents,
    layout: &Layout,
    name: DataName<'_>,
    images: &Images,
) -> Result<Vec<Example>> {
    let fault = format!("are not {}", layout.describe());
    let found = convert_documents(documents, name, &fault, |i, document| match layout {
        Layout::TextImage(modalities) => {
            Ok(vec![text_image_example(images, i, document, modalities)?])
        }
        Layout::Labelled(kind) => labelled_examples(images, i, document, *kind, name),
        Layout::Ranking(ModelKind::Text) if is_alone(document)? => {
            Ok(vec![simcse_example(i, document)?])
        }
        Layout::Items(kind) => Ok(vec![example_of_content(images, i, document, *kind)?]),
        // Documents without chunks are paired below.
        Layout::Pairs(kind) | Layout::Ranking(kind) if document.chunks.is_empty() => {
            labelled_examples(images, i, document, *kind, name)
        }
        Layout::Pairs(kind) => Ok(vec![example_of_chunks(images, i, document, *kind, 2..=2)?]),
        Layout::Ranking(kind) => {
            let count = 2..=document.chunks.len().max(2);
            Ok(vec![example_of_chunks(images, i, document, *kind, count)?])
        }
        Layout::Scored(kind) => {
            let mut example = example_of_chunks(images, i, document, *kind, 2..=2)?;
            example.scores = scores::pair_score(document)?;
            Ok(vec![example])
        }
        Layout::Negatives(kind) => Ok(vec![example_with_negatives(images, i, document, *kind)?]),
        Layout::Margins(kind) => {
            let mut example = example_with_negatives(images, i, document, *kind)?;
            example.scores = scores::margins(document, example.parts.len() - 2)?;
            Ok(vec![example])
        }
    })?;
    let mut examples: Vec<Example> = found.into_iter().flatten().collect();
    check_lengths(&examples, name)?;
    let alone = examples.iter().filter(|example| example.is_twice()).count();
    if alone > 0 && alone < examples.len() {
        return Err(Error::data(format!(
            "{alone} of the {} examples of {name} are single texts without a \
             `finetuner_label`: give all texts a label, or none (single texts are embedded twice, as \
             in SimCSE)",
            examples.len()
        )));
    }
    if matches!(layout, Layout::Pairs(_) | Layout::Ranking(_)) {
        let mut labels = examples
            .iter()
            .filter(|e| e.parts.len() == 1)
            .map(|e| &e.label);
        if let Some(first) = labels.next()
            && examples.len() > 1
            && examples
                .iter()
                .all(|e| e.parts.len() == 1 && e.label == *first)
        {
            return Err(Error::data(format!(
                "{name}: all examples have the same label, so no pair is a negative of another; \
                 at least 2 labels are needed"
            )));
        }
        examples = paired(examples);
        if examples.is_empty() {
            return Err(Error::data(format!(
                "{name} holds no pair: give documents two chunks, or give the same \
                 `finetuner_label` to related ones"
            )));
        }
    }
    if matches!(
        layout,
        Layout::Ranking(_) | Layout::Items(_) | Layout::Negatives(_) | Layout::Margins(_)
    ) {
        check_counts(&examples, name)?;
    }
    Ok(examples)
}

/// Checks that all examples have the same number of negatives.
fn check_counts(examples: &[Example], name: DataName<'_>) -> Result<()> {
    let count = |example: &Example| example.parts.len();
    let wanted = examples.first().map_or(2, count);
    match examples.iter().find(|example| count(example) != wanted) {
        None => Ok(()),
        Some(other) => Err(Error::data(format!(
            "document `{}` of {name}: it has {} members, but the first of the data set has \
             {wanted}: give all documents the same number",
            other.id,
            count(other)
        ))),
    }
}

/// Checks that all features have the same length.
fn check_lengths(examples: &[Example], name: DataName<'_>) -> Result<()> {
    let mut first = None;
    for example in examples {
        for part in &example.parts {
            if let Item::Features(values) = part {
                let wanted = *first.get_or_insert(values.len());
                if values.len() != wanted {
                    return Err(Error::data(format!(
                        "document `{}` of {name}: its tensor has {} values, but that of the first \
                         has {wanted}",
                        example.id,
                        values.len()
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Returns all pairs of the examples.
///
/// These are the existing pairs, and the first example of each label with each other of
/// that label.
fn paired(examples: Vec<Example>) -> Vec<Example> {
    let mut first: HashMap<String, Item> = HashMap::new();
    let mut pairs = Vec::with_capacity(examples.len());
    for mut example in examples {
        if example.parts.len() >= 2 {
            pairs.push(example);
            continue;
        }
        let Some(item) = example.parts.pop() else {
            continue;
        };
        match first.get(&example.label) {
            None => {
                first.insert(example.label, item);
            }
            Some(query) => {
                example.parts = vec![query.clone(), item];
                pairs.push(example);
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::{Document, DocumentArray};
    use serde_json::json;

    use super::*;
    use crate::data::Modalities;

    const D: DataName<'_> = DataName {
        field: "train_data",
        name: "d",
    };

    /// An image of one red pixel.
    fn png() -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = ::image::RgbImage::from_pixel(1, 1, ::image::Rgb([255, 0, 0]));
        let mut out = std::io::Cursor::new(&mut bytes);
        image.write_to(&mut out, ::image::ImageFormat::Png).unwrap();
        bytes
    }

    fn good(text: &str) -> Document {
        Document::new()
            .with_chunk(Document::blob(png()).with_modality("image"))
            .with_chunk(Document::text(text).with_modality("text"))
    }

    fn all(documents: &DocumentArray) -> Documents {
        Box::new(documents.clone().into_iter().map(Ok))
    }

    fn pairs(
        documents: &DocumentArray,
        modalities: &Modalities,
        name: &str,
    ) -> Result<Vec<Example>> {
        let layout = Layout::TextImage(modalities.clone());
        let name = DataName {
            field: "train_data",
            name,
        };
        read(all(documents), &layout, name, &Images::Checked)
    }

    #[test]
    fn reads_text_image_pairs_by_modality_by_given_names_and_without_names() {
        let array = DocumentArray::from(vec![good("a shoe")]);
        let found = pairs(&array, &Modalities::default(), "train").unwrap();
        assert_eq!(found[0].parts[0], Item::Text("a shoe".into()));
        assert_eq!(found[0].label, "a shoe");
        assert_eq!(found[0].parts[1], Item::Image([].into()));

        let mut renamed = array.clone();
        renamed[0].chunks[0].modality = Some("photo".into());
        renamed[0].chunks[1].modality = Some("title".into());
        renamed[0].chunks[1] = renamed[0].chunks[1].clone().with_label(7);
        let names = Modalities {
            text: "title".to_owned(),
            image: "photo".to_owned(),
        };
        assert_eq!(pairs(&renamed, &names, "train").unwrap()[0].label, "7");

        let mut unnamed = array;
        for chunk in &mut unnamed[0].chunks {
            chunk.modality = None;
        }
        let found = pairs(&unnamed, &names, "train").unwrap();
        assert_eq!(found[0].parts[0], Item::Text("a shoe".into()));
    }

    #[test]
    fn faulty_documents_are_listed_with_number_id_and_reason() {
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
            "6 of 7 documents of `train_data` (`train`)",
            "document 2 (`plain`): it needs a chunk of modality `text`; it has 0",
            "document 3",
            "chunk of modality `image`; it has 1 of modalities [\"text\"]",
            "document 4",
            "not a readable image",
            "document 5",
            "`shoe.png` and holds no bytes",
            "document 6 (`blank`): its text chunk: it holds no text",
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

    fn two(a: &str, b: &str) -> Document {
        Document::new()
            .with_chunk(Document::text(a))
            .with_chunk(Document::text(b))
    }

    #[test]
    fn generated_labels_of_two_data_sets_differ() {
        let layout = Layout::Labelled(ModelKind::Text);
        let labels = |name| {
            let documents = DocumentArray::from(vec![two("a", "b"), two("c", "d").with_label(7)]);
            let name = DataName { name, ..D };
            let read = read(all(&documents), &layout, name, &Images::Checked).unwrap();
            read.into_iter().map(|e| e.label).collect::<Vec<_>>()
        };
        let (first, second) = (labels("first"), labels("second"));
        assert_eq!(first[0], first[1]);
        assert_ne!(first[0], second[0]);
        assert_eq!(first[2..], second[2..]);
    }

    #[test]
    fn chunks_after_a_pair_are_negatives_and_equally_many() {
        let read = |documents: Vec<Document>, layout| {
            let documents = DocumentArray::from(documents);
            super::read(all(&documents), &layout, D, &Images::Checked)
        };
        let ranking = || Layout::Ranking(ModelKind::Text);
        let with = |texts: &[&str]| {
            let chunks = texts.iter().map(|text| Document::text(*text));
            chunks.fold(Document::new(), Document::with_chunk)
        };
        let found = read(
            vec![with(&["q", "a", "x", "y"]), with(&["r", "b", "z", "w"])],
            ranking(),
        );
        let texts = ["r", "b", "z", "w"].map(|text| Item::Text(text.into()));
        assert_eq!(found.unwrap()[1].parts, texts);
        let uneven = read(vec![with(&["q", "a", "x"]), with(&["r", "b"])], ranking());
        let message = uneven.unwrap_err().to_string();
        assert!(
            message.contains("it has 2 members, but the first of the data set has 3"),
            "{message}"
        );
        let alone = read(vec![with(&["q"])], ranking()).unwrap_err().to_string();
        assert!(
            alone.contains("it has 1 chunks, but 2 are needed"),
            "{alone}"
        );
        let more = read(vec![with(&["q", "a", "x"])], Layout::Pairs(ModelKind::Text));
        let message = more.unwrap_err().to_string();
        assert!(
            message.contains("it has 3 chunks, but 2 are needed"),
            "{message}"
        );
    }

    #[test]
    fn texts_can_have_labels_pairs_scores_and_triplets() {
        let read = |documents: Vec<Document>, layout| {
            let documents = DocumentArray::from(documents);
            super::read(all(&documents), &layout, D, &Images::Checked)
        };
        let kind = ModelKind::Text;
        let text = |text: &str| Item::Text(text.into());

        // Documents with labels, and related chunks.
        let mixed = vec![Document::text("a").with_label(1), two("b", "c")];
        let found = read(mixed, Layout::Labelled(kind)).unwrap();
        let labels: Vec<&str> = found.iter().map(|e| e.label.as_str()).collect();
        assert_eq!(labels, ["1", "document 1 of d", "document 1 of d"]);

        // Existing pairs, and pairs of documents that share a label.
        let mixed = vec![
            two("q", "a"),
            Document::text("x").with_label("l"),
            Document::text("y").with_label("l"),
            Document::text("alone").with_label("m"),
            Document::text("z").with_label("l"),
        ];
        let found = read(mixed, Layout::Pairs(kind)).unwrap();
        let parts: Vec<Vec<Item>> = found.into_iter().map(|e| e.parts).collect();
        assert_eq!(
            parts,
            [
                vec![text("q"), text("a")],
                vec![text("x"), text("y")],
                vec![text("x"), text("z")]
            ]
        );

        let score = |value| two("a", "b").with_tag("finetuner_score", value);
        let found = read(
            vec![score(json!(0.5)), score(json!(" 0.25 "))],
            Layout::Scored(kind),
        );
        let scores: Vec<f32> = found.unwrap().iter().map(|e| e.scores[0]).collect();
        assert_eq!(scores, [0.5, 0.25]);

        let triplet = score(json!(1.5)).with_chunk(Document::text("c"));
        let found = read(vec![triplet], Layout::Margins(kind)).unwrap();
        assert_eq!((found[0].parts.len(), &*found[0].scores), (3, &[1.5][..]));
    }

    #[test]
    fn faulty_documents_of_each_layout_are_named_with_the_reason() {
        let fault = |document: Document, layout: Layout| {
            let documents = DocumentArray::from(vec![document]);
            let read = read(all(&documents), &layout, D, &Images::Checked);
            read.unwrap_err().to_string()
        };
        let kind = ModelKind::Text;
        for (document, layout, wanted) in [
            (
                Document::text("a"),
                Layout::Labelled(kind),
                "no tag `finetuner_label`",
            ),
            (
                Document::text(" ").with_label(1),
                Layout::Labelled(kind),
                "holds no text",
            ),
            (
                Document::text("\u{200b}\u{1}\u{feff}").with_label(1),
                Layout::Labelled(kind),
                "holds no text",
            ),
            (
                Document::text("a").with_label(1),
                Layout::Labelled(ModelKind::Image),
                "holds no image",
            ),
            (
                Document::text("a").with_label(1),
                Layout::Labelled(ModelKind::Features),
                "no tensor of numbers",
            ),
            (
                Document::tensor(&[1.0, f32::NAN], &[2]).with_label(1),
                Layout::Labelled(ModelKind::Features),
                "its tensor holds NaN",
            ),
            (
                two("a", "b").with_chunk(Document::text("c")),
                Layout::Pairs(kind),
                "3 chunks, but 2 are needed",
            ),
            (
                Document::text("a").with_label(1),
                Layout::Pairs(kind),
                "`train_data` (`d`) holds no pair",
            ),
            (
                two("a", "b"),
                Layout::Scored(kind),
                "no tag `finetuner_score`",
            ),
            (
                two("a", "b").with_tag("finetuner_score", "high"),
                Layout::Scored(kind),
                "is \"high\", not a number",
            ),
            (
                two("a", "b"),
                Layout::Margins(kind),
                "2 chunks; an anchor, a match and at least one negative",
            ),
            (
                two("a", " "),
                Layout::Pairs(kind),
                "its chunk 2: it holds no text",
            ),
        ] {
            let found = fault(document, layout);
            assert!(found.contains(wanted), "{wanted} is missing in: {found}");
        }
        let lengths = DocumentArray::from(vec![
            Document::tensor(&[1.0, 2.0], &[2]).with_label(1),
            Document::tensor(&[1.0], &[1]).with_label(1),
        ]);
        let layout = Layout::Labelled(ModelKind::Features);
        let found = read(all(&lengths), &layout, D, &Images::Checked);
        let found = found.unwrap_err().to_string();
        assert!(
            found.contains("has 1 values, but that of the first has 2"),
            "{found}"
        );
    }
}
