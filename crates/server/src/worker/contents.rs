//! Contents that a run reads: its data sets, and the model and the checkpoint
//! that it starts from.
//!
//! Each content comes from the machine's cache, otherwise from an address of
//! the store, otherwise through the server. It is always verified against its
//! SHA-256.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use finetuner_protocol::worker::WorkContent;
use reqwest::{Client, redirect::Policy};

use super::{
    cache::Cache,
    calls::{self, CallError, SaveError, Server},
    tls::in_words,
};
use crate::requests::{self, Authorities};

/// Time limit for connecting to the store and for each read.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// Sources of a run's contents.
pub(super) struct Contents {
    server: Server,
    /// Authorities trusted in addition to the system's, for the store as well.
    authorities: Authorities,
    cache: Option<Cache>,
    /// Writes a warning to the run's log.
    warn: Box<dyn Fn(String) + Send + Sync>,
    /// Whether the log already has a warning about the cache.
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

    /// Uses the cache, if there is one. The first failure is reported in the run's
    /// log.
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
                        "The cache of this machine ({}) does not work; data is fetched instead: \
                         {error}",
                        folder.display()
                    ));
                }
                None
            }
        }
    }

    /// Fetches a content from its address in the store. Returns false if it has no
    /// address or the address does not work.
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
            Err(SaveError::File(reason)) => return Err(CallError::File(reason)),
            Err(SaveError::CutOff(reason)) => reason,
            Err(SaveError::Damaged) => "the content is damaged: the SHA-256 differs".to_owned(),
        };
        (self.warn)(format!(
            "A content can't be fetched from the store directly and comes through the server: \
             {reason}"
        ));
        Ok(false)
    }

    async fn fetch_from_store(
        &self,
        url: &str,
        content: &WorkContent,
        path: &Path,
    ) -> Result<(), SaveError> {
        // The request has no token, and redirects are not followed.
        let tls = requests::tls(url, &self.authorities).map_err(SaveError::CutOff)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .connect_timeout(STORE_TIMEOUT)
            .read_timeout(STORE_TIMEOUT)
            .build()
            .map_err(|e| SaveError::CutOff(in_words(e)))?;
        let answer = client.get(url).send().await;
        let answer = answer.map_err(|e| SaveError::CutOff(in_words(e)))?;
        match answer.status() {
            status if status.is_success() => calls::save(answer, content, path).await,
            status => Err(SaveError::CutOff(format!("the store answered {status}"))),
        }
    }
}

#[cfg(test)]
mod tests;
