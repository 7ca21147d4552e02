//! Finished models over `/v1/embeddings`, in OpenAI's format: the vectors equal
//! those of the saved model, and errors name the problem.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use finetuner::{
    Document, DocumentArray, Finetuner, Loss, Prompts, Run,
    local::{Encoder, get_model},
};
use finetuner_server::Settings;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Backend, Http, finished_run, fit, pairs, start, start_with, wait_for_step};

const TEXTS: [&str; 3] = [
    "a red dress",
    "shoes",
    "a long text about nothing in particular",
];

/// Posts a request for embeddings.
async fn post(http: &Http, body: &Value) -> (StatusCode, Value) {
    let answer = http.post("/v1/embeddings").json(body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Returns the vectors of a successful answer.
async fn embed(http: &Http, body: &Value) -> Vec<Vec<f32>> {
    let (status, answer) = post(http, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let data = answer["data"].as_array().unwrap().iter().enumerate();
    data.map(|(place, one)| {
        assert_eq!(one["index"], place);
        serde_json::from_value(one["embedding"].clone()).unwrap()
    })
    .collect()
}

fn assert_same<'a>(ours: &[Vec<f32>], theirs: impl Iterator<Item = &'a [f32]>) {
    let theirs: Vec<&[f32]> = theirs.collect();
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert_eq!(a.len(), b.len());
        let most = a
            .iter()
            .zip(b)
            .map(|(x, y)| (x - y).abs())
            .fold(0.0, f32::max);
        assert!(most <= 1e-6, "they differ by {most}");
    }
}

/// Opens a run's model with the SDK on this machine.
async fn local(run: &Run) -> Encoder {
    let folder = tempfile::tempdir().unwrap();
    let saved = run.save_model(folder.path().join("model")).await.unwrap();
    tokio::task::spawn_blocking(move || get_model(saved).unwrap())
        .await
        .unwrap()
}

fn picture(place: usize) -> Vec<u8> {
    pairs(place + 1)[place].chunks[0]
        .as_blob()
        .unwrap()
        .to_vec()
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn served_embeddings_equal_those_of_the_saved_model() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    let local = local(&run).await;
    let texts = local.encode_texts(&TEXTS).unwrap();
    let http = &backend.http;
    for name in ["default/mine", "mine", artifact.as_str()] {
        let found = embed(http, &json!({"model": name, "input": TEXTS})).await;
        assert_same(&found, texts.iter());
    }
    // Texts and images in one list keep their order.
    let (one, two) = (picture(0), picture(5));
    let pictures = local.encode_images(&[&one, &two]).unwrap();
    let input = [data_uri(&one), TEXTS[0].to_owned(), data_uri(&two)];
    let found = embed(http, &json!({"model": "mine", "input": input})).await;
    let expected = [pictures.get(0), texts.get(0), pictures.get(1)];
    assert_same(&found, expected.into_iter());
    // A single text, with vectors as bytes.
    let body =
        json!({"model": "mine", "input": TEXTS[1], "encoding_format": "base64", "user": "u"});
    let (_, answer) = post(http, &body).await;
    let bytes = STANDARD
        .decode(answer["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let values = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    assert_same(&[values.collect()], std::iter::once(texts.get(1)));
    assert_eq!(answer["model"], "default/mine");
    // Both ends of a text are embedded, without padding.
    let tokens = local.count_tokens(&TEXTS[1..2]).unwrap()[0];
    assert!(tokens >= 3, "{tokens}");
    let expected = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    assert_eq!(answer["usage"], expected);
    // Fewer dimensions, normalised to length 1.
    let short = local.truncate_dim(8).unwrap().encode_texts(&TEXTS).unwrap();
    let found = embed(
        http,
        &json!({"model": "mine", "input": TEXTS, "dimensions": 8}),
    )
    .await;
    assert_same(&found, short.iter());
    // The requests are counted.
    let metrics = http.get("/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        r#"finetuner_embedded_total{kind="picture"} 2"#,
        "finetuner_model_loads_total 1",
        "finetuner_loaded_models 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is not in {metrics}"
        );
    }
    let bearer = backend.http.with_token(None).post("/v1/embeddings");
    let token = backend.server.first_token().unwrap();
    let answer = bearer
        .bearer_auth(token)
        .json(&json!({"model": "mine", "input": "x"}));
    assert_eq!(answer.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_batched_and_a_bad_input_fails_only_its_own() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let local = local(&run).await;
    let texts: Vec<String> = (0..24).map(|n| format!("text number {n}")).collect();
    let shown: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected = local.encode_texts(&shown).unwrap();
    // An image's header is checked first, the rest with its batch.
    let whole = picture(0);
    let broken = data_uri(&whole[..whole.len() / 2]);
    let (http, broken) = (&backend.http, broken.as_str());
    let asked = texts.iter().map(|text| async move {
        let good = json!({"model": "mine", "input": [text, data_uri(&picture(1))]});
        let bad = json!({"model": "mine", "input": ["x", broken]});
        tokio::join!(embed(http, &good), post(http, &bad))
    });
    let answers = futures_util::future::join_all(asked).await;
    let picture = local.encode_images(&[&picture(1)]).unwrap();
    for (place, (good, (status, bad))) in answers.into_iter().enumerate() {
        assert_same(&good, [expected.get(place), picture.get(0)].into_iter());
        assert_eq!(
            (status, &bad["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("input[1]"))
        );
    }
    // A request that is larger than a batch.
    let many: Vec<String> = (0..150).map(|n| texts[n % texts.len()].clone()).collect();
    let found = embed(&backend.http, &json!({"model": "mine", "input": many})).await;
    let expected = (0..150).map(|n| expected.get(n % texts.len()));
    assert_same(&found, expected);
}

/// Trains a text model with prompts for queries and documents.
async fn text_run(finetuner: &Finetuner, name: &str) -> Run {
    let pair = |n: usize| {
        Document::new()
            .with_chunk(Document::text(format!("term {n}")).with_modality("text"))
            .with_chunk(Document::text(format!("definition {n}")).with_modality("text"))
    };
    let data: DocumentArray = (0..8).map(pair).collect::<Vec<_>>().into();
    finetuner.push("terms", data).await.unwrap();
    let run = finetuner
        .fit("minilm-small", "terms")
        .run_name(name)
        .epochs(1)
        .batch_size(4)
        .loss(Loss::MultipleNegativeRanking)
        .prompts(Prompts::new().anchor("query: ").positive("passage: "))
        .await
        .unwrap();
    run.wait().await.unwrap();
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_chosen_by_name() {
    let backend = start().await;
    let run = text_run(&backend.finetuner, "texts").await;
    let local = local(&run).await;
    let plain = local.encode_texts(&TEXTS).unwrap();
    let queries = local.prompt("query").unwrap().encode_texts(&TEXTS).unwrap();
    assert_ne!(plain.values, queries.values);
    let body = |prompt: Value| json!({"model": "texts", "input": TEXTS, "prompt_name": prompt});
    let (none, query) = (body(Value::Null), body("query".into()));
    let both = tokio::join!(embed(&backend.http, &none), embed(&backend.http, &query));
    assert_same(&both.0, plain.iter());
    assert_same(&both.1, queries.iter());
    let (status, answer) = post(&backend.http, &body("nonsense".into())).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"]["param"], "prompt_name");
    let said = answer["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("`query`") && said.contains("`document`"),
        "{said}"
    );
    let input = [TEXTS[0].to_owned(), data_uri(&picture(0))];
    let (status, answer) = post(&backend.http, &json!({"model": "texts", "input": input})).await;
    assert_eq!(
        (status, &answer["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("input[1]"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_field_in_openais_format() {
    let backend = start().await;
    finished_run(&backend.finetuner, "mine").await;
    let again = fit(&backend.finetuner, "mine", 1).experiment_name("other");
    again.await.unwrap().wait().await.unwrap();
    let going_on = fit(&backend.finetuner, "going-on", 49).await.unwrap();
    wait_for_step(&going_on, 1).await;
    let broken = data_uri(&picture(0)[..20]);
    for (body, param, code, said) in [
        (
            json!({"model": "none", "input": "x"}),
            "model",
            "model_not_found",
            "`none`",
        ),
        (
            json!({"model": "a/b/c", "input": "x"}),
            "model",
            "model_not_found",
            "`a/b/c`",
        ),
        (
            json!({"model": "going-on", "input": "x"}),
            "model",
            "model_not_ready",
            "STARTED",
        ),
        (
            json!({"model": "mine", "input": "x"}),
            "model",
            "",
            "`default/mine`, `other/mine`",
        ),
        (
            json!({"model": "other/mine", "input": [1, 2]}),
            "input",
            "",
            "token ids",
        ),
        (
            json!({"model": "other/mine", "input": ["x", ""]}),
            "input[1]",
            "",
            "empty",
        ),
        (
            json!({"model": "other/mine", "input": [broken]}),
            "input[0]",
            "",
            "image",
        ),
        (
            json!({"model": "other/mine", "input": "x", "dimensions": 9999}),
            "dimensions",
            "",
            "1 to",
        ),
        (
            json!({"model": "other/mine", "input": "x", "n": 1}),
            "n",
            "",
            "no such member",
        ),
        (json!({"input": "x"}), "model", "", "it is missing"),
    ] {
        let (status, answer) = post(&backend.http, &body).await;
        let expected = match code {
            "model_not_found" => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_REQUEST,
        };
        let error = &answer["error"];
        assert_eq!(
            (status, &error["param"]),
            (expected, &json!(param)),
            "{body}: {answer}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["code"].as_str().unwrap_or_default(), code, "{body}");
        assert!(
            error["message"].as_str().unwrap().contains(said),
            "{body}: {answer}"
        );
    }
    going_on.cancel().await.unwrap();
    // Requests that are refused before they are parsed as embeddings requests.
    let large = "x".repeat(17 << 20);
    for (body, kind, expected) in [
        ("no json", "application/json", StatusCode::BAD_REQUEST),
        ("[]", "application/json", StatusCode::BAD_REQUEST),
        ("{}", "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            large.as_str(),
            "application/json",
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        let request = backend
            .http
            .post("/v1/embeddings")
            .header("content-type", kind);
        let answer = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), expected);
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    let answer = backend
        .http
        .post("/v1/chat/completions")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let answer: Value = answer.json().await.unwrap();
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/v1/embeddings")
    );
}

/// Returns the ids of the models in a list.
async fn ids(http: &Http) -> Vec<String> {
    let list: Value = http
        .get("/v1/models")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let ids = list["data"].as_array().unwrap().iter();
    ids.map(|model| model["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_see_only_models_that_they_may_use() {
    let backend = start().await;
    let mine = finished_run(&backend.finetuner, "mine").await;
    let open = fit(&backend.finetuner, "open", 1)
        .public(true)
        .await
        .unwrap();
    open.wait().await.unwrap();
    let failed = fit(&backend.finetuner, "cancelled", 49).await.unwrap();
    failed.cancel().await.unwrap();
    failed.wait().await.unwrap_err();
    assert_eq!(ids(&backend.http).await, ["default/open", "default/mine"]);
    for path in [
        "/v1/models/default%2Fmine",
        "/v1/models/default/mine",
        "/v1/models/mine",
    ] {
        let answer = backend.http.get(path).send().await.unwrap();
        let model: Value = answer.json().await.unwrap();
        let about = (&model["id"], &model["object"], &model["owned_by"]);
        let expected = (&json!("default/mine"), &json!("model"), &json!("finetuner"));
        assert_eq!(about, expected, "{path}");
        assert!(
            model["created"].as_i64().unwrap() > 1_700_000_000,
            "{model}"
        );
    }
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let eve = backend.http.with_token(Some(&eve));
    assert!(ids(&eve).await.is_empty());
    let (mine, open) = (
        mine.artifact_id().await.unwrap(),
        open.artifact_id().await.unwrap(),
    );
    let mut statuses = BTreeMap::new();
    for name in ["mine", "default/mine", "default/open", "open", mine, open] {
        let (status, _) = post(&eve, &json!({"model": name, "input": "x"})).await;
        statuses.insert(name, status.as_u16());
    }
    let found: Vec<&str> = statuses
        .iter()
        .filter(|(_, s)| **s == 200)
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(
        found,
        [open],
        "a public model is found by its id alone: {statuses:?}"
    );
    assert!(
        statuses.values().all(|status| [200, 404].contains(status)),
        "{statuses:?}"
    );
    // A deleted model is no longer used, although it is still loaded.
    let (status, _) = post(&backend.http, &json!({"model": "mine", "input": "x"})).await;
    assert_eq!(status, StatusCode::OK);
    backend
        .finetuner
        .get_run("mine")
        .await
        .unwrap()
        .delete()
        .await
        .unwrap();
    let (status, _) = post(&backend.http, &json!({"model": mine, "input": "x"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_too_large_to_keep_is_refused() {
    let settings = Settings {
        max_loaded: 1 << 20,
        ..Settings::default()
    };
    let Backend {
        finetuner, http, ..
    } = &start_with(settings).await;
    finished_run(finetuner, "mine").await;
    let (status, answer) = post(http, &json!({"model": "mine", "input": "x"})).await;
    assert_eq!(
        (status, &answer["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("model"))
    );
    let said = answer["error"]["message"].as_str().unwrap();
    assert!(said.contains("--max-loaded"), "{said}");
}
