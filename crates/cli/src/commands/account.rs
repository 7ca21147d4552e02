//! `login`, `logout`, `whoami`.

use std::io::{IsTerminal, Read};

use clap::Args;
use finetuner::{Finetuner, User};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    output::{self, Output},
    session::Session,
};

/// Maximum length of a token in bytes.
const MAX_TOKEN: u64 = 64 << 10;

/// `login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Read the token from standard input instead of using the browser
    #[arg(long, conflicts_with_all = ["force", "no_browser"])]
    token_stdin: bool,
    /// Log in again even if there is a valid token
    #[arg(long)]
    force: bool,
    /// Only print the address of the login page
    #[arg(long)]
    no_browser: bool,
}

impl Login {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        refuse_embedded(session, "login")?;
        let mut login = session.builder().login().force(self.force);
        if self.token_stdin {
            login = login.paste(read_token().await?);
        }
        if self.no_browser {
            login = login
                .interactive(true)
                .on_link(|page| output::ask(&format!("Log in at {page}\n")));
        }
        let finetuner = login.await?;
        let user = known(&finetuner).await?;
        output.either(&as_json(&user), || {
            format!("Logged in as {}", output::without_controls(&user.name))
        })
    }
}

/// Reads the token from standard input. It is not an option, because other programs
/// can see options.
async fn read_token() -> Result<String> {
    let read = tokio::task::spawn_blocking(|| {
        let input = std::io::stdin();
        if input.is_terminal() {
            output::ask("Paste the token (it is visible), then press Enter and Ctrl-D:\n");
        }
        let mut token = String::new();
        let read = input.lock().take(MAX_TOKEN).read_to_string(&mut token);
        read.map(|_| token)
    });
    let token = read
        .await?
        .map_err(|e| Failure::usage(format!("`--token-stdin`: {e}")))?;
    match token.trim() {
        "" => Err(Failure::usage(
            "`--token-stdin`: there is nothing on standard input. Write the token there, as in \
             `finetuner login --token-stdin < token.txt`",
        )),
        token => Ok(token.to_owned()),
    }
}

pub(crate) async fn logout(session: &Session, output: &Output) -> Result {
    refuse_embedded(session, "logout")?;
    session.connect().await?.logout().await?;
    let is_set = std::env::var_os(finetuner::TOKEN_VARIABLE).is_some_and(|token| !token.is_empty());
    if is_set {
        output.note(
            "JINA_AUTH_TOKEN still contains the token of the ended session. No stored token \
             was changed",
        );
    }
    output.either(&json!({"logged_out": true}), || "Logged out".to_owned())
}

pub(crate) async fn whoami(session: &Session, output: &Output) -> Result {
    let user = session.connect().await?.whoami().await?;
    output.either(&as_json(&user), || {
        output::without_controls(&format!("{} ({})", user.name, user.id))
    })
}

async fn known(finetuner: &Finetuner) -> Result<User> {
    match finetuner.user() {
        Some(user) => Ok(user.clone()),
        None => Ok(finetuner.whoami().await?),
    }
}

fn as_json(user: &User) -> Value {
    json!({"id": user.id, "name": user.name, "nickname": user.nickname})
}

fn refuse_embedded(session: &Session, command: &str) -> Result {
    match session.is_embedded() {
        true => Err(Failure::usage(format!(
            "`--embedded` needs no {command}: the backend is inside this program. Leave the \
             option out"
        ))),
        false => Ok(()),
    }
}
