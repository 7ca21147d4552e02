//! The worker's first call.
//!
//! Whoever submits a job hands it a start token, which may lie in a script, a
//! file or a secret of the engine. The worker exchanges it at once for a token
//! that it makes itself and of which it tells the hash alone. So no answer carries
//! a secret, and the start token is worth nothing afterwards.

use serde_json::json;
use tokio::runtime::Builder;

use super::{
    calls::Server,
    signals::Signals,
    variables::{WORKER_START, WORKER_TOKEN},
};
use crate::{requests::Authorities, secret};

/// Reads the start token from its file, which is removed, or for a child process
/// from its variable.
pub(crate) fn token() -> Result<String, String> {
    let Ok(path) = std::env::var(WORKER_START) else {
        return std::env::var(WORKER_TOKEN)
            .map_err(|_| format!("neither {WORKER_START} nor {WORKER_TOKEN} is set"));
    };
    let token = std::fs::read_to_string(&path)
        .map_err(|e| format!("the start token can't be read from {path}: {e}"))?;
    // Some engines mount it in a place that can't be written.
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!("The file of the start token stays: {path}: {error}");
    }
    Ok(token.trim().to_owned())
}

/// Exchanges the start token, unless the worker is told to stop. Returns the server
/// as it is called with the token that came of it.
pub(super) fn exchange(
    url: &str,
    start_token: String,
    authorities: &Authorities,
    signals: &Signals,
) -> Result<Server, String> {
    let token = secret::new_token();
    let body = json!({"token_sha256": secret::hex(&secret::hash(&token))});
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let server = Server::new(url, start_token, authorities)?;
    let exchange = server.send(|| server.post("start").json(&body));
    let exchanged = runtime.block_on(signals.unless_interrupted(exchange));
    let exchanged = exchanged.map_err(|_| "the worker was told to stop before it began")?;
    exchanged.map_err(|e| format!("the worker could not begin: {e}"))?;
    Server::new(url, token, authorities)
}
