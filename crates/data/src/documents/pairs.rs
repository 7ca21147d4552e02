//! Pairs. Items that are positives of each other get the same label.

use std::collections::HashMap;

use finetuner_protocol::Document;
use sha2::{Digest, Sha256};

use super::{cells::both_or_problems, shared::Shared};
use crate::{
    roles::Field,
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

impl Clusters {
    /// Returns the documents of a pair, which share a label.
    ///
    /// The label is that of an earlier row with the same first item. A pair is skipped
    /// if both of its items are in earlier rows. The first item is left out if an
    /// earlier row has it, except beside an item of another modality.
    pub(super) fn related(
        &mut self,
        shared: &Shared,
        record: &Row,
    ) -> Result<Vec<Document>, Fault> {
        let [first, second] = shared.roles.items[..] else {
            return Ok(Vec::new());
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
        if self.labels.contains_key(&a) && self.labels.contains_key(&b) {
            self.repeated += 1;
            return Ok(Vec::new());
        }
        let (one, two) = both_or_problems(shared.item(record, first), shared.item(record, second))?;
        let (mut one, mut two) = (
            one.with_modality(first.kind.modality()),
            two.with_modality(second.kind.modality()),
        );
        let known = self.labels.get(&a).copied();
        let label = known.unwrap_or(self.next);
        if known.is_none() {
            self.next += 1;
            self.labels.insert(a, label);
            one = one.with_label(label);
        }
        self.labels.insert(b, label);
        two = two.with_label(label);
        if first.kind != second.kind {
            let pair = Document::new().with_label(label);
            return Ok(vec![pair.with_chunk(one).with_chunk(two)]);
        }
        Ok(match known {
            None => vec![one, two],
            Some(_) => vec![two],
        })
    }
}
