//! Logging in through a browser: the backend sends the address of a page, then,
//! once the user has logged in there, what to exchange for a token. Both come
//! as lines of JSON on one connection.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{
    error::{Error, Result},
    secret::Secret,
    transport::{Call, Transport},
};

/// How long the user may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most that a line may have.
const MAX_LINE: usize = 64 << 10;

/// Is told the page to log in at.
pub(crate) type Link = Arc<dyn Fn(&Url) + Send + Sync>;

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    data: Value,
}

/// Gets a token for whoever logs in at the page that `show` is told.
pub(crate) async fn browser_login(transport: &Transport, show: &Link) -> Result<Secret> {
    let call = Call::rpc("user.identity.proxiedAuthorize")
        .method(Method::GET)
        .query("prompt", "login")
        .repeatable()
        .streaming();
    let answer = match transport.open(call).await {
        // The page where users log in is something that not every backend has.
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
        // The last line may have no end.
        handle(&buffer, show)?
            .ok_or_else(|| Error::login("the server ended it before the user did"))
    };
    let data = match tokio::time::timeout(PATIENCE, authorized).await {
        Ok(data) => data?,
        Err(_) => return Err(Error::login("nobody logged in within ten minutes")),
    };

    #[derive(Deserialize)]
    struct Grant {
        token: String,
    }
    // What was given can be exchanged once.
    let call = Call::rpc("user.identity.grant.auto").json(data);
    let Grant { token } = transport.rpc(call).await?;
    Ok(token.into())
}

/// What to exchange for a token, where the line is that.
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

/// Opens the page in the user's browser and prints its address, in case that
/// does not work or the browser is elsewhere.
pub(crate) fn open_and_print(page: &Url) {
    eprintln!("Log in at this page to go on:\n  {page}");
    if let Err(error) = open::that_detached(page.as_str()) {
        tracing::debug!("no browser could be opened: {error}");
    }
}
