//! Where a document came from. It decides whether a client may read the local
//! file that the document names.

/// Where a document came from: this program, or bytes that were received.
///
/// A received document (pulled, or read from a file) may have been written by
/// somebody else. A client must not upload the local files that it names,
/// unless the user allows it.
///
/// The origin does not travel, and two documents that differ in it alone are
/// equal.
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
    /// The origin of a document that was read from bytes.
    #[must_use]
    pub const fn received() -> Self {
        Self { received: true }
    }

    /// Returns whether the document was read from bytes, rather than created
    /// by this program.
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
    // The same for equal documents, as their `PartialEq` is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").finish_non_exhaustive()
    }
}
