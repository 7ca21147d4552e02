//! Servers, clients and data for the tests.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use finetuner::{
    Document, DocumentArray, EvaluationCallback, Finetuner, Fit, Loss, Run, Update, protocol::Event,
};
use finetuner_server::{RunningServer, Server, Settings};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// A server in the test's process, its first user's client, and a plain HTTP
/// client.
pub(crate) struct Backend {
    pub(crate) server: RunningServer,
    pub(crate) finetuner: Finetuner,
    pub(crate) http: Http,
}

pub(crate) async fn start() -> Backend {
    start_with(Settings::default()).await
}

pub(crate) async fn start_with(settings: Settings) -> Backend {
    let server = Server::embedded().settings(settings).start().await.unwrap();
    let token = server.first_token().unwrap().to_owned();
    Backend {
        finetuner: connect(&server.url(), &token).await,
        http: Http::new(&server.url(), Some(&token)),
        server,
    }
}

pub(crate) async fn connect(url: &str, token: &str) -> Finetuner {
    let builder = Finetuner::builder().registry(url).token(token);
    builder.login().await.unwrap()
}

/// A running `finetuner-server serve` and its output.
pub(crate) struct Serving {
    pub(crate) process: Child,
    output: Lines<BufReader<ChildStdout>>,
    pub(crate) url: String,
}

impl Serving {
    /// Starts the server on a free port, unless `options` name an address.
    pub(crate) async fn start(data: &Path, options: &[&str]) -> Self {
        Self::start_in(data, options, &[]).await
    }

    /// Like [`Serving::start`], with these environment variables. The server has
    /// its own process group, as in a terminal.
    pub(crate) async fn start_in(
        data: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let address: &[&str] = match options.contains(&"--address") {
            true => &[],
            false => &["--address", "127.0.0.1:0"],
        };
        let mut process = server()
            .arg("serve")
            .args(address)
            .args(options)
            .arg("--data")
            .arg(data)
            .envs(environment.iter().copied())
            .process_group(0)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut serving = Self {
            process,
            output,
            url: String::new(),
        };
        serving.url = serving.line_after("Finetuner is ready at ").await;
        serving
    }

    /// Waits for a line that begins with `start`. Returns its rest.
    pub(crate) async fn line_after(&mut self, start: &str) -> String {
        while let Some(line) = self.output.next_line().await.unwrap() {
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
        panic!("the server ended before it printed `{start}`");
    }

    pub(crate) async fn log_in(&self, token: &str) -> finetuner::Result<Finetuner> {
        let builder = Finetuner::builder().registry(&self.url).token(token);
        builder.login().await
    }
}

pub(crate) fn server() -> Command {
    Command::new(env!("CARGO_BIN_EXE_finetuner-server"))
}

/// A plain HTTP client.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) client: Client,
    url: String,
    token: Option<String>,
    project: Option<&'static str>,
}

impl Http {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build();
        Self {
            client: client.unwrap(),
            url: url.to_owned(),
            token: token.map(str::to_owned),
            project: None,
        }
    }

    /// Returns the client for a project other than the personal one.
    pub(crate) fn in_project(&self, project: &'static str) -> Self {
        Self {
            project: Some(project),
            ..self.clone()
        }
    }

    /// Returns a client with another token, or without one.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Self {
        Self {
            token: token.map(str::to_owned),
            ..self.clone()
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = match self.project {
            Some(project) => request.header("x-finetuner-project", project),
            None => request,
        };
        match &self.token {
            Some(token) => request.header("authorization", format!("token {token}")),
            None => request,
        }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }
}

/// Makes a worker's first call with a start token. Returns the status.
pub(crate) async fn exchange(starter: &Http, token: &str) -> reqwest::StatusCode {
    use sha2::Digest;

    let digits = hex::encode(sha2::Sha256::digest(token));
    let call = starter.post("/api/v1/worker/start");
    let answer = call.json(&json!({"token_sha256": digits})).send().await;
    answer.unwrap().status()
}

/// Returns the first pairs of the fashion data.
pub(crate) fn pairs(count: usize) -> DocumentArray {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/emoji-clip");
    let rows = std::fs::read_to_string(folder.join("fashion/train.csv")).unwrap();
    let pair = |row: &str| {
        let (picture, title) = row.split_once(',').unwrap();
        let picture = std::fs::read(folder.join(picture)).unwrap();
        Document::new()
            .with_chunk(Document::blob(picture).with_modality("image"))
            .with_chunk(Document::text(title).with_modality("text"))
    };
    let documents: Vec<Document> = rows.lines().take(count).map(pair).collect();
    documents.into()
}

/// Prepares a run on the data set `train`.
pub(crate) fn fit(finetuner: &Finetuner, name: &str, epochs: u64) -> Fit {
    finetuner
        .fit("clip-small", "train")
        .run_name(name)
        .epochs(epochs)
        .batch_size(4)
        .learning_rate(1e-4)
        .loss(Loss::Clip)
}

/// Pushes data, starts a run with an evaluation, and waits for its end.
pub(crate) async fn finished_run(finetuner: &Finetuner, name: &str) -> Run {
    finetuner.push("train", pairs(8)).await.unwrap();
    let evaluation = EvaluationCallback::new("train").gather_examples(true);
    let run = fit(finetuner, name, 1).callback(evaluation).await.unwrap();
    run.wait().await.unwrap();
    run
}

/// Waits until a run has finished `step` steps.
pub(crate) async fn wait_for_step(run: &Run, step: u64) {
    let mut watch = run.watch();
    while let Some(update) = watch.next().await {
        if let Update::Progress(progress) = update.unwrap()
            && progress.step >= step
        {
            return;
        }
    }
    panic!("the run ended before step {step}: {:?}", run.status().await);
}

/// Returns the loss of every step, in order.
pub(crate) async fn losses(run: &Run) -> Vec<(u64, u64, f64)> {
    let points = run.metric_history(None).await.unwrap();
    let loss = |event: Event| match event {
        Event::Step {
            epoch, step, loss, ..
        } => Some((epoch, step, loss)),
        _ => None,
    };
    points.into_iter().filter_map(|p| loss(p.event)).collect()
}
