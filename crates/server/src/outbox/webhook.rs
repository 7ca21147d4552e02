//! Calls webhooks, signed as in the specification Standard Webhooks. Redirects
//! are not followed and answer bodies are not read. Only public addresses are
//! called, unless the operator allows others.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT},
};
use serde_json::Value;
use sha2::Sha256;
use url::Url;

use super::{failure::Failure, links::run_address};
use crate::{
    database::now_ms, error::StartError, outside, requests::root_cause, settings::Settings,
};

/// Time limit of a call, including the connection.
const TIMEOUT: Duration = Duration::from_secs(10);
/// User agent.
const AGENT: &str = concat!("finetuner-server/", env!("CARGO_PKG_VERSION"));

/// Client for webhook calls.
pub(super) struct Webhooks {
    client: Client,
    private: bool,
    public_url: Option<Url>,
}

impl Webhooks {
    pub(super) fn new(settings: &Settings) -> Result<Self, StartError> {
        let private = settings.private_webhooks;
        let client = outside::client(private, TIMEOUT, 0)
            .map_err(|e| StartError::setting("server.private_webhooks", e))?;
        Ok(Self {
            client,
            private,
            public_url: settings.public_address()?,
        })
    }

    /// Calls a webhook. Returns a description of its answer.
    pub(super) async fn send(
        &self,
        url: &str,
        secret: &[u8],
        name: &str,
        body: &str,
    ) -> Result<String, Failure> {
        let url = Url::parse(url).map_err(|e| Failure::new(e.to_string()))?;
        // The operator's settings may have changed since the webhook was created.
        outside::check(&url, self.private).map_err(Failure::new)?;
        let body = with_address(body, self.public_url.as_ref());
        let seconds = now_ms() / 1000;
        let signature = sign(secret, name, seconds, &body);
        let call = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", name)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(body);
        let answer = call.send().await;
        let answer = answer.map_err(|e| Failure::new(without_address(root_cause(e))))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(format!("answered {status}"));
        }
        Err(Failure {
            retry_after: retry_after(answer.headers()),
            // 410 Gone: the receiver no longer wants calls.
            is_final: status == StatusCode::GONE,
            reason: format!("answered {status}"),
        })
    }
}

/// Removes private IP addresses from an error, so that owners can't resolve
/// internal names through webhooks.
fn without_address(reason: String) -> String {
    match reason.contains("of a private network") {
        true => "the name belongs to this machine or to a private network, which the server does \
                 not allow"
            .to_owned(),
        false => reason,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    seconds.parse().ok().map(Duration::from_secs)
}

/// Returns the value of the header `webhook-signature`.
fn sign(secret: &[u8], name: &str, seconds: i64, body: &str) -> String {
    // HMAC takes keys of any length.
    let mac = Hmac::<Sha256>::new_from_slice(secret);
    let signature = mac.map(|mut mac| {
        mac.update(format!("{name}.{seconds}.{body}").as_bytes());
        mac.finalize().into_bytes()
    });
    let signature = signature.map_or(String::new(), |bytes| BASE64_STANDARD.encode(bytes));
    format!("v1,{signature}")
}

/// Adds the URL of the run's page to the body, if the server's public URL is
/// configured.
fn with_address(body: &str, public_url: Option<&Url>) -> String {
    let Some((mut value, base)) = serde_json::from_str::<Value>(body).ok().zip(public_url) else {
        return body.to_owned();
    };
    let data = &value["data"];
    let names = data["experiment"].as_str().zip(data["run"].as_str());
    if let Some((experiment, run)) = names {
        value["data"]["url"] = run_address(base, experiment, run).into();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_specification() {
        // The example of the specification's reference libraries.
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = r#"{"test": 2432232314}"#;
        let name = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = sign(&secret.unwrap(), name, 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_message_contains_the_runs_url_if_the_base_url_is_known() {
        let body = r#"{"type":"run.failed","data":{"experiment":"a/b","run":"r ü"}}"#;
        assert_eq!(with_address(body, None), body);
        let base = Url::parse("https://ft.example/base/").unwrap();
        let told: Value = serde_json::from_str(&with_address(body, Some(&base))).unwrap();
        let url = "https://ft.example/base/console/experiments/a%2Fb/runs/r%20%C3%BC";
        assert_eq!(told["data"]["url"], url);
        let test = r#"{"type":"webhook.test","data":{}}"#;
        assert_eq!(with_address(test, Some(&base)), test);
    }
}
