//! Chooses the proxy of a request.
//!
//! A proxy set in code is used for every request. Otherwise the variables
//! `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` are read as curl and Go read them,
//! except for this machine and the hosts in `NO_PROXY`. If none of them is set, the
//! operating system's setting applies.
//!
//! A proxy's address may contain a password, so nothing here prints it.

use std::{net::IpAddr, sync::Arc};

use reqwest::ClientBuilder;
use url::{Host, Url};

use super::{
    addresses::{Addresses, is_loopback},
    tls::HAS_TLS,
};
use crate::{
    environment::variable,
    error::{Error, Result},
    secret::Secret,
};

/// The proxies of one client.
#[derive(Clone)]
pub(crate) struct Proxies(Arc<Rules>);

enum Rules {
    /// The same proxy for every request.
    Given(Proxy),
    Environment(Variables),
    /// The setting of the operating system, which is unknown here.
    System {
        /// Whether both APIs of the backend are on this machine.
        local: bool,
    },
}

struct Variables {
    http: Option<Result<Proxy, String>>,
    https: Option<Result<Proxy, String>>,
    exceptions: Exceptions,
}

/// A proxy, and the setting that it comes from.
#[derive(Clone)]
struct Proxy {
    url: Url,
    setting: &'static str,
}

impl Proxies {
    /// Reads the settings. An invalid proxy is an error if calls to the backend
    /// would use it.
    pub(crate) fn new(
        given: Option<&Secret>,
        addresses: &Addresses,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        if let Some(given) = given {
            let proxy = Proxy::parse(given.expose(), "proxy").map_err(Error::setup)?;
            return Ok(Self(Arc::new(Rules::Given(proxy))));
        }
        let Some(variables) = Variables::read(environment) else {
            let local = addresses.are_local();
            return Ok(Self(Arc::new(Rules::System { local })));
        };
        for url in [&addresses.finetuner, &addresses.hubble] {
            if let Some(Err(reason)) = variables.choose(url) {
                return Err(Error::setup(reason));
            }
        }
        Ok(Self(Arc::new(Rules::Environment(variables))))
    }

    /// Applies these rules to an HTTP client.
    pub(crate) fn apply(&self, builder: ClientBuilder) -> Result<ClientBuilder> {
        Ok(match &*self.0 {
            Rules::Given(proxy) => {
                let all = reqwest::Proxy::all(proxy.url.clone());
                builder.proxy(all.map_err(|_| Error::setup(unusable(proxy.setting, "no address")))?)
            }
            Rules::Environment(_) => {
                let rules = self.clone();
                builder.proxy(reqwest::Proxy::custom(move |url| {
                    rules.choose(url).map(|proxy| proxy.url.clone())
                }))
            }
            Rules::System { local: true } => builder.no_proxy(),
            Rules::System { local: false } => builder,
        })
    }

    /// Returns the proxy of a request for messages, without its password.
    pub(crate) fn name(&self, url: &Url) -> Option<String> {
        let proxy = self.choose(url)?;
        let (scheme, host) = (proxy.url.scheme(), proxy.url.host_str()?);
        let port = proxy.url.port().map_or(String::new(), |p| format!(":{p}"));
        Some(format!("{scheme}://{host}{port} ({})", proxy.setting))
    }

    fn choose(&self, url: &Url) -> Option<&Proxy> {
        match &*self.0 {
            Rules::Given(proxy) => Some(proxy),
            // An invalid proxy was reported when it was read.
            Rules::Environment(variables) => variables.choose(url)?.ok(),
            Rules::System { .. } => None,
        }
    }
}

impl Variables {
    /// Reads the variables; `None` if they name no proxy.
    fn read(environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let first = |names: &[&'static str]| {
            names
                .iter()
                .find_map(|name| Some((variable(&environment, name)?, *name)))
        };
        let all = first(&["ALL_PROXY", "all_proxy"]);
        // In a CGI program, `HTTP_PROXY` is the header `Proxy` of the request.
        let http = match variable(&environment, "REQUEST_METHOD") {
            Some(_) => first(&["http_proxy"]),
            None => first(&["HTTP_PROXY", "http_proxy"]),
        };
        let http = http.or_else(|| all.clone());
        let https = first(&["HTTPS_PROXY", "https_proxy"]).or(all);
        if http.is_none() && https.is_none() {
            return None;
        }
        let exceptions = first(&["NO_PROXY", "no_proxy"]);
        let parse = |found: Option<(String, &'static str)>| {
            let proxy = found.map(|(text, name)| Proxy::parse(&text, name));
            if let Some(Err(reason)) = &proxy {
                tracing::warn!("{reason}");
            }
            proxy
        };
        Some(Self {
            http: parse(http),
            https: parse(https),
            exceptions: Exceptions::parse(&exceptions.map_or(String::new(), |(list, _)| list)),
        })
    }

    fn choose(&self, url: &Url) -> Option<Result<&Proxy, &String>> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        (!is_loopback(url) && !self.exceptions.hold(url)).then_some(proxy.as_ref())
    }
}

impl Proxy {
    fn parse(text: &str, setting: &'static str) -> Result<Self, String> {
        let text = text.trim();
        let url = match text.contains("://") {
            true => Url::parse(text),
            false => Url::parse(&format!("http://{text}")),
        };
        let mut url = url.map_err(|e| unusable(setting, e))?;
        match url.scheme() {
            "http" | "socks4" | "socks4a" | "socks5" | "socks5h" => {}
            "https" if HAS_TLS => {}
            "https" => return Err(unusable(setting, "https needs the feature `rustls`")),
            other => {
                let known = "http, https, socks4, socks4a, socks5 and socks5h are known";
                return Err(unusable(
                    setting,
                    format_args!("its scheme is {other}: {known}"),
                ));
            }
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(unusable(setting, "it names no host"));
        }
        if url.scheme().starts_with("socks") && url.port().is_none() {
            // A URL with a host can have a port, so this can't fail.
            let _ = url.set_port(Some(1080));
        }
        Ok(Self { url, setting })
    }
}

/// Formats the error of an invalid proxy, without its value, which may have a
/// password.
fn unusable(setting: &str, reason: impl std::fmt::Display) -> String {
    format!("`{setting}` is not the address of a proxy: {reason}; an example is http://proxy:3128")
}

/// Hosts that are reached without a proxy, from `NO_PROXY`.
struct Exceptions(Vec<Exception>);

struct Exception {
    hosts: Hosts,
    /// Only this port, if set.
    port: Option<u16>,
}

enum Hosts {
    All,
    /// Addresses that share this many leading bits with this one.
    Network(IpAddr, u32),
    /// A host name and its subdomains.
    Domain(String),
}

impl Exceptions {
    fn parse(list: &str) -> Self {
        let entries = list.split([',', ' ', '\t', '\n', '\r']);
        let entries = entries.filter(|entry| !entry.is_empty());
        let parsed = entries.filter_map(|entry| {
            let exception = Exception::parse(entry);
            if exception.is_none() {
                tracing::warn!(
                    "NO_PROXY: `{entry}` is neither a host nor a range such as 10.0.0.0/8"
                );
            }
            exception
        });
        Self(parsed.collect())
    }

    fn hold(&self, url: &Url) -> bool {
        let Some(host) = url.host() else {
            return false;
        };
        let port = url.port_or_known_default();
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|wanted| Some(wanted) == port) && exception.hosts.hold(&host)
        })
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            let hosts = Hosts::All;
            return Some(Self { hosts, port: None });
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let address = address.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= width(address))?;
            let hosts = Hosts::Network(address, bits);
            return Some(Self { hosts, port: None });
        }
        // Without brackets, the colons of an IPv6 address are not a port separator.
        if let Ok(address) = entry.parse::<IpAddr>() {
            let hosts = Hosts::Network(address, width(address));
            return Some(Self { hosts, port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.ends_with(']') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (entry, None),
        };
        let hosts = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => Hosts::Network(address, width(address)),
            Err(_) => {
                let name = host.strip_prefix('*').unwrap_or(host);
                let name = name.trim_matches('.').to_ascii_lowercase();
                (!name.is_empty()).then_some(Hosts::Domain(name))?
            }
        };
        Some(Self { hosts, port })
    }
}

impl Hosts {
    fn hold(&self, host: &Host<&str>) -> bool {
        let ip = match host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(*ip)),
        };
        match (self, ip, host) {
            (Self::All, _, _) => true,
            (Self::Network(network, bits), Some(ip), _) => same_start(*network, ip, *bits),
            (Self::Domain(name), _, Host::Domain(host)) => {
                let host = host.trim_end_matches('.');
                let rest = host.strip_suffix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => false,
        }
    }
}

/// Number of bits of an address.
fn width(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Whether the first `bits` of two addresses are equal.
fn same_start(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    let differ = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(
        backend: &str,
        variables: &'static [(&'static str, &'static str)],
    ) -> Result<Proxies> {
        let addresses = Addresses::choose(Some(backend.to_owned()), None, |_| None).unwrap();
        Proxies::new(None, &addresses, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// Whether `NO_PROXY` exempts a backend from the proxy.
    fn is_direct(backend: &str, list: &'static str) -> bool {
        let addresses = Addresses::choose(Some(backend.to_owned()), None, |_| None).unwrap();
        let proxies = Proxies::new(None, &addresses, |name| match name {
            "HTTP_PROXY" => Some("http://proxy:1".to_owned()),
            "NO_PROXY" => Some(list.to_owned()),
            _ => None,
        });
        proxies.unwrap().name(&addresses.finetuner).is_none()
    }

    #[test]
    fn no_proxy_is_interpreted_like_in_curl_and_go() {
        let ip = "http://10.9.9.9:8642";
        for (list, direct) in [
            ("*", true),
            ("a.example, *", true),
            ("10.9.9.9", true),
            ("10.9.9.9:8642", true),
            ("10.9.9.9:80", false),
            ("10.0.0.0/8", true),
            ("fe80::/10,10.0.0.0/8,172.16.0.0/12", true),
            ("10.9.8.0/24", false),
            ("0.0.0.0/0", true),
            (" localhost , 10.9.9.9 ", true),
            ("localhost,127.0.0.1,::1,[::1]", false),
            ("9.9.9", false),
            ("", false),
            ("10.9.9.9/33, x/y, [, :, ., 10.9.9.9:x", false),
        ] {
            assert_eq!(is_direct(ip, list), direct, "{list}");
        }
        let name = "http://api.Example.com";
        for (list, direct) in [
            ("example.com", true),
            (".example.com", true),
            ("*.example.com", true),
            ("API.EXAMPLE.COM.", true),
            ("api.example.com:80", true),
            ("api.example.com:443", false),
            ("ample.com", false),
            ("x.api.example.com", false),
            ("a.test b.test example.com", true),
        ] {
            assert_eq!(is_direct(name, list), direct, "{list}");
        }
        for (list, direct) in [
            ("fd00::/8", true),
            ("fd00::1", true),
            ("[fd00::1]", true),
            ("[fd00::1]:8642", true),
            ("[fd00::1]:80", false),
            ("fe80::/10", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(is_direct("http://[fd00::1]:8642", list), direct, "{list}");
        }
    }

    #[test]
    fn the_first_non_blank_variable_is_used() {
        let backend = "http://10.9.9.9:8642";
        let name = |variables| {
            let proxies = proxies(backend, variables).unwrap();
            proxies.name(&Url::parse(backend).unwrap())
        };
        let shown = |text: &str| Some(text.to_owned());
        assert_eq!(name(&[]), None);
        assert_eq!(name(&[("HTTP_PROXY", " ")]), None);
        assert_eq!(name(&[("HTTPS_PROXY", "http://p:1")]), None);
        assert_eq!(
            name(&[("HTTP_PROXY", ""), ("http_proxy", "http://p:1")]),
            shown("http://p:1 (http_proxy)")
        );
        assert_eq!(
            name(&[("ALL_PROXY", "socks5h://u:geheim@p")]),
            shown("socks5h://p:1080 (ALL_PROXY)")
        );
        assert_eq!(
            name(&[("HTTP_PROXY", "p:3128")]),
            shown("http://p:3128 (HTTP_PROXY)")
        );
        let no = [
            ("HTTP_PROXY", "p:1"),
            ("NO_PROXY", ""),
            ("no_proxy", "10.9.9.9"),
        ];
        assert_eq!(name(Box::leak(Box::new(no))), None);
        let cgi = [("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(name(Box::leak(Box::new(cgi))), None);
    }

    #[test]
    fn loopback_addresses_ignore_proxies_of_the_environment() {
        for local in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            let proxies = proxies(local, &[("ALL_PROXY", "http://p:1")]).unwrap();
            assert_eq!(proxies.name(&Url::parse(local).unwrap()), None);
            // Other hosts are reached through the proxy.
            let elsewhere = Url::parse("https://storage.example/x").unwrap();
            assert!(proxies.name(&elsewhere).is_some());
        }
    }

    #[test]
    fn an_invalid_proxy_is_an_error_only_when_used() {
        for (garbage, reason) in [
            ("http://user:geheim@[::1", "IPv6"),
            ("ftp://user:geheim@host", "ftp"),
            ("http://", "host"),
            ("socks5://", "host"),
        ] {
            let addresses =
                Addresses::choose(Some("http://10.9.9.9".into()), None, |_| None).unwrap();
            let read = |name: &str| (name == "HTTP_PROXY").then(|| garbage.to_owned());
            let error = Proxies::new(None, &addresses, read)
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains("HTTP_PROXY") && error.contains(reason),
                "{error}"
            );
            assert!(!error.contains("geheim"), "{error}");
            let given = Secret::from(garbage);
            let error = Proxies::new(Some(&given), &addresses, |_| None)
                .err()
                .unwrap();
            assert!(error.to_string().contains("`proxy`"), "{error}");
        }
        // No request uses this proxy.
        assert!(proxies("https://a.example", &[("HTTP_PROXY", "ftp://x")]).is_ok());
        assert!(proxies("http://127.0.0.1:1", &[("HTTP_PROXY", "ftp://x")]).is_ok());
    }
}
