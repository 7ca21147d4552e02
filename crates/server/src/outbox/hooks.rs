//! Creates webhooks, and validates URLs, events and e-mail addresses that users
//! enter.

use base64::{Engine, prelude::BASE64_STANDARD};
use url::Url;

use crate::{
    app::App,
    database::{Identity, NewWebhook, RunEvent, WebhookRow},
    error::{ApiError, Result},
    outside,
};

/// Maximum length of a URL in bytes.
const MAX_URL: usize = 2048;

/// Creates a webhook in the user's project. Returns it with its secret, which
/// can't be read again.
pub(crate) async fn create(
    app: &App,
    by: Identity,
    url: &str,
    events: &[String],
) -> Result<(WebhookRow, String)> {
    let url = read_url(url, app.settings.private_webhooks)?;
    let events = run_events(events)?;
    let secret = rand::random::<[u8; 32]>().to_vec();
    let shown = format!("whsec_{}", BASE64_STANDARD.encode(&secret));
    let new = NewWebhook {
        url,
        events,
        secret,
    };
    let most = app.settings.max_webhooks;
    let made = app.database.add_webhook(by, new, most).await?;
    let made = made.ok_or_else(|| {
        ApiError::forbidden(format!(
            "there are {most} webhooks already, the maximum: delete one first, or \
             ask the operator for a higher `users.max_webhooks`"
        ))
    })?;
    Ok((made, shown))
}

fn read_url(text: &str, private: bool) -> Result<String> {
    let bad = |reason: String| ApiError::unprocessable(format!("`url`: {reason}"));
    let text = text.trim();
    if text.len() > MAX_URL {
        return Err(bad(format!(
            "it has {} bytes: at most {MAX_URL} are allowed",
            text.len()
        )));
    }
    let url = Url::parse(text).map_err(|e| {
        bad(format!(
            "`{text}`: {e}: give an address such as https://example.org/hook"
        ))
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(
            "it contains a user name or a password: leave them out, and check the signature of the \
             calls instead"
                .to_owned(),
        ));
    }
    outside::check(&url, private).map_err(bad)?;
    Ok(url.into())
}

/// Parses names of events.
pub(crate) fn run_events(names: &[String]) -> Result<Vec<RunEvent>> {
    let known = RunEvent::ALL.map(RunEvent::as_str).join(", ");
    if let Some(other) = names.iter().find(|name| RunEvent::parse(name).is_none()) {
        return Err(ApiError::unprocessable(format!(
            "`events`: `{other}` is not one of {known}"
        )));
    }
    let is_named = |event: &RunEvent| names.iter().any(|name| name == event.as_str());
    let events: Vec<RunEvent> = RunEvent::ALL.into_iter().filter(is_named).collect();
    match events.is_empty() {
        true => Err(ApiError::unprocessable(format!(
            "`events` is empty: name at least one of {known}"
        ))),
        false => Ok(events),
    }
}

/// Validates an e-mail address.
pub(crate) fn mail_address(text: &str) -> Result<String> {
    let text = text.trim();
    let bad = |reason: &dyn std::fmt::Display| {
        ApiError::unprocessable(format!(
            "`address`: {reason}: give one such as ada@example.org"
        ))
    };
    // RFC 5321, 4.5.3.1.3.
    if text.len() > 254 {
        return Err(bad(&format!(
            "it has {} bytes: at most 254 are allowed",
            text.len()
        )));
    }
    let address: lettre::Address = text.parse().map_err(|e| bad(&e))?;
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_addresses_are_checked() {
        let url = read_url(" https://example.org/hook?x=1 ", false).unwrap();
        assert_eq!(url, "https://example.org/hook?x=1");
        let long = format!("https://example.org/{}", "x".repeat(MAX_URL));
        for (bad, said) in [
            ("", "`url`"),
            ("example.org", "https://example.org/hook"),
            ("ftp://example.org/", "not http or https"),
            ("file:///etc/passwd", "not http or https"),
            ("https://ann:pw@example.org/", "a user name or a password"),
            ("http://127.0.0.1/", "does not allow"),
            ("http://2130706433/", "does not allow"),
            ("http://[::ffff:10.0.0.1]/", "does not allow"),
            ("http://169.254.169.254/latest", "does not allow"),
            (long.as_str(), "at most 2048"),
        ] {
            let error = read_url(bad, false).unwrap_err();
            assert!(error.message().contains(said), "{bad}: {}", error.message());
            assert!(!error.message().contains("pw"), "{}", error.message());
        }
        assert!(read_url("http://127.0.0.1/", true).is_ok());
    }

    #[test]
    fn mail_addresses_are_single_addresses() {
        assert_eq!(
            mail_address(" ada@example.org ").unwrap(),
            "ada@example.org"
        );
        let long = format!("{}@example.org", "x".repeat(250));
        for bad in [
            "",
            "ada",
            "ada@",
            "Ada <ada@example.org>",
            "ada@example.org,eve@example.org",
            "ada@example.org\r\nBcc: eve@example.org",
            long.as_str(),
        ] {
            assert!(mail_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unknown_events_are_refused() {
        let read = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
            run_events(&names)
        };
        let twice = ["run.failed", "run.failed"];
        assert_eq!(read(&twice).unwrap(), [RunEvent::Failed]);
        for bad in [&[][..], &["run.deleted"]] {
            let error = read(bad).unwrap_err();
            assert!(error.message().contains("run.finished"), "{bad:?}");
        }
    }
}
