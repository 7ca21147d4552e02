//! State that all iterations over the documents of a file share.

use std::sync::atomic::{AtomicBool, Ordering};

use finetuner_protocol::text::start_of;

use crate::{roles::Roles, table::Table};

/// The table, its roles, and the warnings that were logged.
pub(super) struct Shared {
    pub(super) table: Box<dyn Table>,
    pub(super) roles: Roles,
    /// Whether each [`Warning`] was logged.
    warned: [AtomicBool; 3],
}

/// A warning that is logged once for each file.
#[derive(Clone, Copy)]
pub(super) enum Warning {
    SpacesAroundLabel,
    RepeatedPairs,
    LikelyMissingLabel,
}

impl Shared {
    pub(super) fn new(table: Box<dyn Table>, roles: Roles) -> Self {
        Self {
            table,
            roles,
            warned: [const { AtomicBool::new(false) }; 3],
        }
    }

    /// Returns whether this is the first call for this warning.
    pub(super) fn is_first(&self, warning: Warning) -> bool {
        !self.warned[warning as usize].swap(true, Ordering::Relaxed)
    }

    /// Returns the name of the file for messages.
    pub(super) fn file(&self) -> String {
        start_of(self.table.name())
    }
}
