//! Training data: its sources, its validation, and its transfer to the backend and
//! back.

mod artifacts;
mod cache;
mod check;
mod documents;
mod files;
mod labels;
mod pack;
mod pull;
mod push;
mod source;
mod tables;
mod thread;

pub use artifacts::ArtifactInfo;
pub use documents::DocumentSource;
pub use files::{load_documents, save_documents};
pub use pull::{DocumentStream, Pull};
pub use push::Push;
pub(crate) use push::{Upload, send_documents};
pub use source::DataSource;
pub(crate) use tables::Layout;
#[cfg(feature = "local")]
pub(crate) use tables::points_of;
pub use tables::{Columns, Csv, CsvOptions, Dataset, Dialect};
pub(crate) use thread::blocking;
