//! The stores of tokens, in the order in which they are searched.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

#[cfg(feature = "keyring")]
use super::keyring;
use super::{
    backend::Backend,
    failure::Failure,
    token_file::{FOLDER_VARIABLE, Stored, TokenFile},
};
use crate::{
    error::{Error, Result},
    secret::Secret,
    transport::Addresses,
};

/// Environment variable with the token.
pub const TOKEN_VARIABLE: &str = "JINA_AUTH_TOKEN";

/// Storage of tokens between program runs.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{Finetuner, TokenStorage};
///
/// // Store nothing on this machine.
/// let finetuner = Finetuner::builder().token_storage(TokenStorage::Memory).login().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenStorage {
    /// The keyring if there is one, otherwise the file, with a warning.
    ///
    /// A token in the file is from a session without a keyring. It is used before one
    /// in the keyring, and the next login that stores a token in the keyring deletes
    /// it. Jina AI's token in the file is the Python client's: it is used after the
    /// keyring's, and only a logout deletes it.
    #[default]
    Auto,
    /// The keyring of the operating system.
    Keyring,
    /// The Python client's file: `config.json` in `~/.jina` or `JINA_HUB_ROOT`.
    ///
    /// Only its owner can read it. Other settings in it are kept, and each
    /// backend's token is stored under its origin. The Python client's own token
    /// has no origin and is used for Jina AI's servers only.
    File,
    /// No store: stored tokens are neither read nor changed.
    Memory,
}

/// Source of a token.
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

/// The token stores of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    storage: TokenStorage,
    /// `None` if there is no home folder.
    file: Option<TokenFile>,
    backend: Backend,
}

impl Vault {
    /// Creates the stores. `home` is the user's home folder, if there is one.
    pub(crate) fn new(
        storage: TokenStorage,
        addresses: &Addresses,
        environment: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Self {
        let backend = Backend::of(addresses);
        Self {
            storage,
            file: TokenFile::of(&backend, environment, home),
            backend,
        }
    }

    /// Returns a vault that reads and changes nothing, for a program that was given
    /// its token.
    pub(crate) fn untouched(self) -> Self {
        Self {
            storage: TokenStorage::Memory,
            ..self
        }
    }

    /// Looks for a stored token.
    pub(crate) async fn find(&self) -> Result<Option<(Secret, TokenOrigin)>> {
        let in_file = match self.uses_file() {
            true => self.with_file(TokenFile::read).await,
            false => Ok(None),
        };
        // A token in the file is newer than the keyring's: a login with a keyring deletes
        // the file's.
        if let Ok(Some(Stored::Token(token))) = &in_file
            && !self.backend.is_jina()
        {
            return Ok(Some((token.clone(), TokenOrigin::File)));
        }
        let mut keyring_failed = None;
        if self.uses_keyring() {
            match self.keyring_get().await {
                Ok(Some(token)) => return Ok(Some((token, TokenOrigin::Keyring))),
                Ok(None) => {}
                Err(failure) if self.storage == TokenStorage::Keyring => return Err(failure.into()),
                Err(failure) => keyring_failed = Some(Error::from(failure)),
            }
        }
        match in_file? {
            Some(Stored::Token(token)) => return Ok(Some((token, TokenOrigin::File))),
            Some(Stored::PythonTokenOnly) => tracing::warn!(
                "{} contains a token of the Python client, which does not record its server: it \
                 is sent to Jina AI only. Set {TOKEN_VARIABLE} to use it for {}",
                self.path(),
                self.backend.key()
            ),
            Some(Stored::Nothing) | None => {}
        }
        if let Some(failure) = keyring_failed {
            tracing::debug!("no token found, and {failure}");
        }
        Ok(None)
    }

    /// Stores a token. With [`TokenStorage::Auto`], failing to do so is only a
    /// warning, because the token still works for this program.
    pub(crate) async fn save(&self, token: &Secret) -> Result<()> {
        if self.uses_keyring() {
            match self.keyring_set(token.clone()).await {
                Ok(()) => {
                    self.forget_file().await;
                    return Ok(());
                }
                Err(failure) if self.storage == TokenStorage::Keyring => return Err(failure.into()),
                Err(failure) => warn_once(&failure.into()),
            }
        }
        if !self.uses_file() {
            return Ok(());
        }
        let token = token.clone();
        let saved = match self.with_file(move |file| file.write(&token)).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Error::setup(format!(
                "there is no home folder for the token file: set HOME or {FOLDER_VARIABLE}"
            ))),
            Err(error) => Err(error),
        };
        match saved {
            Err(error) if self.storage == TokenStorage::Auto => {
                tracing::warn!(
                    "logged in, but the token can't be stored for the next program: {error}. \
                     Set {TOKEN_VARIABLE} instead"
                );
                Ok(())
            }
            saved => saved,
        }
    }

    /// Deletes an older token from the file, where it would be found before the
    /// keyring's.
    async fn forget_file(&self) {
        if !self.uses_file() || self.backend.is_jina() {
            return;
        }
        if let Err(error) = self.with_file(TokenFile::clear).await {
            tracing::warn!(
                "logged in, but the token file may still contain an older token, which the next \
                 program would use: {error}"
            );
        }
    }

    /// Deletes the backend's token from every store. The error names the stores
    /// that may still contain it.
    pub(crate) async fn clear(&self) -> Result<()> {
        let mut failed = Vec::new();
        if self.uses_keyring() {
            match self.keyring_delete().await {
                Ok(()) => {}
                // Nothing was stored there in this session.
                Err(failure) if failure.is_absent && self.storage == TokenStorage::Auto => {
                    tracing::warn!(
                        "there is no keyring to delete the token from ({}). A token that was \
                         stored in another session is still there",
                        failure.reason
                    );
                }
                Err(failure) => failed.push(Error::from(failure).to_string()),
            }
        }
        if self.uses_file()
            && let Err(error) = self.with_file(TokenFile::clear).await
        {
            failed.push(error.to_string());
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::setup(format!(
            "the token may still be stored on this machine: {}",
            failed.join("; ")
        )))
    }

    fn uses_keyring(&self) -> bool {
        match self.storage {
            TokenStorage::Auto => cfg!(feature = "keyring"),
            other => other == TokenStorage::Keyring,
        }
    }

    fn uses_file(&self) -> bool {
        matches!(self.storage, TokenStorage::Auto | TokenStorage::File)
    }

    fn path(&self) -> String {
        let path = self.file.as_ref().map(TokenFile::path);
        path.map_or_else(String::new, |path| path.display().to_string())
    }

    /// Runs `work` on the file in a blocking thread; `None` if there is no home
    /// folder.
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
    async fn keyring_get(&self) -> Result<Option<Secret>, Failure> {
        keyring::run(self.backend.key().to_owned(), keyring::get).await
    }

    async fn keyring_set(&self, token: Secret) -> Result<(), Failure> {
        let set = move |entry: &keyring_core::Entry| keyring::set(entry, &token);
        keyring::run(self.backend.key().to_owned(), set).await
    }

    async fn keyring_delete(&self) -> Result<(), Failure> {
        keyring::run(self.backend.key().to_owned(), keyring::delete).await
    }
}

#[cfg(not(feature = "keyring"))]
impl Vault {
    fn no_keyring<T>() -> Result<T, Failure> {
        let reason = "the crate `finetuner` was built without the feature `keyring`";
        Err(Failure {
            is_absent: true,
            reason: reason.to_owned(),
        })
    }

    async fn keyring_get(&self) -> Result<Option<Secret>, Failure> {
        Self::no_keyring()
    }

    async fn keyring_set(&self, _: Secret) -> Result<(), Failure> {
        Self::no_keyring()
    }

    async fn keyring_delete(&self) -> Result<(), Failure> {
        Self::no_keyring()
    }
}

/// Warns once per process that tokens are stored in the file.
fn warn_once(reason: &Error) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!("the token is stored in the token file: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ADDRESS: &str = "http://127.0.0.1:1";

    fn vault_of(
        storage: TokenStorage,
        address: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Vault {
        let addresses = Addresses::choose(Some(address.to_owned()), None, |_| None);
        Vault::new(storage, &addresses.unwrap(), environment, None)
    }

    fn vault(storage: TokenStorage, folder: &Path) -> Vault {
        let folder = folder.to_str().unwrap().to_owned();
        vault_of(storage, ADDRESS, move |name| {
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
        let file = vault(TokenStorage::File, folder.path());
        file.save(&token).await.unwrap();
        let given = vault(TokenStorage::File, folder.path()).untouched();
        for memory in [vault(TokenStorage::Memory, folder.path()), given] {
            assert_eq!(memory.find().await.unwrap(), None);
            memory.clear().await.unwrap();
            assert!(file.find().await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn a_login_that_can_not_store_its_token_is_an_error() {
        let file = vault_of(TokenStorage::File, ADDRESS, |_| None);
        let error = file.save(&"t".into()).await.unwrap_err().to_string();
        assert!(
            error.contains("HOME") && error.contains("JINA_HUB_ROOT"),
            "{error}"
        );
        file.clear().await.unwrap();

        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::write(&taken, "a file where the folder should be").unwrap();
        let file = vault(TokenStorage::File, &taken);
        let error = file.save(&"t".into()).await.unwrap_err();
        assert!(
            error.is_file() && error.to_string().contains("taken"),
            "{error}"
        );
        let error = file.clear().await.unwrap_err().to_string();
        assert!(
            error.contains("taken") && error.contains("may still"),
            "{error}"
        );
    }
}
