//! The real backend inside the test process, with real data.

use std::path::{Path, PathBuf};

use finetuner::{Document, DocumentArray, EvaluationCallback, Finetuner, Fit, Loss};
use finetuner_server::{RunningServer, Server};

pub(crate) const TRAIN_DATA: &str = "clip-fashion-train-data";
pub(crate) const EVAL_DATA: &str = "clip-fashion-eval-data";

/// Starts a backend, and a client logged in to it.
pub(crate) async fn start() -> (RunningServer, Finetuner) {
    let server = Server::embedded().start().await.unwrap();
    let finetuner = login(&server).await;
    (server, finetuner)
}

pub(crate) async fn login(server: &RunningServer) -> Finetuner {
    let builder = Finetuner::builder().registry(server.url());
    let builder = builder.token(server.first_token().unwrap());
    builder.login().await.unwrap()
}

/// Like [`start`], with `count` pairs of the fashion data pushed for training and
/// eight for evaluation.
pub(crate) async fn with_data(count: usize) -> (RunningServer, Finetuner) {
    let (server, finetuner) = start().await;
    let (train, eval) = (pairs("train", count), pairs("eval", 8));
    finetuner.push(TRAIN_DATA, &train).await.unwrap();
    finetuner.push(EVAL_DATA, &eval).await.unwrap();
    (server, finetuner)
}

fn data_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/emoji-clip")
}

/// Returns the first images of a list of the fashion data, with their titles.
pub(crate) fn rows(list: &str, count: usize) -> Vec<(Vec<u8>, String)> {
    let csv = std::fs::read_to_string(data_folder().join(format!("fashion/{list}.csv"))).unwrap();
    let row = |line: &str| {
        let (image, title) = line.split_once(',').unwrap();
        let image = std::fs::read(data_folder().join(image)).unwrap();
        (image, title.to_owned())
    };
    csv.lines().take(count).map(row).collect()
}

/// Like [`rows`], as documents.
pub(crate) fn pairs(list: &str, count: usize) -> DocumentArray {
    let mut documents = DocumentArray::new();
    for (image, title) in rows(list, count) {
        documents.push(pair(image, &title));
    }
    documents
}

pub(crate) fn pair(image: Vec<u8>, title: &str) -> Document {
    Document::new()
        .with_chunk(Document::blob(image).with_modality("image"))
        .with_chunk(Document::text(title).with_modality("text"))
}

/// Describes a run of one short epoch on the small model with an evaluation.
pub(crate) fn short_fit(finetuner: &Finetuner, run_name: &str) -> Fit {
    finetuner
        .fit("clip-small", TRAIN_DATA)
        .run_name(run_name)
        .epochs(1)
        .batch_size(8)
        .learning_rate(1e-3)
        .loss(Loss::Clip)
        .callback(EvaluationCallback::new(EVAL_DATA))
}
