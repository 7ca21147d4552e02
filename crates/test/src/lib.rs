//! A Finetuner backend in memory, for tests of programs that use the crate
//! `finetuner`. It answers what a real backend answers, trains nothing, and does
//! what the test tells it: a run finishes or fails, a call is refused, a
//! connection breaks.
//!
//! ```
//! use finetuner_test::TestBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = TestBackend::start().await?;
//! backend.put_data("train", [])?;
//! // The program under test gets the address and the token.
//! let finetuner = finetuner::Finetuner::builder()
//!     .registry(backend.url())
//!     .token(backend.token())
//!     .login()
//!     .await?;
//!
//! // Runs finish at once unless the test says something else.
//! backend.run("shoes").fail("out of memory");
//! let run = finetuner.fit("clip-small", "train").run_name("shoes").await?;
//! assert!(run.wait().await.unwrap_err().is_run_failed());
//! assert_eq!(backend.submitted()[0].name, "shoes");
//! # Ok(())
//! # }
//! ```
//!
//! | to do this | look at |
//! | --- | --- |
//! | start a backend, or put one into the client without a socket | [`TestBackend::start`], [`TestBackend::service`] |
//! | decide what a run does | [`TestBackend::run`], [`TestRun`] |
//! | let calls fail | [`TestBackend::fault`], [`Fault`], [`TestBackend::disconnect`] |
//! | read what the program sent | [`TestBackend::submitted`], [`TestBackend::pushed`], [`TestBackend::received`] |
//!
//! Errors of calls that the SDK repeats come after its pauses. Tests of them are
//! fast with `RetryPolicy::default().first_pause(..)` of a millisecond, or with
//! [`TestBackend::service`] and a paused clock of tokio, which skips pauses.

mod answer;
mod artifact;
mod backend;
mod fault;
mod listen;
mod model;
mod received;
mod routes;
mod run;
mod runs;
mod service;
mod state;

pub use backend::TestBackend;
pub use fault::Fault;
pub use finetuner_protocol as protocol;
pub use received::Received;
pub use run::TestRun;
pub use runs::Submission;
pub use service::{TestError, TestService};
