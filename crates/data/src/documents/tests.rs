//! Documents of rows in each layout.

use finetuner_protocol::{Content, DocumentArray, Modality, NdArray, Task, listed_task};
use serde_json::json;

use super::*;
use crate::{Csv, CsvOptions, Problem};

fn read(text: &str, model: &str, options: CsvOptions) -> Result<DocumentArray> {
    let layout = match model {
        "synthesis" => Layout::TEXTS,
        model => Layout::of_task(&listed_task(model).unwrap())?,
    };
    let source = Csv::text(text).options(options).documents(layout)?;
    source.check("the CSV text")?;
    Ok(source.iter().map(|item| item.unwrap().document).collect())
}

fn images(names: &[&str]) -> (tempfile::TempDir, CsvOptions) {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let options = CsvOptions::new().base_folder(folder.path());
    (folder, options)
}

#[test]
fn texts_of_a_query_share_a_label_and_repeats_are_skipped() {
    let text = "q1,d1\nq1,d2\nq2,d3\nq1,d1\n";
    let documents = read(text, "bert-base-cased", CsvOptions::new()).unwrap();
    let found: Vec<_> = documents
        .iter()
        .map(|d| {
            (
                d.as_text().unwrap(),
                d.label().unwrap(),
                d.modality.as_ref().unwrap().as_str(),
            )
        })
        .collect();
    let expected = [
        ("q1", "0"),
        ("d1", "0"),
        ("d2", "0"),
        ("q2", "1"),
        ("d3", "1"),
    ];
    let expected = expected.map(|(text, label)| (text, label.to_owned(), "text"));
    assert_eq!(found, expected);
}

#[test]
fn text_and_image_are_in_either_order() {
    let (_folder, options) = images(&["a.png", "b.jpg"]);
    for text in ["a.png,red\nb.jpg,blue\n", "red,a.png\nblue,b.jpg\n"] {
        let documents = read(text, "clip-base-en", options.clone()).unwrap();
        assert_eq!(documents.len(), 2);
        let part = |modality: &str| {
            documents[1]
                .chunks
                .iter()
                .find(|c| c.modality == Some(modality.into()))
                .unwrap()
        };
        assert_eq!(part("text").as_text(), Some("blue"));
        assert!(part("image").uri.ends_with("b.jpg"));
        assert_eq!(part("image").mime_type, "image/jpeg");
        assert_eq!(documents[1].label().unwrap(), "1");
    }
}

#[test]
fn labels_scores_and_single_texts_are_read() {
    let options = CsvOptions::new().is_labeled(true);
    let documents = read("a,x\nb,y\n", "bert-base-cased", options).unwrap();
    assert_eq!(documents[1].label().unwrap(), "y");
    let documents = read("a,b,0.5\n", "bert-base-cased", CsvOptions::new()).unwrap();
    assert_eq!(documents[0].tags[SCORE_TAG], "0.5");
    assert_eq!(documents[0].chunks[1].as_text(), Some("b"));
    let documents = read("a,b\nc\n", "synthesis", CsvOptions::new()).unwrap();
    assert_eq!(documents.len(), 3);
}

#[test]
fn meshes_become_point_clouds() {
    let (folder, options) = images(&[]);
    for name in ["a.off", "b.off"] {
        let mesh = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n";
        std::fs::write(folder.path().join(name), mesh).unwrap();
    }
    let clouds = options.clone().point_cloud_size(64);
    let documents = read("a.off,b.off\n", "pointnet++", clouds).unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[1].modality, Some(Modality::Mesh));
    let Some(Content::Tensor(NdArray::Dense { shape, .. })) = &documents[1].content else {
        panic!("{:?}", documents[1])
    };
    assert_eq!(shape, &[64, 3]);
    let files = options.create_point_clouds(false);
    let documents = read("a.off,b.off\n", "pointnet++", files).unwrap();
    assert!(documents[0].uri.ends_with("a.off") && documents[0].content.is_none());
}

#[test]
fn columns_after_a_pair_are_negatives_with_or_without_scores() {
    let rows = |text: &str| {
        let documents = read(text, "bert-base-cased", CsvOptions::new()).unwrap();
        let of = |document: &finetuner_protocol::Document| {
            let texts = document
                .chunks
                .iter()
                .map(|chunk| chunk.as_text().unwrap().to_owned());
            (
                texts.collect::<Vec<_>>(),
                document.tags.get(SCORE_TAG).cloned(),
            )
        };
        documents.iter().map(of).collect::<Vec<_>>()
    };
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rows("q,a,x\nr,b,y\n")[1], (texts(&["r", "b", "y"]), None));
    assert_eq!(
        rows("q,a,x,y,z\n")[0],
        (texts(&["q", "a", "x", "y", "z"]), None)
    );
    assert_eq!(
        rows("q,a,x,0.5\nr,b,y,1\n")[0],
        (texts(&["q", "a", "x"]), Some(json!("0.5")))
    );
    assert_eq!(
        rows("q;a;x;y;0,5;0,25\n")[0],
        (texts(&["q", "a", "x", "y"]), Some(json!([0.5, 0.25])))
    );
    assert_eq!(
        rows("q,a,x,3,1\n")[0],
        (texts(&["q", "a", "x"]), Some(json!([3.0, 1.0])))
    );
    assert_eq!(
        rows("q\ta\tx\ty\t[0.5, 1]\n")[0],
        (texts(&["q", "a", "x", "y", "[0.5, 1]"]), None)
    );
    let faults = |text: &str| faults(text, CsvOptions::new());
    assert_eq!(
        faults("q,a,x,y\nr,b,,z\ns,c,w\nt,d,w,v,u\n"),
        [
            (2, format!("column 3: {NO_TEXT}")),
            (
                3,
                "it has 3 columns, expected 4; columns are separated by `,`, which \
                 `CsvOptions::dialect` can change"
                    .to_owned()
            ),
            (
                4,
                "it has 5 columns, expected 4; columns are separated by `,`, which \
                 `CsvOptions::dialect` can change"
                    .to_owned()
            ),
        ]
    );
    let scores = faults("q,a,x,1\nr,b,y,high\ns,c,z,2\n");
    assert_eq!(
        scores,
        [(2, "its score is `high`, which is not a number".to_owned())]
    );
    let error = read("q,a,x,y,0.5\n", "bert-base-cased", CsvOptions::new()).unwrap_err();
    assert!(error.to_string().contains("5 columns"), "{error}");
}

#[test]
fn every_bad_row_is_named() {
    let (_folder, options) = images(&["a.png"]);
    let text = "a.png,red\nmissing.png,blue\na.png\n,green\n";
    let error = read(text, "clip-base-en", options).unwrap_err();
    let problems = &error.problems().unwrap().problems;
    let numbers: Vec<u64> = problems
        .iter()
        .map(|Problem { number, .. }| *number)
        .collect();
    assert_eq!(numbers, [2, 3, 4], "{error}");
    assert!(error.to_string().contains("missing.png"), "{error}");
    let scored = "a,b,0.5\na,b,high\n";
    let error = read(scored, "bert-base-cased", CsvOptions::new()).unwrap_err();
    assert!(error.to_string().contains("`high`"), "{error}");
    let four = "https://a/b.png,b,c,d\n";
    let error = read(four, "clip-base-en", CsvOptions::new()).unwrap_err();
    assert!(error.to_string().contains("4 columns"), "{error}");
    let (_folder, options) = images(&["a.obj"]);
    let error = read("a.obj,b.obj\n", "pointnet++", options).unwrap_err();
    assert!(error.to_string().contains("no area"), "{error}");
    assert!(error.to_string().contains("no file"), "{error}");
}

#[test]
fn urls_are_not_fetched() {
    let text = "https://example.com/a.png,red\n";
    let documents = read(text, "clip-base-en", CsvOptions::new()).unwrap();
    assert_eq!(documents[0].chunks[0].uri, "https://example.com/a.png");
    assert_eq!(documents[0].chunks[0].content, None);
}

/// Returns the row and the reason of each problem of a text file.
fn faults(text: &str, options: CsvOptions) -> Vec<(u64, String)> {
    let error = read(text, "bert-base-cased", options).unwrap_err();
    let problems = error.problems().unwrap_or_else(|| panic!("{error}"));
    let all = problems.problems.iter();
    all.map(|problem| (problem.number, problem.reason.clone()))
        .collect()
}

fn labelled() -> CsvOptions {
    CsvOptions::new().is_labeled(true)
}

fn labels(text: &str) -> Vec<String> {
    let documents = read(text, "bert-base-cased", labelled()).unwrap();
    documents
        .iter()
        .map(|document| document.label().unwrap())
        .collect()
}

#[test]
fn semicolon_files_with_decimal_commas_keep_their_columns() {
    let text = "a red dress;a long red dress;0,75\r\na shoe;a running shoe;1\r\n";
    let documents = read(text, "bert-base-cased", CsvOptions::new()).unwrap();
    let scores: Vec<_> = documents
        .iter()
        .map(|d| d.tags[SCORE_TAG].clone())
        .collect();
    assert_eq!(scores, ["0.75", "1"]);
    assert_eq!(documents[0].chunks[1].as_text(), Some("a long red dress"));
    assert_eq!(
        labels("Kleid, rot;dress\nSchuh, weiß;shoe\n"),
        ["dress", "shoe"]
    );
}

#[test]
fn missing_labels_are_errors_and_spaces_around_labels_are_removed() {
    let text = "a,dress\nb,\nc,  \nd,nan\ne,NaN\nf,shirt\n";
    let faults = faults(text, labelled());
    let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 4, 5], "{faults:?}");
    assert!(
        faults.iter().all(|(_, reason)| reason.contains("label")),
        "{faults:?}"
    );
    assert_eq!(labels("a,dress\nb, dress\nc,dress \n"), ["dress"; 3]);
}

#[test]
fn empty_columns_and_rows_of_a_spreadsheet_are_skipped() {
    assert_eq!(labels("a,dress,,\nb,shoe,,\n,,,\n,,,\n"), ["dress", "shoe"]);
    let pairs = |text: &str| read(text, "bert-base-cased", CsvOptions::new()).unwrap();
    let documents = pairs("a red dress,dress,\na white shoe,shoe,\n");
    assert_eq!(
        (documents.len(), documents[1].as_text()),
        (4, Some("dress"))
    );
    // A missing score is not an empty column.
    let scored = "a,b,\nc,d,0.5\ne,f,0.1\n";
    let faults = faults(scored, CsvOptions::new());
    assert_eq!(faults, [(1, "its score is empty".to_owned())]);
    let faults = self::faults("a,x\n   \n\nb,y\n", labelled());
    assert!(faults.len() == 1 && faults[0].0 == 2, "{faults:?}");
    assert!(faults[0].1.contains("spaces"), "{faults:?}");
}

#[test]
fn invisible_texts_are_errors() {
    let text = "\u{200b}\u{feff},a\n\u{1}\u{2},b\n\u{a0},c\nd,e\n";
    let faults = faults(text, labelled());
    let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 3], "{faults:?}");
    let error = read("one\n\u{200b}\n", "synthesis", CsvOptions::new()).unwrap_err();
    assert_eq!(error.problems().unwrap().problems[0].number, 2, "{error}");
}

#[test]
fn errors_show_only_the_start_of_a_text() {
    let long = "x".repeat(100_000);
    for (text, model) in [
        (format!("c,d,0.1\na,b,{long}\n"), "bert-base-cased"),
        (format!("{long}.png,a\nb.png,c\n"), "resnet50"),
        (format!("a,/{long}.png\n"), "clip-base-en"),
        (format!("a,\"{long}\n"), "bert-base-cased"),
    ] {
        let error = read(&text, model, CsvOptions::new())
            .unwrap_err()
            .to_string();
        assert!(error.len() < 1000, "{} characters", error.len());
        assert!(error.contains("xxxx"), "{error}");
    }
    let options = CsvOptions::new().header(["a", "b"]);
    let error = read(&format!("{long},b\n"), "bert-base-cased", options).unwrap_err();
    assert!(error.to_string().len() < 1000);
}

#[test]
fn the_image_column_is_the_one_that_names_files() {
    let (_folder, options) = images(&["dress.png", "shoe.png"]);
    let text_of = |text: &str| {
        let documents = read(text, "clip-base-en", options.clone()).unwrap();
        let chunks = documents[0].chunks.clone();
        let text = chunks
            .iter()
            .find(|chunk| chunk.modality == Some(Modality::Text))
            .unwrap();
        text.as_text().unwrap().to_owned()
    };
    let note = "Note: a red dress (see http://shop.example/1)";
    for text in [
        format!("dress.png,{note}\nshoe.png,a white shoe\n"),
        format!("{note},dress.png\na white shoe,shoe.png\n"),
        // Only the first row suggests another order.
        format!("{note},dress.png\nshoe.png,shoe.png\nb,dress.png\n"),
    ] {
        assert_eq!(text_of(&text), note);
    }
    let text = "dress.png,http://shop.example\nshoe.png,dresses/summer\n";
    assert_eq!(text_of(text), "http://shop.example");
}

#[test]
fn paths_of_another_machine_are_errors_with_their_lines() {
    let (_folder, options) = images(&["up.png"]);
    let text = "pics\\red shoe.png,a\nC:\\Users\\a.png,b\nC:/Users/a.png,c\n\
                file:///C:/Users/a.png,d\n~/pics/a.png,e\n./up.png,f\nfile://nas/a.png,g\n";
    let error = read(text, "clip-base-en", options).unwrap_err();
    let problems = &error.problems().unwrap().problems;
    let lines: Vec<u64> = problems.iter().map(|problem| problem.number).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 7], "{error}");
}

#[test]
fn a_file_is_read_lazily() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.csv");
    std::fs::write(&path, "a,x\nb,y\n".repeat(20_000)).unwrap();
    let layout = Layout::of_task(&Task::TextToText).unwrap();
    let csv = Csv::path(&path).options(labelled());
    let source = csv.documents(layout).unwrap();
    let mut items = source.iter();
    assert!(items.next().unwrap().is_ok());
    // Rows after the part that was read are not in memory.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    let read = items.count();
    assert!(read < 39_000, "{read} documents were in memory");
    let error = source.check("train_data").err().unwrap();
    assert!(error.problems().is_some(), "{error}");
}
