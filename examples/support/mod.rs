//! Shared code of the examples: a backend, and a client logged in to it.

// Each example uses only a part of this module.
#![allow(dead_code)]

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use finetuner::{
    Csv, CsvOptions, Finetuner, HUBBLE_VARIABLE, REGISTRY_VARIABLE, Run,
    local::{Distance, Encoder},
};
use finetuner_server::{RunningServer, Server};

/// Error of an example.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// Connects to the backend that the environment names, or to a new one inside this
/// program. The new backend stops when the first value is dropped.
pub(crate) async fn connect() -> Fallible<(Option<RunningServer>, Finetuner)> {
    let elsewhere = [REGISTRY_VARIABLE, HUBBLE_VARIABLE]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if elsewhere {
        return Ok((None, Finetuner::login().await?));
    }
    let backend = Server::embedded().start().await?;
    println!("Started a backend at {}", backend.url());
    let token = backend.first_token().ok_or("a new backend has a token")?;
    let finetuner = Finetuner::builder()
        .registry(backend.url())
        .token(token)
        .login()
        .await?;
    Ok((Some(backend), finetuner))
}

/// Returns the folder of the bundled data.
pub(crate) fn datasets() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("datasets")
}

/// Returns the folder of the bundled images.
pub(crate) fn data_folder() -> PathBuf {
    datasets().join("emoji-clip")
}

/// Reads the first column of a CSV file with two columns.
pub(crate) fn first_column(path: &Path) -> Fallible<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let first = text.lines().filter_map(|line| line.rsplit_once(','));
    Ok(first
        .map(|(first, _)| first.trim_matches('"').to_owned())
        .collect())
}

/// Reads the rows of a CSV file with two columns.
pub(crate) fn rows(path: &Path) -> Fallible<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let plain = |cell: &str| cell.trim_matches('"').replace("\"\"", "\"");
    let row = |line: &str| {
        let (first, second) = match line.starts_with('"') {
            true => line.split_once("\","),
            false => line.split_once(','),
        }?;
        Some((plain(first), plain(second)))
    };
    Ok(text.lines().filter_map(row).collect())
}

/// Returns images of clothes with their titles: a CSV file with paths relative to the
/// data's folder.
pub(crate) fn fashion(list: &str) -> Csv {
    let folder = data_folder();
    Csv::path(folder.join(format!("fashion/{list}.csv")))
        .options(CsvOptions::new().base_folder(folder))
}

/// Describes a short run on the small CLIP that ships with the backend.
pub(crate) fn short_fit(finetuner: &Finetuner, run_name: &str) -> finetuner::Fit {
    finetuner
        .fit("clip-small", fashion("train"))
        .run_name(run_name)
        .eval_data(fashion("eval"))
        .epochs(3)
        .batch_size(32)
        .learning_rate(3e-4)
        .loss(finetuner::Loss::Clip)
}

/// Prints a run's log until it has ended, and its metrics.
pub(crate) async fn follow(run: &Run) -> Fallible<()> {
    println!("Created run {}", run.name());
    let mut lines = run.stream_logs();
    while let Some(line) = lines.next().await {
        println!("  {}", line?);
    }
    // Returns the reason if the run has failed.
    run.wait().await?;
    println!("\n{}", run.display_metrics().await?);
    Ok(())
}

/// Searches definitions, the first column of a CSV file, for two descriptions.
pub(crate) fn search_definitions(model: &Encoder, file: &Path) -> Fallible<()> {
    let definitions = first_column(file)?;
    let texts: Vec<&str> = definitions.iter().map(String::as_str).collect();
    let index = model.encode_texts(&texts)?;
    for query in ["something to keep the rain off", "a ring for the finger"] {
        println!("\n{query}");
        let asked = model.encode_texts(&[query])?;
        for found in &index.search(&asked, 3, Distance::Cosine)?[0] {
            println!("  {:.3} {}", 1.0 - found.distance, texts[found.index]);
        }
    }
    Ok(())
}
