//! The backend as a test sees it.

use std::{io, sync::Arc};

use finetuner_protocol::{Document, DocumentArray, DocumentError, Task};
use tokio::sync::Mutex;

use crate::{
    Fault, Received, Submission, TestRun, TestService,
    artifact::{Artifact, Asked, DOCUMENTS, UploadFields},
    listen::Socket,
    state::{Shared, State},
};

/// The token that is there from the start.
const TOKEN: &str = "test-token";
/// The experiment of runs that name no other.
const DEFAULT_EXPERIMENT: &str = "default";

/// A Finetuner backend in memory. Dropping it closes its connections.
///
/// It needs a runtime of tokio, as `#[tokio::test]` provides. A program without
/// `async` runs in such a test on a thread of its own
/// (`tokio::task::spawn_blocking`), with the flavor `multi_thread`.
pub struct TestBackend {
    shared: Arc<Shared>,
    url: String,
    socket: Mutex<Socket>,
}

impl TestBackend {
    /// Starts a backend at a free port of this machine.
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

    /// The address for `Finetuner::builder().registry(..)` or
    /// `JINA_FINETUNER_REGISTRY`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A token that the backend accepts. Others are refused with 401, except for
    /// those that the program creates.
    #[must_use]
    pub fn token(&self) -> &str {
        TOKEN
    }

    /// The backend as a service for `Finetuner::builder().http_service(..)`: the
    /// same backend without sockets. With it, a paused clock of tokio
    /// (`#[tokio::test(start_paused = true)]`) skips all pauses of the client.
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

    /// A run of the default experiment. From this call on it does what the test
    /// says, and nothing by itself.
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

    /// A run of an experiment; as [`TestBackend::run`].
    pub fn run_in(&self, experiment: &str, name: &str) -> TestRun {
        TestRun::new(Arc::clone(&self.shared), experiment, name)
    }

    /// Lets runs wait that are submitted from now on. Otherwise a run finishes at
    /// once, unless [`TestBackend::run`] was called for it.
    pub fn hold_runs(&self) {
        self.shared.change(|state| state.holds_runs = true);
    }

    /// Accepts runs whose data was never pushed. Otherwise they are refused, as
    /// the server refuses them.
    pub fn accept_any_data(&self) {
        self.shared.change(|state| state.accepts_any_data = true);
    }

    /// Adds a model that is not in the list of backbones, and what it is for.
    pub fn add_model(&self, name: impl Into<String>, task: Task) {
        let name = name.into();
        self.shared.change(|state| state.models.insert(name, task));
    }

    /// Stores data as if somebody had pushed it.
    ///
    /// # Errors
    /// If the documents can't be written: one of them is too large.
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

    /// The documents of data that was pushed; none if there is no such data.
    ///
    /// # Errors
    /// If what was pushed are not documents.
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

    /// The names of all data, the newest last.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        let is_data = |artifact: &&Artifact| artifact.kind == DOCUMENTS;
        let names = |state: &State| {
            let data = state.artifacts.iter().filter(is_data);
            data.filter_map(|artifact| artifact.name.clone()).collect()
        };
        self.shared.look(names)
    }

    /// The runs that were submitted and not deleted, in order.
    #[must_use]
    pub fn submitted(&self) -> Vec<Submission> {
        let runs = |state: &State| {
            let runs = state.runs.iter();
            runs.filter_map(|run| run.submission.clone()).collect()
        };
        self.shared.look(runs)
    }

    /// All requests that came, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.look(|state| state.received.clone())
    }

    /// How many requests came whose path contains this text.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        let is_meant = |received: &&Received| received.path.contains(path);
        self.shared
            .look(|state| state.received.iter().filter(is_meant).count())
    }

    /// Lets calls go wrong. Of several faults that a call could have, it has the
    /// one that was given first.
    pub fn fault(&self, fault: Fault) {
        self.shared.change(|state| state.faults.push(fault));
    }

    /// Forgets the faults that did not happen yet.
    pub fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Breaks all connections and refuses new ones, until
    /// [`TestBackend::reconnect`].
    pub async fn disconnect(&self) {
        self.shared.set_away(true);
        self.socket.lock().await.close().await;
    }

    /// Accepts connections again, at the same address.
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
