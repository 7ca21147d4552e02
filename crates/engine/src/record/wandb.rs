//! The folder of an offline run of Weights & Biases for `wandb sync`: a file in
//! LevelDB's log format, with a `Record` message in each record.
//!
//! Messages and field numbers: `wandb/proto/wandb_internal.proto`.

use std::path::Path;

use crc::{CRC_32_ISO_HDLC, Crc};
use finetuner_protocol::{RunConfig, callback::WandBLogger};
use prost::{Message, Oneof};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::history::{History, Row};
use crate::{Error, Result};

/// Block size in bytes. Records are split at the ends of blocks.
const BLOCK: usize = 32 * 1024;
/// Size of a piece's header: checksum, length and type.
const HEADER: usize = 7;

/// Start of the file: magic bytes, magic number, version.
const IDENT: &[u8; HEADER] = b":W&B\xE1\xBE\x00";

/// CRC-32 as in zip files.
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    number: i64,
    #[prost(oneof = "Content", tags = "2, 3, 17, 18")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Content {
    #[prost(message, tag = "2")]
    History(Line),
    #[prost(message, tag = "3")]
    Summary(Items),
    #[prost(message, tag = "17")]
    Run(Run),
    #[prost(message, tag = "18")]
    Exit(Exit),
}

#[derive(Clone, PartialEq, Message)]
struct Run {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, optional, tag = "2")]
    entity: Option<String>,
    #[prost(string, tag = "3")]
    project: String,
    #[prost(message, optional, tag = "4")]
    config: Option<Items>,
    #[prost(string, tag = "8")]
    display_name: String,
    #[prost(message, optional, tag = "17")]
    start_time: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// A `HistoryRecord`.
#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(message, repeated, tag = "1")]
    item: Vec<Item>,
    #[prost(message, optional, tag = "2")]
    step: Option<Step>,
}

#[derive(Clone, PartialEq, Message)]
struct Step {
    #[prost(int64, tag = "1")]
    num: i64,
}

/// A `ConfigRecord` or a `SummaryRecord`.
#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    update: Vec<Item>,
}

#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "16")]
    value_json: String,
}

#[derive(Clone, PartialEq, Message)]
struct Exit {
    #[prost(int32, tag = "1")]
    exit_code: i32,
}

struct Log(Vec<u8>);

impl Log {
    fn append(&mut self, record: &[u8]) {
        let mut rest = record;
        let mut first = true;
        loop {
            let left = BLOCK - self.0.len() % BLOCK;
            if left < HEADER {
                self.0.resize(self.0.len() + left, 0);
                continue;
            }
            let length = rest.len().min(left - HEADER);
            let (piece, after) = rest.split_at(length);
            // Full, first, middle, last.
            let kind = match (first, after.is_empty()) {
                (true, true) => 1u8,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let checked = [&[kind], piece].concat();
            self.0.extend(CRC32.checksum(&checked).to_le_bytes());
            self.0.extend((length as u16).to_le_bytes());
            self.0.extend(checked);
            rest = after;
            first = false;
            if rest.is_empty() {
                return;
            }
        }
    }
}

fn items(values: &[(String, Value)]) -> Vec<Item> {
    let item = |(key, value): &(String, Value)| Item {
        key: key.clone(),
        value_json: value.to_string(),
    };
    values.iter().map(item).collect()
}

/// Writes `offline-run-<date>-<id>/run-<id>.wandb` into `folder`.
pub(super) fn write(
    folder: &Path,
    history: &History,
    config: &RunConfig,
    options: &WandBLogger,
) -> Result<()> {
    let rows = history.rows();
    let start = rows.first().map_or(0.0, |row| row.time);
    let text = |name: &str| -> Option<String> {
        let args = options.wandb_args.as_ref()?;
        Some(args.get(name)?.as_str()?.to_owned())
    };
    let project = text("project")
        .or_else(|| Some(options.experiment.clone()).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| config.experiment_name.clone());
    let name = text("name").unwrap_or_else(|| config.run_name.clone());
    let digest = Sha256::digest(format!("{project}/{name}/{start}").as_bytes());
    let id = hex::encode(&digest[..4]);

    let mut log = Log(IDENT.to_vec());
    let mut number = 0;
    let mut record = |content: Content| {
        number += 1;
        let content = Some(content);
        log.append(&Record { number, content }.encode_to_vec());
    };
    let settings = [
        ("model".to_owned(), json!(config.model.name)),
        ("loss".to_owned(), json!(config.hyper_parameters.loss)),
        (
            "optimizer".to_owned(),
            json!(config.hyper_parameters.optimizer),
        ),
        (
            "learning_rate".to_owned(),
            json!(config.hyper_parameters.learning_rate),
        ),
        (
            "batch_size".to_owned(),
            json!(config.hyper_parameters.batch_size),
        ),
        ("epochs".to_owned(), json!(config.hyper_parameters.epochs)),
    ];
    record(Content::Run(Run {
        id: id.clone(),
        entity: text("entity"),
        project,
        config: Some(Items {
            update: items(&settings),
        }),
        display_name: name,
        start_time: Some(Timestamp {
            seconds: start as i64,
            nanos: (start.fract() * 1e9) as i32,
        }),
    }));
    let mut last: Vec<(String, Value)> = Vec::new();
    for Row { step, time, values } in &rows {
        let mut logged = vec![
            ("_step".to_owned(), json!(step)),
            ("_timestamp".to_owned(), json!(time)),
            ("_runtime".to_owned(), json!(time - start)),
        ];
        for (name, value) in values {
            logged.push(((*name).to_owned(), json!(value)));
            last.retain(|(known, _)| known != name);
            last.push(((*name).to_owned(), json!(value)));
        }
        record(Content::History(Line {
            item: items(&logged),
            step: Some(Step { num: *step as i64 }),
        }));
    }
    record(Content::Summary(Items {
        update: items(&last),
    }));
    record(Content::Exit(Exit { exit_code: 0 }));

    let run_folder = folder.join(format!("offline-run-{}-{id}", stamp(start)));
    std::fs::create_dir_all(&run_folder).map_err(|e| Error::io(&run_folder, e))?;
    let path = run_folder.join(format!("run-{id}.wandb"));
    std::fs::write(&path, log.0).map_err(|e| Error::io(&path, e))
}

/// Formats a Unix time as `YYYYMMDD_HHMMSS` in UTC.
fn stamp(time: f64) -> String {
    let time = finetuner_protocol::time::Timestamp::from_second(time.max(0.0) as i64);
    time.unwrap_or_default()
        .strftime("%Y%m%d_%H%M%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_as_dates() {
        assert_eq!(stamp(0.0), "19700101_000000");
        assert_eq!(stamp(951_782_400.0), "20000229_000000");
        assert_eq!(stamp(1_795_700_045.0), "20261126_133405");
    }

    #[test]
    fn records_are_split_at_the_ends_of_blocks() {
        let mut log = Log(IDENT.to_vec());
        log.append(&vec![7; BLOCK]);
        log.append(&[8]);
        assert_eq!(log.0[HEADER + 6], 2);
        assert_eq!(log.0[BLOCK + 6], 4);
        let last = log.0.len() - 1;
        assert_eq!((log.0[last - 1], log.0[last]), (1, 8));
    }
}
