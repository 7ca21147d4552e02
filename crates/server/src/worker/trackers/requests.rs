//! Requests to trackers, and the reasons why they fail.

use finetuner_protocol::text::start_of;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::requests::root_cause;

/// The reason why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request may succeed later.
    Passing(String),
    /// The request will never succeed.
    Refused(String),
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Passing(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// Sends a request and parses the JSON of its answer.
pub(super) async fn json(request: RequestBuilder) -> Result<Value, Failure> {
    let answer = request
        .send()
        .await
        .map_err(|e| Failure::Passing(root_cause(e)))?;
    read(answer).await
}

/// Reads an answer. Errors contain the start of its body and nothing of the
/// request.
async fn read(answer: Response) -> Result<Value, Failure> {
    /// Maximum size of an answer, in bytes.
    const LONGEST: usize = 4 << 20;
    let status = answer.status();
    let mut bytes = Vec::new();
    let mut answer = answer;
    while let Some(piece) = answer
        .chunk()
        .await
        .map_err(|e| Failure::Passing(root_cause(e)))?
    {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LONGEST {
            return Err(Failure::Refused(
                "its answer is larger than 4 MiB".to_owned(),
            ));
        }
    }
    if status.is_success() {
        return Ok(serde_json::from_slice(&bytes).unwrap_or_default());
    }
    let words = start_of(&String::from_utf8_lossy(&bytes));
    let reason = format!("the answer is {status}: {words}");
    let passes = status.is_server_error()
        || [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
        ]
        .contains(&status);
    Err(match passes {
        true => Failure::Passing(reason),
        false => Failure::Refused(reason),
    })
}
