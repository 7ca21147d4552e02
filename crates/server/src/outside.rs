//! Requests to addresses that users' data, runs and webhooks refer to: http and
//! https only.
//!
//! Addresses of this machine and of private networks are refused unless the
//! operator allows them, so that a run can't explore the server's network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::{Host, Url};

/// Returns a client for such addresses. `private` allows those of this machine and
/// of private networks. Up to `redirects` redirects are followed, and each target
/// is checked.
pub(crate) fn client(private: bool, timeout: Duration, redirects: usize) -> Result<Client, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    // Plain http also works on a machine without trusted certificates.
    let tls = match rustls_platform_verifier::Verifier::new(provider) {
        Ok(verifier) => tls
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
        Err(_) => tls
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth(),
    };
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(timeout)
        .redirect(redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > redirects {
                return attempt.error(match redirects {
                    0 => "it redirects to another address, which is not followed".to_owned(),
                    most => format!("it redirects more than {most} times"),
                });
            }
            match check(attempt.url(), private) {
                Ok(()) => attempt.follow(),
                Err(reason) => attempt.error(reason),
            }
        }));
    if !private {
        // A proxy would resolve names itself, without the check.
        builder = builder.no_proxy().dns_resolver(Arc::new(PublicAddresses));
    }
    builder.build().map_err(|e| e.to_string())
}

/// Returns an address without user name, password, query and fragment, which
/// may contain secrets.
pub(crate) fn without_secrets(url: &Url) -> Url {
    let mut shown = url.clone();
    // Both fail only for addresses without a host, which have no user name.
    let _ = (shown.set_username(""), shown.set_password(None));
    shown.set_query(None);
    shown.set_fragment(None);
    shown
}

/// Checks the scheme, and the IP address if the host is one. Names are checked
/// by [`PublicAddresses`] when they are resolved.
pub(crate) fn check(url: &Url, private: bool) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`{}` is not http or https", url.scheme()));
    }
    let ip: Option<IpAddr> = match url.host() {
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        _ => None,
    };
    match ip {
        Some(ip) if !private && !is_public(ip) => Err(not_public(ip)),
        _ => Ok(()),
    }
}

fn not_public(ip: IpAddr) -> String {
    format!(
        "{ip} is an address of this machine or of a private network, which the server does not \
         allow"
    )
}

/// Resolves names to public addresses only. The connection uses the checked
/// addresses, so a different second answer of the name server has no effect.
struct PublicAddresses;

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            let public = found.iter().copied().filter(|a| is_public(a.ip()));
            let public: Vec<SocketAddr> = public.collect();
            match (public.is_empty(), found.first()) {
                (true, Some(private)) => Err(not_public(private.ip()).into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

/// Returns whether an address belongs to the public internet.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        // RFC 6598, 6890, 7526 and 2544, and the reserved addresses.
        || (a == 100 && b & 0xC0 == 64)
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && b & 0xFE == 18)
        || a >= 240)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let [a, b, ..] = segments;
    let inner = |high: u16, low: u16| {
        let [p, q] = high.to_be_bytes();
        let [r, s] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(p, q, r, s))
    };
    // Addresses that embed an IPv4 address: mapped, NAT64 and 6to4.
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    if segments[..6] == [0x64, 0xFF9B, 0, 0, 0, 0] {
        return inner(segments[6], segments[7]);
    }
    if a == 0x2002 {
        return inner(segments[1], segments[2]);
    }
    // 2000::/3 is public, except protocol assignments (2001::/23, including Teredo)
    // and documentation (2001:db8::/32 and 3fff::/20).
    a & 0xE000 == 0x2000
        && !(a == 0x2001 && (b < 0x200 || b == 0xDB8))
        && !(a == 0x3FFF && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_without_possible_keys() {
        let url = Url::parse("https://ann:secret@example.org/a/b?token=secret#secret").unwrap();
        assert_eq!(without_secrets(&url).as_str(), "https://example.org/a/b");
    }

    #[test]
    fn addresses_of_private_networks_are_recognised() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "192.88.99.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "2001:20::1",
            "3fff::1",
            "64:ff9b:1::a9fe:a9fe",
            "::127.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
