//! `POST /v1/embeddings`: embeds texts and images with a finished model.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use finetuner_engine::{
    Error as EngineError,
    infer::{Embeddings, Encoder},
    models::ModelKind,
};
use futures_util::stream;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    caller::Caller,
    error::{OpenAiError, Result},
    input::{EmbeddingsRequest, Encoding, at, items},
    models::find,
};
use crate::{
    app::App,
    error::ApiError,
    json::JsonObject,
    serving::{Item, Prompted, Refused},
};

/// Maximum size of a request, in bytes.
pub(crate) const MAX_BODY: usize = 16 << 20;
/// Size of the pieces in which an answer is sent, in bytes.
const PIECE: usize = 64 << 10;

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Caller(user): Caller,
    request: Request,
) -> Result<Response> {
    // The turn is taken before the body is read, so that it limits the memory of
    // all requests.
    let turn = app.gates.embeddings.enter(&user.person).await?;
    let JsonObject(body) = JsonObject::<Map<String, Value>>::from_request(request, &()).await?;
    let asked = EmbeddingsRequest::read(body)?;
    let served = find(&app, &user.namespace, &asked.model).await?;
    let model = app
        .serving
        .model(&served.artifact.content, served.hold)
        .await;
    let model = model.map_err(|error| OpenAiError::model(error, None))?;
    let EmbeddingsRequest {
        inputs,
        encoding,
        dimensions,
        prompt,
        ..
    } = asked;
    let dim = model.encoder.dim();
    if let Some(dimensions) = dimensions.filter(|dimensions| *dimensions > dim) {
        let reason =
            format!("{dimensions}: the model's embeddings have {dim} dimensions; give 1 to {dim}");
        return Err(OpenAiError::invalid("dimensions", reason));
    }
    let used = model.clone();
    let prepared = blocking(move || {
        let prompted = Prompted::new(&used, prompt.as_deref()).map_err(no_prompt)?;
        let items = items(inputs)?;
        check_kinds(used.encoder.kind(), &items)?;
        let tokens = count_tokens(prompted.encoder(), &items)?;
        Ok((prompted, items, tokens))
    });
    let (prompted, items, tokens) = prepared.await?;
    let found = app.serving.embed(&model, &prompted, items).await;
    let found = found.map_err(|Refused { place, error }| match place {
        Some(place) => at(place, error.message()),
        None => error.into(),
    })?;
    let answer = blocking(move || {
        let found = match dimensions {
            Some(dim) => found.truncated(dim).map_err(|e| ApiError::engine(&e))?,
            None => found,
        };
        let answer = Answer::new(served.label, &found, encoding, tokens);
        // An answer of texts and numbers can always be serialized.
        let bytes = serde_json::to_vec(&answer).map_err(|e| ApiError::internal(&e))?;
        Ok(bytes)
    });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let answer = Bytes::from(answer.await?);
    let length = answer.len();
    // The answer is in memory until its last piece is sent, so the turn is held
    // until then.
    let pieces = stream::unfold((answer, turn), |(mut rest, turn): (Bytes, _)| {
        let piece = rest.split_to(rest.len().min(PIECE));
        let next = (!piece.is_empty()).then(|| (Ok::<_, Infallible>(piece), (rest, turn)));
        std::future::ready(next)
    });
    let mut answer = (headers, Body::from_stream(pieces)).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    Ok(answer)
}

/// Runs work on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ApiError::internal(&e))?
}

fn no_prompt(error: EngineError) -> OpenAiError {
    match error {
        EngineError::Config { reason, .. } => OpenAiError::invalid("prompt_name", reason),
        error => ApiError::engine(&error).into(),
    }
}

/// Refuses inputs of a kind that the model does not embed.
fn check_kinds(kind: ModelKind, items: &[Item]) -> Result<()> {
    let (texts, images) = match kind {
        ModelKind::TextImage => (true, true),
        ModelKind::Text => (true, false),
        ModelKind::Image => (false, true),
        ModelKind::Features => return Err(no_inputs("features")),
        ModelKind::PointCloud => return Err(no_inputs("point clouds")),
        _ => return Err(no_inputs("other things")),
    };
    let wrong = items.iter().position(|item| match item {
        Item::Text(_) => !texts,
        Item::Image(_) => !images,
    });
    match wrong {
        None => Ok(()),
        Some(place) if images => Err(at(
            place,
            "the model embeds only images: send them as `data:image/png;base64,...`",
        )),
        Some(place) => Err(at(
            place,
            "the model embeds only texts, and this is an image",
        )),
    }
}

fn no_inputs(what: &str) -> OpenAiError {
    OpenAiError::invalid(
        "model",
        format!(
            "it embeds {what}, and this API takes texts and images: save the model and use it \
             with `finetuner::local`"
        ),
    )
}

/// Counts the tokens of all texts. Images have none.
fn count_tokens(encoder: &Encoder, items: &[Item]) -> Result<usize> {
    let texts = items.iter().enumerate().filter_map(|(i, item)| match item {
        Item::Text(text) => Some((i, text.as_str())),
        Item::Image(_) => None,
    });
    let (places, texts): (Vec<usize>, Vec<&str>) = texts.unzip();
    if texts.is_empty() {
        return Ok(0);
    }
    let counts = encoder.count_tokens(&texts).map_err(|error| match error {
        // The error counts texts only, so the input's place among all items is
        // restored.
        EngineError::Item { place, reason, .. } => match places.get(place) {
            Some(place) => at(*place, reason),
            None => OpenAiError::invalid("input", reason),
        },
        error => ApiError::engine(&error).into(),
    })?;
    Ok(counts.iter().sum())
}

#[derive(Serialize)]
struct Answer {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Answer {
    fn new(model: String, found: &Embeddings, encoding: Encoding, tokens: usize) -> Self {
        let data = found.iter().enumerate().map(|(index, row)| Embedding {
            object: "embedding",
            index,
            embedding: match encoding {
                Encoding::Float => Vector::Float(row.to_vec()),
                Encoding::Base64 => {
                    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                    Vector::Base64(STANDARD.encode(bytes))
                }
            },
        });
        Self {
            object: "list",
            data: data.collect(),
            model,
            usage: Usage {
                prompt_tokens: tokens,
                total_tokens: tokens,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_have_the_form_of_openai() {
        let found = Embeddings {
            dim: 2,
            values: vec![0.1, -2.0, 1.0, 0.5],
        };
        let answer = |encoding| {
            let answer = Answer::new("e/r".to_owned(), &found, encoding, 7);
            serde_json::to_string(&answer).unwrap()
        };
        // The shortest decimal number that gives the same 32-bit float.
        let floats = answer(Encoding::Float);
        assert!(
            floats.contains(r#""index":1,"embedding":[1.0,0.5]"#),
            "{floats}"
        );
        assert!(floats.contains("[0.1,-2.0]"), "{floats}");
        let answer: Value = serde_json::from_str(&answer(Encoding::Base64)).unwrap();
        let expected = json!({
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": "zczMPQAAAMA="},
                {"object": "embedding", "index": 1, "embedding": "AACAPwAAAD8="},
            ],
            "model": "e/r",
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        });
        assert_eq!(answer, expected);
    }
}
