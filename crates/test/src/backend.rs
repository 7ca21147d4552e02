//! The backend's interface for tests.

use std::{io, sync::Arc};

use finetuner_protocol::{Document, DocumentArray, DocumentError, Task};
use tokio::sync::Mutex;

use crate::{
    Fault, Received, Submission, TestRun, TestService,
    artifact::{Artifact, Asked, DOCUMENTS, UploadFields},
    listen::Socket,
    state::{Shared, State},
};

/// Token that exists from the start.
const TOKEN: &str = "test-token";
/// Experiment of runs that name none.
const DEFAULT_EXPERIMENT: &str = "default";

/// An in-memory Finetuner backend. Dropping it closes its connections.
///
/// It requires a tokio runtime, such as that of `#[tokio::test]`. To test a program
/// without `async`, use the flavor `multi_thread` and run the program in
/// `tokio::task::spawn_blocking`.
pub struct TestBackend {
    shared: Arc<Shared>,
    url: String,
    socket: Mutex<Socket>,
}

impl TestBackend {
    /// Starts a backend on a free port of this machine.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let backend = finetuner_test::TestBackend::start().await?;
    /// assert!(backend.url().starts_with("http://127.0.0.1:"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::new());
        shared.change(|state| state.tokens.insert("test".to_owned(), TOKEN.to_owned()));
        let socket = Socket::open(TestService::new(Arc::clone(&shared))).await?;
        Ok(Self {
            url: format!("http://{}", socket.address),
            shared,
            socket: Mutex::new(socket),
        })
    }

    /// Returns the address.
    ///
    /// Pass it to `Finetuner::builder().registry(..)`, or set
    /// `JINA_FINETUNER_REGISTRY`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns a token that the backend accepts.
    ///
    /// Other tokens are refused with 401, except those that the program creates.
    #[must_use]
    pub fn token(&self) -> &str {
        TOKEN
    }

    /// Returns the backend as a service for `Finetuner::builder().http_service(..)`.
    ///
    /// It is the same backend without sockets. With tokio's paused clock
    /// (`#[tokio::test(start_paused = true)]`), all pauses of the client are skipped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = finetuner_test::TestBackend::start().await?;
    /// let finetuner = finetuner::Finetuner::builder()
    ///     .registry(backend.url())
    ///     .token(backend.token())
    ///     .http_service(backend.service())
    ///     .login()
    ///     .await?;
    /// assert!(finetuner.list_runs().await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn service(&self) -> TestService {
        TestService::new(Arc::clone(&self.shared))
    }

    /// Returns a run of the experiment `default`, for the test to control.
    ///
    /// From this call on, the run does only what the test says.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let backend = finetuner_test::TestBackend::start().await?;
    /// backend.run("shoes").start().log("epoch 1 of 2");
    /// backend.run("shoes").finish_with([("recall_at_k", 0.75)]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn run(&self, name: &str) -> TestRun {
        self.run_in(DEFAULT_EXPERIMENT, name)
    }

    /// Returns a run of another experiment; see [`TestBackend::run`].
    pub fn run_in(&self, experiment: &str, name: &str) -> TestRun {
        TestRun::new(Arc::clone(&self.shared), experiment, name)
    }

    /// Keeps new runs waiting.
    ///
    /// By default, a run finishes immediately unless [`TestBackend::run`] was called
    /// for it.
    pub fn hold_runs(&self) {
        self.shared.change(|state| state.holds_runs = true);
    }

    /// Accepts runs whose data was never pushed.
    ///
    /// By default, they are refused, as the server refuses them.
    pub fn accept_any_data(&self) {
        self.shared.change(|state| state.accepts_any_data = true);
    }

    /// Adds a model that is not in the list of backbones, with its task.
    pub fn add_model(&self, name: impl Into<String>, task: Task) {
        let name = name.into();
        self.shared.change(|state| state.models.insert(name, task));
    }

    /// Stores data as if it had been pushed.
    ///
    /// # Errors
    /// If a document is too large.
    pub fn put_data(
        &self,
        name: impl Into<String>,
        documents: impl IntoIterator<Item = Document>,
    ) -> Result<(), DocumentError> {
        let fields = UploadFields {
            name: Some(name.into()),
            kind: Some(DOCUMENTS.to_owned()),
            ..UploadFields::default()
        };
        let documents: DocumentArray = documents.into_iter().collect();
        let bytes = documents.to_bytes()?;
        self.shared
            .change(|state| state.put_artifact(None, fields, bytes.into()));
        Ok(())
    }

    /// Returns the documents that were pushed under a name; `None` without any.
    ///
    /// # Errors
    /// If the pushed bytes are not documents.
    pub fn pushed(&self, name: &str) -> Result<Option<DocumentArray>, DocumentError> {
        let asked = Asked {
            id: None,
            name: Some(name.to_owned()),
        };
        let bytes = self
            .shared
            .look(|state| state.artifact(&asked).ok().map(|a| a.bytes.clone()));
        bytes.map(|b| DocumentArray::from_bytes(&b)).transpose()
    }

    /// Returns the names of all data, the newest last.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        let is_data = |artifact: &&Artifact| artifact.kind == DOCUMENTS;
        let names = |state: &State| {
            let data = state.artifacts.iter().filter(is_data);
            data.filter_map(|artifact| artifact.name.clone()).collect()
        };
        self.shared.look(names)
    }

    /// Returns the runs that were submitted and not deleted, in order.
    #[must_use]
    pub fn submitted(&self) -> Vec<Submission> {
        let runs = |state: &State| {
            let runs = state.runs.iter();
            runs.filter_map(|run| run.submission.clone()).collect()
        };
        self.shared.look(runs)
    }

    /// Returns all requests, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.look(|state| state.received.clone())
    }

    /// Returns the number of requests whose path contains this text.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        let is_meant = |received: &&Received| received.path.contains(path);
        self.shared
            .look(|state| state.received.iter().filter(is_meant).count())
    }

    /// Adds a fault to future calls.
    ///
    /// If several faults match a call, the one added first occurs.
    pub fn fault(&self, fault: Fault) {
        self.shared.change(|state| state.faults.push(fault));
    }

    /// Removes all faults that have not occurred.
    pub fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Closes all connections and refuses new ones until
    /// [`TestBackend::reconnect`].
    pub async fn disconnect(&self) {
        self.shared.set_away(true);
        self.socket.lock().await.close().await;
    }

    /// Accepts connections again at the same address.
    ///
    /// # Errors
    /// If another program has taken the port.
    pub async fn reconnect(&self) -> io::Result<()> {
        let mut socket = self.socket.lock().await;
        socket.open_again(self.service()).await?;
        self.shared.set_away(false);
        Ok(())
    }
}

impl std::fmt::Debug for TestBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBackend")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
