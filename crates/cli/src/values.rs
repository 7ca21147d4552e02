//! Parsers of option values: `key=value` pairs, callbacks, weighted data.

use serde_json::{Map, Value};

/// A setting by name. Dots in the name select members of objects: `distance.name`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    key: String,
    value: Value,
}

impl Pair {
    /// Sets the value in an object.
    pub(crate) fn put_into(&self, object: &mut Map<String, Value>) {
        set_path(object, &self.key, self.value.clone());
    }
}

/// Parses `KEY=VALUE`. The value is JSON if it can be parsed as JSON, else text.
pub(crate) fn parse_pair(text: &str) -> Result<Pair, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("there is no `=` in it: write KEY=VALUE, such as margin=0.3")?;
    let key = key.trim();
    if key.split('.').any(str::is_empty) {
        return Err(format!(
            "`{key}` is not a name: write KEY=VALUE, such as margin=0.3"
        ));
    }
    Ok(Pair {
        key: key.to_owned(),
        value: json_or_text(value.trim()),
    })
}

/// Parses `KEY=TEXT`. The text is kept as it is, because the space at the end of a prompt
/// counts; a JSON string is parsed.
pub(crate) fn parse_text_pair(text: &str) -> Result<Pair, String> {
    let mut pair = parse_pair(text)?;
    if let Some((_, value)) = text.split_once('=') {
        let json = serde_json::from_str::<String>(value);
        pair.value = json.unwrap_or_else(|_| value.to_owned()).into();
    }
    Ok(pair)
}

/// Parses a finite number. JSON has no others: they would become `null`, and the default
/// would be used.
pub(crate) fn parse_finite(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    number
        .filter(|number| number.is_finite())
        .ok_or_else(|| "give a number, such as 0.001".to_owned())
}

/// Parses JSON; any other text becomes a JSON string.
fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Converts pairs to an object.
pub(crate) fn object(pairs: &[Pair]) -> Map<String, Value> {
    let mut object = Map::new();
    for pair in pairs {
        pair.put_into(&mut object);
    }
    object
}

/// Sets the member at a path with dots. An object is merged into an existing one.
pub(crate) fn set_path(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        Some((first, rest)) => {
            let inner = object.entry(first).or_insert_with(|| Map::new().into());
            if !inner.is_object() {
                *inner = Map::new().into();
            }
            if let Value::Object(inner) = inner {
                set_path(inner, rest, value);
            }
        }
        None => match (object.get_mut(path), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                for (key, value) in new {
                    set_member(old, key, value);
                }
            }
            (_, value) => drop(object.insert(path.to_owned(), value)),
        },
    }
}

/// Like [`set_path`], for a name that may contain dots.
fn set_member(object: &mut Map<String, Value>, key: String, value: Value) {
    match (object.get_mut(&key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            for (key, value) in new {
                set_member(old, key, value);
            }
        }
        (_, value) => drop(object.insert(key, value)),
    }
}

/// Parses a callback: `NAME`, `NAME:KEY=VALUE,KEY=VALUE` or `NAME:{JSON}`.
pub(crate) fn parse_callback(text: &str) -> Result<Value, String> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    if name.trim().is_empty() {
        return Err("write NAME:KEY=VALUE,KEY=VALUE, such as EarlyStopping:patience=3".to_owned());
    }
    let options = match options.trim() {
        json if json.starts_with('{') => serde_json::from_str(json)
            .map_err(|e| format!("the options are not a JSON object: {e}"))?,
        list => {
            let pairs = parts(list).into_iter().map(parse_pair);
            object(&pairs.collect::<Result<Vec<_>, _>>()?)
        }
    };
    Ok(serde_json::json!({"name": name.trim(), "options": options}))
}

/// Splits at commas outside brackets and quotes. Within quotes, a backslash escapes the
/// next character, as in JSON.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0_i32, false);
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth <= 0 => {
                parts.push(&text[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// Parses a data set with an optional weight: `DATA` or `DATA=WEIGHT`.
pub(crate) fn parse_weighted_data(text: &str) -> Result<Value, String> {
    let (name, weight) = match text.rsplit_once('=') {
        Some((name, weight)) => {
            let number = weight.trim().parse::<f64>().ok().filter(|w| w.is_finite());
            let number = number.ok_or_else(|| {
                format!(
                    "`{weight}` is not a number: write DATA or DATA=WEIGHT, such as more.csv=0.5"
                )
            })?;
            (name, number)
        }
        None => (text, 1.0),
    };
    Ok(serde_json::json!({"name": name, "weight": weight}))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_parsed_as_json_and_otherwise_kept_as_text() {
        let pairs = ["a=1", "b.c=true", "b.d=x=y", "e=[1,2]", "f=0.5e", "b.c=2"];
        let pairs: Vec<Pair> = pairs.iter().map(|text| parse_pair(text).unwrap()).collect();
        let expected = json!({"a": 1, "b": {"c": 2, "d": "x=y"}, "e": [1, 2], "f": "0.5e"});
        assert_eq!(Value::from(object(&pairs)), expected);
        for bad in ["a", "=1", "a..b=1", ".=1"] {
            assert!(parse_pair(bad).unwrap_err().contains("KEY=VALUE"), "{bad}");
        }
    }

    #[test]
    fn texts_are_kept_as_they_are() {
        for (given, text) in [
            ("a=query: ", "query: "),
            ("a=\"query: \"", "query: "),
            ("a=1", "1"),
            ("a= x=y", " x=y"),
            ("a=", ""),
        ] {
            let found = object(&[parse_text_pair(given).unwrap()]);
            assert_eq!(Value::from(found), json!({"a": text}), "{given}");
        }
        assert!(parse_text_pair("a").unwrap_err().contains("KEY=VALUE"));
    }

    #[test]
    fn objects_are_merged_and_other_values_replaced() {
        let mut map = Map::new();
        set_path(&mut map, "model.options", json!({"a": {"b": 1}, "c": 1}));
        set_path(&mut map, "model.options", json!({"a": {"d": 2}, "c": [2]}));
        set_path(&mut map, "model.name", json!("m"));
        let expected =
            json!({"model": {"options": {"a": {"b": 1, "d": 2}, "c": [2]}, "name": "m"}});
        assert_eq!(Value::from(map), expected);
    }

    #[test]
    fn callback_options_can_be_a_list_or_json() {
        let plain = parse_callback("BestModelCheckpoint").unwrap();
        assert_eq!(plain, json!({"name": "BestModelCheckpoint", "options": {}}));
        let list = parse_callback(r#"X:a=1,b=["c","d,e"],f=a b"#).unwrap();
        let options = json!({"a": 1, "b": ["c", "d,e"], "f": "a b"});
        assert_eq!(list["options"], options);
        let quotes = parse_callback(r#"X:a="1\",2",b="\\",c=\,d=3"#).unwrap();
        let options = json!({"a": "1\",2", "b": "\\", "c": "\\", "d": 3});
        assert_eq!(quotes["options"], options);
        assert_eq!(parse_callback(r#"X:{"a": 1}"#).unwrap()["options"]["a"], 1);
        for bad in ["", ":a=1", "X:a", "X:{"] {
            assert!(parse_callback(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_data_set_can_have_a_weight() {
        assert_eq!(
            parse_weighted_data("a").unwrap(),
            json!({"name": "a", "weight": 1.0})
        );
        let half = json!({"name": "a=b", "weight": 0.5});
        assert_eq!(parse_weighted_data("a=b=0.5").unwrap(), half);
        assert!(
            parse_weighted_data("a=b")
                .unwrap_err()
                .contains("DATA=WEIGHT")
        );
    }
}
