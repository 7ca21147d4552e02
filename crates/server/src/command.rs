//! The command line of `finetuner-server`.

mod data;
mod options;
mod users;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use self::{
    data::{Data, StoreAddress},
    options::Options,
    users::UserAction,
};
use crate::{
    Server, backup, check,
    database::{AuditFilter, Scope, csv},
    restore,
    server::FIRST_USER,
    settings_file::{LogFormat, SettingsFile},
    worker::{self, DEFAULT_FOLDER_PREFIX, Place, Signals, WORKER_FOLDER, WORKER_URL},
};

/// Fine-tunes embedding models for Finetuner clients.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
    /// Format of the log on standard error; text by default.
    #[arg(long, global = true, env = "FINETUNER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// A settings file with a key for every option; `config` prints one. Options
    /// and environment variables take precedence over the file.
    #[arg(long, global = true, value_name = "FILE", env = "FINETUNER_SETTINGS")]
    settings: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serve clients and train their models.
    Serve(Box<Options>),
    /// Print the settings that result from this command line, the environment and
    /// `--settings` as a settings file, with a comment for each key.
    Config(Box<Options>),
    /// Create a token for a client and print it.
    Token {
        /// Owner of the token; an unknown name creates a user.
        #[arg(default_value = FIRST_USER)]
        user: String,
        /// Label of the token.
        #[arg(long, default_value = "token")]
        name: String,
        /// Calls that the token permits.
        #[arg(long, default_value = "all")]
        scope: TokenScope,
        #[command(flatten)]
        data: Data,
    },
    /// Manage the users of the server.
    User {
        #[command(subcommand)]
        action: UserAction,
    },
    /// Print the audit log as CSV, the newest entries first.
    Audit {
        /// Only actions of this user.
        #[arg(long)]
        person: Option<String>,
        /// Only actions in this project.
        #[arg(long)]
        project: Option<String>,
        /// Only actions whose names begin with this, such as `run` or `signin.failed`.
        #[arg(long)]
        action: Option<String>,
        /// Maximum number of entries.
        #[arg(long, default_value_t = 1000)]
        limit: u64,
        #[command(flatten)]
        data: Data,
    },
    /// Verify all data: the database, and the SHA-256 of every artifact.
    Check {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        store: StoreAddress,
    },
    /// Copy all data to another folder; the server may be running.
    Backup {
        /// Folder to copy to. Unchanged files of an earlier backup are kept.
        target: PathBuf,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        store: StoreAddress,
    },
    /// Copy a backup to a new data folder, which can then be served.
    Restore {
        /// Folder of the backup.
        source: PathBuf,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        store: StoreAddress,
    },
    /// Carry out one run; the server starts this itself.
    #[command(hide = true)]
    Worker {
        /// Name of the job, for people who list processes.
        name: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TokenScope {
    /// All calls.
    All,
    /// Calls that only read.
    Read,
}

impl Command {
    /// Executes the command and prints an error, if there is one.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.act().map_or_else(
            |error| {
                let _ = writeln!(std::io::stderr(), "finetuner-server: {error}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        )
    }

    fn act(self) -> Result<(), String> {
        if let Action::Worker { .. } = self.action {
            begin_log(self.log_format.unwrap_or_default());
            return work();
        }
        let mut settings = SettingsFile::read(self.settings.as_deref())?;
        if let Some(format) = self.log_format {
            settings.server.log_format = format;
        }
        begin_log(settings.server.log_format);
        let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
        runtime.block_on(act(self.action, settings))
    }
}

fn begin_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Without this, an error of the log itself would panic when standard error is
        // closed.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn work() -> Result<(), String> {
    let signals = Signals::of_this_process();
    let signals = signals.map_err(|e| format!("signals can't be received: {e}"))?;
    let variable = |name| std::env::var(name).map_err(|_| format!("{name} is not set"));
    worker::run(
        &variable(WORKER_URL)?,
        worker::start_token()?,
        &variable(WORKER_FOLDER).unwrap_or_else(|_| DEFAULT_FOLDER_PREFIX.to_owned()),
        worker::authorities_of_this_process()?,
        signals,
        Place::Process,
    )
}

async fn act(action: Action, file: SettingsFile) -> Result<(), String> {
    match action {
        Action::Serve(options) => serve(&options.over(file)).await,
        Action::Config(options) => {
            print!("{}", options.over(file).text()?);
            Ok(())
        }
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
            let database = data.open(&file)?;
            let made = database.create_token(user, name, scope).await;
            println!("{}", made.map_err(|e| e.to_string())?);
            Ok(())
        }
        Action::User { action } => action.act(&file).await,
        Action::Audit {
            person,
            project,
            action,
            limit,
            data,
        } => {
            let filter = AuditFilter {
                person,
                project,
                action,
                before: None,
                limit,
            };
            let entries = data.open(&file)?.audit(filter).await;
            let text = csv(&entries.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            // A reader such as `head` may close the pipe.
            let _ = std::io::stdout().lock().write_all(&text);
            Ok(())
        }
        Action::Check { data, store } => {
            let report = check(data.folder(&file), store.address(&file)).await;
            let report = report.map_err(|e| e.to_string())?;
            println!("{} contents are undamaged", report.good);
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
            let copied = backup(data.folder(&file), store.address(&file), &target).await;
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
            let folder = data.folder(&file);
            let restored = restore(&source, folder, store.address(&file)).await;
            let restored = restored.map_err(|e| e.to_string())?;
            println!(
                "{restored} contents and the database are in {}",
                folder.display()
            );
            Ok(())
        }
        Action::Worker { .. } => Ok(()),
    }
}

async fn serve(file: &SettingsFile) -> Result<(), String> {
    let SettingsFile {
        server: own, runs, ..
    } = file;
    for folder in &runs.local_models {
        if !folder.is_dir() {
            return Err(format!(
                "`--local-models {}`: this is not a folder. Give folders that contain models",
                folder.display()
            ));
        }
    }
    let mut server = Server::standalone(own.data.clone(), file.launcher.clone())
        .address(own.address.clone())
        .settings(file.settings());
    if let Some(store) = &own.store {
        server = server.store(store);
    }
    match (&own.tls_cert, &own.tls_key) {
        (Some(certificate), Some(key)) => server = server.tls(certificate, key),
        (None, None) => {}
        _ => {
            let reason = "`server.tls_cert` and `server.tls_key`: give both or neither";
            return Err(reason.to_owned());
        }
    }
    // A program that reads the ready message may stop the server at once.
    let stopped = stop_signal();
    let server = server.start().await.map_err(|e| e.to_string())?;
    say(&format!("Finetuner is ready at {}", server.url()));
    say(&format!(
        "Data and models are kept in {}",
        own.data.display()
    ));
    match server.first_token() {
        Some(token) => {
            say(&format!(
                "Token, shown this once: {token}\n\n\
                 export JINA_FINETUNER_REGISTRY={}\nexport JINA_AUTH_TOKEN={token}\n",
                server.url()
            ));
            let link = server.console_link().await.map_err(|e| e.to_string())?;
            say(&format!("Console (signs in once, within an hour): {link}"));
        }
        None => {
            say(&format!("Console: {}/console/", server.url()));
            say("`finetuner-server token` creates a token");
        }
    }
    stopped.await;
    say("Stopping");
    server.stop().await;
    Ok(())
}

/// Writes a line to standard output. Ignores a closed pipe, so that the server
/// still stops in order.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Returns a future that waits for Ctrl-C or SIGTERM. Signals count from this call
/// on.
#[cfg(unix)]
fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};

    let signals = signal(SignalKind::terminate()).ok();
    let signals = signals.zip(signal(SignalKind::interrupt()).ok());
    async move {
        // Without signal handling, the server runs until it is killed.
        let Some((mut terminate, mut interrupt)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
async fn stop_signal() {
    // Without signal handling, the server runs until it is killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
