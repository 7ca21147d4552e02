//! What errors say of answers and of causes.

use std::{borrow::Cow, io};

use reqwest::StatusCode;

/// The reason why the bytes of an upload could not be made. Sending it again
/// would not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotMade(pub(crate) String);

/// The most of an answer's body that an error keeps.
const BODY_START: usize = 500;

/// Statuses that go away by themselves. Those from 520 on are a proxy's, of a
/// server behind it that does not answer.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        408 | 425 | 429 | 500 | 502..=504 | 520..=524
    )
}

/// Returns why the body of a request could not be made, where that broke it.
pub(super) fn not_made(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An `io::Error` is not the source of itself.
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

/// The kind of the first I/O error among an error and its causes.
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

/// What an answer says that is not a success.
pub(super) fn words<'a>(status: StatusCode, message: &'a str, body: &'a str) -> Cow<'a, str> {
    match (message, status.is_server_error()) {
        ("", true) if is_web_page(body.as_bytes()) => format!(
            "this is not a Finetuner backend, or a proxy whose backend does not answer; a web \
             page came: {body}"
        )
        .into(),
        ("", false) if is_web_page(body.as_bytes()) => {
            format!("this is not a Finetuner backend; a web page came: {body}").into()
        }
        ("", _) => body.into(),
        (message, _) => message.into(),
    }
}

/// What an answer is that makes no sense.
pub(super) fn not_understood(reason: &str, body: &str) -> String {
    match is_web_page(body.as_bytes()) {
        true => format!("this is not a Finetuner backend; a web page came: {body}"),
        false => format!("the answer can't be understood: {reason}: {body}"),
    }
}

pub(crate) fn start_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * BODY_START)]);
    text.chars().take(BODY_START).collect()
}

/// The cause that says what happened; those around it say that something did.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
