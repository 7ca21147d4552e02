//! Parses the body of a request for embeddings.

use serde_json::{Map, Value};

use super::error::{OpenAiError, Result};
use crate::serving::{Item, check_image};

/// Maximum number of inputs in a request, the same as OpenAI's.
const MAX_INPUTS: usize = 2048;
/// Maximum size of a text, in bytes.
const MAX_TEXT: usize = 256 << 10;

/// Encoding of vectors in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As a list of numbers.
    Float,
    /// As base64 of little-endian 32-bit floats.
    Base64,
}

/// A parsed request.
#[derive(Debug)]
pub(super) struct EmbeddingsRequest {
    pub(super) model: String,
    pub(super) inputs: Vec<String>,
    pub(super) encoding: Encoding,
    /// Number of leading dimensions to keep of each embedding.
    pub(super) dimensions: Option<usize>,
    /// Name of the prompt to put before texts; `None` for the model's default.
    pub(super) prompt: Option<String>,
}

impl EmbeddingsRequest {
    pub(super) fn read(mut body: Map<String, Value>) -> Result<Self> {
        let model = text(&mut body, "model")?;
        let model = model.filter(|model| !model.is_empty()).ok_or_else(|| {
            OpenAiError::invalid(
                "model",
                "it is missing: give the name of a run, `experiment/run`",
            )
        })?;
        let encoding = match text(&mut body, "encoding_format")?.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(other) => {
                let reason = format!("`{other:.40}`: give `float` or `base64`");
                return Err(OpenAiError::invalid("encoding_format", reason));
            }
        };
        let dimensions = match body.remove("dimensions") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                let count = count.filter(|count| *count > 0);
                Some(count.ok_or_else(|| {
                    OpenAiError::invalid("dimensions", "give a whole number above 0")
                })?)
            }
        };
        let prompt = text(&mut body, "prompt_name")?;
        text(&mut body, "user")?;
        let inputs = inputs(body.remove("input").unwrap_or_default())?;
        if let Some(name) = body.keys().next() {
            let name: String = name.chars().take(100).collect();
            let reason = "there is no such member: known are `model`, `input`, `encoding_format`, \
                          `dimensions`, `user` and `prompt_name`";
            return Err(OpenAiError::invalid(name, reason));
        }
        Ok(Self {
            model,
            inputs,
            encoding,
            dimensions,
            prompt,
        })
    }
}

/// Removes an optional text member from the body.
fn text(body: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(OpenAiError::invalid(name, "it must be a text")),
    }
}

fn inputs(input: Value) -> Result<Vec<String>> {
    let wanted = "give a text or a list of texts; an image is a text that begins with \
                  `data:image/`";
    let inputs = match input {
        Value::String(text) => vec![Value::String(text)],
        Value::Array(inputs) => inputs,
        _ => return Err(OpenAiError::invalid("input", wanted)),
    };
    if inputs.is_empty() {
        return Err(OpenAiError::invalid("input", "it is empty"));
    }
    if inputs.len() > MAX_INPUTS {
        let reason = format!(
            "{} inputs: at most {MAX_INPUTS} are allowed in a request",
            inputs.len()
        );
        return Err(OpenAiError::invalid("input", reason));
    }
    let inputs = inputs
        .into_iter()
        .enumerate()
        .map(|(place, input)| match input {
            Value::String(text) if text.is_empty() => Err(at(place, "it is empty")),
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Array(_) => Err(OpenAiError::invalid(
                "input",
                "lists of token ids are not supported, since each model has its own tokens: send \
             texts (LangChain: `OpenAIEmbeddings(check_embedding_ctx_length=False)`)",
            )),
            _ => Err(at(place, wanted)),
        });
    inputs.collect()
}

/// Returns the error for the input at this index.
pub(super) fn at(place: usize, reason: impl std::fmt::Display) -> OpenAiError {
    OpenAiError::invalid(format!("input[{place}]"), reason)
}

/// Converts inputs to texts and images. Decodes the base64 of images and
/// checks their headers.
pub(super) fn items(inputs: Vec<String>) -> Result<Vec<Item>> {
    let items = inputs.into_iter().enumerate();
    items.map(|(place, input)| item(place, input)).collect()
}

fn item(place: usize, input: String) -> Result<Item> {
    if !is_image(&input) {
        return match input.len() {
            0..=MAX_TEXT => Ok(Item::Text(input)),
            length => {
                let limit = MAX_TEXT >> 10;
                Err(at(
                    place,
                    format!("a text of {length} bytes: at most {limit} KiB are allowed"),
                ))
            }
        };
    }
    let bytes = decoded(&input).map_err(|reason| at(place, reason))?;
    check_image(&bytes).map_err(|reason| at(place, reason))?;
    Ok(Item::Image(bytes.into()))
}

/// Whether an input is a data URI of an image and not a text.
fn is_image(input: &str) -> bool {
    let start = input.get(..11).unwrap_or_default();
    start.eq_ignore_ascii_case("data:image/")
}

fn decoded(uri: &str) -> Result<Vec<u8>, String> {
    let bad = |reason: &dyn std::fmt::Debug| {
        format!("it is not a data URI of an image, `data:image/png;base64,...`: {reason:?}")
    };
    let parsed = data_url::DataUrl::process(uri).map_err(|e| bad(&e))?;
    let (bytes, _) = parsed.decode_to_vec().map_err(|e| bad(&e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<EmbeddingsRequest> {
        match body {
            Value::Object(body) => EmbeddingsRequest::read(body),
            _ => unreachable!("an object is given"),
        }
    }

    #[test]
    fn every_form_of_a_request_is_read() {
        let asked = read(json!({"model": "a/b", "input": "x", "user": "u"})).unwrap();
        assert_eq!(
            (asked.model.as_str(), asked.inputs),
            ("a/b", vec!["x".to_owned()])
        );
        assert_eq!((asked.encoding, asked.dimensions), (Encoding::Float, None));
        let asked = read(json!({
            "model": "a", "input": ["x", "y"], "encoding_format": "base64", "dimensions": 8,
            "prompt_name": "query", "user": null,
        }));
        let asked = asked.unwrap();
        assert_eq!(
            (asked.encoding, asked.dimensions),
            (Encoding::Base64, Some(8))
        );
        assert_eq!(
            (asked.inputs.len(), asked.prompt.as_deref()),
            (2, Some("query"))
        );
    }

    #[test]
    fn errors_name_the_member() {
        let many = vec!["x"; MAX_INPUTS + 1];
        for (member, value, said) in [
            ("model", json!(""), "it is missing"),
            ("model", json!(7), "it must be a text"),
            ("input", json!(null), "a list of texts"),
            ("input", json!([]), "it is empty"),
            (
                "input",
                json!(many),
                "2049 inputs: at most 2048 are allowed",
            ),
            ("input", json!([1, 2]), "check_embedding_ctx_length=False"),
            ("input", json!([[1, 2], [3]]), "token ids"),
            ("input[1]", json!(["x", ""]), "it is empty"),
            ("input[0]", json!([{"image": "x"}]), "data:image/"),
            ("encoding_format", json!("hex"), "`float` or `base64`"),
            ("dimensions", json!(0), "above 0"),
            ("dimensions", json!("8"), "above 0"),
            ("prompt_name", json!([]), "it must be a text"),
            ("user", json!(1), "it must be a text"),
            ("truncate", json!(true), "no such member"),
        ] {
            let mut body = json!({"model": "a", "input": "x"});
            let name = member.split('[').next().unwrap();
            body[name] = value;
            let error = read(body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(member));
            let message = error.error.message();
            assert!(
                message.contains(said) && message.contains(member),
                "{message}"
            );
        }
    }

    #[test]
    fn images_are_distinguished_from_texts_and_checked() {
        let items = |input: &str| items(vec!["first".to_owned(), input.to_owned()]);
        // One transparent pixel.
        let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA\
                   AABJRU5ErkJggg==";
        for start in ["data:image/png;base64,", "DATA:Image/PNG;base64,"] {
            let items = items(&format!("{start}{png}")).unwrap();
            assert!(matches!(&items[..], [Item::Text(_), Item::Image(_)]));
        }
        for text in ["data: a text", "datä:image/png", "data:text/plain,x"] {
            let items = items(text).unwrap();
            assert_eq!(items[1], Item::Text(text.to_owned()));
        }
        let large = format!(
            "data:image/png;base64,{}",
            "A".repeat(((8 << 20) + 3) / 3 * 4)
        );
        for (input, said) in [
            ("data:image/png;base64,!!", "not a data URI"),
            ("data:image/png;base64,AAAA", "not a readable image"),
            ("data:image/svg+xml,<svg/>", "not a readable image"),
            (large.as_str(), "8 MiB are allowed"),
            (&"x".repeat(MAX_TEXT + 1), "256 KiB are allowed"),
        ] {
            let error = items(input).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("input[1]"));
            assert!(error.error.message().contains(said), "{error:?}");
        }
    }
}
