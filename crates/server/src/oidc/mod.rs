//! Sign-in through an OpenID Connect provider: authorization code flow with PKCE,
//! a single-use state, and a nonce. The caller binds the state to the browser
//! with a cookie.

mod flows;
mod keys;
mod provider;
mod token;

use std::net::IpAddr;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use crate::{
    error::{ApiError, Result, StartError},
    secret,
    settings::{Client, Settings},
};
use flows::{Begun, Flows};
use provider::Provider;

/// Maximum number of password attempts when an account is linked at the first
/// sign-in.
const MAX_TRIES: u32 = 5;

/// The configured provider and the pending sign-ins.
pub(crate) struct Oidc {
    client: Client,
    provider: Provider,
    begun: Flows<Begun>,
    waiting: Flows<Waiting>,
}

/// A user whom the provider has authenticated, but who has not chosen an account
/// here yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) who: Subject,
    /// Page to redirect to after the sign-in.
    pub(crate) next: String,
    tries: u32,
}

/// A user's identity at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) issuer: String,
    /// The claim `sub`: a stable identifier, unique at the issuer.
    pub(crate) subject: String,
    /// Suggested account names, best first.
    pub(crate) names: Vec<String>,
    /// Whether the user is in one of the admin groups.
    pub(crate) is_admin: bool,
}

/// A started sign-in: where to redirect the browser.
pub(crate) struct Departure {
    pub(crate) url: Url,
    /// Value of the cookie that binds the sign-in to this browser.
    pub(crate) state: String,
}

/// A sign-in that the provider has confirmed.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) who: Subject,
    pub(crate) next: String,
    /// Whether the user asked to link an existing account.
    pub(crate) links: bool,
}

impl Oidc {
    /// Returns `None` if the settings name no provider.
    ///
    /// # Errors
    /// [`StartError`] if a setting is invalid.
    pub(crate) fn new(settings: &Settings) -> Result<Option<Self>, StartError> {
        let Some(client) = Client::new(settings)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            provider: Provider::new(&client.issuer)
                .map_err(|e| StartError::setting("oidc.issuer", e))?,
            client,
            begun: Flows::default(),
            waiting: Flows::default(),
        }))
    }

    /// Returns the provider's display name.
    pub(crate) fn name(&self) -> &str {
        &self.client.settings.name
    }

    /// Starts a sign-in. `from` is the client's address, `next` the page to go to
    /// afterwards.
    pub(crate) async fn begin(
        &self,
        next: String,
        links: bool,
        from: Option<IpAddr>,
    ) -> Result<Departure> {
        let metadata = self.provider.metadata().await.map_err(unreachable)?;
        let (verifier, nonce) = (secret::new_key(), secret::new_key());
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let begun = Begun {
            verifier,
            nonce: nonce.clone(),
            next,
            links,
        };
        let state = self.begun.put(begun, from)?;
        let mut scopes = vec!["openid"];
        scopes.extend(self.client.settings.scopes.iter().map(String::as_str));
        let mut url = metadata.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client.id)
            .append_pair("redirect_uri", self.client.redirect.as_str())
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", &state)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(Departure { url, state })
    }

    /// Completes a sign-in with the provider's answer. The state is used up even
    /// if an error follows.
    pub(crate) async fn finish(&self, state: &str, code: &str, issuer: &str) -> Result<Arrival> {
        let begun = self.begun.take(state).ok_or_else(|| {
            ApiError::unauthenticated("this sign-in has expired or was used already: sign in again")
        })?;
        // RFC 9207: reject answers of other providers (mix-up attack).
        if !issuer.is_empty() && issuer != self.client.issuer {
            return Err(refused("the answer came from another provider"));
        }
        let claims = self.provider.redeem(&self.client, code, &begun).await;
        let claims = claims.map_err(refused)?;
        let who = self.admit(&claims)?;
        Ok(Arrival {
            who,
            next: begun.next,
            links: begun.links,
        })
    }

    /// Removes a sign-in that the provider has refused. Returns whether its state
    /// was known.
    pub(crate) fn abandon(&self, state: &str) -> bool {
        self.begun.take(state).is_some()
    }

    /// Stores a user without an account until they have chosen one. Returns the
    /// key for the browser's cookie.
    pub(crate) fn wait(&self, who: Subject, next: String, from: Option<IpAddr>) -> Result<String> {
        let waiting = Waiting {
            who,
            next,
            tries: 0,
        };
        self.waiting.put(waiting, from)
    }

    /// Returns the user who is choosing an account.
    pub(crate) fn waiting(&self, key: &str) -> Option<Waiting> {
        self.waiting.look(key)
    }

    /// Like [`Oidc::waiting`], but counts a password attempt. Removes the choice after
    /// [`MAX_TRIES`] attempts.
    pub(crate) fn try_once(&self, key: &str) -> Option<Waiting> {
        self.waiting.change(key, |waiting| {
            waiting.tries += 1;
            waiting.tries <= MAX_TRIES
        })
    }

    /// Removes the choice of an account. Returns whether it was still pending.
    pub(crate) fn chosen(&self, key: &str) -> bool {
        self.waiting.take(key).is_some()
    }

    /// Returns the URL that ends the session at the provider, if it has one.
    pub(crate) fn sign_out_page(&self) -> Option<Url> {
        let mut url = self.provider.known()?.end_session_endpoint.clone()?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.client.id);
        Some(url)
    }

    /// Removes expired sign-ins.
    pub(crate) fn forget(&self) {
        self.begun.forget();
        self.waiting.forget();
    }

    /// Checks the claims against the allowed domains and groups.
    fn admit(&self, claims: &Value) -> Result<Subject> {
        let settings = &self.client.settings;
        let groups = &claims[settings.groups_claim.as_str()];
        let groups: Vec<&str> = match groups {
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let email = claims["email"].as_str().unwrap_or_default();
        let is_verified = claims["email_verified"] == true || claims["email_verified"] == "true";
        let domain = email.rsplit_once('@').map(|(_, domain)| domain);
        let in_domain = |allowed: &String| {
            allowed == "*"
                || is_verified && domain.is_some_and(|own| own.eq_ignore_ascii_case(allowed))
        };
        let in_group = |allowed: &String| groups.contains(&allowed.as_str());
        if !settings.allowed_domains.iter().any(in_domain)
            && !settings.allowed_groups.iter().any(in_group)
        {
            let reason = match (email, is_verified) {
                (email, false) if !email.is_empty() => {
                    "your e-mail address is not verified at the provider, and you are in no \
                     allowed group"
                }
                _ => "neither your e-mail address nor your groups are allowed on this server",
            };
            let message = format!("{reason}: ask the operator of this server");
            return Err(ApiError::forbidden(message));
        }
        let text = |name: &str| claims[name].as_str().map(str::to_owned);
        let local = email.split_once('@').map(|(local, _)| local.to_owned());
        let names = [text("preferred_username"), local, text("name")];
        Ok(Subject {
            issuer: self.client.issuer.clone(),
            // `sub` was checked with the token.
            subject: text("sub").unwrap_or_default(),
            names: names.into_iter().flatten().collect(),
            is_admin: settings.admin_groups.iter().any(in_group),
        })
    }
}

fn unreachable(reason: String) -> ApiError {
    tracing::warn!("The sign-in provider failed: {reason}");
    ApiError::unavailable(
        "the sign-in provider does not answer correctly: try again, or ask the operator of \
         this server, whose log says why",
    )
}

fn refused(reason: impl std::fmt::Display) -> ApiError {
    tracing::warn!("Refused a sign-in through the provider: {reason}");
    ApiError::unauthenticated(format!("the sign-in did not succeed: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn oidc(domains: &[&str], groups: &[&str]) -> Oidc {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let settings = Settings {
            public_url: Some("https://ft.example".into()),
            oidc: crate::settings::Oidc {
                issuer: Some("https://login.example".into()),
                client_id: Some("ft".into()),
                allowed_domains: own(domains),
                allowed_groups: own(groups),
                ..crate::settings::Oidc::default()
            },
            ..Settings::default()
        };
        Oidc::new(&settings).unwrap().unwrap()
    }

    #[test]
    fn users_of_allowed_domains_or_groups_are_admitted() {
        let oidc = oidc(&["example.org"], &["ml"]);
        let claims = |email: &str, verified: Value, groups: Value| json!({"sub": "s", "email": email, "email_verified": verified, "groups": groups});
        let none = json!([]);
        for (claims, admitted) in [
            (claims("a@example.org", json!(true), none.clone()), true),
            (claims("a@EXAMPLE.org", json!("true"), none.clone()), true),
            (claims("a@example.org", json!(false), none.clone()), false),
            (claims("a@example.org", Value::Null, none.clone()), false),
            (claims("a@evil.example", json!(true), none.clone()), false),
            (
                claims("a@sub.example.org", json!(true), none.clone()),
                false,
            ),
            (claims("example.org", json!(true), none.clone()), false),
            (
                claims("a@example.org@evil.example", json!(true), none),
                false,
            ),
            (claims("", Value::Null, json!(["x", "ml"])), true),
            (claims("", Value::Null, json!("ml")), true),
            (claims("", Value::Null, json!(["mlx", 7])), false),
        ] {
            assert_eq!(oidc.admit(&claims).is_ok(), admitted, "{claims}");
        }
        assert!(self::oidc(&["*"], &[]).admit(&json!({"sub": "s"})).is_ok());
    }

    #[test]
    fn account_choices_have_a_limited_number_of_tries() {
        let oidc = oidc(&["*"], &[]);
        let who = oidc.admit(&json!({"sub": "s", "preferred_username": "ada"}));
        let key = oidc.wait(who.unwrap(), "/console/".into(), None).unwrap();
        assert_eq!(oidc.waiting(&key).unwrap().who.names, ["ada"]);
        for _ in 0..MAX_TRIES {
            assert!(oidc.try_once(&key).is_some());
        }
        assert!(oidc.try_once(&key).is_none());
        assert!(oidc.waiting(&key).is_none() && !oidc.chosen(&key));
    }
}
