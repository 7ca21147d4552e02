//! The command line, `finetuner-server`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    Server, create_token,
    server::{DEFAULT_ADDRESS, FIRST_USER},
    worker::{self, WORKER_TOKEN, WORKER_URL},
};

/// Fine-tunes embedding models for Finetuner clients.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Answer clients and train their models.
    Serve {
        /// Where to listen.
        #[arg(long, env = "FINETUNER_ADDRESS", default_value = DEFAULT_ADDRESS)]
        address: String,
        /// Where data and models are kept.
        #[arg(long, env = "FINETUNER_DATA", default_value = "finetuner-data")]
        data: PathBuf,
        /// How many runs may go on at once.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        runs_at_once: u16,
        /// Let runs start from models in any folder of this machine.
        #[arg(long)]
        local_models: bool,
    },
    /// Make a token for a client, and print it.
    Token {
        /// Whose token it is; a new name makes a new user.
        #[arg(default_value = FIRST_USER)]
        user: String,
        /// What the token is for.
        #[arg(long, default_value = "token")]
        name: String,
        /// The folder of the server's data.
        #[arg(long, env = "FINETUNER_DATA", default_value = "finetuner-data")]
        data: PathBuf,
    },
    /// Carry out one run; the server starts this itself.
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        local_models: bool,
    },
}

impl Command {
    /// Does what the command line says, and prints what went wrong.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.action {
            Action::Worker { local_models } => work(local_models),
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
}

fn work(local_models: bool) -> Result<(), String> {
    let variable = |name| std::env::var(name).map_err(|_| format!("{name} is not set"));
    worker::run(
        &variable(WORKER_URL)?,
        variable(WORKER_TOKEN)?,
        local_models,
        None,
    )
}

async fn act(action: Action) -> Result<(), String> {
    match action {
        Action::Serve {
            address,
            data,
            runs_at_once,
            local_models,
        } => {
            let server = Server::standalone(data.clone())
                .address(address)
                .runs_at_once(runs_at_once.into())
                .local_models(local_models)
                .start()
                .await
                .map_err(|e| e.to_string())?;
            println!("Finetuner is ready at {}", server.url());
            println!("Data and models are kept in {}", data.display());
            match server.first_token() {
                Some(token) => println!(
                    "Token, shown this once: {token}\n\n\
                     export JINA_FINETUNER_REGISTRY={}\nexport JINA_AUTH_TOKEN={token}",
                    server.url()
                ),
                None => println!("`finetuner-server token` makes a token"),
            }
            ended().await;
            println!("Stopping");
            server.stop().await;
            Ok(())
        }
        Action::Token { user, name, data } => {
            // A typing error must not make a new server's folder.
            if !data.join("finetuner.sqlite").is_file() {
                return Err(format!("{} holds no data of a server", data.display()));
            }
            let token = create_token(&data, &user, &name)
                .await
                .map_err(|e| e.to_string())?;
            println!("{token}");
            Ok(())
        }
        Action::Worker { .. } => Ok(()),
    }
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
