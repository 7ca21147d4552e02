//! Rules for downloads from the hub.

/// Size limit and token for downloads from the hub.
#[derive(Clone, Default)]
pub struct HubRules {
    /// Largest total size of a model's files in bytes; `None` for no limit.
    pub max_bytes: Option<u64>,
    /// The token for requests to the hub.
    pub token: Option<String>,
}

impl std::fmt::Debug for HubRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubRules")
            .field("max_bytes", &self.max_bytes)
            .field("token", &self.token.as_ref().map(|_| "[redacted]"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_for_the_hub_is_never_printed() {
        let rules = HubRules {
            max_bytes: None,
            token: Some("hf_secret".into()),
        };
        assert!(!format!("{rules:?}").contains("secret"));
    }
}
