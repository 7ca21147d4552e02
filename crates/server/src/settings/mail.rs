//! Settings for sending e-mail.

use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// Settings for sending e-mail. Without a host, the server sends none.
///
/// ```
/// let mail = finetuner_server::Mail {
///     host: Some("smtp.example.org".to_owned()),
///     from: Some("Finetuner <finetuner@example.org>".to_owned()),
///     ..finetuner_server::Mail::default()
/// };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// The SMTP server that takes the server's e-mail, such as "smtp.example.org".
    pub host: Option<String>,
    /// Its port; by default 587 for `starttls`, 465 for `tls`, and 25 for `none`.
    pub port: Option<u16>,
    /// Encryption of the connection: `starttls`, `tls` from the first byte, or `none`.
    /// A server that offers less is refused.
    pub encryption: Encryption,
    /// A file with certificate authorities in PEM form that are trusted beside the
    /// system's.
    pub ca: Option<PathBuf>,
    /// The user name at the SMTP server.
    pub user: Option<String>,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// The sender, such as "Finetuner <finetuner@example.org>".
    pub from: Option<String>,
}

/// Encryption of the connection to the SMTP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// With the command STARTTLS.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// No encryption.
    None,
}

impl Mail {
    /// Returns whether the server sends e-mail.
    pub(crate) fn is_on(&self) -> bool {
        self.host.is_some()
    }

    /// Returns the port of the SMTP server.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.encryption {
            Encryption::StartTls => 587,
            Encryption::Tls => 465,
            Encryption::None => 25,
        })
    }

    /// Reads the user name and the password, if configured.
    pub(crate) fn credentials(&self) -> Result<Option<(String, String)>, StartError> {
        let (user, file) = match (&self.user, &self.password_file) {
            (None, None) => return Ok(None),
            (Some(user), Some(file)) => (user, file),
            (Some(_), None) => {
                let reason = "it is missing, and `mail.user` is set: name a file with the password";
                return Err(StartError::setting("mail.password_file", reason));
            }
            (None, Some(_)) => {
                let reason = "it is missing, and `mail.password_file` is set: name the user";
                return Err(StartError::setting("mail.user", reason));
            }
        };
        if self.encryption == Encryption::None {
            let reason = "`none` would send the password as plain text: use `starttls` or `tls`, \
                          or remove `mail.user` and `mail.password_file`";
            return Err(StartError::setting("mail.encryption", reason));
        }
        let password = std::fs::read_to_string(file).map_err(|e| {
            StartError::setting("mail.password_file", format!("{}: {e}", file.display()))
        })?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        Ok(Some((user.clone(), password)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_accounts_and_passwords_over_plain_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "pass word\r\n").unwrap();
        let mail = Mail {
            user: Some("ft".into()),
            password_file: Some(file),
            ..Mail::default()
        };
        let read = mail.credentials().unwrap();
        assert_eq!(read, Some(("ft".into(), "pass word".into())));
        for (bad, named) in [
            (
                Mail {
                    user: None,
                    ..mail.clone()
                },
                "`mail.user`",
            ),
            (
                Mail {
                    password_file: None,
                    ..mail.clone()
                },
                "`mail.password_file`",
            ),
            (
                Mail {
                    password_file: Some("/none".into()),
                    ..mail.clone()
                },
                "/none",
            ),
            (
                Mail {
                    encryption: Encryption::None,
                    ..mail
                },
                "`mail.encryption`",
            ),
        ] {
            let error = bad.credentials().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
            assert!(!error.contains("pass word"), "{error}");
        }
    }
}
