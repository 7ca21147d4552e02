//! Where the token comes from, and where it is kept.
//!
//! The first one found wins: given in code, `JINA_AUTH_TOKEN`, the keyring of
//! the operating system, the token file of the Python client.

mod browser;
#[cfg(feature = "keyring")]
mod keyring;
mod token_file;

use std::sync::atomic::{AtomicBool, Ordering};

use url::Url;

use crate::{Error, Result, Secret};

pub(crate) use browser::{Link, browser_login, open_and_print};
use token_file::TokenFile;

/// Holds the token where nothing else does.
///
/// ```no_run
/// let is_set = std::env::var_os(finetuner::TOKEN_VARIABLE).is_some();
/// ```
pub const TOKEN_VARIABLE: &str = "JINA_AUTH_TOKEN";
/// The folder of `config.json`, in place of `.jina` in the home folder.
///
/// ```no_run
/// println!("{:?}", std::env::var(finetuner::FOLDER_VARIABLE));
/// ```
pub const FOLDER_VARIABLE: &str = "JINA_HUB_ROOT";

/// Where a token is kept from one program to the next.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{Finetuner, TokenStorage};
///
/// // Nothing is kept on this machine.
/// let finetuner = Finetuner::builder().token_storage(TokenStorage::Memory).login().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenStorage {
    /// The keyring where there is one, else the file, with a warning.
    #[default]
    Auto,
    /// The keyring of the operating system.
    Keyring,
    /// The file that the Python client uses, `~/.jina/config.json` or
    /// `config.json` in the folder that `JINA_HUB_ROOT` names, for its owner
    /// alone. Other settings in it are kept.
    File,
    /// Nowhere: what is stored is neither read nor changed.
    Memory,
}

/// Where a token was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenOrigin {
    /// In the program.
    Code,
    /// In `JINA_AUTH_TOKEN`.
    Environment,
    /// In the keyring.
    Keyring,
    /// In the token file.
    File,
}

/// The places where tokens of one backend are kept.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    storage: TokenStorage,
    /// None where there is no home folder.
    file: Option<TokenFile>,
    /// Whose token it is: a keyring holds one for each backend.
    backend: String,
}

impl Vault {
    pub(crate) fn new(
        storage: TokenStorage,
        backend: &Url,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            storage,
            file: TokenFile::of(environment),
            backend: backend.origin().ascii_serialization(),
        }
    }

    /// Looks for a stored token.
    pub(crate) async fn find(&self) -> Result<Option<(Secret, TokenOrigin)>> {
        if self.uses_keyring() {
            match self.keyring_get().await {
                Ok(Some(token)) => return Ok(Some((token, TokenOrigin::Keyring))),
                Ok(None) => {}
                Err(error) if self.storage == TokenStorage::Keyring => return Err(error),
                Err(_) => {}
            }
        }
        if self.uses_file()
            && let Some(token) = self.with_file(|file| file.read()).await?.flatten()
        {
            return Ok(Some((token, TokenOrigin::File)));
        }
        Ok(None)
    }

    /// Keeps a token for the next program.
    pub(crate) async fn save(&self, token: &Secret) -> Result<()> {
        if self.uses_keyring() {
            match self.keyring_set(token.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if self.storage == TokenStorage::Keyring => return Err(error),
                Err(error) => warn_once(&error),
            }
        }
        if self.uses_file() {
            let token = token.clone();
            self.with_file(move |file| file.write(&token)).await?;
        }
        Ok(())
    }

    /// Forgets the token everywhere.
    pub(crate) async fn clear(&self) -> Result<()> {
        if self.uses_keyring() {
            match self.keyring_delete().await {
                Err(error) if self.storage == TokenStorage::Keyring => return Err(error),
                _ => {}
            }
        }
        if self.uses_file() {
            self.with_file(|file| file.clear()).await?;
        }
        Ok(())
    }

    fn uses_keyring(&self) -> bool {
        matches!(self.storage, TokenStorage::Auto | TokenStorage::Keyring)
    }

    fn uses_file(&self) -> bool {
        matches!(self.storage, TokenStorage::Auto | TokenStorage::File)
    }

    /// Does something with the file, off the async threads; nothing where there
    /// is no place for one.
    async fn with_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&TokenFile) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let Some(file) = self.file.clone() else {
            return Ok(None);
        };
        tokio::task::spawn_blocking(move || work(&file))
            .await
            .map_err(Error::setup)?
            .map(Some)
    }
}

#[cfg(feature = "keyring")]
impl Vault {
    async fn keyring_get(&self) -> Result<Option<Secret>> {
        keyring::run(self.backend.clone(), keyring::get).await
    }

    async fn keyring_set(&self, token: Secret) -> Result<()> {
        keyring::run(self.backend.clone(), move |entry| {
            keyring::set(entry, &token)
        })
        .await
    }

    async fn keyring_delete(&self) -> Result<()> {
        keyring::run(self.backend.clone(), keyring::delete).await
    }
}

#[cfg(not(feature = "keyring"))]
impl Vault {
    fn no_keyring<T>(&self) -> Result<T> {
        Err(Error::setup(format!(
            "the token of {} can't be kept in the keyring without the feature `keyring`",
            self.backend
        )))
    }

    async fn keyring_get(&self) -> Result<Option<Secret>> {
        self.no_keyring()
    }

    async fn keyring_set(&self, _: Secret) -> Result<()> {
        self.no_keyring()
    }

    async fn keyring_delete(&self) -> Result<()> {
        self.no_keyring()
    }
}

/// Says once for the program that tokens go into the file.
fn warn_once(reason: &Error) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if cfg!(feature = "keyring") && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!("the token is kept in the token file: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(storage: TokenStorage, folder: &std::path::Path) -> Vault {
        let folder = folder.to_str().unwrap().to_owned();
        let backend = Url::parse("http://127.0.0.1:1").unwrap();
        Vault::new(storage, &backend, move |name| {
            (name == FOLDER_VARIABLE).then(|| folder.clone())
        })
    }

    #[tokio::test]
    async fn a_file_keeps_a_token_until_it_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let vault = vault(TokenStorage::File, folder.path());
        assert_eq!(vault.find().await.unwrap(), None);
        let token = Secret::from("t1");
        vault.save(&token).await.unwrap();
        assert_eq!(
            vault.find().await.unwrap(),
            Some((token, TokenOrigin::File))
        );
        vault.clear().await.unwrap();
        assert_eq!(vault.find().await.unwrap(), None);
    }

    #[tokio::test]
    async fn memory_neither_reads_nor_writes() {
        let folder = tempfile::tempdir().unwrap();
        let token = Secret::from("t1");
        vault(TokenStorage::File, folder.path())
            .save(&token)
            .await
            .unwrap();
        let memory = vault(TokenStorage::Memory, folder.path());
        assert_eq!(memory.find().await.unwrap(), None);
        memory.clear().await.unwrap();
        let file = vault(TokenStorage::File, folder.path());
        assert!(file.find().await.unwrap().is_some());
    }
}
