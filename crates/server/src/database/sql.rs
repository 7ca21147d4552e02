//! Times, pages and errors in the form that SQLite uses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SQL expression for the current time in UTC.
pub(super) const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// Returns the current time in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// Converts a duration to milliseconds, the unit of times in the database.
pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Converts an offset and a limit for SQLite, where a limit of -1 means none.
pub(super) fn bounds(page: Option<(u64, u64)>) -> (i64, i64) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    page.map_or((0, -1), |(offset, limit)| (number(offset), number(limit)))
}

/// Whether an error reports a duplicate key.
pub(crate) fn is_duplicate(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}
