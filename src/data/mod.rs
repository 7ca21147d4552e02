//! Training data on its way to the backend and back. The crate `finetuner-data`
//! reads and checks it.

mod artifacts;
mod cache;
mod files;
mod pack;
mod pull;
mod push;
mod source;
mod thread;

pub use artifacts::ArtifactInfo;
pub use files::{load_documents, save_documents};
pub use pull::{DocumentStream, Pull};
pub use push::Push;
pub(crate) use push::{Upload, send_documents};
pub use source::DataSource;
pub(crate) use thread::blocking;
