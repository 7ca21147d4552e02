//! What fuzzers call: everything that reads what comes from outside.

pub use finetuner_data::fuzzing::csv;
use finetuner_protocol::{
    Config, DocumentArray, Event, ExamplesInfo, ExperimentInfo, MetricPoint, MetricsInfo, Page,
    RunInfo, StatusInfo,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    client::{PersonalToken, User},
    data::ArtifactInfo,
    error::Error,
};

/// Documents and files of them. What was read is written, and read again is the
/// same.
pub fn documents(bytes: &[u8]) {
    for read in [DocumentArray::from_bytes, DocumentArray::from_file_bytes] {
        let Ok(array) = read(bytes) else { continue };
        let written = array
            .to_bytes()
            .map(|bytes| DocumentArray::from_bytes(&bytes));
        if let Ok(again) = written {
            // NaN is not equal to itself, its text is.
            let again = again.map(|again| format!("{again:?}")).ok();
            assert_eq!(again, Some(format!("{array:?}")));
        }
        let _ = crate::Summary::of(&array).to_string();
    }
}

/// Answers of a server.
pub fn answers(bytes: &[u8]) {
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        match serde_path_to_error::deserialize(&mut json) {
            Ok(value) => Some(value),
            Err(error) => {
                let _ = Error::decode(error, bytes).to_string();
                None
            }
        }
    }
    // What is read and sent back is understood again.
    fn round_trip<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
        if let Some(value) = read::<T>(bytes)
            && let Ok(text) = serde_json::to_vec(&value)
        {
            assert!(serde_json::from_slice::<T>(&text).is_ok());
        }
    }
    round_trip::<Config>(bytes);
    round_trip::<RunInfo>(bytes);
    round_trip::<ExperimentInfo>(bytes);
    round_trip::<StatusInfo>(bytes);
    round_trip::<MetricsInfo>(bytes);
    round_trip::<ExamplesInfo>(bytes);
    round_trip::<Event>(bytes);
    read::<Page<RunInfo>>(bytes);
    read::<Vec<MetricPoint>>(bytes);
    read::<ArtifactInfo>(bytes);
    read::<User>(bytes);
    read::<PersonalToken>(bytes);
    for status in [200, 401, 422, 504] {
        if let Ok(status) = reqwest::StatusCode::from_u16(status) {
            let error = Error::status_of(status, bytes);
            let _ = format!("{error} {error:?}");
        }
    }
    // However a log stream is cut, it says the same.
    let lines = crate::transport::parse_all([bytes].into_iter());
    let cut = crate::transport::parse_all(bytes.chunks(3));
    assert_eq!(lines, cut);
}

/// Zips of models.
pub fn artifact(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let inner = folder.path().join("inner");
    if std::fs::create_dir(&inner).is_err() {
        return;
    }
    let _ = crate::runs::unpack_bytes(bytes, &inner, 1 << 20);
    let beside = std::fs::read_dir(folder.path()).map(Iterator::count);
    assert_eq!(beside.ok(), Some(1), "something was written outside");
}
