//! MLflow, over its REST API 2.0.

use std::collections::HashMap;

use finetuner_protocol::text::start_of;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use url::Url;

use super::{
    requests::{Failure, json},
    rows::{End, Row, now},
};

/// MLflow's limit of metrics in one request.
const BATCH: usize = 1000;
/// MLflow's limit of characters in a parameter's value.
const LONGEST_PARAM: usize = 6000;
/// The tag that identifies a run when it continues.
const TAG: &str = "finetuner.run";

/// Credentials for MLflow.
#[derive(Clone)]
pub(super) enum Login {
    None,
    Token(String),
    Password(String, String),
}

/// Facts about a run that MLflow gets at its start.
pub(super) struct About {
    pub(super) experiment: String,
    pub(super) run_name: String,
    /// The run's unique id.
    pub(super) run: String,
    pub(super) params: Vec<(String, String)>,
    pub(super) tags: Vec<(String, String)>,
}

/// A run at an MLflow server.
pub(super) struct MlFlow {
    client: Client,
    address: Url,
    login: Login,
    about: About,
    run_id: String,
    /// The last step of each metric that the server already had at the start. A run
    /// that continues repeats some steps.
    known: HashMap<String, u64>,
}

impl MlFlow {
    pub(super) fn new(client: Client, address: Url, login: Login, about: About) -> Self {
        Self {
            client,
            address,
            login,
            about,
            run_id: String::new(),
            known: HashMap::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> Url {
        self.address.clone()
    }

    #[cfg(test)]
    pub(super) fn login(&self) -> Login {
        self.login.clone()
    }

    fn url(&self, call: &str) -> String {
        let base = self.address.as_str().trim_end_matches('/');
        format!("{base}/api/2.0/mlflow/{call}")
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Login::None => request,
            Login::Token(token) => request.bearer_auth(token),
            Login::Password(user, password) => request.basic_auth(user, Some(password)),
        }
    }

    async fn post(&self, call: &str, body: &Value) -> Result<Value, Failure> {
        json(self.signed(self.client.post(self.url(call)).json(body))).await
    }

    async fn find_experiment(&self) -> Result<Option<String>, Failure> {
        let mut url = Url::parse(&self.url("experiments/get-by-name"))
            .map_err(|e| Failure::Refused(e.to_string()))?;
        url.query_pairs_mut()
            .append_pair("experiment_name", &self.about.experiment);
        match json(self.signed(self.client.get(url))).await {
            Ok(found) => Ok(text(&found["experiment"]["experiment_id"])),
            Err(Failure::Refused(reason)) if reason.contains("RESOURCE_DOES_NOT_EXIST") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn experiment(&self) -> Result<String, Failure> {
        if let Some(id) = self.find_experiment().await? {
            return Ok(id);
        }
        let created = self
            .post(
                "experiments/create",
                &json!({"name": self.about.experiment}),
            )
            .await;
        match created {
            Ok(created) => text(&created["experiment_id"]).ok_or_else(odd),
            // Another run has created it in between.
            Err(Failure::Refused(reason)) if reason.contains("RESOURCE_ALREADY_EXISTS") => {
                self.find_experiment().await?.ok_or_else(odd)
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn begin(&mut self) -> Result<String, Failure> {
        let experiment = self.experiment().await?;
        let found = self
            .post(
                "runs/search",
                &json!({
                    "experiment_ids": [experiment],
                    "filter": format!("tags.`{TAG}` = '{}'", self.about.run),
                    "max_results": 1,
                }),
            )
            .await?;
        let found = &found["runs"][0];
        if let Some(id) = text(&found["info"]["run_id"]) {
            self.run_id = id;
            let metrics = found["data"]["metrics"].as_array();
            let known = metrics.into_iter().flatten().filter_map(|metric| {
                let step = metric["step"]
                    .as_u64()
                    .or_else(|| metric["step"].as_str()?.parse().ok())?;
                Some((text(&metric["key"])?, step))
            });
            self.known = known.collect();
            let goes_on = json!({"run_id": self.run_id, "status": "RUNNING"});
            self.post("runs/update", &goes_on).await?;
        } else {
            let own = [(TAG.to_owned(), self.about.run.clone())];
            let tags = self.about.tags.iter().chain(&own);
            let tags: Vec<Value> = tags
                .map(|(key, value)| json!({"key": key, "value": value}))
                .collect();
            let created = self
                .post(
                    "runs/create",
                    &json!({
                        "experiment_id": experiment, "run_name": self.about.run_name,
                        "start_time": milliseconds(now()), "tags": tags,
                    }),
                )
                .await?;
            self.run_id = text(&created["run"]["info"]["run_id"]).ok_or_else(odd)?;
        }
        let params = self.about.params.iter().map(|(key, value)| {
            let value: String = value.chars().take(LONGEST_PARAM).collect();
            json!({"key": key, "value": value})
        });
        let params: Vec<Value> = params.collect();
        let told = json!({"run_id": self.run_id, "params": params});
        self.post("runs/log-batch", &told).await?;
        let base = self.address.as_str().trim_end_matches('/');
        Ok(format!(
            "{base}/#/experiments/{}/runs/{}",
            start_of(&experiment),
            start_of(&self.run_id)
        ))
    }

    pub(super) async fn send(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let metrics = rows.iter().flat_map(|row| {
            let known = &self.known;
            let new = row.values.iter().filter(|(name, value)| {
                let key = key(name);
                value.is_finite() && known.get(&key).is_none_or(|last| row.step > *last)
            });
            new.map(|(name, value)| {
                json!({
                    "key": key(name), "value": value,
                    "timestamp": milliseconds(row.time), "step": row.step,
                })
            })
        });
        let metrics: Vec<Value> = metrics.collect();
        for metrics in metrics.chunks(BATCH) {
            let told = json!({"run_id": self.run_id, "metrics": metrics});
            self.post("runs/log-batch", &told).await?;
        }
        Ok(())
    }

    pub(super) async fn end(&mut self, end: End) -> Result<(), Failure> {
        let status = match end {
            End::Finished => "FINISHED",
            End::Failed => "FAILED",
            End::Cancelled => "KILLED",
            End::Left => return Ok(()),
        };
        let told = json!({
            "run_id": self.run_id, "status": status, "end_time": milliseconds(now()),
        });
        self.post("runs/update", &told).await.map(drop)
    }
}

/// Returns a metric's name with characters that MLflow accepts.
fn key(name: &str) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-. /".contains(c);
    name.chars()
        .map(|c| if known(c) { c } else { '_' })
        .collect()
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

fn text(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn odd() -> Failure {
    Failure::Refused("the server at this address does not answer like MLflow".to_owned())
}
