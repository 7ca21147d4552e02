//! The book is complete: the table of contents names every page, and all links have a target.

use std::{collections::BTreeSet, fs, path::Path};

use finetuner_docs::{PAGES, contents, page};

type Fallible = Result<(), Box<dyn std::error::Error>>;

#[test]
fn the_table_of_contents_names_every_page_once_and_in_order() -> Fallible {
    let listed: Vec<&str> = contents()
        .iter()
        .flat_map(|part| part.pages.iter().map(|page| page.name))
        .collect();
    let included: Vec<&str> = PAGES.iter().map(|page| page.name).collect();
    assert_eq!(listed, included);

    let mut files = BTreeSet::new();
    for file in fs::read_dir(env!("CARGO_MANIFEST_DIR"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".md").filter(|name| *name != "SUMMARY") {
            files.insert(name.to_owned());
        }
    }
    let included: BTreeSet<String> = included.into_iter().map(str::to_owned).collect();
    assert_eq!(files, included, "files of docs/, and pages of src/lib.rs");
    Ok(())
}

#[test]
fn links_lead_to_a_page_and_to_a_heading() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for from in PAGES {
        for link in from.links_and_ids().0 {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file.strip_suffix(".md") {
                Some(name) => page(name),
                None if file.is_empty() => Some(from),
                None => None,
            };
            let there = target.is_some_and(|target| {
                let ids = target.links_and_ids().1;
                anchor.is_empty() || ids.iter().any(|id| id == anchor)
            });
            if !there {
                wrong.push(format!("{}.md: {link}", from.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 50, "{count} links");
}

/// Files outside the book with links into it.
#[test]
fn links_of_the_files_at_the_root_lead_to_files() -> Fallible {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = Vec::new();
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        let text = fs::read_to_string(root.join(name)).map_err(|e| format!("{name}: {e}"))?;
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let book = file
                .strip_prefix("docs/")
                .and_then(|f| f.strip_suffix(".md"));
            let there = match book.and_then(page) {
                Some(page) => {
                    anchor.is_empty() || page.links_and_ids().1.iter().any(|id| id == anchor)
                }
                None => file.is_empty() || root.join(file).exists(),
            };
            if !there {
                wrong.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Returns the relative links in a Markdown text.
fn links(text: &str) -> Vec<String> {
    let after = text.split("](").skip(1);
    after
        .filter_map(|rest| rest.split_once(')'))
        .map(|(link, _)| link.to_owned())
        .filter(|link| !link.contains("://"))
        .collect()
}

#[test]
fn every_code_block_names_its_language() {
    let known = [
        "console",
        "json",
        "python",
        "rust",
        "rust,no_run",
        "rs",
        "sh",
        "text",
        "toml",
    ];
    for page in PAGES {
        let mut open = false;
        for (number, line) in page.markdown.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                let good = open == language.is_empty() && (open || known.contains(&language));
                assert!(good, "{}.md:{}: `{line}`", page.name, number + 1);
                open = !open;
            }
        }
        assert!(!open, "{}.md: a block of code has no end", page.name);
    }
}

#[test]
fn a_page_begins_with_its_title() {
    for page in PAGES {
        let first = page.markdown.lines().next().unwrap_or_default();
        assert!(first.starts_with("# "), "{}.md: {first}", page.name);
        let html = page.html();
        assert_eq!(html.matches("<h1").count(), 1, "{}.md", page.name);
    }
}

/// Environment variables that no guide describes: those that the server sets for its workers, and those of tests.
const INTERNAL: [&str; 4] = [
    "FINETUNER_WORKER_URL",
    "FINETUNER_WORKER_START",
    "FINETUNER_WORKER_TOKEN",
    "FINETUNER_WORKER_FOLDER",
];

#[test]
fn every_environment_variable_is_documented() -> Fallible {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in [
        "src",
        "crates/cli/src",
        "crates/engine/src",
        "crates/server/src",
    ] {
        sources(&root.join(folder), &mut files)?;
    }
    let mut found = BTreeSet::new();
    for file in &files {
        for literal in fs::read_to_string(file)?.split('"') {
            let ours = ["FINETUNER_", "JINA_"]
                .iter()
                .any(|start| literal.starts_with(start));
            let name = |c: char| c.is_ascii_uppercase() || c == '_';
            if ours && literal.chars().all(name) && !literal.ends_with('_') {
                found.insert(literal.to_owned());
            }
        }
    }
    found.retain(|name| !INTERNAL.contains(&name.as_str()) && !name.contains("_TEST_"));
    assert!(found.len() > 15, "{found:?}");
    let table = page("settings").map_or("", |page| page.markdown);
    let missing: Vec<&String> = found
        .iter()
        .filter(|name| !table.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "settings.md lacks {missing:?}");
    Ok(())
}

fn sources(folder: &Path, files: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
