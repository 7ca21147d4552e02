//! Start and stop of a server.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use finetuner_protocol::worker::LocalModels;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    accounts,
    app::App,
    database::{self, Database, Scope},
    error::StartError,
    folder::{attach_database, bad_folder, lock, open, open_database},
    http, imports,
    launcher::{self, Home, Launcher, LauncherSettings, Threads},
    oidc::Oidc,
    outbox,
    queue::{self, Engine},
    reach, routes,
    settings::Settings,
    space::Space,
    upkeep,
};

/// Default address of the server. The Rust client looks for a server there if no
/// other address is configured.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8642";

/// The user who owns the first token.
pub const FIRST_USER: &str = "finetuner";

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
#[derive(Clone)]
#[must_use = "a server runs once it is started"]
pub struct Server {
    address: String,
    folder: Option<PathBuf>,
    /// Address of the store, if artifacts are not in the folder.
    store: Option<String>,
    tls: Option<(PathBuf, PathBuf)>,
    launcher: Chosen,
    settings: Settings,
}

/// Source of the launcher.
#[derive(Clone)]
enum Chosen {
    Given(Arc<dyn Launcher>),
    /// Created at the start, when the server knows its data folder.
    Named(Box<LauncherSettings>),
}

impl Server {
    /// Creates a server inside this process, on a free loopback port. It keeps
    /// its data in a temporary folder, trains in a thread, and allows models from
    /// local folders.
    pub fn embedded() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            folder: None,
            store: None,
            tls: None,
            launcher: Chosen::Given(Arc::new(Threads::default())),
            settings: Settings {
                local_models: LocalModels::Anywhere,
                ..Settings::default()
            },
        }
    }

    /// Creates a standalone server, as `finetuner-server serve` starts it.
    pub(crate) fn standalone(folder: PathBuf, launcher: LauncherSettings) -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            folder: Some(folder),
            launcher: Chosen::Named(Box::new(launcher)),
            settings: Settings::default(),
            ..Self::embedded()
        }
    }

    /// Sets the address to listen on, `host:port`. Port 0 selects a free port.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Keeps the data in this folder, which is created if necessary. Only one
    /// server at a time can use a folder.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Keeps artifacts at an address such as `s3://bucket/folder` instead of in
    /// the data folder. Credentials and other settings come from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`).
    pub fn store(mut self, address: impl Into<String>) -> Self {
        self.store = Some(address.into());
        self
    }

    /// Serves https, with a certificate and its key from PEM files. The files are
    /// read when the server starts.
    pub fn tls(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// Sets how runs are executed, and their limits.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the launcher of workers. By default, workers are threads of this
    /// process.
    pub fn launcher(mut self, launcher: impl Launcher + 'static) -> Self {
        self.launcher = Chosen::Given(Arc::new(launcher));
        self
    }

    /// Opens the data folder and starts to serve.
    ///
    /// # Errors
    /// [`StartError`] if the folder, the address or a setting can't be used.
    pub async fn start(self) -> Result<RunningServer, StartError> {
        let (folder, temporary) = match &self.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("finetuner-server-")
                    .tempdir()
                    .map_err(|e| bad_folder(&std::env::temp_dir(), e))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let tls = match &self.tls {
            Some((certificate, key)) => Some(http::tls(certificate, key)?),
            None => None,
        };
        std::fs::create_dir_all(&folder).map_err(|e| bad_folder(&folder, e))?;
        let lock = lock(&folder)?;
        let (database, store) = open(&folder, self.store.as_deref())?;
        let bad = |e: &dyn std::fmt::Display| bad_folder(&folder, e);
        store.drop_uploads().await.map_err(|e| bad(&e))?;
        let first_token = first_token(&database).await.map_err(|e| bad(&e))?;
        let key = database.signing_key().await.map_err(|e| bad(&e))?;
        let id = database.server_id().await.map_err(|e| bad(&e))?;
        let home = Home {
            prefix: launcher::prefix_of(&id),
            folder: &folder,
            ca: self.settings.workers.ca.clone(),
        };
        let launcher = match &self.launcher {
            Chosen::Given(launcher) => Arc::clone(launcher),
            Chosen::Named(settings) => launcher::make(settings, &home)?,
        };
        let prefix = home.prefix;
        let remote_url = match launcher.is_remote() {
            true => Some(reach::for_other_machines(
                &self.settings.workers,
                launcher.engine(),
            )?),
            false => None,
        };
        let ca = reach::authority(&self.settings.workers)?;
        let sender = outbox::Sender::new(&self.settings)?;
        let oidc = Oidc::new(&self.settings)?;

        let listener = bind(&self.address).await?;
        let listen = |source| StartError::Listen {
            address: self.address.clone(),
            source,
        };
        let address = listener.local_addr().map_err(listen)?;
        imports::sweep(&folder);
        let space = Space::new(folder.clone(), self.settings.disk_reserve);
        let app = App::new(database, store, self.settings, space, oidc, key, &id);
        let router = routes::router(Arc::clone(&app));
        let (stop, stopped) = watch::channel(false);
        let mut serving = Vec::new();
        // Workers on this machine connect without TLS, so they need no
        // certificate for the loopback address. Workers that outlive the server
        // must find the next one, whatever its public address is.
        let mut has_moved = false;
        let has_own_port = tls.is_some() || launcher.outlives_the_server();
        let url = match remote_url {
            Some(url) => url,
            None if !has_own_port => format!("http://{}", reachable(address)),
            None => {
                let own;
                (own, has_moved) = bind_for_workers(&app.database).await?;
                let url = own.local_addr().map_err(listen)?;
                let routes = routes::worker_router(Arc::clone(&app));
                let served = http::serve(own, None, routes, stopped.clone());
                serving.push(tokio::spawn(served));
                format!("http://{url}")
            }
        };
        let is_secure = tls.is_some();
        serving.push(tokio::spawn(http::serve(listener, tls, router, stopped)));
        let engine = Engine {
            launcher,
            prefix,
            url,
            ca,
        };
        let queue = queue::serve(Arc::clone(&app), engine.clone(), has_moved);
        let tasks = vec![
            tokio::spawn(Arc::clone(&app).housekeeping()),
            tokio::spawn(upkeep::sweep(Arc::clone(&app))),
            tokio::spawn(Arc::clone(&app).remove_suspects()),
            tokio::spawn(outbox::serve(Arc::clone(&app), sender)),
        ];
        Ok(RunningServer {
            address,
            is_secure,
            first_token,
            app,
            engine,
            stop,
            queue: Some(tokio::spawn(queue)),
            serving,
            tasks,
            _lock: lock,
            _temporary: temporary,
        })
    }
}

async fn bind(address: &str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Listen {
        address: address.to_owned(),
        source,
    })
}

/// Binds the loopback port for workers on this machine: the port of the last
/// start if it is free. Returns whether the port has changed.
async fn bind_for_workers(database: &Database) -> Result<(TcpListener, bool), StartError> {
    let bad = |e: &dyn std::fmt::Display| bad_folder(Path::new("database"), e);
    let last = database.worker_port().await.map_err(|e| bad(&e))?;
    if let Some(port) = last {
        match TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok((listener, false)),
            Err(error) => tracing::warn!("The workers' port {port} can't be used: {error}"),
        }
    }
    let listener = bind("127.0.0.1:0").await?;
    let port = listener.local_addr().map_err(|e| bad(&e))?.port();
    database.set_worker_port(port).await.map_err(|e| bad(&e))?;
    Ok((listener, last.is_some()))
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("folder", &self.folder)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Creates a token for a user of the data in `folder`, and the user if there is
/// none with this name. Users see only their own data and that of their shared
/// projects.
///
/// # Errors
/// [`StartError::Folder`] if the folder can't be used.
pub async fn create_token(folder: &Path, user: &str, name: &str) -> Result<String, StartError> {
    let database = match database::file(folder).exists() {
        true => attach_database(folder)?,
        false => {
            std::fs::create_dir_all(folder).map_err(|e| bad_folder(folder, e))?;
            let _lock = lock(folder)?;
            open_database(folder)?
        }
    };
    let made = database.create_token(user.to_owned(), name.to_owned(), Scope::All);
    made.await.map_err(|e| bad_folder(folder, e))
}

async fn first_token(database: &Database) -> rusqlite::Result<Option<String>> {
    if !database.has_no_users().await? {
        return Ok(None);
    }
    let token = database.create_token(FIRST_USER.to_owned(), "first".to_owned(), Scope::All);
    token.await.map(Some)
}

/// Returns the address at which this machine reaches a listening address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A running server. Dropping it stops it immediately; [`RunningServer::stop`]
/// stops it gracefully.
pub struct RunningServer {
    address: SocketAddr,
    is_secure: bool,
    first_token: Option<String>,
    app: Arc<App>,
    engine: Engine,
    stop: watch::Sender<bool>,
    queue: Option<JoinHandle<()>>,
    serving: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    _lock: File,
    _temporary: Option<TempDir>,
}

impl RunningServer {
    /// Returns its address for clients, such as `http://127.0.0.1:8642`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address))
    }

    /// Returns the token that was created with a new data folder. `None` if the
    /// folder already had users.
    #[must_use]
    pub fn first_token(&self) -> Option<&str> {
        self.first_token.as_deref()
    }

    /// Returns an address that signs the first user, who has no password yet, in
    /// to the console. It works once, within an hour.
    ///
    /// # Errors
    /// [`StartError::Folder`] if the database can't be read.
    pub async fn console_link(&self) -> Result<String, StartError> {
        let code = accounts::sign_in_code(&self.app, FIRST_USER).await;
        let code = code.map_err(|e| bad_folder(Path::new("database"), e))?;
        Ok(match code {
            Some(code) => format!("{}/console/signin?code={code}", self.url()),
            None => format!("{}/console/", self.url()),
        })
    }

    /// Creates another token, as [`create_token`] does.
    ///
    /// # Errors
    /// [`StartError::Folder`] if the database can't be written.
    pub async fn create_token(&self, user: &str, name: &str) -> Result<String, StartError> {
        let made = self
            .app
            .database
            .create_token(user.to_owned(), name.to_owned(), Scope::All);
        made.await.map_err(|e| bad_folder(Path::new("database"), e))
    }

    /// Stops gracefully: runs in progress write a checkpoint and pause, within
    /// [`Settings::grace`]. If the data is kept, they continue when a server is
    /// started with it again. Requests in progress are answered last.
    pub async fn stop(mut self) {
        self.app.begin_to_stop().await;
        if let Some(mut queue) = self.queue.take() {
            // No server can continue from a temporary folder.
            let grace = match self._temporary {
                Some(_) => std::time::Duration::ZERO,
                None => self.app.settings.grace,
            };
            if tokio::time::timeout(grace, &mut queue).await.is_err() {
                queue.abort();
                // Wait until the task has really ended.
                let _ = queue.await;
                // A temporary folder has no next server.
                let everything =
                    self._temporary.is_some() || !self.engine.launcher.outlives_the_server();
                queue::end_all(&self.app, &self.engine, everything).await;
            }
        }
        self.app.write_uses().await;
        let _ = self.stop.send(true);
        for task in self.serving.drain(..) {
            // A panic was already reported.
            let _ = task.await;
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        let tasks = self.tasks.iter().chain(&self.serving).chain(&self.queue);
        for task in tasks {
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
