//! Starting and stopping a server.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    api,
    app::App,
    database::Database,
    error::StartError,
    launcher::{Launcher, LauncherKind},
    queue,
    store::Store,
};

/// Where a server listens if nothing else was said. The Python client's
/// addresses are gone; this one is looked for by the Rust client.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8642";

/// The user who owns the first token.
pub(crate) const FIRST_USER: &str = "finetuner";

/// Settings of a server.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), finetuner_server::StartError> {
/// let server = finetuner_server::Server::embedded().start().await?;
/// println!("{} is ready", server.url());
/// server.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a server runs once it is started"]
pub struct Server {
    address: String,
    folder: Option<PathBuf>,
    launcher: LauncherKind,
    runs_at_once: usize,
    local_models: bool,
}

impl Server {
    /// A backend inside this process, on a free loopback port. It keeps its
    /// data in a temporary folder, trains in a thread, and may load models
    /// from folders.
    pub fn embedded() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            folder: None,
            launcher: LauncherKind::Thread,
            runs_at_once: 1,
            local_models: true,
        }
    }

    /// A server of its own, as `finetuner-server serve` starts it: each run is
    /// a child process of the same program.
    pub(crate) fn standalone(folder: PathBuf) -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            folder: Some(folder),
            launcher: LauncherKind::Process,
            runs_at_once: 1,
            local_models: false,
        }
    }

    /// Where to listen, `host:port`. Port 0 is any free one.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Keeps the data in this folder, which is created where it is not there.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// How many runs may go on at once; 1 by default. The threads of a run use
    /// all cores, so more is of use only with more than one machine's worth.
    pub fn runs_at_once(mut self, count: usize) -> Self {
        self.runs_at_once = count.max(1);
        self
    }

    /// Whether runs may load models from any folder of this machine.
    pub fn local_models(mut self, allowed: bool) -> Self {
        self.local_models = allowed;
        self
    }

    /// Opens the data folder and starts to answer.
    ///
    /// # Errors
    /// [`StartError`] where the folder or the address can't be used.
    pub async fn start(self) -> Result<RunningServer, StartError> {
        let (folder, temporary) = match self.folder {
            Some(folder) => (folder, None),
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("finetuner-server-")
                    .tempdir()
                    .map_err(|e| bad_folder(&std::env::temp_dir(), e))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let (database, store) = open(&folder)?;
        let first_token = first_token(&database)
            .await
            .map_err(|e| bad_folder(&folder, e))?;

        let listen = |source| StartError::Listen {
            address: self.address.clone(),
            source,
        };
        let listener = TcpListener::bind(&self.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let app = App::new(database, store, self.local_models);
        let launcher = Launcher {
            url: format!("http://{}", reachable(address)),
            kind: self.launcher,
            local_models: self.local_models,
        };
        let api = api::router(Arc::clone(&app));
        let tasks = vec![
            tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, api).await {
                    tracing::error!("the server can't go on: {error}");
                }
            }),
            tokio::spawn(queue::serve(Arc::clone(&app), launcher, self.runs_at_once)),
        ];
        Ok(RunningServer {
            address,
            first_token,
            app,
            tasks,
            _temporary: temporary,
        })
    }
}

/// Makes a token for a user of the data in `folder`. Users own what they
/// create, and see nothing of each other's; a new name makes a new user.
///
/// # Errors
/// [`StartError::Folder`] where the folder can't be used.
pub async fn create_token(folder: &Path, user: &str, name: &str) -> Result<String, StartError> {
    let (database, _) = open(folder)?;
    database
        .create_token(user.to_owned(), name.to_owned())
        .await
        .map_err(|e| bad_folder(folder, e))
}

fn open(folder: &Path) -> Result<(Database, Store), StartError> {
    let objects = folder.join("store");
    std::fs::create_dir_all(&objects).map_err(|e| bad_folder(folder, e))?;
    let store = Store::in_folder(&objects).map_err(|e| bad_folder(folder, e))?;
    let database =
        Database::open(&folder.join("finetuner.sqlite")).map_err(|e| bad_folder(folder, e))?;
    Ok((database, store))
}

async fn first_token(database: &Database) -> rusqlite::Result<Option<String>> {
    if !database.has_no_users().await? {
        return Ok(None);
    }
    let token = database.create_token(FIRST_USER.to_owned(), "first".to_owned());
    token.await.map(Some)
}

fn bad_folder(folder: &Path, reason: impl std::fmt::Display) -> StartError {
    StartError::Folder {
        folder: folder.display().to_string(),
        reason: reason.to_string(),
    }
}

/// The address under which this machine reaches itself.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A server that answers. Dropping it stops it.
pub struct RunningServer {
    address: SocketAddr,
    first_token: Option<String>,
    app: Arc<App>,
    tasks: Vec<JoinHandle<()>>,
    _temporary: Option<TempDir>,
}

impl RunningServer {
    /// Its address for clients, such as `http://127.0.0.1:8642`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", reachable(self.address))
    }

    /// The token that was made with a new data folder; none where the folder
    /// had users before.
    #[must_use]
    pub fn first_token(&self) -> Option<&str> {
        self.first_token.as_deref()
    }

    /// Makes another token, as [`create_token`] does.
    ///
    /// # Errors
    /// [`StartError::Folder`] where the database can't be written.
    pub async fn create_token(&self, user: &str, name: &str) -> Result<String, StartError> {
        self.app
            .database
            .create_token(user.to_owned(), name.to_owned())
            .await
            .map_err(|e| StartError::Folder {
                folder: "database".to_owned(),
                reason: e.to_string(),
            })
    }

    /// Stops answering and ends the runs in progress; they fail.
    pub async fn stop(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // Cancelled, as was asked.
            let _ = task.await;
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
