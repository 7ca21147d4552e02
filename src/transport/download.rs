//! Downloads that resume after an interruption. At the end, length and SHA-256 are
//! compared with those that the server announced.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::{Method, Response, StatusCode, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    call::Call,
    private::private_rpc,
    progress::ProgressSink,
    retry::{Tries, may_repeat},
    send::Transport,
};
use crate::error::{Error, Result};

/// The content to download.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// An artifact, by id.
    Id(String),
    /// Data, by name.
    Name(String),
}

impl Expected {
    /// Requests the download address.
    async fn address(&self, transport: &Transport) -> Result<Url> {
        #[derive(Deserialize)]
        struct Answer {
            download: String,
        }
        // The Python clients use these two forms.
        let call = Call::rpc("artifact.getDownloadUrl").repeatable();
        let call = match self {
            Self::Id(id) => call.form(vec![("id", id.clone())]),
            Self::Name(name) => call.method(Method::GET).query("name", name),
        };
        let Answer { download } = private_rpc(transport, call).await?;
        transport.given_address(&download)
    }
}

/// Starts a download. `known` is the SHA-256 of the caller's copy; returns `None`
/// if the content has not changed.
pub(crate) async fn download(
    transport: &Transport,
    expected: Expected,
    known: Option<&str>,
    progress: ProgressSink,
) -> Result<Option<Download>> {
    let url = expected.address(transport).await?;
    let mut call = Call::download(url.clone());
    if let Some(known) = known {
        call = call.header("if-none-match", &format!("\"{known}\""));
    }
    let answer = transport.open(call).await?;
    if answer.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let length = text(&answer, header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
    let tag = text(&answer, header::ETAG);
    Ok(Some(Download {
        tries: Tries::new(transport.retry()),
        transport: transport.once(),
        expected,
        url,
        length,
        tag,
        received: 0,
        skip: 0,
        hasher: Sha256::new(),
        stream: Some(Box::pin(answer.bytes_stream())),
        progress,
    }))
}

fn text(answer: &Response, name: header::HeaderName) -> Option<String> {
    let value = answer.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// A download in progress.
pub(crate) struct Download {
    /// Makes each call once, because `tries` counts the attempts.
    transport: Transport,
    tries: Tries,
    expected: Expected,
    url: Url,
    length: Option<u64>,
    tag: Option<String>,
    received: u64,
    /// Bytes to skip on this connection, because they arrived on an earlier one.
    skip: u64,
    hasher: Sha256,
    stream: Option<Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>>,
    progress: ProgressSink,
}

impl Download {
    /// Returns the SHA-256 that the server announced, if any.
    pub(crate) fn announced_hash(&self) -> Option<&str> {
        let hash = self.tag.as_deref()?.trim_matches('"');
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then_some(hash)
    }

    /// Returns the next bytes; `None` once all have arrived and were verified.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.read().await {
                Ok(Some(bytes)) => {
                    let bytes = self.unseen(bytes);
                    if bytes.is_empty() {
                        continue;
                    }
                    self.tries.progressed();
                    self.received += bytes.len() as u64;
                    self.hasher.update(&bytes);
                    self.progress
                        .report(self.received, self.length, self.received);
                    return Ok(Some(bytes));
                }
                Ok(None) if self.length.is_some_and(|length| self.received < length) => {
                    let reason = format!(
                        "{} of {} bytes arrived; download it again",
                        self.received,
                        self.length.unwrap_or_default()
                    );
                    let error = Error::artifact(reason).at(&self.url);
                    self.again(error, true).await?;
                }
                Ok(None) => {
                    self.verify()?;
                    return Ok(None);
                }
                Err(error) => {
                    let allowed = may_repeat(&error, true);
                    self.again(error, allowed).await?;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.stream.is_none() {
            self.reconnect().await?;
        }
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let limit = self.transport.idle_timeout();
        match tokio::time::timeout(limit, stream.next()).await {
            Err(_) => Err(Error::timeout(limit).at(&self.url)),
            Ok(None) => Ok(None),
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(error))) => Err(Error::transport(error, limit).at(&self.url)),
        }
    }

    /// Requests the remaining bytes.
    async fn reconnect(&mut self) -> Result<()> {
        let mut rest = self.rest(self.url.clone());
        let answer = match self.transport.open(rest).await {
            // The address has expired.
            Err(error) if matches!(error.status(), Some(403 | 404 | 410)) => {
                self.url = self.expected.address(&self.transport).await?;
                rest = self.rest(self.url.clone());
                self.transport.open(rest).await?
            }
            answer => answer?,
        };
        if text(&answer, header::ETAG) != self.tag {
            return Err(changed().at(&self.url));
        }
        self.skip = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(&answer, header::CONTENT_RANGE);
                if range.is_some_and(|range| !self.continues(&range)) {
                    return Err(changed().at(&self.url));
                }
                0
            }
            // The server sends everything again.
            _ => self.received,
        };
        self.stream = Some(Box::pin(answer.bytes_stream()));
        Ok(())
    }

    /// Whether a `Content-Range` begins where the last connection broke, in content of
    /// the same length. Without a tag, nothing else shows that the content was replaced.
    fn continues(&self, range: &str) -> bool {
        let Some((range, total)) = range
            .split_once(' ')
            .filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"))
            .and_then(|(_, range)| range.split_once('/'))
        else {
            return false;
        };
        let start = range.split('-').next().map(str::parse::<u64>);
        let is_same = |length: u64| total == "*" || total.parse::<u64>() == Ok(length);
        start == Some(Ok(self.received)) && self.length.is_none_or(is_same)
    }

    /// Returns the call for the bytes that are still missing.
    fn rest(&self, url: Url) -> Call {
        let mut call = Call::download(url);
        if self.received > 0 {
            call = call.header("range", &format!("bytes={}-", self.received));
            if let Some(tag) = &self.tag {
                call = call.header("if-range", tag);
            }
        }
        call
    }

    /// Removes bytes that arrived on an earlier connection.
    fn unseen(&mut self, mut bytes: Bytes) -> Bytes {
        let seen = self.skip.min(bytes.len() as u64);
        self.skip -= seen;
        bytes.split_off(seen as usize)
    }

    /// Waits before the next attempt, or returns the error if there is none.
    async fn again(&mut self, error: Error, allowed: bool) -> Result<()> {
        self.stream = None;
        self.tries.again(error, allowed).await
    }

    fn verify(&self) -> Result<()> {
        if let Some(length) = self.length.filter(|length| self.received > *length) {
            let reason = format!("{} bytes arrived, {length} were announced", self.received);
            return Err(Error::artifact(reason).at(&self.url));
        }
        let found = hex::encode(self.hasher.clone().finalize());
        if self
            .announced_hash()
            .is_some_and(|hash| !hash.eq_ignore_ascii_case(&found))
        {
            let reason = "its SHA-256 is not the one that the server announced; download it again";
            return Err(Error::artifact(reason).at(&self.url));
        }
        Ok(())
    }
}

fn changed() -> Error {
    Error::artifact("it changed during the download; download it again")
}
