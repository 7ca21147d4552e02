//! Reads options that name a class with its own options.

use finetuner_protocol::{Loss, Options};
use serde_json::Value;

use crate::{Result, options::OptionReader};

/// Parses `"Name"` or `{"name": "Name", "options": {...}}`.
pub(super) fn parse_loss_name(value: &Value) -> Option<(Loss, Option<Options>)> {
    match value {
        Value::String(name) => Some((Loss::from(name.as_str()), None)),
        Value::Object(map) => {
            let name = map.get("name")?.as_str()?;
            let options = map.get("options").and_then(Value::as_object);
            Some((Loss::from(name), options.cloned().map(Options::from)))
        }
        _ => None,
    }
}

/// Reads an option that is a class name, or an object with `name` and `options`.
pub(super) fn read_class(
    read: &OptionReader<'_>,
    name: &str,
) -> Result<Option<(String, Option<Options>)>> {
    let Some(value) = read.value(name) else {
        return Ok(None);
    };
    let members = value.as_object();
    let known = |key: &String| key == "name" || key == "options";
    let found =
        parse_loss_name(value).filter(|_| members.is_none_or(|members| members.keys().all(known)));
    let (class, options) = found
        .ok_or_else(|| read.bad(name, "give a name, or an object with `name` and `options`"))?;
    Ok(Some((class.as_str().to_owned(), options)))
}
