//! Sends e-mail through SMTP: messages about runs, and codes that confirm
//! addresses.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use serde_json::Value;
use url::Url;

use super::{failure::Failure, links::run_address};
use crate::{
    database::{CONFIRM, RunEvent},
    error::StartError,
    settings::{Encryption, Mail, Settings},
};

/// Time limit of each step of a connection.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of metrics in a message.
const MAX_METRICS: usize = 10;

/// Client of the configured SMTP server.
pub(super) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    public_url: Option<Url>,
}

impl Mailer {
    /// Returns `None` if the settings name no SMTP server.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, StartError> {
        let mail = &settings.mail;
        let Some(host) = &mail.host else {
            return match *mail == Mail::default() {
                true => Ok(None),
                false => Err(StartError::setting(
                    "mail.host",
                    "it is missing, and other keys of `mail` are set: name the SMTP server, or \
                     remove them",
                )),
            };
        };
        let from = mail.from.as_deref().unwrap_or_default();
        let from: Mailbox = from.parse().map_err(|e| {
            let remedy = "give a sender such as \"Finetuner <finetuner@example.org>\"";
            StartError::setting("mail.from", format!("`{from}`: {e}: {remedy}"))
        })?;
        let tls = match mail.encryption {
            Encryption::None => Tls::None,
            Encryption::StartTls => Tls::Required(trust(mail, host)?),
            Encryption::Tls => Tls::Wrapper(trust(mail, host)?),
        };
        // "Dangerous" means unencrypted by default; encryption is configured
        // here.
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host.as_str())
            .port(mail.port())
            .tls(tls)
            .timeout(Some(TIMEOUT));
        let builder = match mail.credentials()? {
            Some((user, password)) => builder.credentials(Credentials::new(user, password)),
            None => builder,
        };
        Ok(Some(Self {
            transport: builder.build(),
            from,
            public_url: settings.public_address()?,
        }))
    }

    /// Sends a message of the outbox to an e-mail address.
    pub(super) async fn send(
        &self,
        to: &str,
        name: &str,
        event: &str,
        body: &str,
    ) -> Result<String, Failure> {
        let refused = |reason: String| Failure {
            is_final: true,
            ..Failure::new(reason)
        };
        let to: Mailbox = to.parse().map_err(|e| refused(format!("`{to}`: {e}")))?;
        let body: Value = serde_json::from_str(body).map_err(|e| refused(e.to_string()))?;
        let (subject, text) = match event {
            CONFIRM => confirmation(&body, self.public_url.as_ref()),
            _ => about_run(event, &body["data"], self.public_url.as_ref()),
        };
        let domain = self.from.email.domain();
        let mail = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            .message_id(Some(format!("<{name}@{domain}>")))
            // RFC 3834: prevents automatic replies.
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|e| refused(e.to_string()))?;
        let sent = self.transport.send(mail).await;
        sent.map(|answer| format!("accepted: {}", answer.code()))
            .map_err(|error| {
                // Codes 550 to 554: the address or the message is rejected permanently.
                let code = error.status().map(u16::from);
                Failure {
                    is_final: code.is_some_and(|code| (550..=554).contains(&code)),
                    ..Failure::new(error.to_string())
                }
            })
    }
}

/// Returns the TLS settings of the connection, with the trusted authorities.
fn trust(mail: &Mail, host: &str) -> Result<TlsParameters, StartError> {
    let bad = |reason: &dyn std::fmt::Display| StartError::setting("mail.ca", reason.to_string());
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(file) = &mail.ca {
        let pem = std::fs::read(file).map_err(|e| bad(&format!("{}: {e}", file.display())))?;
        let trusted = Certificate::from_pem(&pem);
        let trusted = trusted.map_err(|e| bad(&format!("{}: {e}", file.display())))?;
        builder = builder.add_root_certificate(trusted);
    }
    builder.build_rustls().map_err(|e| bad(&e))
}

/// Returns subject and text of a message about a run.
fn about_run(event: &str, run: &Value, public_url: Option<&Url>) -> (String, String) {
    let text = |field: &str| run[field].as_str().unwrap_or_default();
    let what = match RunEvent::parse(event) {
        Some(RunEvent::Started) => "has started",
        Some(RunEvent::Finished) => "has finished",
        Some(RunEvent::Failed) => "has failed",
        Some(RunEvent::Cancelled) => "was cancelled",
        None => event,
    };
    let (experiment, name) = (text("experiment"), text("run"));
    let subject = format!("Run {experiment}/{name} {what}");
    let mut lines = vec![format!("{subject}."), String::new()];
    if event != RunEvent::Finished.as_str() {
        lines.extend([text("details").to_owned(), String::new()]);
    }
    let after = run["metrics"]["after"].as_object();
    for (metric, value) in after.into_iter().flatten().take(MAX_METRICS) {
        let before = run["metrics"]["before"][metric].as_f64();
        let before = before.map_or(String::new(), |before| format!(" (before: {before:.4})"));
        lines.push(format!(
            "{metric}: {:.4}{before}",
            value.as_f64().unwrap_or(f64::NAN)
        ));
    }
    if let Some(base) = public_url {
        lines.extend([String::new(), run_address(base, experiment, name)]);
    }
    lines.extend([
        String::new(),
        "You get this e-mail because you asked for it on this server's page Account, E-mail. You \
         can turn it off there."
            .to_owned(),
    ]);
    (subject, lines.join("\n") + "\n")
}

/// Returns subject and text of the message that confirms an address.
fn confirmation(body: &Value, public_url: Option<&Url>) -> (String, String) {
    let code = body["code"].as_str().unwrap_or_default();
    let server = public_url.map_or("a Finetuner server", Url::as_str);
    let text = format!(
        "Somebody has entered this address on {server} for e-mail about their runs.\n\nIf it was \
         you, enter this code on the page Account, E-mail:\n\n{code}\n\nIt is valid for one day. \
         If it was not you, do nothing: no other e-mail follows.\n"
    );
    ("Confirm your e-mail address".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_contains_the_outcome_of_the_run() {
        let base = Url::parse("https://ft.example").unwrap();
        let run = json!({
            "experiment": "e", "run": "r", "details": "Run finished",
            "metrics": {"before": {"recall": 0.5}, "after": {"recall": 0.75, "map": 1}},
        });
        let (subject, text) = about_run("run.finished", &run, Some(&base));
        assert_eq!(subject, "Run e/r has finished");
        assert!(
            text.contains("recall: 0.7500 (before: 0.5000)\nmap: 1.0000\n"),
            "{text}"
        );
        assert!(
            text.contains("https://ft.example/console/experiments/e/runs/r\n"),
            "{text}"
        );
        let run = json!({"experiment": "e", "run": "r", "details": "no memory"});
        let (subject, text) = about_run("run.failed", &run, None);
        assert_eq!(subject, "Run e/r has failed");
        assert!(
            text.contains("\nno memory\n") && !text.contains("https"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn settings_that_contradict_each_other_are_refused() {
        let with = |mail| {
            let settings = Settings {
                mail,
                ..Settings::default()
            };
            Mailer::new(&settings).map(|mailer| mailer.is_some())
        };
        assert!(!with(Mail::default()).unwrap());
        let good = Mail {
            host: Some("localhost".into()),
            from: Some("Finetuner <ft@example.org>".into()),
            encryption: Encryption::None,
            ..Mail::default()
        };
        assert!(with(good.clone()).unwrap());
        for (bad, named) in [
            (
                Mail {
                    host: None,
                    ..good.clone()
                },
                "mail.host",
            ),
            (
                Mail {
                    from: None,
                    ..good.clone()
                },
                "mail.from",
            ),
            (
                Mail {
                    encryption: Encryption::Tls,
                    ca: Some("/none".into()),
                    ..good
                },
                "mail.ca",
            ),
        ] {
            let error = with(bad).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
