//! Starting and stopping a server.

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

/// Where a server listens if nothing else was said. The Python client's
/// addresses are gone; this one is looked for by the Rust client.
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
    /// Where artifacts are, where that is not in the folder.
    store: Option<String>,
    tls: Option<(PathBuf, PathBuf)>,
    launcher: Chosen,
    settings: Settings,
}

/// What starts workers.
#[derive(Clone)]
enum Chosen {
    Given(Arc<dyn Launcher>),
    /// One that is made when the server knows its data.
    Named(Box<LauncherSettings>),
}

impl Server {
    /// A backend inside this process, on a free loopback port. It keeps its
    /// data in a temporary folder, trains in a thread, and may load models
    /// from folders.
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

    /// A server of its own, as `finetuner-server serve` starts it.
    pub(crate) fn standalone(folder: PathBuf, launcher: LauncherSettings) -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            folder: Some(folder),
            launcher: Chosen::Named(Box::new(launcher)),
            settings: Settings::default(),
            ..Self::embedded()
        }
    }

    /// Where to listen, `host:port`. Port 0 is any free one.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Keeps the data in this folder, which is created where it is not there.
    /// One server at a time can have it.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Keeps artifacts at an address such as `s3://bucket/folder`, rather than
    /// in the data folder. Keys and so on come from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`).
    pub fn store(mut self, address: impl Into<String>) -> Self {
        self.store = Some(address.into());
        self
    }

    /// Speaks https, with a certificate and its key from PEM files. They are
    /// read when the server starts.
    pub fn tls(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// How runs are carried out, and what they may use.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Where workers are started; in threads of this process by default.
    pub fn launcher(mut self, launcher: impl Launcher + 'static) -> Self {
        self.launcher = Chosen::Given(Arc::new(launcher));
        self
    }

    /// Opens the data folder and starts to answer.
    ///
    /// # Errors
    /// [`StartError`] where the folder, the address or a setting can't be used.
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
        // Workers of this machine need no certificate's name. Those that live on
        // while the server is started again must find it, whatever its address is.
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
            tokio::spawn(Arc::clone(&app).keep_house()),
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

/// Where workers of this machine find the server: the same port as at the last
/// start, as long as nobody else has it. Returns whether it is another one.
async fn bind_for_workers(database: &Database) -> Result<(TcpListener, bool), StartError> {
    let bad = |e: &dyn std::fmt::Display| bad_folder(Path::new("database"), e);
    let last = database.worker_port().await.map_err(|e| bad(&e))?;
    if let Some(port) = last {
        match TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok((listener, false)),
            Err(error) => tracing::warn!("Port {port}, where workers look, can't be had: {error}"),
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

/// Makes a token for a user of the data in `folder`. Users see nothing of each
/// other's but what they share in a project; a new name makes a new user.
///
/// # Errors
/// [`StartError::Folder`] where the folder can't be used.
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

/// A server that answers. Dropping it stops it at once; [`RunningServer::stop`]
/// stops it in order.
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
    /// Its address for clients, such as `http://127.0.0.1:8642`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address))
    }

    /// The token that was made with a new data folder; none where the folder
    /// had users before.
    #[must_use]
    pub fn first_token(&self) -> Option<&str> {
        self.first_token.as_deref()
    }

    /// An address at which the first user, who has no password yet, is signed
    /// in to the console. It is good once, for an hour.
    ///
    /// # Errors
    /// [`StartError::Folder`] where the database can't be read.
    pub async fn console_link(&self) -> Result<String, StartError> {
        let code = accounts::sign_in_code(&self.app, FIRST_USER).await;
        let code = code.map_err(|e| bad_folder(Path::new("database"), e))?;
        Ok(match code {
            Some(code) => format!("{}/console/signin?code={code}", self.url()),
            None => format!("{}/console/", self.url()),
        })
    }

    /// Makes another token, as [`create_token`] does.
    ///
    /// # Errors
    /// [`StartError::Folder`] where the database can't be written.
    pub async fn create_token(&self, user: &str, name: &str) -> Result<String, StartError> {
        let made = self
            .app
            .database
            .create_token(user.to_owned(), name.to_owned(), Scope::All);
        made.await.map_err(|e| bad_folder(Path::new("database"), e))
    }

    /// Stops in order: runs in progress make a checkpoint and pause, for as long
    /// as [`Settings::grace`] allows; where the data is kept, they go on when a
    /// server is started there again. Then requests end.
    pub async fn stop(mut self) {
        self.app.begin_to_stop().await;
        if let Some(mut queue) = self.queue.take() {
            // Nobody goes on from a folder that goes away.
            let grace = match self._temporary {
                Some(_) => std::time::Duration::ZERO,
                None => self.app.settings.grace,
            };
            if tokio::time::timeout(grace, &mut queue).await.is_err() {
                queue.abort();
                // It may still be in the middle of a look.
                let _ = queue.await;
                // A folder that goes away has no next server.
                let everything =
                    self._temporary.is_some() || !self.engine.launcher.outlives_the_server();
                queue::end_all(&self.app, &self.engine, everything).await;
            }
        }
        self.app.write_uses().await;
        let _ = self.stop.send(true);
        for task in self.serving.drain(..) {
            // A panic was told before.
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
