//! TensorBoard's event file: records of a length, a masked CRC-32C of it, an
//! `Event` message, and a masked CRC-32C of that.

use std::path::Path;

use super::{
    History, Row,
    bytes::{Message, crc32c},
};
use crate::{Error, Result};

fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c(bytes);
    (crc.rotate_right(15).wrapping_add(0xA282_EAD8)).to_le_bytes()
}

fn record(out: &mut Vec<u8>, event: Message) {
    let length = (event.0.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length));
    out.extend(&event.0);
    out.extend(masked(&event.0));
}

/// Writes one event file into `folder`.
pub(super) fn write(folder: &Path, history: &History) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let rows = history.rows();
    let start = rows.first().map_or(0.0, |row| row.time);
    let mut out = Vec::new();
    let version = Message::default().double(1, start).text(3, "brain.Event:2");
    record(&mut out, version);
    for Row { step, time, values } in rows {
        let summary = values
            .iter()
            .fold(Message::default(), |summary, (name, value)| {
                let scalar = Message::default().text(1, name).float(2, *value as f32);
                summary.message(1, scalar)
            });
        let event = Message::default()
            .double(1, time)
            .number(2, step as u64)
            .message(5, summary);
        record(&mut out, event);
    }
    let path = folder.join(format!("events.out.tfevents.{}.finetuner", start as u64));
    std::fs::write(&path, out).map_err(|e| Error::io(&path, e))
}
