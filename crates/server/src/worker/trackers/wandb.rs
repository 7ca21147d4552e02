//! Weights & Biases, over the API of its own client: GraphQL for the run, and a
//! stream of JSON lines for the measurements.

use finetuner_protocol::text::start_of;
use reqwest::{Client, RequestBuilder};
use serde_json::{Map, Value, json};
use url::Url;

use super::{
    requests::{Failure, json},
    rows::{End, Row},
};

/// Creates a run, or finds it by its name.
const UPSERT: &str = "mutation UpsertBucket($name: String, $project: String, $entity: String, \
    $displayName: String, $config: JSONString, $tags: [String!], $notes: String) { \
    upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, \
    displayName: $displayName, config: $config, tags: $tags, notes: $notes}) { \
    bucket { id name displayName project { name entity { name } } historyLineCount } inserted } }";
/// Asks for the last history line of a run that continues.
const RESUME: &str = "query RunResumeStatus($project: String, $entity: String, $name: String!) { \
    model(name: $project, entityName: $entity) { \
    bucket(name: $name, missingOk: true) { historyLineCount historyTail } } }";
const HISTORY: &str = "wandb-history.jsonl";
const SUMMARY: &str = "wandb-summary.json";

/// Facts about a run that Weights & Biases gets at its start.
pub(super) struct About {
    pub(super) project: String,
    pub(super) entity: Option<String>,
    /// The run's id at Weights & Biases, unique in its project.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) config: Vec<(String, Value)>,
    /// Whether to send the values of single steps.
    pub(super) steps: bool,
    /// Whether to send the evaluation before the training.
    pub(super) start: bool,
}

/// A run at Weights & Biases.
pub(super) struct WandB {
    client: Client,
    address: Url,
    key: String,
    about: About,
    entity: String,
    project: String,
    /// History lines that the server has.
    lines: usize,
    /// The last step that the server had at the start.
    known: Option<u64>,
    started: Option<f64>,
    summary: Map<String, Value>,
}

impl WandB {
    pub(super) fn new(client: Client, address: Url, key: String, about: About) -> Self {
        Self {
            client,
            address,
            key,
            entity: String::new(),
            project: String::new(),
            lines: 0,
            known: None,
            started: None,
            summary: Map::new(),
            about,
        }
    }

    fn base(&self) -> &str {
        self.address.as_str().trim_end_matches('/')
    }

    fn post(&self, url: String, body: &Value) -> RequestBuilder {
        self.client
            .post(url)
            .basic_auth("api", Some(&self.key))
            .json(body)
    }

    async fn ask(&self, query: &str, variables: Value) -> Result<Value, Failure> {
        let body = json!({"query": query, "variables": variables});
        let answer = json(self.post(format!("{}/graphql", self.base()), &body)).await?;
        if let Some(error) = answer["errors"][0]["message"].as_str() {
            return Err(Failure::Refused(start_of(error)));
        }
        Ok(answer["data"].clone())
    }

    pub(super) async fn begin(&mut self) -> Result<String, Failure> {
        let about = &self.about;
        let config = about.config.iter();
        let config: Map<String, Value> = config
            .map(|(name, value)| (name.clone(), json!({"value": value})))
            .collect();
        let found = self
            .ask(
                UPSERT,
                json!({
                    "name": about.id, "project": about.project, "entity": about.entity,
                    "displayName": about.name, "config": Value::Object(config).to_string(),
                    "tags": about.tags, "notes": about.notes,
                }),
            )
            .await?;
        let bucket = &found["upsertBucket"]["bucket"];
        let name = |value: &Value| value.as_str().map(str::to_owned);
        let project = &bucket["project"];
        let (Some(project), Some(entity)) =
            (name(&project["name"]), name(&project["entity"]["name"]))
        else {
            return Err(Failure::Refused(
                "the server at this address does not answer like Weights & Biases".to_owned(),
            ));
        };
        (self.project, self.entity) = (project, entity);
        self.lines = bucket["historyLineCount"].as_u64().unwrap_or(0) as usize;
        if self.lines > 0 {
            let names =
                json!({"project": self.project, "entity": self.entity, "name": self.about.id});
            let found = self.ask(RESUME, names).await?;
            let bucket = &found["model"]["bucket"];
            self.lines = bucket["historyLineCount"]
                .as_u64()
                .map_or(self.lines, |n| n as usize);
            // A JSON list of lines, as text.
            let tail: Vec<String> = bucket["historyTail"]
                .as_str()
                .and_then(|tail| serde_json::from_str(tail).ok())
                .unwrap_or_default();
            let last: Value = tail
                .last()
                .and_then(|line| serde_json::from_str(line).ok())
                .unwrap_or_default();
            self.known = last["_step"].as_u64();
        }
        let shown = match self.address.host_str() {
            Some("api.wandb.ai") => "https://wandb.ai".to_owned(),
            _ => self.base().to_owned(),
        };
        Ok(format!(
            "{shown}/{}/{}/runs/{}",
            start_of(&self.entity),
            start_of(&self.project),
            self.about.id
        ))
    }

    pub(super) fn wants(&self, row: &mut Row) -> bool {
        if !self.about.steps {
            row.values.retain(|(name, _)| !name.starts_with("step/"));
        }
        !row.values.is_empty() && (self.about.start || row.step > 0)
    }

    /// Returns one history line for each step: later values of a step are added to
    /// the earlier ones.
    fn lines(&mut self, rows: &[Row]) -> Vec<String> {
        let mut lines: Vec<Map<String, Value>> = Vec::new();
        for row in rows {
            // A run that continues repeats some steps.
            if self.known.is_some_and(|known| row.step <= known) {
                continue;
            }
            let started = *self.started.get_or_insert(row.time);
            let same = lines
                .last()
                .is_some_and(|line| line.get("_step") == Some(&row.step.into()));
            if !same {
                lines.push(Map::new());
            }
            let Some(line) = lines.last_mut() else {
                continue;
            };
            line.insert("_step".to_owned(), row.step.into());
            line.insert("_timestamp".to_owned(), row.time.into());
            line.insert("_runtime".to_owned(), (row.time - started).into());
            for (name, value) in &row.values {
                line.insert(name.clone(), (*value).into());
            }
        }
        for line in &lines {
            self.summary.extend(line.clone());
        }
        lines
            .into_iter()
            .map(|line| Value::Object(line).to_string())
            .collect()
    }

    async fn stream(&self, body: &Value) -> Result<(), Failure> {
        let mut url = self.address.clone();
        // Addresses by http always have segments. Names are escaped here.
        if let Ok(mut path) = url.path_segments_mut() {
            let names = [&*self.entity, &self.project, &self.about.id];
            path.pop_if_empty()
                .push("files")
                .extend(names)
                .push("file_stream");
        }
        json(self.post(url.into(), body)).await.map(drop)
    }

    pub(super) async fn send(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let before = self.summary.clone();
        let lines = self.lines(rows);
        let body = match lines.is_empty() {
            // A heartbeat.
            true => json!({}),
            false => {
                let summary = Value::Object(self.summary.clone()).to_string();
                json!({"files": {
                    HISTORY: {"offset": self.lines, "content": lines},
                    SUMMARY: {"offset": 0, "content": [summary]},
                }})
            }
        };
        if let Err(failure) = self.stream(&body).await {
            self.summary = before;
            return Err(failure);
        }
        self.lines += lines.len();
        Ok(())
    }

    pub(super) async fn end(&mut self, end: End) -> Result<(), Failure> {
        match end {
            End::Finished => self.stream(&json!({"complete": true, "exitcode": 0})).await,
            End::Failed => self.stream(&json!({"complete": true, "exitcode": 1})).await,
            // The exit code that wandb's own client reports after Ctrl-C.
            End::Cancelled => {
                self.stream(&json!({"complete": true, "exitcode": 255}))
                    .await
            }
            End::Left => self.stream(&json!({"preempting": true})).await,
        }
    }
}
