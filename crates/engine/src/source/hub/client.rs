//! HTTP client for the hub, with retries if it is busy.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use sha2::{Digest, Sha256};
use ureq::{Agent, Body, config::RedirectAuthHeaders, http::Response};

use super::cache::is_plain;

/// Attempts without progress before giving up on a file.
const ATTEMPTS: u32 = 5;
/// Attempts of [`Client::for_peeking`], while a user waits, and the time to wait
/// for the start of a response.
const PEEKING: (u32, Duration) = (2, Duration::from_secs(10));
/// Largest file that [`Client::read`] accepts, in bytes.
const LARGEST_READ: u64 = 4 << 20;
/// First pause between attempts; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Time to wait for the start of a response.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest pause, even if the hub asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Metadata of a file on the hub.
pub(super) struct FileInfo {
    pub(super) commit: String,
    /// SHA-256 of a large file, or another hash of a small one.
    pub(super) etag: String,
    pub(super) size: u64,
}

pub(super) enum Answer {
    Found(FileInfo),
    /// The commit has no such file. Holds the commit if the hub names it.
    Absent(Option<String>),
}

/// The reason why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection: this machine is offline, or configured to be.
    Unreachable(String),
    /// The hub is too slow or overloaded.
    Busy(String),
    NoRepository,
    NoRevision,
    Forbidden(u16),
    /// An invalid response, or corrupt content.
    Wrong(String),
}

/// An HTTP client for the hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    /// The endpoint without credentials, for messages.
    shown: String,
    token: Option<String>,
    offline: bool,
    attempts: u32,
    pause: Duration,
}

impl Client {
    /// Reads `HF_ENDPOINT`, which names another hub, and `HF_HUB_OFFLINE`,
    /// which disables requests.
    pub(super) fn from_env(token: Option<String>) -> Self {
        Self::with_patience(token, PATIENCE)
    }

    /// Like [`Client::from_env`], but gives up sooner.
    pub(super) fn for_peeking(token: Option<String>) -> Self {
        let (attempts, patience) = PEEKING;
        Self {
            attempts,
            ..Self::with_patience(token, patience)
        }
    }

    fn with_patience(token: Option<String>, patience: Duration) -> Self {
        let endpoint = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|url| !url.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
        let offline = ["1", "ON", "YES", "TRUE"].contains(&offline.to_uppercase().as_str());
        Self::new(&endpoint, token, offline, FIRST_PAUSE, patience)
    }

    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        offline: bool,
        pause: Duration,
        patience: Duration,
    ) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("finetuner/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(patience))
            // After the timeout, the download resumes after the received bytes.
            .timeout_recv_body(Some(Duration::from_secs(120)))
            .build();
        let endpoint = endpoint.trim_end_matches('/');
        let shown = match endpoint.split_once("://") {
            Some((scheme, rest)) => {
                let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                format!("{scheme}://{host}")
            }
            None => endpoint.to_owned(),
        };
        Self {
            agent: config.into(),
            endpoint: endpoint.to_owned(),
            shown,
            token,
            offline,
            attempts: ATTEMPTS,
            pause,
        }
    }

    /// Requests the metadata of a file.
    pub(super) fn file_info(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
    ) -> Result<Answer, Failure> {
        if self.offline {
            return Err(Failure::Unreachable("HF_HUB_OFFLINE is set".to_owned()));
        }
        let mut attempt = 0;
        loop {
            let failure = match self.head(&self.address(repo, revision, file)) {
                Ok(response) => match self.read_file_info(&response) {
                    Err(Failure::Busy(reason)) => (reason, retry_after(&response)),
                    answer => return answer,
                },
                Err(Failure::Busy(reason)) => (reason, None),
                Err(failure) => return Err(failure),
            };
            attempt += 1;
            self.wait(attempt, failure)?;
        }
    }

    fn read_file_info(&self, response: &Response<Body>) -> Result<Answer, Failure> {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let commit = header("x-repo-commit").filter(|commit| is_plain(commit));
        if !file_exists(response)? {
            return Ok(Answer::Absent(commit.map(str::to_owned)));
        }
        let etag = header("x-linked-etag")
            .or(header("etag"))
            .unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let size = header("x-linked-size").or(header("content-length"));
        match (commit, size.and_then(|size| size.parse().ok())) {
            (Some(commit), Some(size)) if is_plain(etag) => Ok(Answer::Found(FileInfo {
                commit: commit.to_owned(),
                etag: etag.to_owned(),
                size,
            })),
            _ => Err(Failure::Wrong(
                "the response lacks commit, ETag or size: the server is not a model hub".to_owned(),
            )),
        }
    }

    /// Follows redirects within the hub, for example of renamed models, but not
    /// the redirect to a file's storage.
    fn head(&self, address: &str) -> Result<Response<Body>, Failure> {
        let mut address = address.to_owned();
        for _ in 0..5 {
            let request = self
                .authorize(self.agent.head(&address))
                .config()
                .max_redirects(0)
                .max_redirects_will_error(false)
                .build();
            let response = request.call().map_err(|e| self.connection_failure(&e))?;
            let to = response.headers().get("location");
            let to = to.and_then(|to| to.to_str().ok()).unwrap_or_default();
            let within = match to.strip_prefix(&self.endpoint) {
                Some(rest) => rest,
                None => to,
            };
            if !response.status().is_redirection() || !within.starts_with('/') {
                return Ok(response);
            }
            address = format!("{}{within}", self.endpoint);
        }
        Err(Failure::Wrong(
            "the hub redirects more than 5 times".to_owned(),
        ))
    }

    /// Downloads a file to `blob`, resumes after broken connections, and
    /// verifies size and SHA-256.
    pub(super) fn download(
        &self,
        repo: &str,
        file: &str,
        info: &FileInfo,
        blob: &Path,
    ) -> Result<(), Failure> {
        let disk = |e: std::io::Error| Failure::Wrong(format!("{}: {e}", blob.display()));
        let folder = blob.parent().unwrap_or(blob);
        let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(disk)?;
        let address = self.address(repo, &info.commit, file);
        let (mut have, mut attempt) = (0, 0);
        while have < info.size {
            let before = have;
            let failure = match self.get(&address, have) {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let wait = retry_after(&response);
                    match status {
                        200 | 206 => {
                            if status == 200 {
                                // Without range support the content starts over.
                                have = 0;
                            } else if let Some(range) = other_range(&response, have, info.size) {
                                return Err(Failure::Wrong(format!(
                                    "the hub sends `{range}` of it, not the bytes from {have} of {}: \
                                     try again later",
                                    info.size
                                )));
                            }
                            let to = temporary.as_file_mut();
                            to.seek(SeekFrom::Start(have)).map_err(disk)?;
                            let wanted = info.size - have;
                            let copied = copy(response, to, wanted).map_err(disk)?;
                            have += copied.bytes;
                            (copied.broke, None)
                        }
                        status => match failure_of(status, None) {
                            Failure::Busy(reason) => (reason, wait),
                            failure => return Err(failure),
                        },
                    }
                }
                Err(Failure::Busy(reason) | Failure::Unreachable(reason)) => (reason, None),
                Err(failure) => return Err(failure),
            };
            if have >= info.size {
                break;
            }
            // Only attempts without progress count.
            attempt = if have > before { 1 } else { attempt + 1 };
            self.wait(attempt, failure)?;
        }
        let written = temporary.as_file_mut();
        written.set_len(info.size).map_err(disk)?;
        // The ETag of a large file is its SHA-256.
        if info.etag.len() == 64 {
            written.seek(SeekFrom::Start(0)).map_err(disk)?;
            let found = sha256(written).map_err(disk)?;
            if !found.eq_ignore_ascii_case(&info.etag) {
                return Err(Failure::Wrong(format!(
                    "the download is corrupt: its SHA-256 is {found}, the hub's is {}",
                    info.etag
                )));
            }
        }
        temporary.persist(blob).map_err(|e| disk(e.error))?;
        Ok(())
    }

    /// Reads a small file; `None` if the hub has no such file.
    pub(super) fn read(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        if self.offline {
            return Err(Failure::Unreachable("HF_HUB_OFFLINE is set".to_owned()));
        }
        let address = self.address(repo, revision, file);
        let mut attempt = 0;
        loop {
            let mut wait = None;
            let read = self.get(&address, 0).and_then(|response| {
                wait = retry_after(&response);
                if !file_exists(&response)? {
                    return Ok(None);
                }
                let mut bytes = Vec::new();
                let mut body = response.into_body().into_reader().take(LARGEST_READ + 1);
                let read = body.read_to_end(&mut bytes);
                read.map_err(|e| Failure::Busy(format!("the connection broke: {e}")))?;
                match bytes.len() as u64 > LARGEST_READ {
                    true => Err(Failure::Wrong(format!(
                        "it is larger than {} MiB",
                        LARGEST_READ >> 20
                    ))),
                    false => Ok(Some(bytes)),
                }
            });
            let reason = match read {
                Err(Failure::Busy(reason)) => reason,
                read => return read,
            };
            attempt += 1;
            self.wait(attempt, (reason, wait))?;
        }
    }

    fn get(&self, address: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = self.authorize(self.agent.get(address));
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| self.connection_failure(&e))
    }

    fn authorize<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn address(&self, repo: &str, revision: &str, file: &str) -> String {
        let revision = revision.replace('/', "%2F");
        format!("{}/{repo}/resolve/{revision}/{file}", self.endpoint)
    }

    /// Classifies the error of a request without a response.
    fn connection_failure(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Failure::Unreachable(format!("{}: {error}", self.shown))
            }
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                Failure::Unreachable(format!("{}: {error}", self.shown))
            }
            error => Failure::Busy(format!("{}: {error}", self.shown)),
        }
    }

    /// Pauses before the next attempt, or gives up.
    fn wait(
        &self,
        attempt: u32,
        (reason, asked): (String, Option<Duration>),
    ) -> Result<(), Failure> {
        if attempt >= self.attempts {
            return Err(Failure::Busy(format!(
                "{reason} (after {attempt} attempts)"
            )));
        }
        let pause = self.pause * 2u32.pow(attempt - 1);
        let pause = asked
            .map_or(pause, |asked| asked.max(pause))
            .min(LONGEST_PAUSE);
        tracing::warn!(
            "Request to the model hub failed: {reason}. Attempt {} in {pause:.1?}",
            attempt + 1
        );
        std::thread::sleep(pause);
        Ok(())
    }
}

/// Returns the `Content-Range` of a response unless it continues a file of `size`
/// bytes at `from`, or is missing.
fn other_range(response: &Response<Body>, from: u64, size: u64) -> Option<String> {
    let range = response.headers().get("content-range")?;
    let range = String::from_utf8_lossy(range.as_bytes());
    let continues = || {
        let (unit, range) = range.split_once(' ')?;
        let (range, total) = range.split_once('/')?;
        let (start, _) = range.split_once('-')?;
        let is_same = total == "*" || total.parse::<u64>() == Ok(size);
        Some(unit.eq_ignore_ascii_case("bytes") && start.parse::<u64>() == Ok(from) && is_same)
    };
    match continues() {
        Some(true) => None,
        _ => Some(range.into_owned()),
    }
}

/// Returns whether the hub has the file.
fn file_exists(response: &Response<Body>) -> Result<bool, Failure> {
    let code = response.headers().get("x-error-code");
    let code = code.and_then(|code| code.to_str().ok());
    match (response.status().as_u16(), code) {
        (200..400, _) => Ok(true),
        (404, Some("RepoNotFound")) => Err(Failure::NoRepository),
        (404, Some("RevisionNotFound")) => Err(Failure::NoRevision),
        (404, _) => Ok(false),
        (status, code) => Err(failure_of(status, code)),
    }
}

/// Classifies an error status.
fn failure_of(status: u16, code: Option<&str>) -> Failure {
    match status {
        401 if code == Some("RepoNotFound") => Failure::NoRepository,
        401 | 403 => Failure::Forbidden(status),
        408 | 429 | 500.. => Failure::Busy(format!("the hub answers {status}")),
        status => Failure::Wrong(format!("the hub answers {status}")),
    }
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

struct Copied {
    bytes: u64,
    /// The reason why the copy ended.
    broke: String,
}

/// Copies at most `wanted` bytes. If the connection breaks, the received bytes
/// count. Only disk errors are returned.
fn copy(response: Response<Body>, to: &mut File, wanted: u64) -> std::io::Result<Copied> {
    let mut from = response.into_body().into_reader().take(wanted);
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    let broke = loop {
        match from.read(&mut buffer) {
            Ok(0) => break "the connection ended too early".to_owned(),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                bytes += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => break format!("the connection broke: {e}"),
        }
    };
    Ok(Copied { bytes, broke })
}

fn sha256(from: &mut File) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hex::encode(hash.finalize()))
}
