//! Compares built tokenizers with those of `transformers`.

use std::path::PathBuf;

use super::*;
use crate::tokenizer::Tokenizer;

/// The files of a case of `fixtures/make_tokenizers.py`.
fn files(name: &str) -> HashMap<String, Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tokenizers")
        .join(name);
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let named = entries.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    });
    named.collect()
}

fn take(files: &mut HashMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files.remove(name).unwrap()).unwrap()
}

#[test]
fn old_and_new_files_give_the_tokens_of_transformers() {
    let names = [
        "bert",
        "bert-without-config",
        "bert-cased",
        "bert-cased-stripped",
        "bert-lowercased-unstripped",
        "bert-added",
        "mpnet",
        "contradicted",
        "taken-as-it-is",
        "without-settings",
        "roberta",
        "roberta-space",
        "clip",
    ];
    for name in names {
        let mut files = files(name);
        let expected = take(&mut files, "expected.json");
        let config = take(&mut files, "config.json");
        let (tokenizer, longest) = Tokenizer::of_model(&files, &config).unwrap();
        assert_eq!(json!(longest), expected["longest"], "{name}");
        let tokenizer = tokenizer.truncate_at(longest.unwrap_or(512)).unwrap();
        let texts = expected["texts"].as_array().unwrap();
        let all = expected["ids"].as_array().unwrap();
        for (text, ids) in texts.iter().zip(all) {
            let found = tokenizer.encode(&[text.as_str().unwrap()]).unwrap();
            assert_eq!(json!(found.ids), *ids, "{name}: {text}");
        }
    }
}

fn refused(change: impl Fn(&mut HashMap<String, Vec<u8>>), model: &str) -> String {
    let mut files = files("bert");
    change(&mut files);
    let built = build(&files, &json!({"model_type": model}));
    built.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_missing_tokenizer_is_refused_with_the_files_it_needs() {
    let none = refused(HashMap::clear, "bert");
    assert!(
        none.contains("vocab.txt") && none.contains("save_pretrained"),
        "{none}"
    );
    let none = refused(HashMap::clear, "roberta");
    assert!(none.contains("vocab.json and merges.txt"), "{none}");
    let binary = |files: &mut HashMap<String, Vec<u8>>| {
        files.clear();
        files.insert("spiece.model".into(), vec![1]);
    };
    let binary = refused(binary, "t5");
    assert!(binary.contains("spiece.model"), "{binary}");
    for (file, content, part) in [
        ("tokenizer_config.json", "[]", "expected an object"),
        (
            "tokenizer_config.json",
            "{\"do_lower_case\": 3}",
            "do_lower_case",
        ),
        (
            "tokenizer_config.json",
            "{\"model_max_length\": \"8\"}",
            "model_max_length",
        ),
        ("tokenizer.json", "{", "tokenizer.json"),
    ] {
        let change = |files: &mut HashMap<String, Vec<u8>>| {
            files.insert(file.into(), content.into());
        };
        let error = refused(change, "bert");
        assert!(error.contains(part), "{file} {content}: {error}");
    }
}

#[test]
fn a_limit_without_room_for_text_is_refused() {
    let mut files = files("bert");
    let config = take(&mut files, "config.json");
    let (tokenizer, _) = Tokenizer::of_model(&files, &config).unwrap();
    let error = tokenizer
        .truncate_at(2)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("truncated to 2 tokens") && error.contains("at least 3"),
        "{error}"
    );
}
