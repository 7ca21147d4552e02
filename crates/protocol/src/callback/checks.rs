//! Checks of the options of callbacks.

use crate::{InvalidField, MonitorMode};

pub(super) fn invalid_option(
    callback: &str,
    option: &str,
    value: impl ToString,
    limit: &str,
) -> InvalidField {
    InvalidField::new(&format!("callbacks.{callback}.{option}"), value, limit)
}

pub(super) fn check_monitor(
    callback: &str,
    monitor: &str,
    mode: &MonitorMode,
) -> Result<(), InvalidField> {
    check_name_given(callback, "monitor", monitor)?;
    if matches!(mode, MonitorMode::Other(_)) {
        let limit = "it must be one of auto, min, max";
        return Err(invalid_option(callback, "mode", format!("`{mode}`"), limit));
    }
    Ok(())
}

pub(super) fn check_name_given(
    callback: &str,
    option: &str,
    name: &str,
) -> Result<(), InvalidField> {
    if name.is_empty() {
        return Err(invalid_option(callback, option, "empty", "give it a name"));
    }
    Ok(())
}

pub(super) fn check_positive(callback: &str, option: &str, value: u64) -> Result<(), InvalidField> {
    if value == 0 {
        return Err(invalid_option(callback, option, 0, "at least 1 is needed"));
    }
    Ok(())
}
