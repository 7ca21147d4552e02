//! Error messages for answers and causes.

use std::{borrow::Cow, io};

use reqwest::StatusCode;

/// Why the bytes of an upload could not be produced. Repeating the upload would
/// not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotMade(pub(crate) String);

/// Maximum length of an answer's body in an error, in characters.
const BODY_START: usize = 500;

/// Whether a status is temporary. Statuses from 520 on come from a proxy whose
/// server does not answer.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        408 | 425 | 429 | 500 | 502..=504 | 520..=524
    )
}

/// Returns why the body of a request could not be produced, if that is the cause.
pub(super) fn not_made(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // `source` of an `io::Error` skips the error that it wraps.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let own = error.downcast_ref::<NotMade>();
        if let Some(own) = own.or_else(|| inner?.downcast_ref()) {
            return Some(own.to_string());
        }
        cause = error.source();
    }
    None
}

/// Returns the kind of the first I/O error in the chain of causes.
pub(super) fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()))
}

/// Whether a body is a web page.
pub(crate) fn is_web_page(body: &[u8]) -> bool {
    let start = start_of(body).trim_start().to_ascii_lowercase();
    let is_page = |tag| start.starts_with(tag);
    ["<!doctype html", "<html", "<head", "<body"]
        .iter()
        .any(is_page)
}

/// Returns the message for an answer that is not a success.
pub(super) fn failure_message<'a>(
    status: StatusCode,
    message: &'a str,
    body: &'a str,
) -> Cow<'a, str> {
    match (message, status.is_server_error()) {
        ("", true) if is_web_page(body.as_bytes()) => format!(
            "this is not a Finetuner backend, or it is a proxy whose backend does not answer. The \
             answer was a web page: {body}"
        )
        .into(),
        ("", false) if is_web_page(body.as_bytes()) => {
            format!("this is not a Finetuner backend. The answer was a web page: {body}").into()
        }
        ("", _) => body.into(),
        (message, _) => message.into(),
    }
}

/// Returns the message for an answer that can't be decoded.
pub(super) fn not_understood(reason: &str, body: &str) -> String {
    match is_web_page(body.as_bytes()) {
        true => format!("this is not a Finetuner backend. The answer was a web page: {body}"),
        false => format!("the answer can't be understood: {reason}: {body}"),
    }
}

pub(crate) fn start_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * BODY_START)]);
    text.chars().take(BODY_START).collect()
}

/// Returns the innermost cause; the outer errors only say that something failed.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
