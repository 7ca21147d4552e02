//! How connections are made.

use std::time::Duration;

use super::service::HttpService;
use crate::{
    error::{Error, Result},
    secret::Secret,
};

/// Allows plain http to other machines where it is `1` or `true`.
pub const PLAIN_HTTP_VARIABLE: &str = "FINETUNER_ALLOW_PLAIN_HTTP";

/// How a connection is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpSettings {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) proxy: Option<Secret>,
    /// PEM, each with one certificate or more.
    pub(crate) root_certificates: Vec<Vec<u8>>,
    pub(crate) allow_plain_http: bool,
    pub(crate) user_agent: Option<String>,
    /// Sends requests in the place of our own client.
    pub(crate) service: Option<HttpService>,
}

impl HttpSettings {
    /// Refuses settings of our own client that a service of the program's would
    /// not know.
    pub(crate) fn check_service(&self) -> Result<()> {
        let unused = [
            ("connect_timeout", self.connect_timeout.is_some()),
            ("proxy", self.proxy.is_some()),
            ("add_root_certificate", !self.root_certificates.is_empty()),
        ];
        match unused.iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) if self.service.is_some() => Err(Error::setup(format!(
                "`{setting}` has no effect together with `http_service`, which makes connections \
                 itself: set it there, and leave it out here"
            ))),
            _ => Ok(()),
        }
    }
}

/// What the program and this client call themselves.
pub(super) fn user_agent(settings: &HttpSettings) -> String {
    let ours = concat!("finetuner-rs/", env!("CARGO_PKG_VERSION"));
    match &settings.user_agent {
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours.to_owned(),
    }
}
