//! Members of JSON objects.

use serde_json::{Map, Value};

/// Adds members to an object.
pub(crate) fn with_extra_members(object: Value, extra: &Map<String, Value>) -> Map<String, Value> {
    let mut map = match object {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in extra {
        map.insert(key.clone(), value.clone());
    }
    map
}
