//! What is kept: checked, copied, cleaned, and never lost.

use finetuner_server::{Server, backup, check};

use crate::support::{Serving, connect, fit, pairs, server};

/// All files below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(files(&path)),
            path => all.push(path),
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn data_is_checked_copied_while_the_server_runs_and_served_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let running = Server::embedded().folder(&data).start().await.unwrap();
    let token = running.first_token().unwrap().to_owned();
    let finetuner = connect(&running.url(), &token).await;
    finetuner.push("train", pairs(8)).await.unwrap();
    fit(&finetuner, "r", 1).await.unwrap().wait().await.unwrap();
    let report = check(&data, None).await.unwrap();
    assert_eq!((report.good, report.faults.len()), (2, 0), "{report:?}");

    assert_eq!(backup(&data, None, &copy).await.unwrap(), 2);
    // What changes later is in the next copy.
    finetuner.push("more", pairs(2)).await.unwrap();
    assert_eq!(backup(&data, None, &copy).await.unwrap(), 3);
    running.stop().await;

    let again = Server::embedded().folder(&copy).start().await.unwrap();
    let finetuner = connect(&again.url(), &token).await;
    assert_eq!(finetuner.pull("more").await.unwrap().len(), 2);
    let run = finetuner.get_run("r").await.unwrap();
    run.save_model(folder.path().join("model")).await.unwrap();
    again.stop().await;
    assert!(check(&copy, None).await.unwrap().faults.is_empty());

    // A file that is damaged, and one that is gone.
    let objects = files(&copy.join("store/objects"));
    assert_eq!(objects.len(), 3);
    std::fs::write(&objects[0], "damaged").unwrap();
    std::fs::remove_file(&objects[1]).unwrap();
    let report = check(&copy, None).await.unwrap();
    assert_eq!(report.good, 1);
    let faults = report.faults.join("\n");
    assert!(faults.contains("is damaged; it is needed by"), "{faults}");
    assert!(faults.contains("is missing; it is needed by"), "{faults}");
}

#[tokio::test]
async fn what_nothing_needs_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let start = async || Server::embedded().folder(&data).start().await.unwrap();
    let running = start().await;
    let token = running.first_token().unwrap().to_owned();
    let finetuner = connect(&running.url(), &token).await;
    finetuner.push("a", pairs(4)).await.unwrap();
    // The same content under two names is there once.
    finetuner.push("b", pairs(4)).await.unwrap();
    finetuner.push("b", pairs(5)).await.unwrap();
    let objects = || files(&data.join("store/objects"));
    let before = objects().len();
    finetuner.delete_documents("b").await.unwrap();
    assert_eq!(objects().len(), before - 1);
    running.stop().await;
    // Of a server that was killed: half an upload, and a content without a name.
    let left = data.join("store/uploads");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("half"), "half").unwrap();
    let lost = data.join("store/objects/ab");
    std::fs::create_dir_all(&lost).unwrap();
    std::fs::write(lost.join("ab12"), "nobody's").unwrap();
    assert_eq!(check(&data, None).await.unwrap().unused_bytes, 8);
    let running = start().await;
    assert_eq!(files(&left).len(), 0);
    // The store is swept while the server answers.
    while lost.join("ab12").exists() {
        tokio::task::yield_now().await;
    }
    let finetuner = connect(&running.url(), &token).await;
    assert_eq!(finetuner.pull("a").await.unwrap().len(), 4);
}

#[tokio::test]
async fn the_command_line_looks_after_users_and_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serving = Serving::start(&data, &[]).await;
    let console = serving
        .line_after("Console, to sign in once within an hour: ")
        .await;
    assert!(console.starts_with(&format!("{}/console/signin?code=", serving.url)));
    let run = async |arguments: &[&str], input: &str| {
        use tokio::io::AsyncWriteExt;

        let mut child = server()
            .args(arguments)
            .args(["--data".as_ref(), data.as_os_str()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (added, token, _) = run(&["user", "add", "ada"], "").await;
    assert!(added);
    let ada = serving.log_in(token.trim()).await.unwrap();
    assert_eq!(ada.user().unwrap().name, "ada");
    let (again, _, error) = run(&["user", "add", "ada"], "").await;
    assert!(
        !again && error.contains("there is a user `ada` already"),
        "{error}"
    );
    let (short, _, error) = run(&["user", "password", "ada"], "short\n").await;
    assert!(!short && error.contains("8 to 1024 are wanted"), "{error}");
    let (set, ..) = run(&["user", "password", "ada"], "long enough\n").await;
    assert!(set);
    let (_, list, _) = run(&["user", "list"], "").await;
    assert_eq!(list, "ada\nfinetuner (no password)\n");

    // With the password one signs in at the console.
    let http = crate::support::Http::new(&serving.url, None);
    let form = [("name", "ada"), ("password", "long enough")];
    let request = http.post("/console/signin").form(&form);
    let answer = request
        .header("sec-fetch-site", "same-origin")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 303);
    let (read, token, _) = run(&["token", "ada", "--scope", "read"], "").await;
    assert!(read);
    let reader = serving.log_in(token.trim()).await.unwrap();
    let error = reader.push("x", pairs(1)).await.unwrap_err();
    assert!(
        error.to_string().contains("good for reading alone"),
        "{error}"
    );

    ada.push("mine", pairs(1)).await.unwrap();
    let (whole, report, _) = run(&["check"], "").await;
    assert!(whole && report.contains("1 contents are whole"), "{report}");
    let target = folder.path().join("copy");
    let (copied, said, error) = run(&["backup", target.to_str().unwrap()], "").await;
    assert!(
        copied && said.contains("1 contents and the database"),
        "{said}{error}"
    );
    let (deleted, ..) = run(&["user", "delete", "ada"], "").await;
    assert!(deleted && ada.whoami().await.unwrap_err().is_unauthorized());
}
