//! The backend that a token belongs to.

use crate::transport::{Addresses, is_jina};

/// Identity of the backend that a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    key: String,
    is_jina: bool,
}

impl Backend {
    /// Returns the backend at these addresses. The token is sent to both, so a
    /// different pair is a different backend.
    pub(crate) fn of(addresses: &Addresses) -> Self {
        let origins = [&addresses.hubble, &addresses.finetuner];
        let [hubble, finetuner] = origins.map(|url| url.origin().ascii_serialization());
        Self {
            is_jina: is_jina(addresses),
            key: match hubble == finetuner {
                true => hubble,
                false => format!("{hubble} {finetuner}"),
            },
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Whether these are the addresses of Jina AI, for which the Python client
    /// stores its token without an origin.
    pub(super) fn is_jina(&self) -> bool {
        self.is_jina
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_identified_by_both_addresses() {
        let key = |finetuner: &str, hubble: &str| {
            let addresses =
                Addresses::choose(Some(finetuner.to_owned()), Some(hubble.to_owned()), |_| {
                    None
                });
            let backend = Backend::of(&addresses.unwrap());
            (backend.key, backend.is_jina)
        };
        let jina = "https://api.hubble.jina.ai";
        assert!(key("https://api.compute.finetuner.fit", jina).1);
        assert!(
            key(
                "https://api.finetuner.fit",
                "https://api.hubble.jina.ai:443/x"
            )
            .1
        );
        assert!(key(jina, jina).1);
        // Jina AI's token must not be sent to another server named beside it.
        assert!(!key("https://evil.example", jina).1);
        assert!(!key("http://127.0.0.1:8642", jina).1);
        assert!(!key(jina, "http://127.0.0.1:8642").1);
        assert!(!key(jina, "http://api.hubble.jina.ai").1);
        assert_ne!(
            key("https://a.example", jina),
            key("https://b.example", jina)
        );
        assert_eq!(
            key("http://a/x", "http://a:80/y"),
            key("http://a", "http://a")
        );
    }
}
