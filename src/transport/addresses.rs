//! The addresses of the backend.

use url::Url;

use crate::{
    environment::variable,
    error::{Error, Result},
};

/// Environment variable with the address of the Finetuner API.
pub const REGISTRY_VARIABLE: &str = "JINA_FINETUNER_REGISTRY";
/// Environment variable with the address for accounts and artifacts.
pub const HUBBLE_VARIABLE: &str = "JINA_HUBBLE_REGISTRY";
/// Default address of `finetuner-server`.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8642";

/// The addresses of the two APIs of a backend. `finetuner-server` serves both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) finetuner: Url,
    pub(crate) hubble: Url,
}

impl Addresses {
    /// Chooses the addresses: code takes precedence over the environment, and the
    /// environment over the default. If only one address is given, it serves both
    /// APIs.
    pub(crate) fn choose(
        finetuner: Option<String>,
        hubble: Option<String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let set = |name| variable(&environment, name);
        let (finetuner, hubble) = match (finetuner, hubble) {
            (None, None) => (set(REGISTRY_VARIABLE), set(HUBBLE_VARIABLE)),
            given => given,
        };
        let (finetuner, hubble) = match (finetuner, hubble) {
            (Some(finetuner), Some(hubble)) => (finetuner, hubble),
            (Some(one), None) | (None, Some(one)) => (one.clone(), one),
            (None, None) => (DEFAULT_ADDRESS.to_owned(), DEFAULT_ADDRESS.to_owned()),
        };
        Ok(Self {
            finetuner: parse(&finetuner)?,
            hubble: parse(&hubble)?,
        })
    }

    /// Whether both addresses are on this machine, so that no proxy is used.
    pub(crate) fn are_local(&self) -> bool {
        is_loopback(&self.finetuner) && is_loopback(&self.hubble)
    }

    /// Returns scheme, host and port of the Finetuner API, without credentials.
    pub(crate) fn finetuner_host(&self) -> String {
        self.finetuner.origin().ascii_serialization()
    }

    /// Returns the URL of a Finetuner call; percent-encodes `parts`.
    pub(crate) fn api(&self, parts: &[&str]) -> Url {
        extend(&self.finetuner, &["api", "v1"], parts)
    }

    /// Returns the URL of a Hubble call.
    pub(crate) fn rpc(&self, method: &str) -> Url {
        extend(&self.hubble, &["v2", "rpc"], &[method])
    }
}

/// Default addresses of the Python client. Older versions use the second host of
/// the Finetuner API.
const JINA_HUBBLE: &str = "https://api.hubble.jina.ai";
const JINA_FINETUNER: [&str; 2] = [
    "https://api.compute.finetuner.fit",
    "https://api.finetuner.fit",
];

/// Whether both addresses belong to Jina AI.
pub(crate) fn is_jina(addresses: &Addresses) -> bool {
    let is_hubble = |url: &Url| url.origin().ascii_serialization() == JINA_HUBBLE;
    let finetuner = addresses.finetuner.origin().ascii_serialization();
    is_hubble(&addresses.hubble)
        && (is_hubble(&addresses.finetuner) || JINA_FINETUNER.contains(&finetuner.as_str()))
}

/// Whether an address is a loopback address of this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn parse(address: &str) -> Result<Url> {
    let bad = |reason: &str| {
        // The address itself may contain credentials.
        Error::setup(format!(
            "the backend's address can't be used: {reason}; an example is {DEFAULT_ADDRESS}"
        ))
    };
    let url = Url::parse(address.trim()).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("it does not begin with http:// or https://"));
    }
    Ok(url)
}

fn extend(base: &Url, prefix: &[&str], parts: &[&str]) -> Url {
    let mut url = base.clone();
    // An http address always has a path that can be extended.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(prefix).extend(parts);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(code: [Option<&str>; 2], env: [Option<&str>; 2]) -> (String, String) {
        let [a, b] = code.map(|value| value.map(str::to_owned));
        let found = Addresses::choose(a, b, |name| {
            let value = if name == REGISTRY_VARIABLE {
                env[0]
            } else {
                env[1]
            };
            value.map(str::to_owned)
        })
        .unwrap();
        (found.finetuner.to_string(), found.hubble.to_string())
    }

    #[test]
    fn arguments_override_the_environment_and_one_address_suffices() {
        let (a, b) = (Some("http://a"), Some("http://b"));
        let pair = |a: &str, b: &str| (format!("http://{a}/"), format!("http://{b}/"));
        assert_eq!(
            choose([None, None], [None, None]),
            pair("127.0.0.1:8642", "127.0.0.1:8642")
        );
        assert_eq!(choose([None, None], [a, None]), pair("a", "a"));
        assert_eq!(choose([None, None], [None, b]), pair("b", "b"));
        assert_eq!(choose([None, None], [a, b]), pair("a", "b"));
        assert_eq!(choose([Some("http://c"), None], [a, b]), pair("c", "c"));
        assert_eq!(choose([None, None], [Some(""), b]), pair("b", "b"));
    }

    #[test]
    fn addresses_are_extended_with_any_name() {
        let addresses = Addresses::choose(Some("http://h:1/base/".into()), None, |_| None).unwrap();
        assert_eq!(
            addresses.api(&["experiments", "my tests/ä?"]).as_str(),
            "http://h:1/base/api/v1/experiments/my%20tests%2F%C3%A4%3F"
        );
        assert_eq!(
            addresses.rpc("user.x").as_str(),
            "http://h:1/base/v2/rpc/user.x"
        );
    }

    #[test]
    fn an_invalid_address_is_refused_without_printing_its_password() {
        let bad = "ftp://user:geheim@host";
        let error = Addresses::choose(Some(bad.into()), None, |_| None).unwrap_err();
        assert!(error.to_string().contains("http://"), "{error}");
        assert!(!format!("{error} {error:?}").contains("geheim"));
    }
}
