//! The backend of Finetuner clients: the same HTTP API, self-hosted.
//!
//! As a library it is embedded in a program with [`Server::embedded`]; as a
//! program it is started with `finetuner-server serve`. The way through the
//! crate:
//!
//! | module | what it is for |
//! | --- | --- |
//! | `server`, `http`, `reach`, `requests`, `settings`, `settings_file` | starting and stopping, connections |
//! | `peer`, `pace`, `gate` | where a request comes from, clients that are too slow, work that waits for its turn |
//! | `api` | the routes, one file a group |
//! | `console` | the pages for people |
//! | `submission` | whether a new run's data is there and fits |
//! | `queue`, `launcher`, `worker` | how a run is carried out |
//! | `serving`, `trial` | finished models in use, and what they find in data |
//! | `pictures` | pictures that data names by their address |
//! | `outbox`, `outside` | messages that leave the server, and addresses that users name |
//! | `database`, `store` | what is kept: rows in SQLite, bytes in a folder or in S3 |
//! | `space` | the room on the disk |
//! | `documents` | a look into what is stored |
//! | `accounts`, `attempts`, `oidc`, `secret`, `ticket` | passwords, wrong passwords, sign-in providers, tokens, keys of downloads |
//! | `upkeep` | checks, copies, cleaning |
//! | `app`, `clock`, `counters`, `cached` | what all of them share |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod accounts;
mod api;
mod app;
mod attempts;
mod cached;
mod changes;
mod clock;
pub mod command;
mod console;
mod counters;
mod database;
mod documents;
mod error;
mod folder;
mod gate;
mod http;
mod imports;
pub mod launcher;
mod oidc;
mod outbox;
mod outside;
mod pace;
mod peer;
mod pictures;
mod private;
mod queue;
#[cfg(test)]
mod races;
mod reach;
mod redaction;
mod requests;
mod run_folders;
mod secret;
mod server;
mod serving;
mod settings;
mod settings_file;
mod space;
mod store;
mod submission;
mod ticket;
mod trial;
mod upkeep;
mod worker;

pub use error::StartError;
pub use finetuner_protocol::worker::LocalModels;
pub use ipnet::IpNet;
pub use server::{DEFAULT_ADDRESS, FIRST_USER, RunningServer, Server, create_token};
pub use settings::{Encryption, Mail, Oidc, Settings, Workers};
pub use upkeep::{Report, backup, check, restore};
