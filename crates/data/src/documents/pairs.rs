//! Pairs. Items that are positives of each other get the same label.

use std::collections::HashMap;

use finetuner_protocol::Document;
use sha2::{Digest, Sha256};

use super::{Documents, both};
use crate::{
    roles::{Field, Roles},
    source::Fault,
    table::{Cell, Row},
};

/// Labels of the items of earlier rows.
///
/// The key is the start of an item's SHA-256, so that memory does not grow with the
/// length of the items.
#[derive(Default)]
pub(super) struct Clusters {
    labels: HashMap<[u8; 16], u64>,
    /// The next unused label.
    next: u64,
    /// Number of pairs that were skipped.
    pub(super) repeated: u64,
}

impl Documents {
    /// Creates the documents of a pair, which share a label.
    ///
    /// The label is that of an earlier row with the same first item. A pair is skipped
    /// if both of its items are in earlier rows. The first item is left out if an
    /// earlier row has it, except beside an item of another modality.
    pub(super) fn related(&mut self, record: &Row, roles: &Roles) -> Result<(), Fault> {
        let [first, second] = roles.items[..] else {
            return Ok(());
        };
        let key = |field: Field| {
            let cell = match record.cells.get(field.column) {
                Some(Cell::Text(text)) => text.as_bytes(),
                Some(Cell::Bytes(bytes)) => bytes,
                _ => &[],
            };
            let mut key = [0; 16];
            key.copy_from_slice(&Sha256::digest(cell)[..16]);
            key
        };
        let (a, b) = (key(first), key(second));
        if self.clusters.labels.contains_key(&a) && self.clusters.labels.contains_key(&b) {
            self.clusters.repeated += 1;
            return Ok(());
        }
        let (one, two) = both(
            self.shared.item(record, first),
            self.shared.item(record, second),
        )?;
        let (mut one, mut two) = (
            one.with_modality(first.kind.modality()),
            two.with_modality(second.kind.modality()),
        );
        let known = self.clusters.labels.get(&a).copied();
        let label = known.unwrap_or(self.clusters.next);
        if known.is_none() {
            self.clusters.next += 1;
            self.clusters.labels.insert(a, label);
            one = one.with_label(label);
        }
        self.clusters.labels.insert(b, label);
        two = two.with_label(label);
        if first.kind != second.kind {
            let pair = Document::new().with_label(label);
            self.ready.push_back(pair.with_chunk(one).with_chunk(two));
            return Ok(());
        }
        if known.is_none() {
            self.ready.push_back(one);
        }
        self.ready.push_back(two);
        Ok(())
    }
}
