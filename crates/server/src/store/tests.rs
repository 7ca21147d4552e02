//! Tests of the store, with and without faults.

use std::future::ready;

use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::{
    faults::{Call, Fault, Faulty},
    *,
};

/// Stores bytes in pieces of the given size.
async fn keep(store: &Store, bytes: &[u8], piece: usize) -> Result<Stored> {
    let mut upload = store.upload();
    for piece in bytes.chunks(piece) {
        upload.write(Bytes::copy_from_slice(piece)).await?;
    }
    let sealed = upload.seal().await?;
    let hold = store.hold(sealed.content()).await;
    sealed.place(hold).await
}

async fn remove(store: &Store, content: &str) {
    let removed = store.remove(content, ready(Ok::<_, ApiError>(false)));
    removed.await.unwrap();
}

/// Returns more bytes than fit into one part of an upload.
fn much() -> Vec<u8> {
    (0..12 << 20).map(|n: u32| (n >> 3) as u8).collect()
}

fn walk(folder: &FilePath) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path) } else { 1 }
        })
        .sum()
}

#[tokio::test]
async fn contents_are_stored_by_hash_and_broken_uploads_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_folder(folder.path()).unwrap();
    let mut broken = store.upload();
    broken.write(Bytes::from_static(b"half")).await.unwrap();
    drop(broken);
    let stored = keep(&store, b"abc", 2).await.unwrap();
    assert_eq!(stored.size, 3);
    assert!(stored.content.starts_with("ba7816bf8f01cfea"));
    let bytes = store.range(&stored.content, 0..3).await.unwrap();
    assert_eq!(&bytes[..], b"abc");
    remove(&store, &stored.content).await;
    assert!(store.size(&stored.content).await.is_err());
    assert!(store.list().try_next().await.unwrap().is_none());
    assert_eq!(walk(folder.path()), 0, "files are left");
}

#[tokio::test]
async fn partial_files_of_a_killed_server_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_folder(folder.path()).unwrap();
    let uploads = folder.path().join("uploads");
    std::fs::create_dir(&uploads).unwrap();
    for name in ["whole", "half#1"] {
        std::fs::write(uploads.join(name), "x").unwrap();
    }
    store.drop_uploads().await.unwrap();
    assert_eq!(walk(folder.path()), 0, "files are left");
}

#[test]
fn an_upload_with_a_cancelled_write_takes_no_more_bytes() {
    // The only blocking thread is busy, so hashing has to wait.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(1).build().unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let waiting = tokio::task::spawn_blocking(move || busy.recv());
        let (store, faulty) = Faulty::in_memory();
        let mut upload = store.upload();
        // The bytes did not reach the store.
        let many = Bytes::from(vec![1; 1 << 20]);
        let cut_off = upload.write(many.clone()).now_or_never();
        assert!(cut_off.is_none(), "many bytes are hashed on another thread");
        free.send(()).unwrap();
        waiting.await.unwrap().unwrap();
        assert_eq!(upload.size(), 0);
        let error = upload.write(many).await.unwrap_err();
        assert_eq!(error.status(), 409, "{}", error.message());
        assert!(upload.seal().await.is_err());
        assert!(faulty.names().await.is_empty());
    });
}

#[tokio::test]
async fn content_that_the_store_damaged_is_not_accepted() {
    let (store, faulty) = Faulty::in_memory();
    for (call, bytes) in [(Call::Put, b"small".to_vec()), (Call::Part, much())] {
        faulty.next(call, Fault::Damage);
        let error = keep(&store, &bytes, 1 << 20).await.err().unwrap();
        assert_eq!(error.status(), 503, "{}", error.message());
        // As if nothing had been sent.
        while !faulty.names().await.is_empty() {
            tokio::task::yield_now().await;
        }
        let stored = keep(&store, &bytes, 1 << 20).await.unwrap();
        assert_eq!(store.hash(&stored.content).await.unwrap(), stored.content);
        remove(&store, &stored.content).await;
    }
}

#[tokio::test]
async fn connection_resets_lose_nothing_and_leave_nothing() {
    let much = much();
    for (call, bytes) in [
        (Call::Put, &much[..5]),
        (Call::Part, &much[..]),
        (Call::Complete, &much[..]),
        (Call::Get, &much[..5]),
        (Call::Copy, &much[..5]),
        (Call::Delete, &much[..5]),
    ] {
        for fault in [Fault::Reset, Fault::ResetAfter] {
            let (store, faulty) = Faulty::in_memory();
            faulty.next(call, fault.clone());
            assert!(keep(&store, bytes, 1 << 20).await.is_err(), "{call:?}");
            let stored = keep(&store, bytes, 1 << 20).await.unwrap();
            assert_eq!(stored.size, bytes.len() as u64);
            assert_eq!(store.hash(&stored.content).await.unwrap(), stored.content);
            // Everything except the content itself is removed in the background.
            while faulty.names().await.len() > 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_has_its_own_status() {
    let (store, faulty) = Faulty::in_memory();
    for (call, bytes) in [(Call::Put, b"small".to_vec()), (Call::Part, much())] {
        faulty.next(call, Fault::Full);
        let error = keep(&store, &bytes, 1 << 20).await.err().unwrap();
        assert_eq!(error.status(), 507, "{}", error.message());
    }
}

#[tokio::test]
async fn a_stalled_call_does_not_block_other_uploads() {
    let (store, faulty) = Faulty::in_memory();
    let gate = Arc::new(Semaphore::new(0));
    faulty.next(Call::Copy, Fault::Stall(Arc::clone(&gate)));
    let slow = tokio::spawn({
        let store = store.clone();
        async move { keep(&store, b"slow", 1).await }
    });
    faulty.met().await;
    let quick = keep(&store, b"quick", 1).await.unwrap();
    // The removal of a content does not wait for another one either.
    faulty.next(Call::Delete, Fault::Stall(Arc::clone(&gate)));
    let removing = tokio::spawn({
        let (store, content) = (store.clone(), quick.content.clone());
        async move { remove(&store, &content).await }
    });
    faulty.met().await;
    let third = keep(&store, b"third", 1).await.unwrap();
    remove(&store, &third.content).await;
    gate.add_permits(2);
    removing.await.unwrap();
    let slow = slow.await.unwrap().unwrap();
    assert_eq!(faulty.names().await, [place(&slow.content).to_string()]);
}

#[tokio::test]
async fn an_abandoned_upload_is_aborted_at_the_store() {
    let (store, faulty) = Faulty::in_memory();
    let mut upload = store.upload();
    for piece in much().chunks(1 << 20) {
        upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    drop(upload);
    faulty.aborted.acquire().await.unwrap().forget();
    assert!(faulty.names().await.is_empty());
}

#[tokio::test]
async fn a_call_cancelled_at_any_step_leaves_nothing() {
    for stalls in [Call::Put, Call::Get, Call::Copy] {
        let (store, faulty) = Faulty::in_memory();
        let gate = Arc::new(Semaphore::new(0));
        faulty.next(stalls, Fault::Stall(Arc::clone(&gate)));
        let ends = tokio::spawn({
            let store = store.clone();
            async move {
                let mut upload = store.upload();
                upload.write(Bytes::from_static(b"x")).await?;
                let sealed = upload.seal().await?;
                let hold = store.hold(sealed.content()).await;
                let unnamed = Unnamed::new(hold.clone());
                let stored = sealed.place(hold).await?;
                unnamed.named();
                Ok::<_, ApiError>(stored)
            }
        });
        faulty.met().await;
        ends.abort();
        assert!(ends.await.err().unwrap().is_cancelled());
        gate.add_permits(1);
        if stalls == Call::Copy {
            let [content] = store.suspects().await.try_into().unwrap();
            remove(&store, &content).await;
        }
        while !faulty.names().await.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn content_being_read_is_removed_only_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_folder(folder.path()).unwrap();
    let bytes = vec![7; 3 << 20];
    let stored = keep(&store, &bytes, 1 << 20).await.unwrap();
    let (size, body) = store.body(&stored.content).await.unwrap();
    remove(&store, &stored.content).await;
    let read = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    assert_eq!((size, &read[..]), (3 << 20, &bytes[..]));
    let [content] = store.suspects().await.try_into().unwrap();
    assert_eq!(content, stored.content);
    remove(&store, &content).await;
    assert_eq!(walk(folder.path()), 0, "files are left");
}

#[tokio::test]
async fn acknowledged_content_survives_random_faults() {
    let calls = [
        Call::Put,
        Call::Part,
        Call::Complete,
        Call::Get,
        Call::Copy,
        Call::Delete,
    ];
    let faults = [Fault::Reset, Fault::ResetAfter, Fault::Full, Fault::Damage];
    let (store, faulty) = Faulty::in_memory();
    let (mut kept, mut failed) = (Vec::new(), 0);
    let large = much();
    for round in 0..24 {
        // Covers every pair of call and fault.
        let call = calls[round % 6];
        faulty.next(call, faults[round / 6].clone());
        let from = match call {
            Call::Part | Call::Complete => round,
            _ => large.len() - 100 - round,
        };
        let bytes = &large[from..];
        // A client retries after a fault.
        let stored = loop {
            match keep(&store, bytes, 3 << 20).await {
                Ok(stored) => break stored,
                Err(_) => failed += 1,
            }
        };
        kept.push((stored.content, bytes));
        // Contents without a reference are removed while others are stored.
        if round % 5 == 4 {
            let (content, _) = kept.swap_remove(0);
            remove(&store, &content).await;
        }
    }
    assert_eq!((failed > 12, kept.len()), (true, 20), "{failed} faults");
    for (content, bytes) in &kept {
        let stored = store.range(content, 0..bytes.len() as u64).await;
        // The first read may meet a fault that is still pending.
        let stored = match stored {
            Ok(stored) => stored,
            Err(_) => store.range(content, 0..bytes.len() as u64).await.unwrap(),
        };
        assert!(stored == *bytes, "{content} has changed");
    }
}

#[tokio::test]
async fn a_copy_replaces_damaged_content_of_the_same_size() {
    let (from, _) = Faulty::in_memory();
    let (to, faulty) = Faulty::in_memory();
    let stored = keep(&from, b"seventeen letters", 4).await.unwrap();
    let damaged = object_store::PutPayload::from_static(b"seventeen lettErs");
    to.objects
        .put(&place(&stored.content), damaged)
        .await
        .unwrap();
    assert!(from.copy(&stored.content, &to).await.unwrap());
    assert_eq!(to.hash(&stored.content).await.unwrap(), stored.content);
    // An undamaged copy is not written again.
    faulty.next(Call::Put, Fault::Reset);
    assert!(from.copy(&stored.content, &to).await.unwrap());
}

#[tokio::test]
#[cfg(feature = "s3")]
async fn s3_gives_presigned_addresses_and_a_folder_does_not() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address = url::Url::parse("s3://bucket/some/folder").unwrap();
    let settings = [
        ("AWS_ENDPOINT", "https://s3.example:9000"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::in_folder(folder.path()).unwrap();
    assert_eq!(store.presigned("abcd").await.unwrap(), None);
    let signer = signer(&address, settings.into_iter()).unwrap().unwrap();
    store.signer = Some((signer, Path::from("some/folder")));
    let signed = store.presigned("abcd").await.unwrap().unwrap();
    let signed = url::Url::parse(&signed).unwrap();
    assert_eq!(signed.host_str(), Some("s3.example"));
    assert_eq!(signed.path(), "/bucket/some/folder/objects/ab/abcd");
    let value = |name| signed.query_pairs().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(value("X-Amz-Expires"), "600");
    assert!(value("X-Amz-Credential").starts_with("key/"));
    assert!(!signed.as_str().contains("secret"));
}
