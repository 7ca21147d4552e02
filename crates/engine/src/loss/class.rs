//! Classes that options name, with options of their own.

use finetuner_protocol::{Loss, Options};
use serde_json::Value;

use crate::{Result, options::OptionReader};

/// `"Name"`, or `{"name": "Name", "options": {...}}`.
pub(super) fn named(value: &Value) -> Option<(Loss, Option<Options>)> {
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

/// A class named in an option, and its options: `"Name"`, or
/// `{"name": "Name", "options": {...}}`.
pub(super) fn class(
    read: &OptionReader<'_>,
    name: &str,
) -> Result<Option<(String, Option<Options>)>> {
    let Some(value) = read.value(name) else {
        return Ok(None);
    };
    let members = value.as_object();
    let known = |key: &String| key == "name" || key == "options";
    let found = named(value).filter(|_| members.is_none_or(|members| members.keys().all(known)));
    let (class, options) = found.ok_or_else(|| {
        read.bad(
            name,
            "a name, or an object with `name` and `options`, is wanted",
        )
    })?;
    Ok(Some((class.as_str().to_owned(), options)))
}
