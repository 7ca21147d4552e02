//! The installed program `finetuner-server`: the serving process, the training
//! child process, and commands that run next to them.

use std::process::Stdio;

use finetuner::{Loss, Status};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::support::{Serving, pairs, server};

#[tokio::test]
async fn a_run_is_trained_by_a_child_process() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serving = Serving::start(&data, &[]).await;
    let token = serving.line_after("Token, shown this once: ").await;
    let finetuner = serving.log_in(&token).await.unwrap();
    finetuner.push("train", pairs(4)).await.unwrap();
    let fit = finetuner.fit("clip-small", "train").epochs(1).batch_size(2);
    let run = fit.loss(Loss::Clip).run_name("one").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, Status::Finished);
    run.save_model(folder.path().join("model")).await.unwrap();
    assert!(folder.path().join("model/config.json").is_file());

    // The folder is refused, because it was not allowed.
    let refused = finetuner.fit("/tmp", "train").loss(Loss::Clip).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("--local-models"), "{refused}");

    // A second user, created while the server runs, sees nothing of the first user.
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

    // After SIGTERM the server stops in order. Started again, it still has the run.
    let pid = serving.process.id().unwrap().to_string();
    let told = Command::new("kill").arg(pid).status().await.unwrap();
    assert!(told.success());
    serving.line_after("Stopping").await;
    assert!(serving.process.wait().await.unwrap().success());
    let serving = Serving::start(&data, &[]).await;
    let finetuner = serving.log_in(&token).await.unwrap();
    let status = finetuner.get_run("one").await.unwrap().status().await;
    assert_eq!(status.unwrap().status, Status::Finished);
}

#[tokio::test]
async fn a_server_with_closed_output_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = server()
        .args(["serve", "--address", "127.0.0.1:0", "--data"])
        .arg(folder.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    while !lines
        .next_line()
        .await
        .unwrap()
        .unwrap()
        .starts_with("Console")
    {}
    drop(lines);
    drop(process.stderr.take());
    let pid = process.id().unwrap().to_string();
    let told = Command::new("kill").arg(pid).status().await.unwrap();
    assert!(told.success());
    let status = process.wait().await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn creating_a_token_needs_a_servers_folder() {
    let folder = tempfile::tempdir().unwrap();
    let made = server()
        .args(["token", "--data"])
        .arg(folder.path())
        .output()
        .await
        .unwrap();
    assert!(!made.status.success() && made.stdout.is_empty());
    let error = String::from_utf8(made.stderr).unwrap();
    assert!(
        error.contains("does not contain the data of a server"),
        "{error}"
    );
}

#[tokio::test]
async fn options_override_the_environment_and_the_environment_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("finetuner.toml");
    let config = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        let done = server()
            .args(["config", "--lease", "9", "--settings"])
            .arg(&file)
            .env("FINETUNER_STORE", "s3://environment/a")
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.success(), text(done.stdout), text(done.stderr))
    };
    let text = "[server]\nstore = 's3://file/a'\ngrace = 7\n[runs]\nlease = 5\n";
    let (done, printed, error) = config(text).await;
    assert!(done, "{error}");
    for line in [
        "lease = 9.0",
        "store = \"s3://environment/a\"",
        "grace = 7.0",
        "attempts = 3",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{printed}");
    }
    // The printed file is accepted and results in the same settings.
    assert_eq!(config(&printed).await.1, printed);
    let (done, _, error) = config("[runs]\nleese = 5\n").await;
    assert!(!done && error.contains("line 2"), "{error}");
    assert!(
        error.contains("finetuner.toml") && error.contains("leese"),
        "{error}"
    );
}

/// For example a snapshot, or a disk that is mounted read-only.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn data_on_read_only_media_can_be_checked_and_copied() {
    let may_mount = Command::new("unshare").args(["-m", "true"]).output().await;
    if !may_mount.is_ok_and(|done| done.status.success()) {
        println!("skipped: only root can mount a folder for reading alone");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (data, target) = (folder.path().join("data"), folder.path().join("copy"));
    // Runs the program while the data folder is read-only.
    let read_only = async |arguments: &str| {
        let script = format!(
            "mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}' && '{1}' {arguments} \
             --data '{0}'",
            data.display(),
            env!("CARGO_BIN_EXE_finetuner-server"),
        );
        let mut command = Command::new("unshare");
        let done = command
            .args(["-m", "sh", "-c", &script])
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            done.status.success(),
            text(done.stdout) + &text(done.stderr),
        )
    };
    let backup = format!("backup '{}'", target.display());
    let mut serving = Serving::start(&data, &[]).await;
    let token = serving.line_after("Token, shown this once: ").await;
    let finetuner = serving.log_in(&token).await.unwrap();
    finetuner.push("train", pairs(4)).await.unwrap();
    // A killed server left its last changes in files next to the database.
    serving.process.kill().await.unwrap();
    let (done, text) = read_only(&backup).await;
    assert!(!done && text.contains("copy the folder"), "{text}");

    let mut serving = Serving::start(&data, &[]).await;
    let pid = serving.process.id().unwrap().to_string();
    let told = Command::new("kill").arg(pid).status().await.unwrap();
    assert!(told.success());
    assert!(serving.process.wait().await.unwrap().success());
    let (done, text) = read_only("check").await;
    assert!(done && text.contains("1 contents are undamaged"), "{text}");
    let (done, text) = read_only(&backup).await;
    assert!(
        done && text.contains("1 contents and the database"),
        "{text}"
    );
    let serving = Serving::start(&target, &[]).await;
    let finetuner = serving.log_in(&token).await.unwrap();
    assert_eq!(finetuner.pull("train").await.unwrap().len(), 4);
}
