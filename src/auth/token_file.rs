//! The token file of the Python client: `config.json`, with the token under
//! `auth_token` and other things beside it. It is written whole or not at all,
//! and readable for its owner alone.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::FOLDER_VARIABLE;
use crate::{Error, Result, Secret};

const KEY: &str = "auth_token";

/// The most that a token file may have.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct TokenFile(PathBuf);

impl TokenFile {
    /// The file that the environment says; none without a home folder.
    pub(super) fn of(environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name| environment(name).filter(|value| !value.is_empty());
        let folder = match set(FOLDER_VARIABLE) {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(set("HOME").or_else(|| set("USERPROFILE"))?).join(".jina"),
        };
        Some(Self(folder.join("config.json")))
    }

    /// The token in the file. A file that others may read is closed to them.
    pub(super) fn read(&self) -> Result<Option<Secret>> {
        let Some(config) = self.config()? else {
            return Ok(None);
        };
        let token = config.get(KEY).and_then(Value::as_str);
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        self.close_to_others()?;
        Ok(Some(token.into()))
    }

    pub(super) fn write(&self, token: &Secret) -> Result<()> {
        let mut config = self.config()?.unwrap_or_default();
        config.insert(KEY.to_owned(), token.expose().into());
        self.replace(&config)
    }

    /// Takes the token out; the rest stays.
    pub(super) fn clear(&self) -> Result<()> {
        let mut config = self.config()?.unwrap_or_default();
        match config.shift_remove(KEY) {
            Some(_) => self.replace(&config),
            None => Ok(()),
        }
    }

    /// What is in the file; none where there is no file. A file that is broken
    /// is an error: replacing it would lose what else was in it.
    fn config(&self) -> Result<Option<Map<String, Value>>> {
        let text = match fs::metadata(&self.0) {
            Ok(about) if about.len() > MAX_BYTES => {
                let reason = format!("more than {} KiB: no token file", MAX_BYTES >> 10);
                return Err(self.failed(io::Error::other(reason)));
            }
            Ok(_) => fs::read(&self.0).map_err(|e| self.failed(e))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            // serde_json's words may repeat a part of the file.
            let reason = format!(
                "no JSON object (line {}, column {}): mend or remove it",
                error.line(),
                error.column()
            );
            self.failed(io::Error::new(io::ErrorKind::InvalidData, reason))
        })
    }

    fn replace(&self, config: &Map<String, Value>) -> Result<()> {
        let folder = self.0.parent().unwrap_or(&self.0);
        fs::create_dir_all(folder).map_err(|e| self.failed(e))?;
        let text = serde_json::to_vec_pretty(config).map_err(Error::setup)?;
        // A temporary file is its owner's alone from the start.
        let mut file = NamedTempFile::new_in(folder).map_err(|e| self.failed(e))?;
        file.write_all(&text)
            .and_then(|()| file.as_file().sync_all())
            .map_err(|e| self.failed(e))?;
        file.persist(&self.0).map_err(|e| self.failed(e.error))?;
        Ok(())
    }

    #[cfg(unix)]
    fn close_to_others(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;

        let about = fs::metadata(&self.0).map_err(|e| self.failed(e))?;
        if about.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        // On a file system without modes, or in a file of somebody else's, the
        // token can still be used.
        if let Err(error) = fs::set_permissions(&self.0, fs::Permissions::from_mode(0o600)) {
            tracing::warn!("others may read {}: {error}", self.0.display());
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn close_to_others(&self) -> Result<()> {
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::file(&self.0, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &std::path::Path) -> TokenFile {
        TokenFile(folder.join("jina").join("config.json"))
    }

    #[test]
    fn other_settings_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        fs::create_dir_all(file.0.parent().unwrap()).unwrap();
        fs::write(&file.0, r#"{"jwks": {"keys": [1]}, "auth_token": "old"}"#).unwrap();
        assert_eq!(file.read().unwrap().unwrap().expose(), "old");
        file.write(&"new".into()).unwrap();
        assert_eq!(file.read().unwrap().unwrap().expose(), "new");
        file.clear().unwrap();
        assert_eq!(file.read().unwrap(), None);
        let left: Value = serde_json::from_slice(&fs::read(&file.0).unwrap()).unwrap();
        assert_eq!(left, serde_json::json!({"jwks": {"keys": [1]}}));
    }

    #[test]
    fn a_broken_file_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        fs::create_dir_all(file.0.parent().unwrap()).unwrap();
        fs::write(&file.0, "{\"auth_token\": geheim").unwrap();
        for error in [
            file.read().unwrap_err(),
            file.write(&"new".into()).unwrap_err(),
        ] {
            assert!(error.is_file(), "{error}");
            assert!(
                !format!("{error} {error:?}").contains("geheim"),
                "{error:?}"
            );
        }
        assert_eq!(fs::read(&file.0).unwrap(), b"{\"auth_token\": geheim");
        fs::write(&file.0, " \n").unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        file.write(&"t".into()).unwrap();
        let mode = || fs::metadata(&file.0).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o644)).unwrap();
        file.read().unwrap();
        assert_eq!(mode(), 0o600, "wider modes are repaired");
    }

    #[test]
    fn the_environment_says_where_it_is() {
        let of = |variable: &'static str| {
            TokenFile::of(move |name| (name == variable).then(|| "/x".to_owned())).map(|f| f.0)
        };
        assert_eq!(of(FOLDER_VARIABLE), Some("/x/config.json".into()));
        assert_eq!(of("HOME"), Some("/x/.jina/config.json".into()));
        assert_eq!(of("OTHER"), None);
    }
}
