//! Documents of rows with named columns.

mod folders;
#[cfg(feature = "parquet")]
mod parquet;

use std::path::PathBuf;

use finetuner_protocol::{Document, Modality, SCORE_TAG, Task};
use serde_json::{Value, json};

use super::*;

fn documents(rows: Dataset, task: &Task) -> Result<Vec<Document>> {
    let source = rows.documents(Layout::of_task(task)?)?;
    source.check("the rows")?;
    Ok(source.iter().map(|item| item.unwrap().document).collect())
}

fn lines(text: &str) -> Dataset {
    Dataset::json_lines_reader(text.as_bytes()).unwrap()
}

fn texts(rows: Dataset) -> Result<Vec<Document>> {
    documents(rows, &Task::TextToText)
}

fn refused(rows: Dataset) -> String {
    texts(rows).unwrap_err().to_string()
}

fn of_chunks(document: &Document) -> Vec<&str> {
    document
        .chunks
        .iter()
        .map(|chunk| chunk.as_text().unwrap())
        .collect()
}

#[test]
fn names_of_sentence_transformers_data_are_recognized() {
    // The columns are not in the order of their roles.
    let text =
        r#"{"negative_2": "n2", "answer": "a", "id": 7, "negative_1": "n1", "question": "q"}"#;
    let found = texts(lines(text)).unwrap();
    assert_eq!(of_chunks(&found[0]), ["q", "a", "n1", "n2"]);
    assert!(found[0].tags.is_empty());
    let found = texts(lines(
        r#"{"sentence1": "a", "sentence2": "b", "score": 0.5}"#,
    ))
    .unwrap();
    assert_eq!(
        (of_chunks(&found[0]), &found[0].tags[SCORE_TAG]),
        (vec!["a", "b"], &json!("0.5"))
    );
    // A label column of numbers beside two sentences is their score.
    let found = texts(lines(
        r#"{"sentence_A": "a", "sentence_B": "b", "label": 4}"#,
    ))
    .unwrap();
    assert_eq!(found[0].tags[SCORE_TAG], json!("4"));
    let found = texts(lines(r#"{"label": 3, "text": "a"}"#)).unwrap();
    assert_eq!(
        (found[0].as_text(), found[0].label()),
        (Some("a"), Some("3".to_owned()))
    );
    let found = texts(lines(r#"{"anchor": "a", "positive": "b"}"#)).unwrap();
    assert_eq!((found.len(), found[1].label()), (2, Some("0".to_owned())));
    let text = r#"{"query": "q", "positive": "a", "negatives": ["x", "y"], "scores": [2, 0.5, 1]}"#;
    let found = texts(lines(text)).unwrap();
    assert_eq!(of_chunks(&found[0]), ["q", "a", "x", "y"]);
    assert_eq!(found[0].tags[SCORE_TAG], json!([2.0, 0.5, 1.0]));
    let text = r#"{"hypothesis": "h", "entailment": "e", "contradiction": "c"}"#;
    assert_eq!(of_chunks(&texts(lines(text)).unwrap()[0]), ["h", "e", "c"]);
    // Two columns with unknown names are a pair, in their order.
    let found = texts(lines(r#"{"title": "t", "body": "b"}"#)).unwrap();
    assert_eq!(found[0].as_text(), Some("t"));
}

#[test]
fn columns_are_chosen_by_their_names() {
    let text =
        r#"{"body": "b", "title": "t", "wrong": "w", "worse": "v", "by": "me", "m": 0.5, "o": 1}"#;
    let columns = Columns::new()
        .anchor("title")
        .positive("body")
        .add_negative("wrong")
        .add_negative("worse")
        .add_score("m")
        .add_score("o");
    let found = texts(lines(text).columns(columns)).unwrap();
    assert_eq!(of_chunks(&found[0]), ["t", "b", "w", "v"]);
    assert_eq!(found[0].tags[SCORE_TAG], json!([0.5, 1.0]));
    let refused = |columns: Columns| refused(lines(text).columns(columns));
    for (columns, part) in [
        (
            Columns::new().anchor("titel").positive("body"),
            "has no column `titel`; it has `body`, `title`",
        ),
        (
            Columns::new().anchor("title").positive("title"),
            "`title` is named twice",
        ),
        (
            Columns::new().positive("title"),
            "`positive` and `negative` need an `anchor`",
        ),
        (
            Columns::new().anchor("title").add_negative("wrong"),
            "`negative` needs a `positive`",
        ),
        (
            Columns::new().anchor("title"),
            "only one column has items, and no column has labels",
        ),
        (
            Columns::new().text("title").label("by").add_score("m"),
            "`score` needs two items",
        ),
        (
            Columns::new().anchor("title").text("body"),
            "both name the first item",
        ),
        (
            Columns::new().text("title").image("body"),
            "embeds either texts or images",
        ),
    ] {
        let found = refused(columns);
        assert!(found.contains(part), "`{part}` is missing in: {found}");
    }
    let unnamed = refused(Columns::new());
    assert!(
        unnamed.contains("name those to train on with `Columns`"),
        "{unnamed}"
    );
    let duplicate = self::refused(lines(r#"{"query": "q", "question": "p", "answer": "a"}"#));
    assert!(
        duplicate.contains("`query` and `question` may have the same role"),
        "{duplicate}"
    );
}

#[test]
fn problems_name_the_row_and_column() {
    let text = concat!(
        r#"{"anchor": "a", "positive": "b", "negative": "c"}"#,
        "\n",
        r#"{"anchor": "a", "positive": "b", "negative": " "}"#,
        "\n",
        r#"{"anchor": "a", "positive": null}"#,
        "\n",
        r#"{"anchor": {"a": 1}, "positive": "b", "negative": []}"#,
        "\n",
        "{\"anchor\": \"a\"",
    );
    let error = texts(lines(text)).unwrap_err();
    let problems = &error.problems().unwrap().problems;
    let reported: Vec<(u64, &str)> = problems
        .iter()
        .map(|problem| (problem.number, problem.reason.as_str()))
        .collect();
    let no_text = "it has no visible text";
    assert_eq!(reported[0], (2, &*format!("column `negative`: {no_text}")));
    assert_eq!(
        reported[1],
        (
            3,
            &*format!("column `positive`: {no_text}; column `negative`: {no_text}")
        )
    );
    assert_eq!(reported[2].0, 4);
    assert!(
        reported[2]
            .1
            .contains("column `anchor` holds an object, expected a text")
            && reported[2]
                .1
                .contains("column `negative` has an empty list"),
        "{reported:?}"
    );
    assert_eq!(reported[3].0, 5);
    let scored = |score: &str| {
        let rest = r#""anchor": "a", "positive": "b", "negative": "c""#;
        refused(lines(&format!(
            "{{{rest}, \"score\": 1}}\n{{{rest}, \"score\": {score}}}"
        )))
    };
    let found = scored("\"high\"");
    assert!(found.contains("2: its score is `high`"), "{found}");
    let found = scored("[1, 2, 3]");
    assert!(
        found.contains("2: it has 3 scores and 1 negatives"),
        "{found}"
    );
}

#[test]
fn each_pass_samples_the_same_rows() {
    let text: String = (0..500)
        .map(|i| format!("{{\"text\": \"t{i}\", \"label\": {}}}\n", i % 2))
        .collect();
    assert_eq!(texts(lines(&text).size(7)).unwrap().len(), 7);
    let half = lines(&text).sampling_rate(0.5);
    let source = half
        .documents(Layout::of_task(&Task::TextToText).unwrap())
        .unwrap();
    let sampled = || -> Vec<Option<String>> {
        let items = source.iter().map(|item| item.unwrap().document);
        items
            .map(|document| document.as_text().map(str::to_owned))
            .collect()
    };
    assert!((150..350).contains(&sampled().len()));
    assert_eq!(sampled(), sampled());
    assert!(refused(lines(&text).sampling_rate(2.0)).contains("sampling_rate"));
}

#[test]
fn csv_files_have_roles_by_the_names_of_columns() {
    let read = |text: &str, options: CsvOptions| {
        let source = Csv::text(text).options(options);
        let source = source.documents(Layout::of_task(&Task::TextToText)?)?;
        source.check("the CSV text")?;
        Ok(source.iter().map(|item| item.unwrap().document).collect())
    };
    let found: Result<Vec<Document>> = read(
        "wrong;title;body;id\nw;t;b;1\n",
        CsvOptions::new().columns(
            Columns::new()
                .anchor("title")
                .positive("body")
                .add_negative("wrong"),
        ),
    );
    assert_eq!(of_chunks(&found.unwrap()[0]), ["t", "b", "w"]);
    let header = CsvOptions::new().header(["negative", "anchor", "positive"]);
    let found = read("negative,anchor,positive\nn,a,p\n", header.clone()).unwrap();
    assert_eq!(of_chunks(&found[0]), ["a", "p", "n"]);
    let error = read("negative,anchor,positive\nn,a,p\nn,a\n,a,p\n", header).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("3: it has 2 columns, expected 3"), "{error}");
    assert!(
        error.contains("4: column `negative`: it has no visible text"),
        "{error}"
    );
    // With unknown names, the columns are a pair.
    let found = read("x,y\nq,a\n", CsvOptions::new().header(["x", "y"])).unwrap();
    assert_eq!((found.len(), found[0].as_text()), (2, Some("q")));
}

#[test]
fn numbers_and_booleans_are_texts() {
    let values = json!({"text": 1.5, "label": true});
    let found = texts(lines(&Value::to_string(&values))).unwrap();
    assert_eq!(
        (found[0].as_text(), found[0].label().unwrap()),
        (Some("1.5"), "true".to_owned())
    );
}

#[test]
fn a_first_row_of_known_names_can_be_detected() {
    use crate::{Csv, CsvOptions, FirstRow};
    let count = |text: &str, first_row| {
        let csv = Csv::text(text).options(CsvOptions::new().first_row(first_row));
        let layout = Layout::of_task(&Task::TextToText).unwrap();
        csv.documents(layout)
            .unwrap()
            .check("x")
            .unwrap()
            .summary
            .length
    };
    let known = "query,answer\na,b\n";
    assert_eq!(count(known, FirstRow::Data), 4);
    assert_eq!(count(known, FirstRow::Names), 2);
    assert_eq!(count(known, FirstRow::Guess), 2);
    let unknown = "red,dress\na,b\n";
    assert_eq!(count(unknown, FirstRow::Guess), 4);
    assert_eq!(count(unknown, FirstRow::Names), 2);
}

#[test]
fn a_line_with_many_columns_takes_linear_time() {
    let members: Vec<String> = (0..100_000).map(|n| format!("\"c{n}\": {n}")).collect();
    let text = format!(
        "{{\"anchor\": \"a\", \"positive\": \"p\", {}}}\n",
        members.join(", ")
    );
    let found = texts(lines(&text)).unwrap();
    assert_eq!(found.len(), 2);
}

#[test]
fn negatives_and_a_second_text_beside_an_image_are_refused() {
    let found = |row: Value| documents(lines(&row.to_string()), &Task::TextToImage);
    for (other, part) in [
        (
            "negative",
            "takes no negatives: remove the column `negative`",
        ),
        (
            "title",
            "takes one text beside each image: remove the column `title`",
        ),
        (
            "query",
            "takes one text beside each image: remove the column `query`",
        ),
    ] {
        let row = json!({"image": "a.png", "caption": "red", other: "blue"});
        let error = found(row).unwrap_err().to_string();
        assert!(error.contains(part), "`{part}` is missing in: {error}");
        assert!(error.contains("Columns::new().text"), "{error}");
    }
}
