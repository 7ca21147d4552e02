//! Settings for sign-in through an OpenID Connect provider.

use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::Settings;
use crate::error::StartError;

/// Settings for sign-in through an OpenID Connect provider. Without an issuer,
/// there is no such sign-in.
///
/// ```
/// let oidc = finetuner_server::Oidc {
///     issuer: Some("https://login.example.org".to_owned()),
///     client_id: Some("finetuner".to_owned()),
///     client_secret_file: Some("/etc/finetuner/oidc-secret".into()),
///     allowed_domains: vec!["example.org".to_owned()],
///     ..finetuner_server::Oidc::default()
/// };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct Oidc {
    /// Issuer URL of the provider, such as `https://login.example.org`. Also
    /// requires `server.public_url`, because the provider redirects browsers to
    /// `/console/oidc/callback` there.
    pub issuer: Option<String>,
    /// Client id of this server at the provider.
    pub client_id: Option<String>,
    /// File with the client secret; none for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// Name of the provider on the button of the sign-in page.
    pub name: String,
    /// Scopes to request in addition to `openid`.
    pub scopes: Vec<String>,
    /// Domains of verified e-mail addresses whose users may sign in; "*" allows
    /// every user of the provider.
    pub allowed_domains: Vec<String>,
    /// Groups whose members may sign in, whatever their e-mail address.
    pub allowed_groups: Vec<String>,
    /// Groups whose members become admins of this server when they sign in. A
    /// user who leaves such a group stays an admin until another admin changes
    /// that.
    pub admin_groups: Vec<String>,
    /// Name of the claim that lists a user's groups.
    pub groups_claim: String,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            issuer: None,
            client_id: None,
            client_secret_file: None,
            name: "single sign-on".to_owned(),
            scopes: vec!["profile".to_owned(), "email".to_owned()],
            allowed_domains: Vec::new(),
            allowed_groups: Vec::new(),
            admin_groups: Vec::new(),
            groups_claim: "groups".to_owned(),
        }
    }
}

/// Checked settings. Without `Debug`, because they contain a secret.
pub(crate) struct Client {
    pub(crate) issuer: String,
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
    /// Address to which the provider redirects browsers.
    pub(crate) redirect: Url,
    pub(crate) settings: Oidc,
}

impl Client {
    /// Checks the settings. `None` if they name no issuer.
    pub(crate) fn new(all: &Settings) -> Result<Option<Self>, StartError> {
        let settings = all.oidc.clone();
        let Some(issuer) = settings.issuer.clone() else {
            return match settings == Oidc::default() {
                true => Ok(None),
                false => Err(StartError::setting(
                    "oidc.issuer",
                    "it is missing, and other keys of `oidc` are set: name the provider's issuer, \
                     or remove them",
                )),
            };
        };
        check_address(&issuer).map_err(|e| {
            StartError::setting(
                "oidc.issuer",
                format!("`{issuer}` {e}: give its https address"),
            )
        })?;
        let Some(id) = settings.client_id.clone() else {
            let reason = "it is missing: register this server at the provider, and give the id";
            return Err(StartError::setting("oidc.client_id", reason));
        };
        if settings.allowed_domains.is_empty() && settings.allowed_groups.is_empty() {
            return Err(StartError::setting(
                "oidc.allowed_domains",
                "neither it nor `oidc.allowed_groups` is set: name domains or groups, or \"*\" for \
                 everybody whom the provider knows",
            ));
        }
        let secret = match &settings.client_secret_file {
            None => None,
            Some(file) => {
                let secret = std::fs::read_to_string(file).map_err(|e| {
                    let reason = format!("{}: {e}", file.display());
                    StartError::setting("oidc.client_secret_file", reason)
                })?;
                Some(secret.trim().to_owned()).filter(|secret| !secret.is_empty())
            }
        };
        let Some(mut redirect) = all.public_address()? else {
            let reason = "it is missing: `oidc` needs the address under which browsers reach this \
                          server";
            return Err(StartError::setting("server.public_url", reason));
        };
        if let Ok(mut segments) = redirect.path_segments_mut() {
            let parts = ["console", "oidc", "callback"];
            segments.pop_if_empty().extend(parts);
        }
        Ok(Some(Self {
            issuer,
            id,
            secret,
            redirect,
            settings,
        }))
    }
}

/// Parses an address of the provider: https, or http to this machine, for tests.
pub(crate) fn check_address(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not an address")?;
    let is_own = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match (url.scheme(), is_own) {
        ("https", _) | ("http", true) => Ok(url),
        _ => Err("is not https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_admit_nobody_or_everybody_are_refused() {
        let good = Oidc {
            issuer: Some("https://login.example".into()),
            client_id: Some("ft".into()),
            allowed_domains: vec!["example.org".into()],
            ..Oidc::default()
        };
        let with = |oidc: Oidc, public_url: Option<&str>| {
            Client::new(&Settings {
                oidc,
                public_url: public_url.map(str::to_owned),
                ..Settings::default()
            })
        };
        let client = with(good.clone(), Some("https://ft.example/"))
            .unwrap()
            .unwrap();
        let redirect = "https://ft.example/console/oidc/callback";
        assert_eq!(client.redirect.as_str(), redirect);
        assert!(with(Oidc::default(), None).unwrap().is_none());
        let error = with(good.clone(), None).err().unwrap().to_string();
        assert!(error.contains("server.public_url"), "{error}");
        let change = |change: fn(&mut Oidc)| {
            let mut oidc = good.clone();
            change(&mut oidc);
            with(oidc, Some("https://ft.example/"))
                .err()
                .unwrap()
                .to_string()
        };
        for (error, named) in [
            (change(|oidc| oidc.issuer = None), "`oidc.issuer`"),
            (
                change(|oidc| oidc.issuer = Some("http://login.example".into())),
                "is not https",
            ),
            (change(|oidc| oidc.client_id = None), "`oidc.client_id`"),
            (
                change(|oidc| oidc.client_secret_file = Some("/none".into())),
                "/none",
            ),
            (
                change(|oidc| oidc.allowed_domains.clear()),
                "`oidc.allowed_domains`",
            ),
        ] {
            assert!(error.contains(named), "{error}");
        }
    }
}
