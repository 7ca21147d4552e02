//! The command line, `finetuner-server`.

use std::{
    io::{BufRead, IsTerminal},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use crate::{
    LocalModels, Server, Settings, accounts, backup, check,
    database::{Database, Scope},
    launcher::{Account, Processes},
    restore,
    server::{DEFAULT_ADDRESS, FIRST_USER, attach_database},
    worker::{self, ANY_FOLDER, Place, WORKER_FOLDER, WORKER_TOKEN, WORKER_URL},
};

/// Fine-tunes embedding models for Finetuner clients.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
    /// How the log on standard error is written.
    #[arg(
        long,
        global = true,
        env = "FINETUNER_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Answer clients and train their models.
    Serve(Box<Serve>),
    /// Make a token for a client, and print it.
    Token {
        /// Whose token it is; a new name makes a new user.
        #[arg(default_value = FIRST_USER)]
        user: String,
        /// What the token is for.
        #[arg(long, default_value = "token")]
        name: String,
        /// What it is good for.
        #[arg(long, default_value = "all")]
        scope: TokenScope,
        #[command(flatten)]
        data: Data,
    },
    /// Look after those who may use the server.
    User {
        #[command(subcommand)]
        action: UserAction,
    },
    /// Verify all data: the database, and the SHA-256 of every artifact.
    Check {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        store: StoreAddress,
    },
    /// Copy all data into another folder; the server may run meanwhile.
    Backup {
        /// The folder to copy into. What it has from an earlier copy is kept.
        target: PathBuf,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        store: StoreAddress,
    },
    /// Copy a backup into a new data folder, which can be served then.
    Restore {
        /// The folder that `backup` copied into.
        source: PathBuf,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        store: StoreAddress,
    },
    /// Carry out one run; the server starts this itself.
    #[command(hide = true)]
    Worker,
}

#[derive(Debug, clap::Args)]
struct Data {
    /// The folder of the server's data.
    #[arg(long, env = "FINETUNER_DATA", default_value = "finetuner-data")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
struct StoreAddress {
    /// Where artifacts are kept, such as s3://bucket/folder; in the data folder
    /// by default.
    #[arg(long, env = "FINETUNER_STORE")]
    store: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TokenScope {
    /// Everything.
    All,
    /// Looking at things.
    Read,
}

#[derive(Debug, Subcommand)]
enum UserAction {
    /// Make a user, and print a token of theirs.
    Add {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Set the password that a user signs in to the console with; it is read
    /// from standard input.
    Password {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// List all users.
    List {
        #[command(flatten)]
        data: Data,
    },
    /// Delete a user with all runs, data and models.
    Delete {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where to listen.
    #[arg(long, env = "FINETUNER_ADDRESS", default_value = DEFAULT_ADDRESS)]
    address: String,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    store: StoreAddress,
    /// A certificate in PEM form, to speak https.
    #[arg(long, env = "FINETUNER_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM form.
    #[arg(long, env = "FINETUNER_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How many runs may go on at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs_at_once: u16,
    /// A folder whose models runs may start from; may be given several times.
    /// `/` stands for every folder of this machine.
    #[arg(
        long,
        value_name = "FOLDER",
        env = "FINETUNER_LOCAL_MODELS",
        value_delimiter = ':'
    )]
    local_models: Vec<PathBuf>,
    /// The most MiB of a model that a run fetches from the model hub.
    #[arg(long, default_value_t = 16 << 10)]
    max_hub_download: u64,
    /// A variable of the server's environment that workers get too; may be given
    /// several times. They get no keys and tokens otherwise.
    #[arg(long, value_name = "NAME")]
    worker_env: Vec<String>,
    /// The user of this machine, by name or number, whose processes workers are.
    /// The server must run as root for that.
    #[arg(long, value_name = "USER")]
    worker_user: Option<String>,
    /// Let runs fetch pictures from this machine and private networks, and report to
    /// trackers there.
    #[arg(long)]
    private_addresses: bool,
    /// Seconds of silence after which a worker counts as lost.
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    lease: f64,
    /// How many workers a run may lose before it counts as failed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// Seconds between two checkpoints of a run.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    checkpoint_every: f64,
    /// The most seconds that a run may take.
    #[arg(long, value_parser = seconds)]
    max_run_time: Option<f64>,
    /// The most MiB of memory that a run may use.
    #[arg(long)]
    max_run_memory: Option<u64>,
    /// The most MiB that a run's files may take.
    #[arg(long)]
    max_run_disk: Option<u64>,
    /// The most runs of one user that wait or train at a time.
    #[arg(long, env = "FINETUNER_MAX_OPEN_RUNS", value_parser = clap::value_parser!(u64).range(1..))]
    max_open_runs: Option<u64>,
    /// The most uploads of one user that are in progress at a time.
    #[arg(long, env = "FINETUNER_MAX_UPLOADS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_uploads: u16,
    /// The most MiB of data, models and checkpoints that one user may store.
    #[arg(long, env = "FINETUNER_MAX_STORED")]
    max_stored: Option<u64>,
    /// MiB of the disk that are kept for runs in progress: new uploads and runs
    /// are refused when there is less room. By default 512, or a twentieth of a
    /// smaller disk.
    #[arg(long, env = "FINETUNER_DISK_RESERVE")]
    disk_reserve: Option<u64>,
    /// Addresses or networks of proxies whose `Forwarded` and `X-Forwarded-For`
    /// headers are believed, such as 127.0.0.1,10.0.0.0/8.
    #[arg(long, env = "FINETUNER_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    trusted_proxies: Vec<IpNet>,
    /// Let workers fetch data, models and checkpoints from S3 itself, by addresses
    /// that are good for some minutes. They must reach it where the server does.
    #[arg(long, env = "FINETUNER_PRESIGNED")]
    presigned: bool,
    /// Seconds that runs have to pause when the server is told to stop.
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    grace: f64,
}

/// A number of seconds that can be waited for.
fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    match (0.0..=1e9).contains(&number) {
        true => Ok(number),
        false => Err("0 to 1000000000 seconds are possible".to_owned()),
    }
}

/// An address, or a network such as `10.0.0.0/8`.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| "give an address such as 10.0.0.1, or a network such as 10.0.0.0/8".to_owned())
}

impl Serve {
    fn settings(&self) -> Settings {
        Settings {
            runs_at_once: self.runs_at_once.into(),
            local_models: match self.local_models.as_slice() {
                [] => LocalModels::Nowhere,
                folders if folders.iter().any(|folder| folder == Path::new("/")) => {
                    LocalModels::Anywhere
                }
                folders => LocalModels::In(folders.to_vec()),
            },
            max_hub_download: Some(self.max_hub_download << 20),
            private_addresses: self.private_addresses,
            lease: Duration::from_secs_f64(self.lease),
            attempts: self.attempts,
            checkpoint_every: Duration::from_secs_f64(self.checkpoint_every),
            max_run_time: self.max_run_time.map(Duration::from_secs_f64),
            max_run_memory: self.max_run_memory.map(|mib| mib << 20),
            max_run_disk: self.max_run_disk.map(|mib| mib << 20),
            max_open_runs: self.max_open_runs,
            max_uploads: self.max_uploads.into(),
            max_stored: self.max_stored.map(|mib| mib.saturating_mul(1 << 20)),
            disk_reserve: self.disk_reserve.map(|mib| mib.saturating_mul(1 << 20)),
            trusted_proxies: self.trusted_proxies.clone(),
            presigned: self.presigned,
            grace: Duration::from_secs_f64(self.grace),
        }
    }
}

impl Command {
    /// Does what the command line says, and prints what went wrong.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.begin_log();
        match self.action {
            Action::Worker => work(),
            action => match tokio::runtime::Runtime::new() {
                Ok(runtime) => runtime.block_on(act(action)),
                Err(error) => Err(error.to_string()),
            },
        }
        .map_or_else(
            |error| {
                eprintln!("finetuner-server: {error}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        )
    }

    fn begin_log(&self) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
    }
}

fn work() -> Result<(), String> {
    let variable = |name| std::env::var(name).map_err(|_| format!("{name} is not set"));
    worker::run(
        &variable(WORKER_URL)?,
        variable(WORKER_TOKEN)?,
        &variable(WORKER_FOLDER).unwrap_or_else(|_| ANY_FOLDER.to_owned()),
        Arc::default(),
        Place::Process,
    )
}

async fn act(action: Action) -> Result<(), String> {
    match action {
        Action::Serve(options) => serve(*options).await,
        Action::Token {
            user,
            name,
            scope,
            data,
        } => {
            let scope = match scope {
                TokenScope::All => Scope::All,
                TokenScope::Read => Scope::Read,
            };
            let database = data.open()?;
            let made = database.create_token(user, name, scope).await;
            println!("{}", made.map_err(|e| e.to_string())?);
            Ok(())
        }
        Action::User { action } => user(action).await,
        Action::Check { data, store } => {
            let report = check(&data.data, store.store.as_deref()).await;
            let report = report.map_err(|e| e.to_string())?;
            println!("{} contents are whole", report.good);
            if report.unused_bytes > 0 {
                let bytes = report.unused_bytes;
                println!("{bytes} bytes are not needed; the server removes them when it starts");
            }
            match report.faults.as_slice() {
                [] => Ok(()),
                faults => Err(format!("{} faults:\n{}", faults.len(), faults.join("\n"))),
            }
        }
        Action::Backup {
            target,
            data,
            store,
        } => {
            let copied = backup(&data.data, store.store.as_deref(), &target).await;
            let copied = copied.map_err(|e| e.to_string())?;
            println!(
                "{copied} contents and the database are in {}",
                target.display()
            );
            Ok(())
        }
        Action::Restore {
            source,
            data,
            store,
        } => {
            let restored = restore(&source, &data.data, store.store.as_deref()).await;
            let restored = restored.map_err(|e| e.to_string())?;
            println!(
                "{restored} contents and the database are in {}",
                data.data.display()
            );
            Ok(())
        }
        Action::Worker => Ok(()),
    }
}

impl Data {
    /// The database of the folder, which must be that of a server: a typing
    /// error must not make a new one.
    fn open(&self) -> Result<Database, String> {
        attach_database(&self.data).map_err(|e| e.to_string())
    }
}

async fn user(action: UserAction) -> Result<(), String> {
    let failed = |e: rusqlite::Error| e.to_string();
    match action {
        UserAction::Add { name, data } => {
            let database = data.open()?;
            finetuner_protocol::check_name("name", &name).map_err(|e| e.to_string())?;
            if !database.add_user(name.clone()).await.map_err(failed)? {
                return Err(format!("there is a user `{name}` already"));
            }
            let made = database.create_token(name, "first".to_owned(), Scope::All);
            println!("{}", made.await.map_err(failed)?);
            Ok(())
        }
        UserAction::Password { name, data } => {
            let database = data.open()?;
            if std::io::stdin().is_terminal() {
                eprintln!("The new password of {name}, which is shown as you type it:");
            }
            let mut password = String::new();
            let read = std::io::stdin().lock().read_line(&mut password);
            read.map_err(|e| e.to_string())?;
            let hash = accounts::hash_password(password.trim_end_matches(['\r', '\n']))?;
            let set = database.set_password(name.clone(), hash);
            match set.await.map_err(failed)? {
                true => Ok(()),
                false => Err(format!("there is no user `{name}`")),
            }
        }
        UserAction::List { data } => {
            for (name, has_password) in data.open()?.users().await.map_err(failed)? {
                let password = if has_password { "" } else { " (no password)" };
                println!("{name}{password}");
            }
            Ok(())
        }
        UserAction::Delete { name, data } => {
            let deleted = data.open()?.delete_user(name.clone()).await;
            match deleted.map_err(failed)? {
                true => Ok(()),
                false => Err(format!("there is no user `{name}`")),
            }
        }
    }
}

async fn serve(options: Serve) -> Result<(), String> {
    let data = options.data.data.clone();
    for folder in &options.local_models {
        if !folder.is_dir() {
            return Err(format!(
                "`--local-models {}`: this is no folder. Name the folders that hold models",
                folder.display()
            ));
        }
    }
    let account = options.worker_user.as_deref().map(Account::find);
    let account = account
        .transpose()
        .map_err(|reason| format!("`--worker-user`: {reason}"))?;
    let processes = Processes::default()
        .pass_on(options.worker_env.clone())
        .run_as(account);
    let mut server = Server::standalone(data.clone(), processes)
        .address(options.address.clone())
        .settings(options.settings());
    if let Some(store) = &options.store.store {
        server = server.store(store);
    }
    if let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) {
        server = server.tls(certificate, key);
    }
    let server = server.start().await.map_err(|e| e.to_string())?;
    println!("Finetuner is ready at {}", server.url());
    println!("Data and models are kept in {}", data.display());
    match server.first_token() {
        Some(token) => {
            println!(
                "Token, shown this once: {token}\n\n\
                 export JINA_FINETUNER_REGISTRY={}\nexport JINA_AUTH_TOKEN={token}\n",
                server.url()
            );
            let link = server.console_link().await.map_err(|e| e.to_string())?;
            println!("Console, to sign in once within an hour: {link}");
        }
        None => {
            println!("Console: {}/console/", server.url());
            println!("`finetuner-server token` makes a token");
        }
    }
    ended().await;
    println!("Stopping");
    server.stop().await;
    Ok(())
}

/// Waits for Ctrl-C or for the signal to end.
async fn ended() {
    #[cfg(unix)]
    if let Ok(mut terminate) =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
    {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    // Without signals the server runs until it is killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
