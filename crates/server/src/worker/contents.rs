//! What a run reads: its data sets, and the model and the checkpoint that it
//! goes on from. Each comes from the cache of this machine, else from an address
//! of the store, else from the server, and is compared with its SHA-256.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use finetuner_protocol::worker::WorkContent;
use reqwest::{Client, redirect::Policy};

use super::{
    cache::Cache,
    calls::{self, CallError, NotSaved, Server},
    tls::in_words,
};
use crate::requests::{self, Authorities};

/// How long the store may be silent.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where contents come from.
pub(super) struct Contents {
    server: Server,
    /// Trusted beside the system's, also where the store is.
    authorities: Authorities,
    cache: Option<Cache>,
    /// Takes what the run's log says.
    warn: Box<dyn Fn(String) + Send + Sync>,
    /// Whether it has said that the cache does not work.
    warned: AtomicBool,
}

impl Contents {
    pub(super) fn new(
        server: Server,
        authorities: Authorities,
        cache: Option<Cache>,
        warn: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        Self {
            server,
            authorities,
            cache,
            warn: Box::new(warn),
            warned: AtomicBool::new(false),
        }
    }

    /// Fetches a content of the run into a file.
    pub(super) async fn fetch(&self, name: &str, path: &Path) -> Result<(), CallError> {
        let content = self.server.content(name).await?;
        let sha256 = content.sha256.clone();
        let taken = self.cached(path, move |cache, path| cache.take(&sha256, path));
        if taken.await == Some(true) {
            return Ok(());
        }
        if !self.fetched_from_store(&content, path).await? {
            self.server.fetch(name, &content, path).await?;
        }
        let kept = self.cached(path, move |cache, path| cache.keep(&content.sha256, path));
        kept.await;
        Ok(())
    }

    /// Does something with the cache, if there is one. The run's log says once
    /// that it does not work.
    async fn cached<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Cache, &Path) -> std::io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let cache = self.cache.clone()?;
        let (folder, path): (_, PathBuf) = (cache.folder().to_owned(), path.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&cache, &path)).await;
        match done.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            Ok(done) => Some(done),
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    (self.warn)(format!(
                        "The cache of this machine ({}) does not work, contents are fetched: \
                         {error}",
                        folder.display()
                    ));
                }
                None
            }
        }
    }

    /// Fetches a content from the address that came with it. False where there is
    /// none, or where it is of no use.
    async fn fetched_from_store(
        &self,
        content: &WorkContent,
        path: &Path,
    ) -> Result<bool, CallError> {
        let Some(url) = &content.url else {
            return Ok(false);
        };
        let reason = match self.fetch_from_store(url, content, path).await {
            Ok(()) => return Ok(true),
            Err(NotSaved::File(reason)) => return Err(CallError::File(reason)),
            Err(NotSaved::CutOff(reason)) => reason,
            Err(NotSaved::Damaged) => "it is damaged: the SHA-256 differs".to_owned(),
        };
        (self.warn)(format!(
            "A content can't be fetched from the store itself, so it comes through the server: \
             {reason}"
        ));
        Ok(false)
    }

    async fn fetch_from_store(
        &self,
        url: &str,
        content: &WorkContent,
        path: &Path,
    ) -> Result<(), NotSaved> {
        // The store gets no token, and another address gets nothing.
        let tls = requests::tls(url, &self.authorities).map_err(NotSaved::CutOff)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .connect_timeout(STORE_TIMEOUT)
            .read_timeout(STORE_TIMEOUT)
            .build()
            .map_err(|e| NotSaved::CutOff(in_words(e)))?;
        let answer = client.get(url).send().await;
        let answer = answer.map_err(|e| NotSaved::CutOff(in_words(e)))?;
        match answer.status() {
            status if status.is_success() => calls::save(answer, content, path).await,
            status => Err(NotSaved::CutOff(format!("the store answers {status}"))),
        }
    }
}

#[cfg(test)]
mod tests;
