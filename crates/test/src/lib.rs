//! An in-memory Finetuner backend for tests of programs that use the crate
//! `finetuner`.
//!
//! It answers like a real backend, but trains nothing and follows the test's script:
//! a run finishes or fails, a call is refused, a connection breaks.
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
//! // Runs finish immediately unless the test decides otherwise.
//! backend.run("shoes").fail("out of memory");
//! let run = finetuner.fit("clip-small", "train").run_name("shoes").await?;
//! assert!(run.wait().await.unwrap_err().is_run_failed());
//! assert_eq!(backend.submitted()[0].name, "shoes");
//! # Ok(())
//! # }
//! ```
//!
//! | task | start here |
//! | --- | --- |
//! | start a backend, or connect one to the client without a socket | [`TestBackend::start`], [`TestBackend::service`] |
//! | script a run | [`TestBackend::run`], [`TestRun`] |
//! | make calls fail | [`TestBackend::fault`], [`Fault`], [`TestBackend::disconnect`] |
//! | inspect what the program sent | [`TestBackend::submitted`], [`TestBackend::pushed`], [`TestBackend::received`] |
//!
//! The SDK retries some calls, with pauses, before it returns an error. To keep such
//! tests fast, use `RetryPolicy::default().first_pause(..)` with a millisecond, or
//! [`TestBackend::service`] with tokio's paused clock, which skips pauses.

mod answer;
mod artifact;
mod artifacts;
mod backend;
mod fault;
mod listen;
mod model;
mod received;
mod record;
mod routes;
mod run;
mod runs;
mod service;
mod state;

pub use backend::TestBackend;
pub use fault::Fault;
pub use finetuner_protocol as protocol;
pub use received::Received;
pub use record::Submission;
pub use run::TestRun;
pub use service::{TestError, TestService};
