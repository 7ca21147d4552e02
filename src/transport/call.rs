//! A call before it is sent: where to, with what, and how often it may be.

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

/// Bytes of an upload, as they are made.
pub(crate) type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// A text field of an upload that is known only once the file was read.
pub(crate) type LateText = BoxFuture<'static, io::Result<String>>;

/// A file of an upload as it is made, and the fields that follow it.
pub(crate) struct Outgoing {
    pub(crate) file: ByteStream,
    pub(crate) trailing: Vec<(&'static str, LateText)>,
}

/// Makes the file of an upload, anew for every attempt.
pub(crate) type MakeFile = Arc<dyn Fn() -> Outgoing + Send + Sync>;

/// What is sent with a call.
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
    /// Bytes as they are.
    Bytes(Bytes),
}

/// Where a call goes. The route is what logs show of it: names of runs and
/// data are not their business.
#[derive(Clone, Debug)]
enum Target {
    /// A path of the Finetuner API, `{..}` standing for a value.
    Api {
        route: &'static str,
        values: Vec<String>,
    },
    /// A method of the Hubble API.
    Rpc(&'static str),
    /// An address that the server gave.
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
    /// Whether the call is repeated when its answer took too long.
    repeats_slow: bool,
    pub(super) streaming: bool,
    pub(super) deletes: bool,
}

impl Call {
    /// A call of the Finetuner API, such as `experiments/{experiment}`.
    pub(crate) fn api(method: Method, route: &'static str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Self::new(method, Target::Api { route, values })
    }

    /// A call of the Hubble API.
    pub(crate) fn rpc(method: &'static str) -> Self {
        Self::new(Method::POST, Target::Rpc(method))
    }

    /// A download from an address that the server gave. The address itself says
    /// that we may, so no token goes with it.
    pub(crate) fn download(url: Url) -> Self {
        Self::new(Method::GET, Target::Given(url)).streaming()
    }

    fn new(method: Method, target: Target) -> Self {
        Self {
            // Reading and deleting twice is the same as doing it once.
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

    /// Doing it twice is the same as doing it once.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Deletes something: if an earlier try may have done it, `not found` is a
    /// success. `DELETE` says so by itself.
    pub(crate) fn deleting(mut self) -> Self {
        self.deletes = true;
        self.repeatable()
    }

    /// Marks a creating call with a key by which a server knows it again. It is
    /// the same for all attempts.
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

    /// The answer may take this long, where that is longer than usual.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The answer has taken longer than anybody should wait twice: a call that
    /// timed out is not repeated.
    pub(crate) fn once_if_slow(mut self) -> Self {
        self.repeats_slow = false;
        self
    }

    /// The answer may take as long as it wants, as long as something comes.
    pub(crate) fn streaming(mut self) -> Self {
        self.streaming = true;
        self
    }

    /// Whether the call may be made again after this error.
    pub(crate) fn may_repeat(&self, error: &Error) -> bool {
        retry::may_repeat(error, self.repeatable) && (self.repeats_slow || !error.is_timeout())
    }

    pub(super) fn with_token(&self) -> bool {
        !matches!(self.target, Target::Given(_))
    }

    pub(super) fn is_upload(&self) -> bool {
        matches!(self.body, Body::Multipart { .. } | Body::Bytes(_))
    }

    /// The call's path without the values in it.
    pub(crate) fn route(&self) -> &'static str {
        match self.target {
            Target::Api { route, .. } => route,
            Target::Rpc(method) => method,
            Target::Given(_) => "download",
        }
    }

    /// Refuses a name that would drop out of the path: the rest of it may be the
    /// address of everything.
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
                return Err(Error::invalid(field, quoted, "a name is wanted"));
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
    fn names_stand_in_the_address_and_not_in_the_route() {
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
