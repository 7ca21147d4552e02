//! The only path to a backend.
//!
//! ```text
//! call ──► send ──► service (our own client, or the program's)
//!           │ ▲
//!           ▼ │ retry: if repeating is safe and may help
//!         answer ──► download, events, list
//! ```
//!
//! `addresses` has the backend's addresses; `http` with `settings`, `proxy` and
//! `tls` makes the connections; `outage` decides how long following a run tolerates
//! an unreachable backend.

mod addresses;
mod call;
mod download;
mod events;
mod http;
mod id;
mod list;
mod outage;
mod private;
mod progress;
mod proxy;
mod retry;
mod send;
mod service;
mod settings;
mod sha256;
mod tls;
mod upload;

pub(crate) use addresses::{Addresses, is_jina};
pub use addresses::{DEFAULT_ADDRESS, HUBBLE_VARIABLE, REGISTRY_VARIABLE};
pub(crate) use call::Call;
pub(crate) use download::{Download, Expected, download};
pub(crate) use events::Parser;
#[cfg(fuzzing)]
pub(crate) use events::parse_all;
pub(crate) use id::random_id;
pub use list::{List, ListStream};
pub(crate) use outage::Outage;
pub(crate) use private::private_rpc;
pub use progress::Progress;
pub(crate) use progress::{ProgressSink, progress_methods};
pub use retry::RetryPolicy;
pub(crate) use send::{Timeouts, Transport};
pub(crate) use service::HttpService;
pub use service::RequestBody;
pub(crate) use settings::HttpSettings;
pub use settings::{PLAIN_HTTP_VARIABLE, PROJECT_VARIABLE};
pub(crate) use sha256::hash_of;
pub(crate) use upload::{Packed, Seal, send as upload};
