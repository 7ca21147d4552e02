//! The worker's first call, which exchanges the start token.
//!
//! The launcher passes a start token, which may be in a script, a file or a
//! secret of the engine. The worker exchanges it at once for a token that it
//! generates itself. It sends only that token's hash, so no answer contains a
//! secret, and the start token is worthless afterwards.

use serde_json::json;
use tokio::runtime::Builder;

use super::{
    calls::Server,
    signals::Signals,
    variables::{WORKER_START, WORKER_TOKEN},
};
use crate::{requests::Authorities, secret};

/// Reads the start token from its file and deletes the file. For a child
/// process, reads it from its variable.
pub(crate) fn token() -> Result<String, String> {
    let Ok(path) = std::env::var(WORKER_START) else {
        return std::env::var(WORKER_TOKEN)
            .map_err(|_| format!("neither {WORKER_START} nor {WORKER_TOKEN} is set"));
    };
    let token = std::fs::read_to_string(&path)
        .map_err(|e| format!("the start token can't be read from {path}: {e}"))?;
    // Some engines mount the file in a read-only folder.
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!("The start token's file {path} can't be deleted: {error}");
    }
    Ok(token.trim().to_owned())
}

/// Exchanges the start token unless the worker is told to stop. Returns a
/// client with the new token.
pub(super) fn exchange(
    url: &str,
    start_token: String,
    authorities: &Authorities,
    signals: &Signals,
) -> Result<Server, String> {
    let token = secret::new_token();
    let body = json!({"token_sha256": hex::encode(secret::hash(&token))});
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let server = Server::new(url, start_token, authorities)?;
    let exchange = server.send(|| server.post("start").json(&body));
    let exchanged = runtime.block_on(signals.unless_interrupted(exchange));
    let exchanged = exchanged.map_err(|_| "the worker was told to stop before it started")?;
    exchanged.map_err(|e| format!("the worker could not start: {e}"))?;
    Server::new(url, token, authorities)
}
