//! What all examples need: a backend, and a client that is logged in there.

// Each example uses a part of it.
#![allow(dead_code)]

use std::{error::Error, path::PathBuf};

use finetuner::{Csv, CsvOptions, Finetuner, HUBBLE_VARIABLE, REGISTRY_VARIABLE};
use finetuner_server::{RunningServer, Server};

/// What an example may fail with.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// The backend that the environment names, or one inside this program, which
/// ends with what is returned first.
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

/// The folder of the bundled pictures.
pub(crate) fn data_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("datasets/emoji-clip")
}

/// Pictures of clothes with their titles: a CSV file whose paths begin at the
/// data's folder.
pub(crate) fn fashion(list: &str) -> Csv {
    let folder = data_folder();
    Csv::path(folder.join(format!("fashion/{list}.csv")))
        .options(CsvOptions::new().base_folder(folder))
}

/// A short run on the small CLIP that ships with the backend.
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

/// Follows a run to its metrics, or says why this backend has not taken it.
pub(crate) async fn report(submitted: finetuner::Result<finetuner::Run>) -> Fallible<()> {
    match submitted {
        Ok(run) => {
            println!("Submitted {}", run.name());
            run.wait().await?;
            println!("{}", run.display_metrics().await?);
        }
        // Refused before anything was trained; the reason names the argument.
        Err(error) if error.is_invalid() => println!("Not on this backend: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
