//! The OpenAPI description is complete and correct: it contains every route, and
//! every answer matches it.

use std::collections::BTreeSet;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Http, finished_run, pairs, start};

/// Compares answers with the description.
struct Description {
    document: Value,
    seen: BTreeSet<(String, String)>,
}

impl Description {
    async fn fetch(http: &Http) -> Self {
        let answer = http.get("/openapi.json").send().await.unwrap();
        Self {
            document: answer.json().await.unwrap(),
            seen: BTreeSet::new(),
        }
    }

    /// Returns the described path that an address matches.
    fn path_of(&self, address: &str) -> String {
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |path: &&String| {
            let (wanted, given): (Vec<_>, Vec<_>) =
                (path.split('/').collect(), address.split('/').collect());
            wanted.len() == given.len()
                && wanted
                    .iter()
                    .zip(&given)
                    .all(|(w, g)| w == g || w.starts_with('{') && !g.is_empty())
        };
        // Literal segments take precedence over parameters.
        let found = paths
            .keys()
            .filter(fits)
            .min_by_key(|p| p.matches('{').count());
        found
            .unwrap_or_else(|| panic!("{address} is not described"))
            .clone()
    }

    /// Checks an answer, and returns its body.
    async fn check(&mut self, method: Method, address: &str, answer: Response) -> Value {
        let path = self.path_of(address.split('?').next().unwrap());
        let verb = method.as_str().to_lowercase();
        let operation = &self.document["paths"][&path][&verb];
        let place = format!("{method} {path}");
        assert!(operation.is_object(), "{place} is not described");
        let status = answer.status();
        let class = format!("{}XX", status.as_u16() / 100);
        let described = &operation["responses"];
        let described = described
            .get(status.as_str())
            .or_else(|| described.get(&class));
        let described = described.unwrap_or_else(|| panic!("{place}: {status} is not described"));
        let kind = answer
            .headers()
            .get("content-type")
            .map(|v| v.to_str().unwrap().to_owned());
        let bytes = answer.bytes().await.unwrap();
        if status.is_success() {
            self.seen.insert((verb, path.clone()));
        }
        let Some(content) = described["content"].as_object() else {
            assert!(bytes.is_empty(), "{place}: {status} has a body");
            return Value::Null;
        };
        let kind = kind.unwrap_or_else(|| panic!("{place}: {status} has no media type"));
        let plain = kind.split(';').next().unwrap();
        let schema = content
            .get(plain)
            .unwrap_or_else(|| panic!("{place}: {plain}"));
        if plain != "application/json" {
            return Value::String(String::from_utf8_lossy(&bytes).into_owned());
        }
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let mut schema = schema["schema"].clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&body)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{place}: {errors:?} in {body}");
        body
    }
}

/// Calls every route. Starts without objects and deletes all that it creates.
#[tokio::test]
async fn every_route_answers_as_described_in_openapi() {
    let backend = start().await;
    let http = &backend.http;
    let mut description = Description::fetch(http).await;
    let run = finished_run(&backend.finetuner, "r").await;
    let artifact = run.artifact_id().await.unwrap();
    let config = serde_json::to_value(run.config()).unwrap();

    macro_rules! call {
        ($method:ident $address:expr $(, $part:ident($($body:expr),*))*) => {{
            let address: String = $address.to_string();
            let request = http.request(Method::$method, &address)$(.$part($($body),*))*;
            let answer = request.send().await.unwrap();
            description.check(Method::$method, &address, answer).await
        }};
    }

    for open in [
        "/",
        "/health",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ] {
        call!(GET open);
    }
    // Experiments and runs.
    let e = "/api/v1/experiments";
    call!(POST e, json(&json!({"name": "e", "description": "d"})));
    call!(POST e, json(&json!({"name": "e"})));
    call!(POST e, body("no json"));
    call!(GET e);
    let page = call!(GET format!("{e}?page=1&size=1"));
    assert_eq!(
        (page["total"].as_u64(), page["size"].as_u64()),
        (Some(2), Some(1))
    );
    call!(GET format!("{e}/e"));
    call!(GET format!("{e}/none"));
    let runs = format!("{e}/default/runs");
    call!(GET runs);
    call!(GET format!("{runs}?page=2"));
    let new = json!({"name": "again", "config": config, "device": "cpu"});
    call!(POST format!("{e}/default/check"), json(&new));
    call!(POST format!("{e}/default/check"), json(&json!({"name": "x", "config": {}})));
    call!(POST runs, json(&new));
    call!(POST runs, json(&new));
    call!(POST runs, json(&json!({"name": "x", "config": {}})));
    call!(POST runs, json(&json!({"name": "x", "config": {"model": {"name": "none"}}})));
    call!(GET "/api/v1/models?name=clip-small");
    call!(GET "/api/v1/models?name=none");
    call!(GET "/api/v1/models");
    let r = format!("{runs}/r");
    for part in [
        "",
        "/status",
        "/metrics",
        "/examples",
        "/history",
        "/events",
        "/checkpoints",
        "/annotations",
    ] {
        call!(GET format!("{r}{part}"));
        call!(GET format!("{runs}/none{part}"));
    }
    call!(GET format!("{r}/history?after=3"));
    call!(GET format!("{r}/history?after=x"));
    call!(GET format!("{r}/logs"));
    call!(GET format!("{r}/logstream"));
    call!(PUT format!("{r}/annotations"), json(&json!({"add_tags": ["a"], "note": "n"})));
    call!(PUT format!("{r}/annotations"), json(&json!({"tags": ["a,b"]})));
    call!(POST format!("{r}/cancel"));
    call!(POST format!("{r}/checkpoints/1/runs"), json(&json!({"name": "n"})));

    // Projects.
    let p = "/api/v1/projects";
    call!(POST p, json(&json!({"name": "team"})));
    call!(POST p, json(&json!({"name": "team"})));
    call!(POST p, json(&json!({"name": "no name"})));
    call!(GET p);
    call!(GET format!("{p}?all=true"));
    call!(GET format!("{p}/team"));
    call!(GET format!("{p}/none"));
    backend.server.create_token("bob", "laptop").await.unwrap();
    let bob = format!("{p}/team/members/bob");
    call!(PUT bob, json(&json!({"role": "member"})));
    call!(PUT bob, json(&json!({"role": "king"})));
    call!(DELETE bob);
    call!(DELETE bob);
    call!(GET e, header("x-finetuner-project", "team"));
    call!(GET e, header("x-finetuner-project", "none"));
    call!(DELETE format!("{p}/team"));
    call!(GET format!("{r}/shares"));
    call!(POST format!("{r}/shares"), json(&json!({"days": 0})));
    let share = call!(POST format!("{r}/shares"), json(&json!({"days": 1})));
    let share = format!("{r}/shares/{}", share["id"].as_str().unwrap());
    call!(DELETE share);
    call!(DELETE share);

    // Admin routes.
    let a = "/api/v1/admin";
    call!(POST format!("{a}/users"), json(&json!({"name": "carol"})));
    call!(POST format!("{a}/users"), json(&json!({"name": "carol"})));
    call!(GET format!("{a}/users?limit=1"));
    call!(GET format!("{a}/users?limit=0"));
    call!(PUT format!("{a}/users/carol"), json(&json!({"disabled": true, "max_open_runs": null})));
    call!(PUT format!("{a}/users/none"), json(&json!({"disabled": true})));
    call!(GET format!("{a}/storage"));
    call!(PUT format!("{a}/storage/carol"), json(&json!({"max_stored": 1048576})));
    call!(PUT format!("{a}/storage/none"), json(&json!({"max_stored": null})));
    call!(GET format!("{a}/runs"));
    call!(GET format!("{a}/audit?limit=5&action=run"));

    // Finished models.
    let input = json!({"model": "default/r", "input": ["x", "y"], "dimensions": 4});
    call!(POST "/v1/embeddings", json(&input));
    let input = json!({"model": "r", "input": "x", "encoding_format": "base64"});
    call!(POST "/v1/embeddings", json(&input));
    call!(POST "/v1/embeddings", json(&json!({"model": "none", "input": "x"})));
    call!(POST "/v1/embeddings", body("no json"));
    call!(GET "/v1/models");
    call!(GET "/v1/models/default%2Fr");
    call!(GET "/v1/models/none");
    call!(GET "/v1/models/default/r");

    // Accounts.
    let v = "/v2/rpc";
    call!(GET format!("{v}/user.identity.whoami"));
    call!(POST format!("{v}/user.identity.whoami"));
    let name = [("name", "t"), ("expirationDays", "7"), ("scope", "read")];
    call!(POST format!("{v}/user.pat.create"), form(&name));
    call!(POST format!("{v}/user.pat.create"), form(&name));
    call!(POST format!("{v}/user.pat.create"), form(&[("name", "u"), ("expirationDays", "0")]));
    call!(POST format!("{v}/user.pat.list"));
    call!(POST format!("{v}/user.pat.delete"), form(&[("name", "t")]));
    call!(POST format!("{v}/user.pat.delete"), form(&[("name", "t")]));
    call!(POST format!("{v}/user.session.getRaw"));
    call!(POST format!("{v}/dockerRegistry.listInternalRegistries"));
    call!(GET "/v2/.well-known/jwks.json");
    call!(POST format!("{v}/user.session.dismiss"));
    let redirect = "user.identity.authorize?provider=jina-login&redirectUri=http://localhost:8085";
    call!(GET format!("{v}/{redirect}"));
    call!(GET format!("{v}/user.identity.authorize?redirectUri=http://evil.example"));
    let code = json!({"code": "c", "state": "s"});
    call!(POST format!("{v}/user.identity.grant.auto"), json(&code));
    call!(POST format!("{v}/user.identity.grant.auto"), form(&code));
    call!(POST format!("{v}/user.identity.grant.auth0Unified"), form(&code));

    // Webhooks.
    let w = "/api/v1/webhooks";
    let hook = call!(POST w, json(&json!({"url": "https://example.invalid/hook"})));
    call!(POST w, json(&json!({"url": "http://127.0.0.1/"})));
    call!(GET w);
    let w = format!("{w}/{}", hook["id"].as_str().unwrap());
    call!(GET w);
    call!(GET "/api/v1/webhooks/none");
    let delivery = call!(POST format!("{w}/test"));
    call!(GET format!("{w}/deliveries"));
    call!(POST format!("{w}/deliveries/{}", delivery["id"].as_str().unwrap()));
    call!(POST format!("{w}/deliveries/none"));
    call!(DELETE w);
    call!(DELETE w);

    // Artifacts.
    let bytes = pairs(2).to_bytes().unwrap();
    let form = |name: &'static str| {
        let file = reqwest::multipart::Part::bytes(bytes.clone()).file_name("file");
        reqwest::multipart::Form::new()
            .part("file", file)
            .text("name", name)
            .text("type", "documentArray")
            .text("metaData", "{}")
    };
    let stored = call!(POST format!("{v}/artifact.upload"), multipart(form("d")));
    let id = stored["data"]["_id"].as_str().unwrap().to_owned();
    call!(POST format!("{v}/artifact.upload"), multipart(form("a/b")));
    call!(POST format!("{v}/artifact.upload"), multipart(reqwest::multipart::Form::new().text("name", "x")));
    let url = call!(GET format!("{v}/artifact.getDownloadUrl?name=d"));
    let url = url["data"]["download"].as_str().unwrap();
    let address = url.split_once("//").unwrap().1.split_once('/').unwrap().1;
    let address = format!("/{address}");
    call!(GET address);
    call!(GET address, header("range", "bytes=4-"));
    call!(GET address, header("range", "bytes=999999999-"));
    call!(GET "/v2/download/none");
    call!(POST format!("{v}/artifact.getDownloadUrl"), form(&[("id", &artifact)]));
    call!(POST format!("{v}/artifact.getDetail"), form(&[("name", "d")]));
    call!(POST format!("{v}/artifact.getDetail"), form(&[("name", "none")]));
    call!(POST format!("{v}/artifact.list"), json(&json!({"filter": {"type": "model"}, "sort": {"createdAt": -1}})));
    call!(POST format!("{v}/artifact.list"));
    call!(POST format!("{v}/artifact.list"), form(&[("filter", "type"), ("sort", "createdAt")]));
    call!(POST format!("{v}/artifact.update"), json(&json!({"id": id, "name": "d2", "public": true})));
    call!(POST format!("{v}/artifact.update"), json(&json!({"id": id, "name": "train"})));
    call!(POST format!("{v}/artifact.update"), json(&json!({"id": id, "addTags": ["a"], "note": "n"})));
    call!(POST format!("{v}/artifact.update"), form(&[("id", id.as_str()), ("tags", "a, b")]));
    let begun = call!(POST format!("{v}/artifact.beginUpload"), json(&json!({"name": "p"})));
    let upload = begun["data"]["uploadId"].as_str().unwrap().to_owned();
    let part = format!("{v}/artifact.uploadPart?uploadId={upload}&offset=");
    call!(PUT format!("{part}0"), body(bytes.clone()));
    call!(PUT format!("{part}99999999"), body(bytes.clone()));
    call!(POST format!("{v}/artifact.finishUpload"), json(&json!({"uploadId": "none", "sha256": ""})));
    let hash = sha256(&bytes);
    call!(POST format!("{v}/artifact.finishUpload"), json(&json!({"uploadId": upload, "sha256": hash})));
    call!(POST format!("{v}/artifact.abortUpload"), json(&json!({"uploadId": "none"})));
    call!(POST format!("{v}/artifact.delete"), form(&[("id", &id)]));
    call!(POST format!("{v}/artifact.delete"), form(&[("id", &id)]));
    call!(POST format!("{v}/artifact.deleteMany"), form(&[("names", "p"), ("ids", &id)]));

    // Deleting.
    call!(DELETE r);
    call!(DELETE r);
    call!(DELETE runs);
    call!(DELETE format!("{e}/e"));
    call!(DELETE e);
    // Worker routes need a worker's token.
    for (method, call) in [
        (Method::POST, "start"),
        (Method::GET, "job"),
        (Method::GET, "content?name=x"),
        (Method::GET, "data?name=x"),
        (Method::POST, "checkpoint?epoch=0&step=0"),
        (Method::POST, "events"),
        (Method::POST, "artifact"),
        (Method::POST, "outcome"),
    ] {
        let address = format!("/api/v1/worker/{call}");
        let answer = http.request(method.clone(), &address).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{address}");
        description.check(method, &address, answer).await;
    }

    let all = description.document["paths"].as_object().unwrap().iter();
    let all = all.flat_map(|(path, operations)| {
        let verbs = operations.as_object().unwrap().keys();
        verbs.map(move |verb| (verb.clone(), path.clone()))
    });
    // Only a worker calls these, and the login waits for its user.
    let elsewhere = |path: &str| {
        path.starts_with("/api/v1/worker/")
            || [
                "proxiedAuthorize",
                "grant.auto",
                "grant.auth0Unified",
                "{number}/runs",
            ]
            .iter()
            .any(|end| path.ends_with(end))
    };
    let missing: Vec<(String, String)> = all
        .filter(|operation| !description.seen.contains(operation) && !elsewhere(&operation.1))
        .collect();
    assert!(missing.is_empty(), "these never succeeded: {missing:?}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;

    hex::encode(sha2::Sha256::digest(bytes))
}

/// No described path is answered as an unknown route.
#[tokio::test]
async fn every_described_route_exists() {
    let backend = start().await;
    let description = Description::fetch(&backend.http).await;
    for (path, operations) in description.document["paths"].as_object().unwrap() {
        let address = path.replace(['{', '}'], "");
        // Another method is refused, not unknown.
        let answer = backend
            .http
            .request(Method::PATCH, &address)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        for ending in ["", "/"] {
            if path == "/" {
                continue;
            }
            let address = format!("{address}{ending}");
            for verb in ["GET", "POST", "PUT", "DELETE"] {
                let described = operations.get(verb.to_lowercase()).is_some();
                let method: Method = verb.parse().unwrap();
                let request = backend.http.with_token(None).request(method, &address);
                let answer = request.send().await.unwrap();
                let refused = answer.status() == StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(refused, !described, "{verb} {address}: {}", answer.status());
            }
        }
    }
}
