//! Pictures that data names by their address. They are fetched by the worker,
//! over http and https alone, and, unless the operator allows it, never from
//! this machine or a private network: whoever may start a run must not be able
//! to look around there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use finetuner_protocol::{Content, Document, text::start_of};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::{Host, Url};

/// The most bytes of a picture.
const MAX_BYTES: usize = 32 << 20;
/// How long a picture may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pictures that are fetched at once.
const AT_ONCE: usize = 8;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// Fetches pictures.
#[derive(Clone)]
pub(crate) struct Pictures {
    client: Client,
    private: bool,
}

/// The address of a document's picture, where it is named and not there.
pub(crate) fn address_of(document: &Document) -> Option<Url> {
    if document.content.is_some() {
        return None;
    }
    let url = Url::parse(&document.uri).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

impl Pictures {
    /// `private` allows addresses of this machine and of private networks.
    pub(crate) fn new(private: bool) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        // Where the machine has no certificates to trust, plain http still works.
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
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::custom(move |attempt| {
                if attempt.previous().len() > MAX_REDIRECTS {
                    return attempt.error("it redirects in circles");
                }
                match check(attempt.url(), private) {
                    Ok(()) => attempt.follow(),
                    Err(reason) => attempt.error(reason),
                }
            }));
        if !private {
            // A proxy would look addresses up by itself.
            builder = builder.no_proxy().dns_resolver(Arc::new(PublicAddresses));
        }
        let client = builder.build().map_err(|e| e.to_string())?;
        Ok(Self { client, private })
    }

    /// Fetches all pictures that documents and their parts name.
    pub(crate) async fn fetch_all(&self, documents: &mut [Document]) -> Result<(), String> {
        let mut wanted = Vec::new();
        for document in documents.iter_mut() {
            gather(document, &mut wanted);
        }
        stream::iter(wanted)
            .map(|(document, url)| async move {
                let fetched = self.fetch(&url).await;
                let bytes = fetched.map_err(|e| {
                    let url = start_of(url.as_str());
                    format!("document `{}`: {url}: {e}", document.id)
                })?;
                document.content = Some(Content::Blob(bytes));
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String> {
        check(url, self.private)?;
        let text = |error: reqwest::Error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            cause.to_string()
        };
        let answer = self.client.get(url.clone()).send().await.map_err(text)?;
        if !answer.status().is_success() {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut bytes = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.try_next().await.map_err(text)? {
            if bytes.len() + piece.len() > MAX_BYTES {
                return Err(format!("it has more than {} MiB", MAX_BYTES >> 20));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

fn gather<'a>(document: &'a mut Document, wanted: &mut Vec<(&'a mut Document, Url)>) {
    if let Some(url) = address_of(document) {
        wanted.push((document, url));
        return;
    }
    for part in &mut document.chunks {
        gather(part, wanted);
    }
}

/// Whether an address may be asked. Names are looked at once they are resolved.
fn check(url: &Url, private: bool) -> Result<(), String> {
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
         allow: load the picture into a blob before pushing"
    )
}

/// Resolves names, and gives back addresses of the public network alone. The
/// connection is made to what was checked.
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

/// Whether an address is one of the public internet.
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
        // Shared by providers, protocol assignments, benchmarks, the rest.
        || (a == 100 && b & 0xC0 == 64)
        || (a, b, c) == (192, 0, 0)
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
    // Addresses that lead to others of the older kind.
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    if segments[..6] == [0x64, 0xFF9B, 0, 0, 0, 0] {
        return inner(segments[6], segments[7]);
    }
    if a == 0x2002 {
        return inner(segments[1], segments[2]);
    }
    // 2000::/3 is the public network, without documentation and Teredo.
    a & 0xE000 == 0x2000 && (a, b) != (0x2001, 0xDB8) && (a, b) != (0x2001, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_private_networks_are_known() {
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

    fn picture(uri: &str) -> Document {
        Document::new().with_chunk(Document::uri(uri).with_modality("image"))
    }

    /// Answers every request with `answer`.
    fn serve(answer: &'static [u8]) -> String {
        use std::io::{Read, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let mut head = [0; 4096];
                let _ = connection.read(&mut head);
                let _ = connection.write_all(answer);
            }
        });
        format!("http://{address}/shoe.png")
    }

    async fn fetch(uri: &str, private: bool) -> Result<Vec<Document>, String> {
        let mut documents = vec![picture(uri)];
        Pictures::new(private)
            .unwrap()
            .fetch_all(&mut documents)
            .await?;
        Ok(documents)
    }

    #[tokio::test]
    async fn pictures_are_fetched_where_that_is_allowed() {
        let url = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc");
        let documents = fetch(&url, true).await.unwrap();
        assert_eq!(documents[0].chunks[0].as_blob(), Some(&b"abc"[..]));
        // What is there, and what is no address, is left alone.
        let documents = fetch("shoe.png", false).await.unwrap();
        assert_eq!(documents[0].chunks[0].content, None);
        let by_name = url.replace("127.0.0.1", "localhost");
        for refused in [
            &url,
            &by_name,
            "http://[::1]/x",
            "http://169.254.169.254/latest",
        ] {
            let error = fetch(refused, false).await.unwrap_err();
            assert!(error.contains("private network"), "{error}");
            assert!(error.contains("document `"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_picture_is_told() {
        let url = serve(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        let error = fetch(&url, true).await.unwrap_err();
        assert!(error.contains("404"), "{error}");
        let url = serve(b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n");
        let error = fetch(&url, true).await.unwrap_err();
        assert!(error.contains("302"), "{error}");
        let url = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\nabc");
        assert!(fetch(&url, true).await.is_err());
    }
}
