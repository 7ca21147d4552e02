//! Documents of Parquet files.

use super::*;

fn file(name: &str) -> Dataset {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
    Dataset::parquet(folder.join(name))
}

#[test]
fn all_supported_compressions_give_the_same_rows() {
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
fn images_and_labels_are_read() {
    let found = documents(file("pictures.parquet"), &Task::TextToImage).unwrap();
    let [image, text] = &found[1].chunks[..] else {
        panic!("{found:?}")
    };
    assert!(image.as_blob().unwrap().starts_with(b"\x89PNG"));
    assert_eq!(text.as_text(), Some("another dot"));
    let missing = refused(file("labels.parquet"));
    assert!(
        missing.contains("3: column `text`: it has no visible text"),
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
fn corrupt_files_are_errors() {
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
    // A corrupt byte anywhere gives an error or rows, and no panic.
    for offset in (4..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0xff;
        let path = folder.path().join("flipped");
        std::fs::write(&path, bytes).unwrap();
        let _ = texts(Dataset::parquet(&path));
    }
    // In Thrift's zigzag form, the lowest bit of a number is its sign.
    let footer = u32::from_le_bytes(*whole.last_chunk::<8>().unwrap().first_chunk().unwrap());
    for offset in whole.len() - 8 - footer as usize..whole.len() - 8 {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1;
        let path = folder.path().join("negative");
        std::fs::write(&path, bytes).unwrap();
        let _ = texts(Dataset::parquet(&path).confined(folder.path()));
    }
    let missing = texts(Dataset::parquet("no-such.parquet")).unwrap_err();
    assert!(matches!(missing, Error::File { .. }), "{missing}");
}
