//! Downloads from the Hugging Face hub, with its local cache.
//!
//! Files are stored in the cache of the hub's own tools, in their layout, so
//! that both share downloads. All files of a model come from one commit. A file
//! counts as absent only if the hub says so. If the hub is slow or overloaded,
//! requests are repeated, and then the error says so.

mod cache;
mod client;

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
};

use self::{
    cache::{Cache, RepoCache},
    client::{Answer, Client, Failure, FileInfo},
};
use super::{files::ModelFiles, origin::Origin, rules::HubRules};
use crate::{Error, Result};

/// The default revision.
const MAIN: &str = "main";

/// Reads a model from the hub's cache, and downloads missing files. `name` is
/// `owner/name` or `owner/name@revision`.
pub(super) fn gather(
    name: &str,
    rules: &HubRules,
    base: &dyn Fn(&str) -> Result<ModelFiles>,
) -> Result<ModelFiles> {
    let client = Client::from_env(rules.token.clone());
    gather_from(name, rules, Cache::from_env(), client, base)
}

fn gather_from(
    name: &str,
    rules: &HubRules,
    cache: Cache,
    client: Client,
    base: &dyn Fn(&str) -> Result<ModelFiles>,
) -> Result<ModelFiles> {
    let hub = Hub::new(name, cache, client, rules.max_bytes);
    let gathered = ModelFiles::gather(name, |file| hub.find(file), base);
    let unreachable = hub.unreachable.take();
    let mut files = match (gathered, unreachable) {
        (Ok(files), Some(_)) => {
            tracing::warn!(
                model = name,
                "the model hub can't be reached: using only the files in the cache"
            );
            files
        }
        // The hub may have the file that the cache lacks.
        (Err(Error::Model { .. }), Some(reason)) => return Err(hub.unreachable(&reason)),
        (gathered, _) => gathered?,
    };
    let commit = hub.commit.take().unwrap_or_default();
    let (repo, revision) = (hub.repo, hub.revision);
    tracing::info!(model = repo, revision, commit, "model of the hub");
    files.origins.push(Origin {
        name: repo.to_owned(),
        revision: revision.to_owned(),
        commit,
    });
    Ok(files)
}

/// A model on the hub.
struct Hub<'a> {
    name: &'a str,
    repo: &'a str,
    revision: &'a str,
    cache: RepoCache,
    client: Client,
    max_bytes: Option<u64>,
    /// Total size of the downloaded files in bytes.
    fetched: Cell<u64>,
    commit: RefCell<Option<String>>,
    /// The reason why the hub could not be reached, if it was not.
    unreachable: RefCell<Option<String>>,
}

impl<'a> Hub<'a> {
    fn new(name: &'a str, cache: Cache, client: Client, max_bytes: Option<u64>) -> Self {
        let (repo, revision) = name.split_once('@').unwrap_or((name, MAIN));
        let cache = cache.repo(repo);
        Self {
            name,
            repo,
            revision,
            commit: RefCell::new(cache.commit(revision)),
            cache,
            client,
            max_bytes,
            fetched: Cell::new(0),
            unreachable: RefCell::new(None),
        }
    }

    fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        let commit = self.commit.borrow().clone();
        if let Some(commit) = &commit {
            // Cached files are not downloaded again.
            if let Some(path) = self.cache.find(commit, file) {
                return Ok(Some(path));
            }
            if self.cache.is_absent(commit, file) || self.unreachable.borrow().is_some() {
                return Ok(None);
            }
        }
        let revision = commit.as_deref().unwrap_or(self.revision);
        match self.client.file_info(self.repo, revision, file) {
            Ok(Answer::Found(info)) => self.fetch(file, &info).map(Some),
            Ok(Answer::Absent(commit)) => {
                if let Some(commit) = commit {
                    self.pin_commit(&commit)?;
                    self.cache.mark_absent(&commit, file)?;
                }
                Ok(None)
            }
            Err(Failure::Unreachable(reason)) if commit.is_some() => {
                self.unreachable.replace(Some(reason));
                Ok(None)
            }
            Err(failure) => Err(self.failed(file, &failure)),
        }
    }

    fn fetch(&self, file: &str, info: &FileInfo) -> Result<PathBuf> {
        self.pin_commit(&info.commit)?;
        let all = self.fetched.get().saturating_add(info.size);
        if let Some(limit) = self.max_bytes.filter(|limit| all > *limit) {
            return Err(Error::model(
                self.name,
                format!(
                    "its {file} has {} MiB; this server downloads at most {} MiB per model \
                     (`--max-hub-download`): choose a smaller model",
                    info.size >> 20,
                    limit >> 20
                ),
            ));
        }
        self.fetched.set(all);
        let blob = self.cache.blob(&info.etag)?;
        if std::fs::metadata(&blob).map_or(0, |found| found.len()) != info.size || info.size == 0 {
            tracing::info!(
                model = self.repo,
                file,
                bytes = info.size,
                "fetching from the model hub"
            );
            self.client
                .download(self.repo, file, info, &blob)
                .map_err(|failure| self.failed(file, &failure))?;
        }
        self.cache.link(&info.commit, file, &info.etag)
    }

    /// Pins the commit of the first response for all files.
    fn pin_commit(&self, commit: &str) -> Result<()> {
        let mut known = self.commit.borrow_mut();
        if known.is_none() {
            self.cache.store_commit(self.revision, commit)?;
            *known = Some(commit.to_owned());
        }
        Ok(())
    }

    fn failed(&self, file: &str, failure: &Failure) -> Error {
        let reason = match failure {
            Failure::Unreachable(reason) => return self.unreachable(reason),
            Failure::NoRepository => {
                "the hub has no such model, or it is private: log in with `hf auth login` \
                 there"
                    .to_owned()
            }
            Failure::NoRevision => {
                format!("the hub has no revision `{}` of this model", self.revision)
            }
            Failure::Forbidden(status) => format!(
                "the hub denies access to its {file} ({status}): accept the model's terms on its \
                 page, and log in with `hf auth login`"
            ),
            Failure::Busy(reason) => format!(
                "its {file} can't be fetched now: {reason}. Try again later, or set HF_HUB_OFFLINE=1 \
                 to use the files in the cache"
            ),
            Failure::Wrong(reason) => format!("its {file} can't be fetched: {reason}"),
        };
        Error::model(self.name, reason)
    }

    fn unreachable(&self, reason: &str) -> Error {
        Error::model(
            self.name,
            format!(
                "its files are not in the hub's cache on this machine ({}), and the hub can't be \
                 reached: {reason}. To work offline, put config.json, model.safetensors, \
                 tokenizer.json and preprocessor_config.json into a folder and give its path as \
                 the model, or fill the cache on a machine that is online",
                Cache::from_env().folder().display()
            ),
        )
    }
}

/// Reads small files of a model without storing them on this machine.
pub(super) struct Peek<'a>(Hub<'a>);

impl<'a> Peek<'a> {
    pub(super) fn new(name: &'a str, rules: &HubRules) -> Self {
        let client = Client::for_peeking(rules.token.clone());
        Self(Hub::new(name, Cache::from_env(), client, None))
    }

    /// Reads a file from the cache, or else from the hub.
    pub(super) fn read(&self, file: &str) -> Result<Option<Vec<u8>>> {
        let hub = &self.0;
        let commit = hub.commit.borrow();
        if let Some(commit) = &*commit {
            if let Some(path) = hub.cache.find(commit, file) {
                let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
                return Ok(Some(bytes));
            }
            if hub.cache.is_absent(commit, file) {
                return Ok(None);
            }
        }
        let revision = commit.as_deref().unwrap_or(hub.revision);
        let read = hub.client.read(hub.repo, revision, file);
        read.map_err(|failure| hub.failed(file, &failure))
    }
}

/// Returns the token that the hub's own tools use for this user.
pub(super) fn token() -> Option<String> {
    let given = std::env::var("HF_TOKEN").ok();
    let given = given
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty());
    given.or_else(|| Cache::from_env().token())
}

/// Returns the folder in which models are cached on this machine.
pub(super) fn cache_folder() -> PathBuf {
    Cache::from_env().folder().to_owned()
}

#[cfg(test)]
mod tests;
