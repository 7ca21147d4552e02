//! Timestamps in the formats of backends: RFC 3339, a date and time in UTC without an
//! offset (Python's `isoformat`), or milliseconds since 1970.
//!
//! [`serialize`] and [`deserialize`] are for `#[serde(with = "..")]` on an
//! `Option<Timestamp>`. A timestamp that can't be read becomes `None`, so that a new
//! format does not invalidate the rest of an answer.

use jiff::{civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serializer};
use serde_json::Value;

pub use jiff::Timestamp;

/// Parses a timestamp.
///
/// ```
/// use finetuner_protocol::time::parse;
///
/// let moment = parse("2022-08-25T10:00:00.250Z");
/// assert_eq!(moment, parse("2022-08-25T10:00:00.25"));
/// assert_eq!(moment.map(|moment| moment.as_second()), Some(1_661_421_600));
/// assert_eq!(parse("yesterday"), None);
/// ```
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = text.parse() {
        return Some(moment);
    }
    let utc: DateTime = text.parse().ok()?;
    Some(utc.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Serializes a timestamp as RFC 3339 in UTC with milliseconds.
///
/// `finetuner-server` uses this format.
///
/// # Errors
/// If the serializer fails.
pub fn serialize<S: Serializer>(
    moment: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => serializer.collect_str(&format_args!("{moment:.3}")),
        None => serializer.serialize_none(),
    }
}

/// Deserializes a timestamp in any of the formats.
///
/// # Errors
/// If the deserializer fails.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => parse(&text),
        Value::Number(number) => {
            let milliseconds = number.as_i64();
            milliseconds.and_then(|ms| Timestamp::from_millisecond(ms).ok())
        }
        _ => None,
    })
}

/// Serialization as whole milliseconds since 1970.
pub(crate) mod milliseconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(
        moment: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        moment.as_millisecond().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        let milliseconds = i64::deserialize(deserializer)?;
        Timestamp::from_millisecond(milliseconds).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Moment(#[serde(with = "super")] Option<Timestamp>);

    #[test]
    fn times_of_a_server_survive_a_round_trip() {
        for text in ["2024-02-29T23:59:59.120Z", "1970-01-01T00:00:00.000Z"] {
            let json = format!("\"{text}\"");
            let moment: Moment = serde_json::from_str(&json).unwrap();
            assert!(moment.0.is_some());
            assert_eq!(serde_json::to_string(&moment).unwrap(), json);
        }
    }

    #[test]
    fn every_time_format_is_read_and_others_give_none() {
        let read = |json: &str| serde_json::from_str::<Moment>(json).unwrap().0;
        let expected = Timestamp::from_millisecond(1_661_421_600_500).unwrap();
        for json in [
            "\"2022-08-25T10:00:00.5Z\"",
            "\"2022-08-25T10:00:00.500000\"",
            "\"2022-08-25 10:00:00.5\"",
            "\"2022-08-25T12:00:00.5+02:00\"",
            "1661421600500",
        ] {
            assert_eq!(read(json), Some(expected), "{json}");
        }
        for json in ["null", "\"\"", "\"2030\"", "true", "1e300", "[1]"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
