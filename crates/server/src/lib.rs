//! Self-hosted backend of Finetuner clients, with the same HTTP API.
//!
//! A program embeds the library with [`Server::embedded`]. The program
//! `finetuner-server serve` runs it standalone. The modules:
//!
//! | module | subject |
//! | --- | --- |
//! | `server`, `command`, `settings`, `settings_file`, `reach` | start and stop, configuration |
//! | `http`, `peer`, `pace`, `gate` | connections, client addresses, slow clients, limits on concurrent work |
//! | `requests`, `outside`, `outbox` | requests to the operator's addresses, and to those that users name; messages that leave the server |
//! | `api` | the routes, one file per group |
//! | `console` | the web pages |
//! | `submission` | checks of a new run's configuration and data |
//! | `queue`, `queue_state`, `launcher`, `worker`, `run_folders` | execution of runs |
//! | `serving`, `trial` | finished models in use, and search with them |
//! | `pictures` | fetching of pictures that data refers to |
//! | `database`, `store`, `folder` | persistence: rows in SQLite, contents in a folder or in S3 |
//! | `space` | free space on the disk |
//! | `documents` | previews of stored data |
//! | `accounts`, `attempts`, `oidc`, `secret`, `ticket`, `redaction` | passwords and their limits, sign-in providers, tokens, signed keys, hiding of secrets |
//! | `upkeep`, `private` | check, backup, restore and clean-up; file permissions |
//! | `app`, `error`, `clock`, `counters`, `cached` | shared state and helpers |

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
mod queue_state;
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
