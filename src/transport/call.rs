//! A call before it is sent: its target, its content, and whether it may be
//! repeated.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue},
};
use serde_json::Value;
use url::Url;

use super::{addresses::Addresses, id::random_id, retry};
use crate::error::{Error, Result};

/// Bytes of an upload, produced while it is sent.
pub(crate) type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Text field of an upload whose value is known only after the file was read.
pub(crate) type LateText = BoxFuture<'static, io::Result<String>>;

/// The file of an upload, and the fields that follow it.
pub(crate) struct Outgoing {
    pub(crate) file: ByteStream,
    pub(crate) trailing: Vec<(&'static str, LateText)>,
}

/// Produces the file of an upload again for every attempt.
pub(crate) type MakeFile = Arc<dyn Fn() -> Outgoing + Send + Sync>;

/// The body of a call.
#[derive(Clone)]
pub(crate) enum Body {
    Empty,
    Json(Value),
    Form(Vec<(&'static str, String)>),
    /// A file and text fields, as `multipart/form-data`.
    Multipart {
        file: MakeFile,
        fields: Vec<(&'static str, String)>,
    },
    /// Raw bytes.
    Bytes(Bytes),
}

/// The target of a call. Logs show only its route, because names of runs and data
/// are private.
#[derive(Clone, Debug)]
enum Target {
    /// Path of the Finetuner API; `{..}` is a placeholder for a value.
    Api {
        route: &'static str,
        values: Vec<String>,
    },
    /// Method of the Hubble API.
    Rpc(&'static str),
    /// Address that the server returned.
    Given(Url),
}

/// A request that can be sent more than once.
#[derive(Clone)]
pub(crate) struct Call {
    pub(super) method: Method,
    target: Target,
    query: Vec<(&'static str, String)>,
    pub(super) body: Body,
    pub(super) headers: HeaderMap,
    repeatable: bool,
    pub(super) timeout: Option<Duration>,
    /// Whether to repeat the call if its answer took too long.
    repeats_slow: bool,
    pub(super) streaming: bool,
    pub(super) deletes: bool,
}

impl Call {
    /// Creates a call of the Finetuner API, such as `experiments/{experiment}`.
    pub(crate) fn api(method: Method, route: &'static str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Self::new(method, Target::Api { route, values })
    }

    /// Creates a call of the Hubble API.
    pub(crate) fn rpc(method: &'static str) -> Self {
        Self::new(Method::POST, Target::Rpc(method))
    }

    /// Creates a download from an address that the server returned. The address
    /// authorizes the download, so no token is sent.
    pub(crate) fn download(url: Url) -> Self {
        Self::new(Method::GET, Target::Given(url)).streaming()
    }

    fn new(method: Method, target: Target) -> Self {
        Self {
            // Repeating a read or a deletion has no further effect.
            repeatable: method != Method::POST,
            deletes: method == Method::DELETE,
            method,
            target,
            query: Vec::new(),
            body: Body::Empty,
            headers: HeaderMap::new(),
            timeout: None,
            repeats_slow: true,
            streaming: false,
        }
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(crate) fn json(mut self, json: Value) -> Self {
        self.body = Body::Json(json);
        self
    }

    pub(crate) fn form(mut self, fields: Vec<(&'static str, String)>) -> Self {
        self.body = Body::Form(fields);
        self
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Marks a call that has the same effect when it is repeated.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Marks a call that deletes: `not found` is a success if an earlier attempt may
    /// have deleted it. Calls with the method `DELETE` are marked already.
    pub(crate) fn deleting(mut self) -> Self {
        self.deletes = true;
        self.repeatable()
    }

    /// Adds an idempotency key to a creating call, the same for all attempts.
    pub(crate) fn keyed(self) -> Self {
        let key = random_id();
        self.header("idempotency-key", &key)
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sets the time limit for the answer if it is longer than the default.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Excludes time-outs from retries, for calls with a long time limit.
    pub(crate) fn once_if_slow(mut self) -> Self {
        self.repeats_slow = false;
        self
    }

    /// Marks a call whose answer has no time limit while it makes progress.
    pub(crate) fn streaming(mut self) -> Self {
        self.streaming = true;
        self
    }

    /// Whether the call may be repeated after this error.
    pub(crate) fn may_repeat(&self, error: &Error) -> bool {
        retry::may_repeat(error, self.repeatable) && (self.repeats_slow || !error.is_timeout())
    }

    pub(super) fn with_token(&self) -> bool {
        !matches!(self.target, Target::Given(_))
    }

    pub(super) fn is_upload(&self) -> bool {
        matches!(self.body, Body::Multipart { .. } | Body::Bytes(_))
    }

    /// Returns the path of the call with placeholders.
    pub(crate) fn route(&self) -> &'static str {
        match self.target {
            Target::Api { route, .. } => route,
            Target::Rpc(method) => method,
            Target::Given(_) => "download",
        }
    }

    /// Refuses names that would vanish from the path: `DELETE experiments/` with an
    /// empty name would address all experiments.
    pub(super) fn check_names(&self) -> Result<()> {
        let Target::Api { route, values } = &self.target else {
            return Ok(());
        };
        let fields = route.split('/').filter_map(|part| {
            let field = part.strip_prefix('{')?;
            field.strip_suffix('}')
        });
        for (field, value) in fields.zip(values) {
            if value.trim().is_empty() || matches!(value.as_str(), "." | "..") {
                let quoted = format!("`{value}`");
                return Err(Error::invalid(field, quoted, "a name is required"));
            }
        }
        Ok(())
    }

    pub(super) fn url(&self, addresses: &Addresses) -> Url {
        let mut url = match &self.target {
            Target::Api { route, values } => {
                let mut values = values.iter();
                let parts: Vec<&str> = route
                    .split('/')
                    .map(|part| match part.starts_with('{') {
                        true => values.next().map_or("", String::as_str),
                        false => part,
                    })
                    .collect();
                addresses.api(&parts)
            }
            Target::Rpc(method) => addresses.rpc(method),
            Target::Given(url) => url.clone(),
        };
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_in_the_url_and_absent_from_the_route() {
        let addresses = Addresses::choose(Some("http://h".into()), None, |_| None).unwrap();
        let values = ["my tests", "a/b"];
        let call =
            Call::api(Method::GET, "experiments/{experiment}/runs/{run}", &values).query("page", 2);
        assert_eq!(
            call.url(&addresses).as_str(),
            "http://h/api/v1/experiments/my%20tests/runs/a%2Fb?page=2"
        );
        assert_eq!(call.route(), "experiments/{experiment}/runs/{run}");
        assert_eq!(
            Call::api(Method::POST, "experiments/", &[])
                .url(&addresses)
                .path(),
            "/api/v1/experiments/"
        );
    }
}
