//! Folders of images, and files that may only name files in a folder.

use super::*;

#[test]
fn images_of_a_folder_have_captions_or_labels() {
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
        error.contains("both a metadata.csv and a metadata.jsonl"),
        "{error}"
    );
    std::fs::remove_file(path("metadata.csv")).unwrap();
    let documents = found(&Task::ImageToImage).unwrap();
    assert_eq!(documents[0].label().unwrap(), "1");

    // Shared data must not make a program upload files outside its folder.
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
    let reported: Vec<&str> = problems.iter().map(|p| p.reason.as_str()).collect();
    assert!(
        reported[0].contains("column `file_name`") && reported[0].contains("is outside the folder"),
        "{reported:?}"
    );
    assert!(
        reported[1].contains("is outside the folder") && reported[2].contains("no file"),
        "{reported:?}"
    );
}

#[cfg(unix)]
#[test]
fn links_out_of_a_folder_are_errors() {
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
    let reported: Vec<(u64, &str)> = problems
        .iter()
        .map(|p| (p.number, p.reason.as_str()))
        .collect();
    assert_eq!(reported.len(), 2, "{reported:?}");
    assert!(
        reported[0].0 == 2 && reported[0].1.contains("`outside.png` is outside"),
        "{reported:?}"
    );
    assert!(
        reported[1].0 == 3 && reported[1].1.contains("there is no file"),
        "{reported:?}"
    );
}

#[test]
fn confined_files_have_limits_and_name_only_files_in_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let image = b"\x89PNG\r\n\x1a\n and more";
    for name in ["a.png", "inner/a.png"] {
        std::fs::write(folder.path().join(name), image).unwrap();
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
        let reported = reasons(cell).unwrap_err();
        assert!(
            reported.contains("is outside the folder"),
            "{cell}: {reported}"
        );
    }
    let reported = reasons("b.png").unwrap_err();
    assert!(reported.contains("is not an image"), "{reported}");
    let csv = crate::CsvOptions::new().confined(&inner).is_labeled(true);
    let csv = crate::Csv::text(format!("{outside},x\n")).options(csv);
    let layout = Layout::of_task(&Task::ImageToImage).unwrap();
    let reported = csv.documents(layout).unwrap().check("x").unwrap_err();
    assert!(
        reported.to_string().contains("is outside the folder"),
        "{reported}"
    );

    let long = format!("{{\"text\": \"{}\", \"label\": 1}}", "x".repeat(9 << 20));
    assert!(texts(lines(&long)).is_ok());
    let reported = texts(lines(&long).confined(&inner)).unwrap_err();
    assert!(
        reported.to_string().contains("more than the 8 MiB"),
        "{reported}"
    );
    let row = format!("\"{}\",b\n", "x".repeat(9 << 20));
    let csv = |options| crate::Csv::text(&row).options(options);
    let layout = Layout::of_task(&Task::TextToText).unwrap();
    let checked = |csv: crate::Csv| {
        csv.documents(layout)
            .and_then(|all| all.check("x").map(drop))
    };
    checked(csv(crate::CsvOptions::new())).unwrap();
    let reported = checked(csv(crate::CsvOptions::new().confined(&inner))).unwrap_err();
    assert!(
        reported.to_string().contains("more than the 8 MiB"),
        "{reported}"
    );
    let members: Vec<String> = (0..2000).map(|n| format!("\"c{n}\": 1")).collect();
    let wide = format!("{{{}}}", members.join(", "));
    let reported = texts(lines(&wide).confined(&inner)).unwrap_err();
    assert!(reported.to_string().contains("2000 columns"), "{reported}");
}
