//! TensorBoard's event file. Each record has a length, the length's masked
//! CRC-32C, an `Event` message, and the message's masked CRC-32C.
//!
//! Messages and field numbers: `tensorflow/core/util/event.proto` and
//! `tensorflow/core/framework/summary.proto`.

use std::path::Path;

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

use super::history::{History, Row};
use crate::{Error, Result};

/// CRC-32C, with Castagnoli's polynomial.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Unix time in seconds.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = CRC32C.checksum(bytes);
    (crc.rotate_right(15).wrapping_add(0xA282_EAD8)).to_le_bytes()
}

fn record(out: &mut Vec<u8>, event: &Event) {
    let event = event.encode_to_vec();
    let length = (event.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length));
    out.extend(&event);
    out.extend(masked(&event));
}

/// Writes an event file into `folder`.
pub(super) fn write(folder: &Path, history: &History) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let rows = history.rows();
    let start = rows.first().map_or(0.0, |row| row.time);
    let mut out = Vec::new();
    let version = Event {
        wall_time: start,
        file_version: Some("brain.Event:2".to_owned()),
        ..Event::default()
    };
    record(&mut out, &version);
    for Row { step, time, values } in rows {
        let value = values.iter().map(|(name, value)| Scalar {
            tag: (*name).to_owned(),
            simple_value: Some(*value as f32),
        });
        let event = Event {
            wall_time: time,
            step: step as i64,
            summary: Some(Summary {
                value: value.collect(),
            }),
            ..Event::default()
        };
        record(&mut out, &event);
    }
    let path = folder.join(format!("events.out.tfevents.{}.finetuner", start as u64));
    std::fs::write(&path, out).map_err(|e| Error::io(&path, e))
}
