//! Settings of connections.

use std::time::Duration;

use reqwest::header::HeaderValue;

use super::service::HttpService;
use crate::{
    error::{Error, Result},
    secret::Secret,
};

/// Environment variable that allows plain http to other machines (`1` or `true`).
pub const PLAIN_HTTP_VARIABLE: &str = "FINETUNER_ALLOW_PLAIN_HTTP";

/// Environment variable with the project whose runs, data and models are used.
pub const PROJECT_VARIABLE: &str = "FINETUNER_PROJECT";

/// Settings of connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpSettings {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) proxy: Option<Secret>,
    /// PEM files, each with at least one certificate.
    pub(crate) root_certificates: Vec<Vec<u8>>,
    pub(crate) allow_plain_http: bool,
    pub(crate) user_agent: Option<String>,
    /// Name of the project; the personal one by default.
    pub(crate) project: Option<String>,
    /// Sends requests instead of the built-in client.
    pub(crate) service: Option<HttpService>,
}

impl HttpSettings {
    /// Refuses settings of the built-in client that the program's own service would
    /// ignore.
    pub(crate) fn check_service(&self) -> Result<()> {
        let unused = [
            ("connect_timeout", self.connect_timeout.is_some()),
            ("proxy", self.proxy.is_some()),
            ("add_root_certificate", !self.root_certificates.is_empty()),
        ];
        match unused.iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) if self.service.is_some() => Err(Error::setup(format!(
                "`{setting}` has no effect together with `http_service`, which makes its own \
                 connections: configure the service instead, and remove `{setting}`"
            ))),
            _ => Ok(()),
        }
    }
}

/// Returns the value of the header that selects the project; `None` for the user's
/// personal project.
pub(super) fn project_header(settings: &HttpSettings) -> Result<Option<HeaderValue>> {
    let Some(project) = &settings.project else {
        return Ok(None);
    };
    let header = HeaderValue::from_str(project).ok();
    let header = header.filter(|_| !project.trim().is_empty() && project.is_ascii());
    header.map(Some).ok_or_else(|| {
        Error::setup(format!(
            "`project` is `{project}`: give the name of a project, of letters, digits, `-`, `_` \
             and `.`, or leave it out for your personal one"
        ))
    })
}

/// Returns the value of the `User-Agent` header: the program's name, then this client's.
pub(super) fn user_agent(settings: &HttpSettings) -> String {
    let ours = concat!("finetuner-rs/", env!("CARGO_PKG_VERSION"));
    match &settings.user_agent {
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_name_must_be_a_valid_header_value() {
        let header = |project: Option<&str>| {
            project_header(&HttpSettings {
                project: project.map(str::to_owned),
                ..HttpSettings::default()
            })
        };
        assert_eq!(header(None).unwrap(), None);
        assert_eq!(header(Some("team-1")).unwrap().unwrap(), "team-1");
        for bad in ["", " ", "a\nb", "\u{e4}"] {
            let error = header(Some(bad)).unwrap_err();
            assert!(error.to_string().contains("`project` is"), "{error}");
        }
    }
}
