//! Where the token comes from.

use std::path::PathBuf;

use serde_json::Value;

use crate::Secret;

/// Holds the token where nothing else does.
pub const TOKEN_VARIABLE: &str = "JINA_AUTH_TOKEN";
/// The folder of `config.json`, in place of `.jina` in the home folder.
pub const FOLDER_VARIABLE: &str = "JINA_HUB_ROOT";

/// Looks for a token as the Python client does: the environment, then the key
/// `auth_token` of `config.json`.
pub(crate) fn find(environment: impl Fn(&str) -> Option<String>) -> Option<Secret> {
    let set = |name| environment(name).filter(|value| !value.is_empty());
    if let Some(token) = set(TOKEN_VARIABLE) {
        return Some(token.into());
    }
    let folder = match set(FOLDER_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(set("HOME").or_else(|| set("USERPROFILE"))?).join(".jina"),
    };
    let text = std::fs::read(folder.join("config.json")).ok()?;
    let config: Value = serde_json::from_slice(&text).ok()?;
    let token = config["auth_token"]
        .as_str()
        .filter(|token| !token.is_empty())?;
    Some(token.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap().to_owned();
        let found = |token: Option<&str>| {
            find(|name| match name {
                TOKEN_VARIABLE => token.map(str::to_owned),
                FOLDER_VARIABLE => Some(root.clone()),
                _ => None,
            })
        };
        assert_eq!(found(None), None);
        std::fs::write(folder.path().join("config.json"), "{broken").unwrap();
        assert_eq!(found(None), None);
        let config = r#"{"auth_token": "from-file", "jwks": {}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(found(None).unwrap().expose(), "from-file");
        assert_eq!(found(Some("from-env")).unwrap().expose(), "from-env");
        assert_eq!(found(Some("")).unwrap().expose(), "from-file");
    }
}
