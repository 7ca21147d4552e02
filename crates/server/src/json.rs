//! JSON objects in the bodies of requests. An error names the field that is
//! wrong, as `config.model.freeze`.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::Path;

use crate::error::{ApiError, Result};

/// The body of a request, which must be a JSON object.
pub(crate) struct JsonObject<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonObject<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if !is_json(request.headers()) {
            return Err(ApiError::rejected(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the header `Content-Type` must be `application/json`".to_owned(),
            ));
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|e| ApiError::rejected(e.status(), e.body_text()))?;
        from_slice(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // Structures could be read from arrays too, which no API promises.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::unprocessable(
            "the body must be a JSON object: {...}",
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let place = error.valid_up_to();
        ApiError::unprocessable(format!("the body is not valid UTF-8 from byte {place} on"))
    })?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = read(&mut json, "")?;
    json.end()
        .map_err(|e| ApiError::unprocessable(format!("the body is not valid JSON: {e}")))?;
    Ok(value)
}

/// Reads a part of a body, whose name is `field`.
pub(super) fn from_value<'a, T: Deserialize<'a>>(value: &'a Value, field: &str) -> Result<T> {
    read(value, field)
}

fn read<'de, T: Deserialize<'de>>(
    from: impl Deserializer<'de, Error = serde_json::Error>,
    field: &str,
) -> Result<T> {
    serde_path_to_error::deserialize(from).map_err(|error| {
        let place = place(field, error.path());
        let error = error.into_inner();
        let place = match place.is_empty() {
            true => "the body".to_owned(),
            false => format!("`{place}`"),
        };
        ApiError::unprocessable(match error.is_data() {
            true => format!("{place}: {error}"),
            false => format!("the body is not valid JSON, at {place}: {error}"),
        })
    })
}

fn place(field: &str, path: &Path) -> String {
    match path.iter().next() {
        None => field.to_owned(),
        Some(_) if field.is_empty() => path.to_string(),
        Some(_) => format!("{field}.{path}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Sent {
        name: String,
        #[serde(default)]
        inner: HashMap<String, Vec<u8>>,
    }

    #[test]
    fn errors_name_the_field() {
        for (body, expected) in [
            ("[]", "the body must be a JSON object"),
            ("", "the body must be a JSON object"),
            ("{}", "the body: missing field `name`"),
            (r#"{"name": 1}"#, "`name`: invalid type: integer `1`"),
            (
                r#"{"name": "a", "inner": {"x": [1, -1]}}"#,
                "`inner.x[1]`: invalid value: integer `-1`",
            ),
            (r#"{"name": "\ud83d"}"#, "not valid JSON, at `name`"),
            (r#"{"name": "a"} b"#, "not valid JSON: trailing characters"),
        ] {
            let error = from_slice::<Sent>(body.as_bytes()).unwrap_err();
            assert!(error.message().contains(expected), "{}", error.message());
        }
        let value = serde_json::json!({"name": null});
        let error = from_value::<Sent>(&value, "config").unwrap_err();
        assert!(
            error
                .message()
                .starts_with("`config.name`: invalid type: null")
        );
    }
}
