//! `finetuner-server` as it is installed: the process that serves, the child
//! process that trains, and the token made beside them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{path::Path, process::Stdio};

use finetuner::{Document, DocumentArray, Finetuner, Loss, Status};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// A running `finetuner-server serve`, and what it has printed.
struct Serving {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Serving {
    async fn start(data: &Path) -> Self {
        let mut process = server()
            .args(["serve", "--address", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut serving = Self {
            process,
            output,
            url: String::new(),
        };
        serving.url = serving.line_after("Finetuner is ready at ").await;
        serving
    }

    /// What follows `start` in the next line that begins with it.
    async fn line_after(&mut self, start: &str) -> String {
        while let Some(line) = self.output.next_line().await.unwrap() {
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
        panic!("the server ended before it said `{start}`");
    }

    async fn log_in(&self, token: &str) -> finetuner::Result<Finetuner> {
        let builder = Finetuner::builder().registry(&self.url).token(token);
        builder.login().await
    }
}

fn server() -> Command {
    Command::new(env!("CARGO_BIN_EXE_finetuner-server"))
}

fn documents() -> DocumentArray {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/emoji-clip");
    let rows = std::fs::read_to_string(folder.join("fashion/train.csv")).unwrap();
    let mut documents = DocumentArray::new();
    for row in rows.lines().take(4) {
        let (picture, title) = row.split_once(',').unwrap();
        let picture = std::fs::read(folder.join(picture)).unwrap();
        documents.push(
            Document::new()
                .with_chunk(Document::blob(picture).with_modality("image"))
                .with_chunk(Document::text(title).with_modality("text")),
        );
    }
    documents
}

#[tokio::test]
async fn a_run_is_trained_by_a_child_process() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serving = Serving::start(&data).await;
    let token = serving.line_after("Token, shown this once: ").await;
    let finetuner = serving.log_in(&token).await.unwrap();
    finetuner.push("train", documents()).await.unwrap();
    let fit = finetuner.fit("clip-small", "train").epochs(1).batch_size(2);
    let run = fit.loss(Loss::Clip).run_name("one").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, Status::Finished);
    run.save_model(folder.path().join("model")).await.unwrap();
    assert!(folder.path().join("model/config.json").is_file());

    // A folder is refused, since nobody allowed it.
    let refused = finetuner.fit("/tmp", "train").loss(Loss::Clip).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("--local-models"), "{refused}");

    // A second user, made while the server runs, sees nothing of the first.
    let made = server()
        .args(["token", "second", "--data"])
        .arg(&data)
        .output()
        .await
        .unwrap();
    let second = String::from_utf8(made.stdout).unwrap();
    let second = serving.log_in(second.trim()).await.unwrap();
    assert_eq!(second.user().unwrap().name, "second");
    assert!(second.get_run("one").await.err().unwrap().is_not_found());

    // Told to end, it ends in order; started again, it still has the run.
    let pid = serving.process.id().unwrap().to_string();
    let told = Command::new("kill").arg(pid).status().await.unwrap();
    assert!(told.success());
    serving.line_after("Stopping").await;
    assert!(serving.process.wait().await.unwrap().success());
    let serving = Serving::start(&data).await;
    let finetuner = serving.log_in(&token).await.unwrap();
    let status = finetuner.get_run("one").await.unwrap().status().await;
    assert_eq!(status.unwrap().status, Status::Finished);
}

#[tokio::test]
async fn a_token_needs_the_folder_of_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let made = server()
        .args(["token", "--data"])
        .arg(folder.path())
        .output()
        .await
        .unwrap();
    assert!(!made.status.success() && made.stdout.is_empty());
    let error = String::from_utf8(made.stderr).unwrap();
    assert!(error.contains("holds no data of a server"), "{error}");
}
