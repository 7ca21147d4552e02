//! Sharing of a cache by the workers of one machine.

use std::{
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use crate::support::{Serving, fit, pairs};

#[tokio::test]
async fn a_second_run_reads_its_data_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let environment = [("FINETUNER_WORKER_CACHE", cache.to_str().unwrap())];
    let mut server = Serving::start_in(&folder.path().join("data"), &[], &environment).await;
    let token = server.line_after("Token, shown this once: ").await;
    let finetuner = server.log_in(&token).await.unwrap();
    finetuner.push("train", pairs(8)).await.unwrap();

    let run = fit(&finetuner, "first", 1).await.unwrap();
    run.wait().await.unwrap();
    let files = std::fs::read_dir(cache.join("contents")).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else {
        panic!("one content was fetched: {files:?}");
    };
    let sum = Sha256::digest(std::fs::read(file).unwrap());
    assert_eq!(
        file.file_name().unwrap().to_str().unwrap(),
        hex::encode(sum)
    );
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);

    // Using a file updates its time and does not replace it.
    let before = file.metadata().unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let opened = std::fs::File::open(file).unwrap();
    opened.set_modified(long_ago).unwrap();
    let run = fit(&finetuner, "second", 1).await.unwrap();
    run.wait().await.unwrap();
    let after = file.metadata().unwrap();
    assert_eq!(after.ino(), before.ino());
    assert!(after.modified().unwrap() > long_ago);
    let log = run.logs().await.unwrap();
    assert!(!log.contains("cache"), "{log}");

    // An unusable cache causes only a warning.
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::write(&cache, "").unwrap();
    let run = fit(&finetuner, "third", 1).await.unwrap();
    run.wait().await.unwrap();
    let log = run.logs().await.unwrap();
    assert!(log.contains("cache can't be used"), "{log}");
}
