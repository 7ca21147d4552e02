//! The token file: `config.json` of the Python client, which also has other
//! settings.
//!
//! The Python client stores one token under `auth_token`, without its server. Its
//! default server is Jina AI, so this client sends that token to Jina AI's servers
//! only. Tokens of all other backends are stored beside it under `auth_tokens`, by
//! the origin of the backend:
//!
//! ```json
//! {"auth_token": "...", "auth_tokens": {"http://127.0.0.1:8642": "..."}}
//! ```
//!
//! The file is replaced atomically, and only its owner can read it. A lock file
//! beside it keeps two programs from losing each other's tokens.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::backend::Backend;
use crate::{
    environment::variable,
    error::{Error, Result},
    secret::Secret,
};

/// Environment variable with the folder of `config.json`; `~/.jina` by default.
pub const FOLDER_VARIABLE: &str = "JINA_HUB_ROOT";

/// Key of the Python client's token.
const PYTHON_TOKEN: &str = "auth_token";
/// Key of the tokens by origin of their backend.
const TOKENS: &str = "auth_tokens";

/// Maximum size of a token file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Maximum number of symbolic links to follow.
const MAX_LINKS: usize = 16;

/// Attempts to take the lock, with a pause after each: ten seconds in all.
const LOCK_TRIES: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    backend: Backend,
}

/// Content of a token file for one backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Token(Secret),
    /// Only the Python client's token, which belongs to another server.
    PythonTokenOnly,
    Nothing,
}

impl TokenFile {
    /// Returns the token file for this environment; `None` without a home folder.
    pub(super) fn of(
        backend: &Backend,
        environment: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Option<Self> {
        let folder = match variable(&environment, FOLDER_VARIABLE) {
            Some(folder) => expanded(folder, home)?,
            None => home?.join(".jina"),
        };
        Some(Self {
            path: folder.join("config.json"),
            backend: backend.clone(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the backend's token. Removes other users' access to a file that has
    /// one.
    pub(super) fn read(&self) -> Result<Stored> {
        let config = self.config(&self.path)?;
        let text = |value: Option<&Value>| -> Option<Secret> {
            let token = value.and_then(Value::as_str)?.trim();
            (!token.is_empty()).then(|| token.into())
        };
        let python = text(config.get(PYTHON_TOKEN));
        let token = match self.backend.is_jina() {
            true => python.clone(),
            false => text(
                config
                    .get(TOKENS)
                    .and_then(|all| all.get(self.backend.key())),
            ),
        };
        let Some(token) = token else {
            return Ok(match python {
                Some(_) => Stored::PythonTokenOnly,
                None => Stored::Nothing,
            });
        };
        self.close_to_others()?;
        Ok(Stored::Token(token))
    }

    pub(super) fn write(&self, token: &Secret) -> Result<()> {
        let token = Value::from(token.expose());
        self.change(|config| {
            if self.backend.is_jina() {
                config.insert(PYTHON_TOKEN.to_owned(), token);
                return Ok(true);
            }
            let all = config
                .entry(TOKENS)
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(all) = all else {
                let reason = format!("`{TOKENS}` is not a JSON object: repair or remove it");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            };
            all.insert(self.backend.key().to_owned(), token);
            Ok(true)
        })
    }

    /// Removes the backend's token and keeps everything else.
    pub(super) fn clear(&self) -> Result<()> {
        if !matches!(self.read()?, Stored::Token(_)) {
            return Ok(());
        }
        self.change(|config| {
            if self.backend.is_jina() {
                return Ok(config.shift_remove(PYTHON_TOKEN).is_some());
            }
            let Some(Value::Object(all)) = config.get_mut(TOKENS) else {
                return Ok(false);
            };
            let found = all.shift_remove(self.backend.key()).is_some();
            if all.is_empty() {
                config.shift_remove(TOKENS);
            }
            Ok(found)
        })
    }

    /// Changes the file under a lock. `change` returns whether to write it.
    fn change(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> io::Result<bool>,
    ) -> Result<()> {
        let path = self.behind_links().map_err(|e| self.failed(e))?;
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(|e| self.failed(e))?;
        let _lock = self.lock(folder)?;
        let mut config = self.config(&path)?;
        if !change(&mut config).map_err(|e| self.failed(e))? {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&config).map_err(Error::setup)?;
        // A temporary file is readable only by its owner from the start.
        let mut file = NamedTempFile::new_in(folder).map_err(|e| self.failed(e))?;
        file.write_all(&text)
            .and_then(|()| file.as_file().sync_all())
            .map_err(|e| self.failed(e))?;
        file.persist(&path).map_err(|e| self.failed(e.error))?;
        Ok(())
    }

    /// Returns the target of symbolic links, so that the links are preserved.
    fn behind_links(&self) -> io::Result<PathBuf> {
        let mut path = self.path.clone();
        for _ in 0..MAX_LINKS {
            match fs::symlink_metadata(&path) {
                Ok(about) if about.is_symlink() => {
                    let target = fs::read_link(&path)?;
                    path = path.parent().unwrap_or(Path::new("")).join(target);
                }
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(error),
            }
        }
        let reason = format!("more than {MAX_LINKS} symbolic links in a row");
        Err(io::Error::other(reason))
    }

    /// Locks the file against other programs.
    fn lock(&self, folder: &Path) -> Result<File> {
        let path = folder.join(".config.json.lock");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&path);
        // A lock file of another user can be locked without write access.
        let file = file.or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => File::open(&path),
            _ => Err(error),
        });
        let file = file.map_err(|e| Error::file(&path, e))?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                // Some network file systems have no locks.
                Err(TryLockError::Error(_)) => return Ok(file),
            }
        }
        let reason = "another program has locked it for ten seconds";
        Err(self.failed(io::Error::new(io::ErrorKind::ResourceBusy, reason)))
    }

    /// Reads the settings; empty if there is no file. A broken file is an error,
    /// because replacing it would lose its other settings.
    fn config(&self, path: &Path) -> Result<Map<String, Value>> {
        let text = match fs::metadata(path) {
            Ok(about) if about.len() > MAX_BYTES => {
                let reason = format!("larger than {} KiB, so not a token file", MAX_BYTES >> 10);
                return Err(self.failed(io::Error::other(reason)));
            }
            Ok(_) => fs::read(path).map_err(|e| self.failed(e))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        serde_json::from_slice(text).map_err(|error| {
            // serde_json's message may quote a part of the file.
            let reason = format!(
                "not a JSON object (line {}, column {}): repair or remove it",
                error.line(),
                error.column()
            );
            self.failed(io::Error::new(io::ErrorKind::InvalidData, reason))
        })
    }

    #[cfg(unix)]
    fn close_to_others(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;

        let about = fs::metadata(&self.path).map_err(|e| self.failed(e))?;
        if about.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        // On a file system without modes, or in another user's file, the token can
        // still be used.
        if let Err(error) = fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600)) {
            tracing::warn!("other users may read {}: {error}", self.path.display());
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn close_to_others(&self) -> Result<()> {
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::file(&self.path, error)
    }
}

/// Replaces a leading `~` by the home folder; `None` if there is none.
fn expanded(folder: String, home: Option<PathBuf>) -> Option<PathBuf> {
    match folder.strip_prefix('~') {
        Some("") => home,
        Some(rest) if rest.starts_with(['/', std::path::MAIN_SEPARATOR]) => {
            Some(home?.join(rest.trim_start_matches(['/', std::path::MAIN_SEPARATOR])))
        }
        _ => Some(folder.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transport::Addresses;

    fn backend(address: &str) -> Backend {
        let addresses = Addresses::choose(Some(address.to_owned()), None, |_| None);
        Backend::of(&addresses.unwrap())
    }

    fn file_of(folder: &Path, address: &str) -> TokenFile {
        TokenFile {
            path: folder.join("jina").join("config.json"),
            backend: backend(address),
        }
    }

    fn file(folder: &Path) -> TokenFile {
        file_of(folder, "http://127.0.0.1:8642")
    }

    fn put(file: &TokenFile, text: impl AsRef<[u8]>) {
        fs::create_dir_all(file.path.parent().unwrap()).unwrap();
        fs::write(&file.path, text).unwrap();
    }

    fn content(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn token(text: &str) -> Stored {
        Stored::Token(text.into())
    }

    #[test]
    fn a_token_belongs_to_the_backend_it_was_stored_for() {
        let folder = tempfile::tempdir().unwrap();
        let of = |address| file_of(folder.path(), address);
        let (one, two) = (of("http://127.0.0.1:8642"), of("https://a.example/base"));
        one.write(&"t1".into()).unwrap();
        two.write(&"t2".into()).unwrap();
        assert_eq!(one.read().unwrap(), token("t1"));
        assert_eq!(two.read().unwrap(), token("t2"));
        assert_eq!(of("http://127.0.0.1:8643").read().unwrap(), Stored::Nothing);
        assert_eq!(of("http://a.example").read().unwrap(), Stored::Nothing);
        one.clear().unwrap();
        assert_eq!(one.read().unwrap(), Stored::Nothing);
        assert_eq!(two.read().unwrap(), token("t2"));
    }

    #[test]
    fn the_python_clients_token_is_sent_only_to_jina() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, jina) = (
            file(folder.path()),
            file_of(folder.path(), "https://api.hubble.jina.ai"),
        );
        put(
            &ours,
            r#"{"jwks": {"keys": [1]}, "auth_token": " of-jina\n"}"#,
        );
        assert_eq!(ours.read().unwrap(), Stored::PythonTokenOnly);
        assert_eq!(jina.read().unwrap(), token("of-jina"));
        ours.write(&"ours".into()).unwrap();
        ours.clear().unwrap();
        assert_eq!(
            jina.read().unwrap(),
            token("of-jina"),
            "another backend's token is kept"
        );
        jina.write(&"new".into()).unwrap();
        let both = json!({"jwks": {"keys": [1]}, "auth_token": "new"});
        assert_eq!(content(&ours.path), both);
        jina.clear().unwrap();
        assert_eq!(content(&ours.path), json!({"jwks": {"keys": [1]}}));
    }

    #[test]
    fn a_corrupt_token_file_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        for broken in [
            "{\"auth_token\": geheim",
            "[]",
            "{\"auth_tokens\": [\"geheim\"]}",
        ] {
            put(&file, broken);
            let error = file.write(&"new".into()).unwrap_err();
            assert!(error.is_file(), "{error}");
            let printed = format!("{error} {error:?}");
            assert!(!printed.contains("geheim"), "{printed}");
            assert_eq!(fs::read(&file.path).unwrap(), broken.as_bytes());
        }
        for empty in [
            "",
            " \n",
            "\u{feff}{\"auth_token\": null}",
            "{\"auth_tokens\": 5}",
        ] {
            put(&file, empty);
            assert_eq!(file.read().unwrap(), Stored::Nothing);
        }
    }

    #[test]
    fn concurrent_logins_keep_each_others_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let of = |port| file_of(folder.path(), &format!("http://127.0.0.1:{port}"));
        std::thread::scope(|threads| {
            for port in 1..=8 {
                threads.spawn(move || of(port).write(&port.to_string().into()).unwrap());
            }
        });
        for port in 1..=8 {
            assert_eq!(of(port).read().unwrap(), token(&port.to_string()));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_kept_and_its_target_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, dotfiles) = (file(folder.path()), folder.path().join("dotfiles"));
        fs::create_dir_all(file.path.parent().unwrap()).unwrap();
        fs::create_dir(&dotfiles).unwrap();
        let target = dotfiles.join("jina.json");
        std::os::unix::fs::symlink("../dotfiles/jina.json", &file.path).unwrap();
        // The target need not exist.
        file.write(&"t1".into()).unwrap();
        file.write(&"t2".into()).unwrap();
        assert_eq!(
            content(&target)[TOKENS],
            json!({"http://127.0.0.1:8642": "t2"})
        );
        file.clear().unwrap();
        assert_eq!(content(&target), json!({}));
        assert!(fs::symlink_metadata(&file.path).unwrap().is_symlink());
        // Circular links are reported.
        fs::remove_file(&target).unwrap();
        std::os::unix::fs::symlink("jina.json", &target).unwrap();
        assert!(file.write(&"t".into()).unwrap_err().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn the_token_file_is_readable_only_by_its_owner() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        file.write(&"t".into()).unwrap();
        let mode = || fs::metadata(&file.path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o644)).unwrap();
        file.read().unwrap();
        assert_eq!(mode(), 0o600, "wider modes are repaired");
    }

    #[test]
    fn environment_variables_set_the_path_of_the_token_file() {
        let path = |text: &str| Some(PathBuf::from(text));
        let of = |folder: Option<&'static str>, home: Option<&str>| {
            let read = |name: &str| {
                folder
                    .filter(|_| name == FOLDER_VARIABLE)
                    .map(str::to_owned)
            };
            let home = home.map(PathBuf::from);
            TokenFile::of(&backend("http://127.0.0.1:1"), read, home).map(|file| file.path)
        };
        assert_eq!(of(Some("/x"), None), path("/x/config.json"));
        assert_eq!(of(None, Some("/x")), path("/x/.jina/config.json"));
        assert_eq!(of(Some(" "), Some("/x")), path("/x/.jina/config.json"));
        assert_eq!(of(Some("~/jina"), Some("/x")), path("/x/jina/config.json"));
        assert_eq!(of(Some("~"), Some("/x")), path("/x/config.json"));
        assert_eq!(of(Some("~/jina"), None), None);
        assert_eq!(of(None, None), None);
    }
}
