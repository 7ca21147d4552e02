//! Rows with named columns, and the documents that they become.

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
fn names_of_data_sets_for_sentence_transformers_are_known() {
    // The order of the columns is not that of their meaning.
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
    // A label of numbers beside two sentences is their score.
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
    // Two columns that are not known are taken in their order.
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
            "only one column has items, and none a label",
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
            "embeds texts or pictures, not both",
        ),
    ] {
        let found = refused(columns);
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
    let unnamed = refused(Columns::new());
    assert!(unnamed.contains("say with `Columns`"), "{unnamed}");
    let twice = self::refused(lines(r#"{"query": "q", "question": "p", "answer": "a"}"#));
    assert!(
        twice.contains("`query` and `question` may mean the same"),
        "{twice}"
    );
}

#[test]
fn bad_rows_are_told_by_row_and_column() {
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
    let told: Vec<(u64, &str)> = problems
        .iter()
        .map(|problem| (problem.number, problem.reason.as_str()))
        .collect();
    let no_text = "it holds no text that can be seen";
    assert_eq!(told[0], (2, &*format!("column `negative`: {no_text}")));
    assert_eq!(
        told[1],
        (
            3,
            &*format!("column `positive`: {no_text}; column `negative`: {no_text}")
        )
    );
    assert_eq!(told[2].0, 4);
    assert!(
        told[2]
            .1
            .contains("column `anchor` holds an object, a text is wanted")
            && told[2].1.contains("column `negative` holds an empty list"),
        "{told:?}"
    );
    assert_eq!(told[3].0, 5);
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
fn a_part_of_the_rows_is_the_same_each_time() {
    let text: String = (0..500)
        .map(|i| format!("{{\"text\": \"t{i}\", \"label\": {}}}\n", i % 2))
        .collect();
    assert_eq!(texts(lines(&text).size(7)).unwrap().len(), 7);
    let half = lines(&text).sampling_rate(0.5);
    let source = half
        .documents(Layout::of_task(&Task::TextToText).unwrap())
        .unwrap();
    let drawn = || -> Vec<Option<String>> {
        let items = source.iter().map(|item| item.unwrap().document);
        items
            .map(|document| document.as_text().map(str::to_owned))
            .collect()
    };
    assert!((150..350).contains(&drawn().len()));
    assert_eq!(drawn(), drawn());
    assert!(refused(lines(&text).sampling_rate(2.0)).contains("sampling_rate"));
}

#[test]
fn pictures_of_a_folder_have_captions_or_labels_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("sub")).unwrap();
    for name in ["a.png", "sub/b.png"] {
        std::fs::write(path(name), name).unwrap();
    }
    let rows = || Dataset::image_folder(folder.path());
    let found = |task: &Task| documents(rows(), task);
    let error = found(&Task::TextToImage).unwrap_err().to_string();
    assert!(
        error.contains("no metadata.csv and no metadata.jsonl"),
        "{error}"
    );

    std::fs::write(
        path("metadata.csv"),
        "file_name,text\na.png,red\nsub/b.png,\"blue, dark\"\n",
    )
    .unwrap();
    let documents = found(&Task::TextToImage).unwrap();
    let [image, text] = &documents[1].chunks[..] else {
        panic!("{documents:?}")
    };
    assert_eq!(
        (image.modality.as_ref(), text.as_text()),
        (Some(&Modality::Image), Some("blue, dark"))
    );
    assert!(image.uri.ends_with("sub/b.png"), "{}", image.uri);

    let lines =
        "{\"file_name\": \"a.png\", \"label\": 1}\n{\"file_name\": \"sub/b.png\", \"label\": 0}\n";
    std::fs::write(path("metadata.jsonl"), lines).unwrap();
    let error = found(&Task::ImageToImage).unwrap_err().to_string();
    assert!(
        error.contains("a metadata.csv and a metadata.jsonl"),
        "{error}"
    );
    std::fs::remove_file(path("metadata.csv")).unwrap();
    let documents = found(&Task::ImageToImage).unwrap();
    assert_eq!(documents[0].label().unwrap(), "1");

    // Data of somebody else must not make a program upload other files.
    let outside = path("../outside.png");
    let lines = format!(
        "{{\"file_name\": \"../x.png\", \"label\": 1}}\n{{\"file_name\": {}, \"label\": 0}}\n\
         {{\"file_name\": \"none.png\", \"label\": 0}}\n",
        json!(
            outside
                .canonicalize()
                .unwrap_or(PathBuf::from("/etc/hostname"))
        )
    );
    std::fs::write(path("metadata.jsonl"), lines).unwrap();
    let error = found(&Task::ImageToImage).unwrap_err();
    let problems = &error.problems().unwrap().problems;
    let told: Vec<&str> = problems.iter().map(|p| p.reason.as_str()).collect();
    assert!(
        told[0].contains("column `file_name`") && told[0].contains("leads out"),
        "{told:?}"
    );
    assert!(
        told[1].contains("leads out") && told[2].contains("no file"),
        "{told:?}"
    );
}

#[test]
fn csv_files_with_names_are_read_by_them() {
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
    assert!(
        error.contains("3: it has 2 columns, 3 are wanted"),
        "{error}"
    );
    assert!(
        error.contains("4: column `negative`: it holds no text"),
        "{error}"
    );
    // Names that say nothing leave the columns as they are.
    let found = read("x,y\nq,a\n", CsvOptions::new().header(["x", "y"])).unwrap();
    assert_eq!((found.len(), found[0].as_text()), (2, Some("q")));
}

#[cfg(feature = "parquet")]
mod parquet {
    use super::*;

    fn file(name: &str) -> Dataset {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
        Dataset::parquet(folder.join(name))
    }

    #[test]
    fn every_usual_compression_gives_the_same_rows() {
        for codec in ["none", "snappy", "gzip", "zstd"] {
            let found = texts(file(&format!("{codec}.parquet"))).unwrap();
            assert_eq!(found.len(), 6, "{codec}");
            let chunks = ["question 5", "answer 5", "wrong 5", "worse 5"];
            assert_eq!(of_chunks(&found[5]), chunks, "{codec}");
            assert_eq!(found[5].tags[SCORE_TAG], json!([0.5, 5.25]), "{codec}");
        }
        let other = refused(file("lz4.parquet"));
        assert!(
            other.contains("can't be read") && other.to_lowercase().contains("lz4"),
            "{other}"
        );
    }

    #[test]
    fn pictures_and_labels_are_read() {
        let found = documents(file("pictures.parquet"), &Task::TextToImage).unwrap();
        let [image, text] = &found[1].chunks[..] else {
            panic!("{found:?}")
        };
        assert!(image.as_blob().unwrap().starts_with(b"\x89PNG"));
        assert_eq!(text.as_text(), Some("another dot"));
        let missing = refused(file("labels.parquet"));
        assert!(
            missing.contains("3: column `text`: it holds no text"),
            "{missing}"
        );
        assert_eq!(
            texts(file("labels.parquet").size(2)).unwrap()[1]
                .label()
                .unwrap(),
            "1"
        );
    }

    #[test]
    fn broken_files_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read("tests/fixtures/parquet/snappy.parquet").unwrap();
        let broken = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = texts(Dataset::parquet(&path)).unwrap_err();
            assert!(error.problems().is_some(), "{error}");
            error.to_string()
        };
        assert!(broken("empty", b"").contains("can't be read"));
        assert!(broken("text", b"anchor,positive\na,b\n").contains("can't be read"));
        assert!(broken("cut", &whole[..whole.len() - 20]).contains("can't be read"));
        // Any wrong byte gives an error or rows, and no panic.
        for place in (4..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0xff;
            let path = folder.path().join("flipped");
            std::fs::write(&path, bytes).unwrap();
            let _ = texts(Dataset::parquet(&path));
        }
        let missing = texts(Dataset::parquet("no-such.parquet")).unwrap_err();
        assert!(matches!(missing, Error::File { .. }), "{missing}");
    }
}

#[test]
fn a_value_of_every_kind_has_a_text() {
    let values = json!({"text": 1.5, "label": true});
    let found = texts(lines(&Value::to_string(&values))).unwrap();
    assert_eq!(
        (found[0].as_text(), found[0].label().unwrap()),
        (Some("1.5"), "true".to_owned())
    );
}

#[cfg(unix)]
#[test]
fn links_out_of_a_folder_of_pictures_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.png"), "a").unwrap();
    std::os::unix::fs::symlink(path("a.png"), path("inside.png")).unwrap();
    std::os::unix::fs::symlink(outside.path(), path("outside.png")).unwrap();
    let lines = "{\"file_name\": \"inside.png\", \"label\": 0}\n\
                 {\"file_name\": \"outside.png\", \"label\": 1}\n\
                 {\"file_name\": \"a\\u0000.png\", \"label\": 1}\n";
    std::fs::write(path("metadata.jsonl"), lines).unwrap();
    let error = documents(Dataset::image_folder(folder.path()), &Task::ImageToImage).unwrap_err();
    let problems = &error.problems().unwrap().problems;
    let told: Vec<(u64, &str)> = problems
        .iter()
        .map(|p| (p.number, p.reason.as_str()))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].0 == 2 && told[0].1.contains("`outside.png` leads out"),
        "{told:?}"
    );
    assert!(
        told[1].0 == 3 && told[1].1.contains("there is no file"),
        "{told:?}"
    );
}

#[test]
fn a_file_of_somebody_else_has_limits_and_names_no_files_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let picture = b"\x89PNG\r\n\x1a\n and more";
    for name in ["a.png", "inner/a.png"] {
        std::fs::write(folder.path().join(name), picture).unwrap();
    }
    std::fs::write(inner.join("b.png"), "a text").unwrap();
    let outside = folder.path().join("a.png").display().to_string();
    let reasons = |cell: &str| {
        let line = json!({"image": cell, "label": "x"}).to_string();
        let rows = lines(&line).confined(&inner);
        documents(rows, &Task::ImageToImage).map_err(|error| error.to_string())
    };
    assert_eq!(reasons("a.png").unwrap().len(), 1);
    assert_eq!(reasons("https://example.org/a.png").unwrap().len(), 1);
    for cell in [outside.as_str(), "../a.png", &format!("file://{outside}")] {
        let told = reasons(cell).unwrap_err();
        assert!(told.contains("leads out of the folder"), "{cell}: {told}");
    }
    let told = reasons("b.png").unwrap_err();
    assert!(told.contains("is not a picture"), "{told}");
    let csv = crate::CsvOptions::new().confined(&inner).is_labeled(true);
    let csv = crate::Csv::text(format!("{outside},x\n")).options(csv);
    let layout = Layout::of_task(&Task::ImageToImage).unwrap();
    let told = csv.documents(layout).unwrap().check("x").unwrap_err();
    assert!(told.to_string().contains("leads out"), "{told}");

    let long = format!("{{\"text\": \"{}\", \"label\": 1}}", "x".repeat(9 << 20));
    assert!(texts(lines(&long)).is_ok());
    let told = texts(lines(&long).confined(&inner)).unwrap_err();
    assert!(told.to_string().contains("more than 8 MiB"), "{told}");
    let row = format!("\"{}\",b\n", "x".repeat(9 << 20));
    let csv = |options| crate::Csv::text(&row).options(options);
    let layout = Layout::of_task(&Task::TextToText).unwrap();
    let checked = |csv: crate::Csv| {
        csv.documents(layout)
            .and_then(|all| all.check("x").map(drop))
    };
    checked(csv(crate::CsvOptions::new())).unwrap();
    let told = checked(csv(crate::CsvOptions::new().confined(&inner))).unwrap_err();
    assert!(told.to_string().contains("more than 8 MiB"), "{told}");
    let members: Vec<String> = (0..2000).map(|n| format!("\"c{n}\": 1")).collect();
    let wide = format!("{{{}}}", members.join(", "));
    let told = texts(lines(&wide).confined(&inner)).unwrap_err();
    assert!(told.to_string().contains("2000 columns"), "{told}");
}

#[test]
fn the_first_row_is_names_where_they_are_known_ones() {
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
fn a_line_with_many_columns_is_read_in_time() {
    let members: Vec<String> = (0..100_000).map(|n| format!("\"c{n}\": {n}")).collect();
    let text = format!(
        "{{\"anchor\": \"a\", \"positive\": \"p\", {}}}\n",
        members.join(", ")
    );
    let found = texts(lines(&text)).unwrap();
    assert_eq!(found.len(), 2);
}
