//! The backend of Finetuner clients: the same HTTP API, self-hosted.
//!
//! As a library it is embedded in a program with [`Server::embedded`]; as a
//! program it is started with `finetuner-server serve`. The way through the
//! crate:
//!
//! | module | what it is for |
//! | --- | --- |
//! | `server` | starting and stopping |
//! | `api` | the routes, one file a group |
//! | `submission` | whether a new run's data is there and fits |
//! | `queue`, `launcher`, `worker` | how a run is carried out |
//! | `database`, `store` | what is kept: rows in SQLite, bytes in a folder |
//! | `app` | what all of them share |

mod api;
mod app;
pub mod command;
mod database;
mod error;
mod launcher;
mod queue;
mod secret;
mod server;
mod store;
mod submission;
mod worker;

pub use error::StartError;
pub use server::{DEFAULT_ADDRESS, RunningServer, Server, create_token};
