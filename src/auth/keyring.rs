//! The keyring of the operating system: Keychain, Credential Manager, or a
//! Secret Service such as GNOME's or KDE's.
//!
//! Its calls may block as long as a dialog is open or a bus is silent. Each call
//! therefore has its own thread and a limit of three seconds. A keyring that timed
//! out is not used again in this process.
//!
//! The store behind `keyring_core` is global to the process. If the program has
//! set one, it is used; otherwise `keyring` selects one, once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use keyring_core::{Entry, Error as KeyringError};

use super::failure::Failure;
use crate::secret::Secret;

/// Time limit for a call.
const LIMIT: Duration = Duration::from_secs(3);

/// Service name under which keyrings show the entries.
const SERVICE: &str = "finetuner";

static SILENT: AtomicBool = AtomicBool::new(false);

/// Runs `work` on the entry of a backend's token.
pub(super) async fn run<T: Send + 'static>(
    backend: String,
    work: impl FnOnce(&Entry) -> keyring_core::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    if SILENT.load(Ordering::Relaxed) {
        return Err(failed("it did not answer an earlier call"));
    }
    let (send, receive) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new()
        .name("finetuner-keyring".to_owned())
        .spawn(move || {
            // After the limit, nobody receives the result.
            let done = entry(&backend)
                .and_then(|entry| work(&entry).map_err(|error| failed(describe(&error))));
            let _ = send.send(done);
        });
    spawned.map_err(failed)?;
    match tokio::time::timeout(LIMIT, receive).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(failed("its thread ended")),
        Err(_) => {
            SILENT.store(true, Ordering::Relaxed);
            Err(failed("it did not answer in 3 seconds"))
        }
    }
}

pub(super) fn get(entry: &Entry) -> keyring_core::Result<Option<Secret>> {
    match entry.get_password() {
        Ok(token) if token.trim().is_empty() => Ok(None),
        Ok(token) => Ok(Some(token.trim().into())),
        Err(KeyringError::NoEntry) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn set(entry: &Entry, token: &Secret) -> keyring_core::Result<()> {
    entry.set_password(token.expose())
}

pub(super) fn delete(entry: &Entry) -> keyring_core::Result<()> {
    match entry.delete_credential() {
        Err(KeyringError::NoEntry) => Ok(()),
        done => done,
    }
}

fn entry(backend: &str) -> Result<Entry, Failure> {
    if keyring_core::get_default_store().is_none()
        && let Err(error) = keyring::Entry::store_status()
    {
        return Err(Failure {
            is_absent: true,
            reason: describe(error),
        });
    }
    Entry::new(SERVICE, backend).map_err(|error| failed(describe(&error)))
}

/// Describes an error without any value that the keyring returned.
fn describe(error: &KeyringError) -> String {
    match error {
        KeyringError::BadEncoding(_) => "its entry is not a token".to_owned(),
        KeyringError::BadDataFormat(_, reason) => format!("its entry is not a token: {reason}"),
        other => other.to_string(),
    }
}

fn failed(reason: impl std::fmt::Display) -> Failure {
    Failure {
        is_absent: false,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unavailable_keyring_is_an_error_within_the_time_limit() {
        // On a machine with a keyring, the token is read back. Without one, the call
        // fails within the time limit.
        let token = Secret::from("kept");
        let backend = format!("test-{}", std::process::id());
        let kept = token.clone();
        let done = run(backend.clone(), move |entry| set(entry, &kept)).await;
        match done {
            Ok(()) => {
                assert_eq!(run(backend.clone(), get).await.unwrap(), Some(token));
                run(backend, delete).await.unwrap();
            }
            Err(failure) => {
                let error = crate::Error::from(failure).to_string();
                assert!(error.contains("keyring"), "{error}");
            }
        }
    }
}
