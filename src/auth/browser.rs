//! Login through a browser.
//!
//! The backend sends the address of a login page, and once the user has logged in
//! there, data to exchange for a token. Both arrive as lines of JSON on one
//! connection.

use std::{io::Write, sync::Arc, time::Duration};

use futures_util::StreamExt;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{
    error::{Error, Result},
    secret::Secret,
    transport::{Call, Transport, private_rpc},
};

/// Time limit for the user.
const PATIENCE: Duration = Duration::from_secs(600);
/// Maximum length of a line in bytes.
const MAX_LINE: usize = 64 << 10;

/// Callback that shows the login page to the user.
pub(crate) type Link = Arc<dyn Fn(&Url) + Send + Sync>;

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    data: Value,
}

/// Returns a token for the user who logs in at the page that `show` gets.
pub(crate) async fn browser_login(transport: &Transport, show: &Link) -> Result<Secret> {
    let call = Call::rpc("user.identity.proxiedAuthorize")
        .method(Method::GET)
        .query("prompt", "login")
        .repeatable()
        .streaming();
    let answer = match transport.open(call).await {
        // Not every backend has a login page.
        Err(error) if error.is_not_found() => return Err(Error::not_logged_in()),
        answer => answer?,
    };
    let mut stream = answer.bytes_stream();
    let mut buffer = Vec::new();
    let authorized = async {
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|e| Error::transport(e, PATIENCE))?;
            buffer.extend_from_slice(&bytes);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if let Some(data) = handle(&line, show)? {
                    return Ok(data);
                }
            }
            if buffer.len() > MAX_LINE {
                return Err(Error::decode("a line without an end", &buffer));
            }
        }
        // The last line may lack a line break.
        handle(&buffer, show)?.ok_or_else(|| {
            Error::login("the server closed the connection before the user logged in")
        })
    };
    let data = match tokio::time::timeout(PATIENCE, authorized).await {
        Ok(data) => data?,
        Err(_) => return Err(Error::login("nobody logged in within ten minutes")),
    };

    #[derive(Deserialize)]
    struct Grant {
        token: String,
    }
    // The data can be exchanged only once, so this call is not repeated.
    let call = Call::rpc("user.identity.grant.auto").json(data);
    let Grant { token } = private_rpc(transport, call).await?;
    Ok(token.into())
}

/// Handles a line; returns the data to exchange for a token if the line has it.
fn handle(line: &[u8], show: &Link) -> Result<Option<Value>> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let Event { event, data } = serde_json::from_slice(line).map_err(|e| Error::decode(e, b""))?;
    match event.as_str() {
        "redirect" => {
            let page = data["redirectTo"].as_str().map(Url::parse);
            match page {
                Some(Ok(page)) if matches!(page.scheme(), "http" | "https") => show(&page),
                _ => return Err(Error::decode("no address of a page", b"")),
            }
            Ok(None)
        }
        "authorize" => Ok(Some(data)),
        "error" => Err(Error::login(match &data {
            Value::String(text) => text.clone(),
            data => {
                let message = data["message"].as_str().or(data["error"].as_str());
                message.map_or_else(|| data.to_string(), str::to_owned)
            }
        })),
        _ => Ok(None),
    }
}

/// Opens the page in the user's browser, and prints its address in case no
/// browser opens or the user prefers another one.
pub(crate) fn open_and_print(page: &Url) {
    // `eprintln!` would panic if standard error is closed.
    let _ = writeln!(
        std::io::stderr().lock(),
        "Log in at this page to continue:\n  {page}"
    );
    if let Err(error) = open::that_detached(page.as_str()) {
        tracing::debug!("no browser could be opened: {error}");
    }
}
