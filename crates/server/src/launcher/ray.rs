//! The launcher that runs workers as jobs of a Ray cluster, with the REST API
//! of the dashboard (Ray Jobs).
//!
//! Everyone who reaches the dashboard sees a job's command, labels and
//! variables. The start token therefore travels in the job's working folder.
//! That is a zip which Ray stores for the job and unpacks on the job's machine.
//! The worker deletes the token's file after reading it.
//!
//! Ray stops a job with SIGTERM. It sends SIGKILL after the number of seconds
//! in the job's variable `RAY_JOB_STOP_WAIT_TIME_S`.

mod package;
mod settings;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Home, JobState, LaunchError, Launcher, WorkOrder,
    contract::NO_OUTCOME,
    remote::{self, Variables},
};
use crate::{
    error::StartError,
    requests::{self, Authorities, in_words},
    worker::{WORKER_CA, WORKER_START},
};
pub(super) use settings::RaySettings;

/// Time limits for an answer of the dashboard and for the connection.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// Limits of one listing's clean-up: the number of deleted jobs, and the time.
const DELETED_AT_ONCE: usize = 20;
const DELETES_WITHIN: Duration = Duration::from_secs(5);

/// Starts workers as Ray jobs.
pub(super) struct Ray {
    client: Client,
    settings: RaySettings,
    variables: Variables,
    /// Prefix of this server's job names.
    prefix: String,
    /// Jobs that were stopped. Ray stops a pending job only when it starts, so
    /// until then this launcher reports the job as ended.
    stopped: Mutex<HashSet<String>>,
}

/// Ray's description of a job. Ray sends more fields.
#[derive(Deserialize)]
struct Details {
    /// `None` for jobs that other programs start with `ray.init`.
    submission_id: Option<String>,
    status: Option<String>,
    message: Option<String>,
    /// In milliseconds since 1970.
    end_time: Option<u64>,
}

impl Ray {
    pub(super) fn new(settings: &RaySettings, home: &Home<'_>) -> Result<Self, StartError> {
        settings.check()?;
        let environment = &settings.environment;
        Ok(Self {
            client: client(&settings.address)
                .map_err(|e| StartError::setting("launcher.ray.address", e))?,
            variables: Variables::of("launcher.ray.environment", environment)?,
            settings: settings.clone(),
            prefix: home.prefix.clone(),
            stopped: Mutex::default(),
        })
    }

    fn stopped(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request. Errors show the dashboard's address, but no token.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Response, String> {
        let address = self.settings.address.trim_end_matches('/');
        let mut request = self.client.request(method, format!("{address}{path}"));
        if let Some(token) = self.settings.token().await? {
            request = request.bearer_auth(token);
        }
        if let Some((kind, bytes)) = body {
            request = request.header("content-type", kind).body(bytes);
        }
        let sent = request.send().await;
        sent.map_err(|e| format!("Ray's dashboard at {address}: {}", in_words(e)))
    }

    /// Whether Ray knows a job.
    async fn knows(&self, name: &str) -> Result<bool, String> {
        let answer = self.call(Method::GET, &job_path(name), None).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(error_of(answer).await),
        }
    }

    fn submission(&self, order: &WorkOrder) -> Value {
        // Ray runs a job without any resources on the head node.
        let cores = order.resources.cpus.unwrap_or(1);
        let mut variables: serde_json::Map<String, Value> = self
            .variables
            .of_worker(order, Some(cores), self.settings.cache.as_deref())
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let seconds = self.settings.stop_seconds.to_string();
        variables.insert("RAY_JOB_STOP_WAIT_TIME_S".to_owned(), seconds.into());
        // Relative to the working folder, where Ray starts the command.
        variables.insert(WORKER_START.to_owned(), package::START.into());
        if order.ca.is_some() {
            variables.insert(WORKER_CA.to_owned(), package::CA.into());
        }
        let resources = order.resources;
        let mut submission = json!({
            "submission_id": order.name,
            // `exec` replaces the shell, so that Ray signals the worker itself.
            "entrypoint": format!(
                "exec {} worker {}",
                remote::quote(&self.settings.program),
                order.name
            ),
            "entrypoint_num_cpus": cores,
            "metadata": order.labels,
            "runtime_env": {
                "working_dir": format!("gcs://{}", package::name(&order.name)),
                "env_vars": variables,
            },
        });
        if let Some(gpus) = resources.gpus {
            submission["entrypoint_num_gpus"] = gpus.into();
        }
        if let Some(memory) = resources.memory {
            submission["entrypoint_memory"] = memory.into();
        }
        submission
    }

    async fn submit(&self, order: &WorkOrder) -> Result<(), LaunchError> {
        let retry = LaunchError::Retry;
        // The answer to an earlier attempt may have been lost.
        if self.knows(&order.name).await.map_err(retry)? {
            return Ok(());
        }
        let package = package::zip(order).map_err(retry)?;
        let path = format!("/api/packages/gcs/{}", package::name(&order.name));
        let body = Some(("application/zip", package));
        let sent = self.call(Method::PUT, &path, body).await.map_err(retry)?;
        if !sent.status().is_success() {
            return Err(retry(error_of(sent).await));
        }
        let body = self.submission(order).to_string().into_bytes();
        let body = Some(("application/json", body));
        let answer = self.call(Method::POST, "/api/jobs/", body).await;
        let answer = answer.map_err(retry)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let reason = error_of(answer).await;
        // Ray answers a repeated submission with the same status as any failure.
        if matches!(self.knows(&order.name).await, Ok(true)) {
            return Ok(());
        }
        match status {
            StatusCode::BAD_REQUEST => Err(LaunchError::Refused(reason)),
            _ => Err(retry(reason)),
        }
    }

    async fn jobs(&self) -> Result<HashMap<String, JobState>, String> {
        let answer = self.call(Method::GET, "/api/jobs/", None).await?;
        if !answer.status().is_success() {
            return Err(error_of(answer).await);
        }
        let all: Vec<Details> = answer
            .json()
            .await
            .map_err(|e| format!("Ray's list of jobs can't be parsed: {}", in_words(e)))?;
        let ours = all.into_iter().filter_map(|details| {
            let name = details.submission_id.clone()?;
            name.starts_with(&self.prefix).then_some((name, details))
        });
        let ours: HashMap<String, Details> = ours.collect();
        self.stopped().retain(|name| ours.contains_key(name));
        // A dashboard that deletes slowly must not make the listing fail.
        let _ = tokio::time::timeout(DELETES_WITHIN, self.delete_old(&ours)).await;
        let state = |(name, details): (String, Details)| {
            let state = self.state(&name, &details);
            (name, state)
        };
        Ok(ours.into_iter().map(state).collect())
    }

    fn state(&self, name: &str, details: &Details) -> JobState {
        let message = details.message.as_deref().unwrap_or_default();
        match details.status.as_deref() {
            Some("PENDING") if self.stopped().contains(name) => {
                JobState::Ended("it was stopped before it began".to_owned())
            }
            Some("PENDING") => {
                JobState::Pending(format!("job {name}: {}", pending_reason(message)))
            }
            Some("STOPPED") => JobState::Ended("Ray stopped its job".to_owned()),
            Some("SUCCEEDED") => JobState::Ended(NO_OUTCOME.to_owned()),
            Some("FAILED") => {
                JobState::Ended(format!("its Ray job failed: {}", failure_reason(message)))
            }
            // An unknown state of a later version counts as running. The lease decides.
            _ => JobState::Running,
        }
    }

    /// Deletes jobs that ended long ago, so that Ray's list does not grow.
    async fn delete_old(&self, jobs: &HashMap<String, Details>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let keep = Duration::from_secs(self.settings.keep_ended_seconds);
        let is_old = |details: &Details| {
            let ended = details.end_time.map(Duration::from_millis);
            let status = details.status.as_deref();
            matches!(status, Some("STOPPED" | "SUCCEEDED" | "FAILED"))
                && ended.is_some_and(|ended| now.saturating_sub(ended) > keep)
        };
        let old = jobs.iter().filter(|(_, details)| is_old(details));
        for (name, _) in old.take(DELETED_AT_ONCE) {
            let deleted = self.call(Method::DELETE, &job_path(name), None).await;
            if let Err(error) = deleted {
                tracing::debug!("The Ray job {name} can't be deleted: {error}");
                return;
            }
        }
    }
}

impl Launcher for Ray {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(self.submit(order))
    }

    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let path = format!("{}/stop", job_path(name));
            let answer = self.call(Method::POST, &path, None).await?;
            match answer.status() {
                status if status.is_success() => {
                    self.stopped().insert(name.to_owned());
                    Ok(())
                }
                StatusCode::NOT_FOUND => Ok(()),
                _ => Err(error_of(answer).await),
            }
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        Box::pin(self.jobs())
    }

    fn engine(&self) -> &'static str {
        "Ray"
    }

    fn is_remote(&self) -> bool {
        true
    }
}

fn job_path(name: &str) -> String {
    format!("/api/jobs/{name}")
}

/// Returns why a job waits: the first of the reasons that Ray considers
/// possible.
fn pending_reason(message: &str) -> String {
    let reason = message.trim_start_matches("Job has not started yet. ");
    let reason = reason.split(". ").next().unwrap_or_default();
    remote::shorten(reason.trim_start_matches("It may be "))
}

/// Returns how a job failed, with only the last line of the log that Ray
/// appends.
fn failure_reason(message: &str) -> String {
    let (how, log) = message
        .split_once(", last available logs")
        .unwrap_or((message, ""));
    let how = how.trim_start_matches("Job entrypoint command failed with ");
    match log.lines().rfind(|line| !line.trim().is_empty()) {
        Some(last) => remote::shorten(&format!("{how}\n{last}")),
        None => remote::shorten(how),
    }
}

/// Returns Ray's error in one line. Ray sends Python tracebacks.
async fn error_of(answer: Response) -> String {
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let last = text.lines().rfind(|line| line.trim().len() > 1);
    let remedy = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; `launcher.ray.token_file` names the file with the cluster's token"
        }
        _ => "",
    };
    match last {
        Some(last) => format!("Ray answered {status}: {}{remedy}", remote::shorten(last)),
        None => format!("Ray answered {status}{remedy}"),
    }
}

/// Creates a client that ignores the proxy variables of the environment,
/// because the dashboard is in the operator's own network.
fn client(address: &str) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(requests::tls(address, &Authorities::default())?)
        .no_proxy()
        // A redirect would lose the token or the method.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECTS_WITHIN)
        .timeout(ANSWERS_WITHIN)
        .build()
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
