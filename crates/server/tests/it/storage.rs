//! Stored data: check, backup, restore, clean-up.

use finetuner_server::{Server, backup, check, restore};

use crate::support::{Serving, connect, fit, pairs, server};

/// Returns all files below a folder.
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
async fn data_of_a_running_server_is_checked_copied_and_served() {
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
    // The next copy contains later changes.
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

    // One file is damaged and one is missing.
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

/// Only the owner can read the copy.
#[cfg(unix)]
fn assert_private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;

    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
}

#[cfg(not(unix))]
fn assert_private(_: &std::path::Path) {}

#[tokio::test]
async fn a_backup_is_private_and_restored_into_a_new_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, copy, new) = (path("data"), path("copy"), path("new"));
    let running = Server::embedded().folder(&data).start().await.unwrap();
    let token = running.first_token().unwrap().to_owned();
    let finetuner = connect(&running.url(), &token).await;
    finetuner.push("train", pairs(8)).await.unwrap();
    fit(&finetuner, "r", 1).await.unwrap().wait().await.unwrap();
    assert_eq!(backup(&data, None, &copy).await.unwrap(), 2);
    running.stop().await;
    assert_private(&copy);
    assert_private(&copy.join("finetuner.sqlite"));
    assert!(!copy.join("finetuner.sqlite.new").exists());

    assert_eq!(restore(&copy, &new, None).await.unwrap(), 2);
    assert_private(&new);
    let report = check(&new, None).await.unwrap();
    assert_eq!((report.good, report.faults.len()), (2, 0), "{report:?}");
    let again = Server::embedded().folder(&new).start().await.unwrap();
    let finetuner = connect(&again.url(), &token).await;
    assert_eq!(finetuner.pull("train").await.unwrap().len(), 8);
    let run = finetuner.get_run("r").await.unwrap();
    run.save_model(path("model")).await.unwrap();
    again.stop().await;

    // A restore replaces nothing and refuses damaged contents.
    let error = restore(&copy, &new, None).await.unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    let objects = files(&copy.join("store/objects"));
    std::fs::write(&objects[0], "damaged").unwrap();
    let error = restore(&copy, &path("third"), None).await.unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(!path("third").join("finetuner.sqlite").exists());
}

#[tokio::test]
async fn changes_of_a_crashed_server_on_a_backup_do_not_reach_the_next_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let running = Server::embedded().folder(&data).start().await.unwrap();
    let token = running.first_token().unwrap().to_owned();
    let finetuner = connect(&running.url(), &token).await;
    finetuner.push("a", pairs(2)).await.unwrap();
    assert_eq!(backup(&data, None, &copy).await.unwrap(), 1);

    // A process changes the copy and crashes, which leaves changes in SQLite's
    // files.
    let file = copy.join("finetuner.sqlite");
    let crashed = rusqlite::Connection::open(&file).unwrap();
    let stays = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    crashed.set_db_config(stays, true).unwrap();
    crashed.pragma_update(None, "journal_mode", "WAL").unwrap();
    let changes = "UPDATE artifacts SET name = 'changed'; CREATE TABLE more (x TEXT);
        INSERT INTO more SELECT hex(randomblob(2000)) FROM (VALUES (1), (2), (3), (4));";
    crashed.execute_batch(changes).unwrap();
    drop(crashed);
    assert!(copy.join("finetuner.sqlite-wal").metadata().unwrap().len() > 0);
    // An interrupted backup also leaves such files.
    std::fs::write(copy.join("finetuner.sqlite.new"), "half").unwrap();
    std::fs::write(copy.join("finetuner.sqlite.new-wal"), "half").unwrap();

    finetuner.push("b", pairs(3)).await.unwrap();
    assert_eq!(backup(&data, None, &copy).await.unwrap(), 2);
    running.stop().await;
    let report = check(&copy, None).await.unwrap();
    assert_eq!((report.good, report.faults.len()), (2, 0), "{report:?}");
    let again = Server::embedded().folder(&copy).start().await.unwrap();
    let finetuner = connect(&again.url(), &token).await;
    assert_eq!(finetuner.pull("a").await.unwrap().len(), 2);
    assert_eq!(finetuner.pull("b").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_backup_does_not_replace_used_or_unrelated_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, copy) = (path("data"), path("copy"));
    let running = Server::embedded().folder(&data).start().await.unwrap();
    let refused = async |target: &std::path::Path| {
        let error = backup(&data, None, target).await.unwrap_err();
        error.to_string()
    };
    let error = refused(&data).await;
    assert!(error.contains("it is the data folder itself"), "{error}");
    std::fs::create_dir(path("photos")).unwrap();
    std::fs::write(path("photos").join("cat.jpg"), "cat").unwrap();
    let error = refused(&path("photos")).await;
    assert!(error.contains("contains no earlier backup"), "{error}");
    backup(&data, None, &copy).await.unwrap();
    let serving = Server::embedded().folder(&copy).start().await.unwrap();
    let error = refused(&copy).await;
    assert!(error.contains("another server uses it"), "{error}");
    serving.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn unreferenced_content_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let start = async || Server::embedded().folder(&data).start().await.unwrap();
    let running = start().await;
    let token = running.first_token().unwrap().to_owned();
    let finetuner = connect(&running.url(), &token).await;
    finetuner.push("a", pairs(4)).await.unwrap();
    // A content with two names is stored once.
    finetuner.push("b", pairs(4)).await.unwrap();
    finetuner.push("b", pairs(5)).await.unwrap();
    let objects = || files(&data.join("store/objects"));
    let before = objects().len();
    finetuner.delete_documents("b").await.unwrap();
    assert_eq!(objects().len(), before - 1);
    running.stop().await;
    // A killed server left half an upload and a content without a name.
    let left = data.join("store/uploads");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("half"), "half").unwrap();
    let lost = data.join("store/objects/ab");
    std::fs::create_dir_all(&lost).unwrap();
    std::fs::write(lost.join("ab12"), "nobody's").unwrap();
    assert_eq!(check(&data, None).await.unwrap().unused_bytes, 8);
    let running = start().await;
    assert_eq!(files(&left).len(), 0);
    // The server answers while it removes unused contents.
    while lost.join("ab12").exists() {
        tokio::task::yield_now().await;
    }
    let finetuner = connect(&running.url(), &token).await;
    assert_eq!(finetuner.pull("a").await.unwrap().len(), 4);
}

#[tokio::test]
async fn the_command_line_manages_users_and_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serving = Serving::start(&data, &[]).await;
    let console = serving
        .line_after("Console (signs in once, within an hour): ")
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
        !again && error.contains("the user `ada` exists already"),
        "{error}"
    );
    let (short, _, error) = run(&["user", "password", "ada"], "short\n").await;
    assert!(!short && error.contains("8 to 1024 are allowed"), "{error}");
    let (set, ..) = run(&["user", "password", "ada"], "long enough\n").await;
    assert!(set);
    let (_, list, _) = run(&["user", "list"], "").await;
    assert_eq!(list, "ada\nfinetuner (admin) (no password)\n");
    // A disabled user is refused, the last admin can't be removed, and both are logged.
    assert!(run(&["user", "disable", "ada"], "").await.0);
    assert!(ada.whoami().await.unwrap_err().is_unauthorized());
    let (revoked, _, error) = run(&["user", "admin", "finetuner", "--revoke"], "").await;
    assert!(!revoked && error.contains("only admin"), "{error}");
    assert!(run(&["user", "enable", "ada"], "").await.0);
    ada.whoami().await.unwrap();
    let (told, log, _) = run(&["audit", "--action", "user."], "").await;
    let actions: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split(',').nth(3))
        .collect();
    let expected = [
        "action",
        "user.enable",
        "user.sessions.end",
        "user.disable",
        "user.password",
        "user.add",
    ];
    assert!(told && actions == expected, "{log}");

    // The password signs the user in to the console.
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
        error.to_string().contains("permits reading only"),
        "{error}"
    );

    ada.push("mine", pairs(1)).await.unwrap();
    let (whole, report, _) = run(&["check"], "").await;
    assert!(
        whole && report.contains("1 contents are undamaged"),
        "{report}"
    );
    let target = folder.path().join("copy");
    let (copied, said, error) = run(&["backup", target.to_str().unwrap()], "").await;
    assert!(
        copied && said.contains("1 contents and the database"),
        "{said}{error}"
    );
    let restored = folder.path().join("restored");
    let output = server()
        .arg("restore")
        .arg(&target)
        .arg("--data")
        .arg(&restored)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("1 contents and the database are in"),
        "{said}"
    );
    let (deleted, ..) = run(&["user", "delete", "ada"], "").await;
    assert!(deleted && ada.whoami().await.unwrap_err().is_unauthorized());
}
