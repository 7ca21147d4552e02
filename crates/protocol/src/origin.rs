//! Origin of a document, which decides whether a client may read the local file that
//! the document names.

/// Origin of a document: this program, or received bytes.
///
/// A received document (pulled, or read from a file) may have been written by
/// somebody else. A client must not upload the local files that it names, unless the
/// user allows it.
///
/// The origin is not serialized, and documents that differ only in it are equal.
///
/// ```
/// use finetuner_protocol::{Document, origin::Origin};
///
/// let own = Document::uri("shoe.png");
/// assert!(!own.other.origin.is_received());
/// let received = Document::from_bytes(&own.to_bytes())?;
/// assert!(received.other.origin.is_received());
/// assert_eq!(own, received);
/// # let _ = Origin::default();
/// # Ok::<(), finetuner_protocol::DocumentError>(())
/// ```
#[derive(Clone, Copy, Default)]
pub struct Origin {
    received: bool,
}

impl Origin {
    /// Returns the origin of a document that was read from bytes.
    #[must_use]
    pub const fn received() -> Self {
        Self { received: true }
    }

    /// Returns whether the document was read from bytes instead of created by this
    /// program.
    #[must_use]
    pub const fn is_received(self) -> bool {
        self.received
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Origin {
    // Prints the same for equal documents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").finish_non_exhaustive()
    }
}
