//! The commands, one file per group.

pub(crate) mod account;
pub(crate) mod annotations;
pub(crate) mod data;
#[cfg(feature = "local")]
pub(crate) mod encode;
pub(crate) mod fit;
pub(crate) mod generate;
#[cfg(feature = "local")]
mod items;
pub(crate) mod models;
pub(crate) mod results;
pub(crate) mod runs;
pub(crate) mod save;
#[cfg(feature = "local")]
pub(crate) mod search;
#[cfg(feature = "embedded")]
pub(crate) mod serve;
pub(crate) mod submitted;
pub(crate) mod synthesize;
pub(crate) mod token;
