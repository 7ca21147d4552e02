//! Address of a request's client: that of the connection, or the one that a
//! trusted proxy reports in `Forwarded` (RFC 7239) or `X-Forwarded-For`.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use ipnet::IpNet;

/// Address of a request's client; `None` if it is unknown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(None)))
    }
}

impl Peer {
    /// Returns the client of a request over a connection from this peer.
    ///
    /// Each proxy appends the address that it was called from. The list is
    /// therefore read from its end, up to the first address that is not a trusted
    /// proxy. If both headers exist and disagree, the client sent one of them, and
    /// neither is used.
    pub(crate) fn behind(self, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let Some(connection) = self.0.map(|address| address.to_canonical()) else {
            return self;
        };
        let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        if !is_trusted(connection) {
            return Self(Some(connection));
        }
        let client = |name: &str, hop: fn(&str) -> Option<IpAddr>| {
            let hops = hops(headers, name, hop)?;
            let mut client = connection;
            // An unknown or hidden address makes all addresses before it unusable.
            for hop in hops.into_iter().rev().map_while(|hop| hop) {
                client = hop;
                if !is_trusted(hop) {
                    break;
                }
            }
            Some(client)
        };
        let standard = client("forwarded", standard_hop);
        let common = client("x-forwarded-for", address);
        Self(Some(match (standard, common) {
            (Some(client), None) | (None, Some(client)) => client,
            (Some(one), Some(other)) if one == other => one,
            _ => connection,
        }))
    }
}

/// Parses all elements of a list header. Returns `None` if the header is
/// missing.
fn hops(
    headers: &HeaderMap,
    name: &str,
    hop: fn(&str) -> Option<IpAddr>,
) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    for value in headers.get_all(name) {
        match value.to_str() {
            Ok(text) => hops.extend(text.split(',').map(|part| hop(part.trim()))),
            Err(_) => hops.push(None),
        }
    }
    (!hops.is_empty()).then_some(hops)
}

/// Parses `for` in an element of `Forwarded`, such as
/// `for="[2001:db8::1]:4711";proto=https`.
fn standard_hop(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// Parses an address with or without a port or brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let plain = plain.unwrap_or(text).parse().ok();
    let address = plain.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(connection: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8:1::/48"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let peer = Peer(Some(connection.parse().unwrap()));
        peer.behind(&map, &trusted).0.unwrap().to_string()
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let x = "x-forwarded-for";
        assert_eq!(client("192.0.2.1", &[(x, "198.51.100.7")]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &[(x, "198.51.100.7")]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(
            client("::ffff:10.0.0.1", &[(x, "198.51.100.7")]),
            "198.51.100.7"
        );
        // The client itself sent the start of the list.
        let spoofed = "203.0.113.9, 198.51.100.7, 10.2.3.4";
        assert_eq!(client("10.0.0.1", &[(x, spoofed)]), "198.51.100.7");
        let two = [(x, "203.0.113.9"), (x, "198.51.100.7")];
        assert_eq!(client("10.0.0.1", &two), "198.51.100.7");
        for odd in ["", "unknown", "198.51.100.7, secret", "1.2.3.4.5"] {
            assert_eq!(client("10.0.0.1", &[(x, odd)]), "10.0.0.1", "{odd}");
        }
    }

    #[test]
    fn the_forwarded_header_is_read() {
        for (value, expected) in [
            ("for=198.51.100.7", "198.51.100.7"),
            ("proto=https; For=\"198.51.100.7:4711\"", "198.51.100.7"),
            ("for=\"[2001:db8:2::7]:4711\";proto=https", "2001:db8:2::7"),
            ("for=\"[2001:db8:2::7]\", for=10.1.1.1", "2001:db8:2::7"),
            ("for=_hidden, for=10.1.1.1", "10.1.1.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[("forwarded", value)]),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn contradicting_headers_are_ignored() {
        let both = |standard| {
            client(
                "10.0.0.1",
                &[("forwarded", standard), ("x-forwarded-for", "198.51.100.7")],
            )
        };
        assert_eq!(both("for=198.51.100.7"), "198.51.100.7");
        assert_eq!(both("for=203.0.113.9"), "10.0.0.1");
    }
}
