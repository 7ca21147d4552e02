//! Self-hosted backend of Finetuner clients, with the same HTTP API.
//!
//! A program embeds the library with [`Server::embedded`]. The program
//! `finetuner-server serve` runs it standalone. The modules:
//!
//! | module | subject |
//! | --- | --- |
//! | `server`, `command`, `settings`, `settings_file`, `reach` | start and stop, configuration |
//! | `http`, `peer`, `pace`, `gate`, `multipart` | connections, client addresses, slow clients, limits on concurrent work and on forms |
//! | `requests`, `outside`, `outbox` | requests to the operator's addresses, and to those that users name; messages that leave the server |
//! | `routes`, `origin` | all routes; the server's own address |
//! | `api` | the routes of the API, one file per group |
//! | `console` | the web pages |
//! | `runs`, `checks` | what the API and the console share |
//! | `submission` | checks of a new run's configuration and data |
//! | `queue`, `queue_state`, `launcher`, `worker`, `run_folders` | execution of runs |
//! | `serving`, `trial` | finished models in use, and search with them |
//! | `images` | fetching of images that data refers to |
//! | `database`, `store`, `folder` | persistence: rows in SQLite, contents in a folder or in S3 |
//! | `space` | free space on the disk |
//! | `documents`, `imports` | previews of stored data; files uploaded by a browser |
//! | `accounts`, `attempts`, `oidc`, `secret`, `ticket`, `redaction`, `local_paths` | passwords and their limits, sign-in providers, tokens, signed keys, hiding of secrets and of paths |
//! | `upkeep`, `private` | check, backup, restore and clean-up; file permissions |
//! | `app`, `logins`, `uploads`, `changes` | shared state: logins and uploads in progress, followers of runs |
//! | `error`, `json`, `tasks`, `clock`, `counters`, `cached`, `spreadsheet` | helpers |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod accounts;
mod api;
mod app;
mod attempts;
mod cached;
mod changes;
mod checks;
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
mod images;
mod imports;
mod json;
pub mod launcher;
mod local_paths;
mod logins;
mod multipart;
mod oidc;
mod origin;
mod outbox;
mod outside;
mod pace;
mod peer;
mod private;
mod queue;
mod queue_state;
#[cfg(test)]
mod races;
mod reach;
mod redaction;
mod requests;
mod routes;
mod run_folders;
mod runs;
mod secret;
mod server;
mod serving;
mod settings;
mod settings_file;
mod space;
mod spreadsheet;
mod store;
mod submission;
mod tasks;
mod ticket;
mod trial;
mod upkeep;
mod uploads;
mod worker;

pub use error::StartError;
pub use finetuner_protocol::worker::LocalModels;
pub use ipnet::IpNet;
pub use server::{DEFAULT_ADDRESS, FIRST_USER, RunningServer, Server, create_token};
pub use settings::{Encryption, Mail, Oidc, Settings, Workers};
pub use upkeep::{Report, backup, check, restore};
