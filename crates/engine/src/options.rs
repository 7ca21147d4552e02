//! Reading of options from JSON. Every option is checked, and unknown ones are
//! refused.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use finetuner_protocol::{Options, text::start_of};
use serde_json::Value;

use crate::{Error, Result};

/// Largest magnitude of an option's number. Losses multiply such numbers, and
/// must stay finite.
const LARGEST: f64 = 1e6;

thread_local! {
    /// Defaults that this thread's readers have returned, while they are collected.
    static DEFAULTS: RefCell<Option<BTreeMap<String, Value>>> = const { RefCell::new(None) };
}

/// Returns the defaults of all options that `read` reads and that are absent, by field
/// and name: `loss_options.margin`.
pub(crate) fn defaults_in(read: impl FnOnce()) -> BTreeMap<String, Value> {
    DEFAULTS.set(Some(BTreeMap::new()));
    read();
    DEFAULTS.take().unwrap_or_default()
}

/// Returns the numbers of a list, and an empty vector for any other value.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
    numbers.unwrap_or_default()
}

/// Options of one component, such as a loss.
pub(crate) struct OptionReader<'a> {
    /// The configuration field that holds them.
    field: &'a str,
    options: Options,
    known: RefCell<BTreeSet<String>>,
}

impl<'a> OptionReader<'a> {
    pub(crate) fn new(field: &'a str, options: Option<&Options>) -> Self {
        Self {
            field,
            options: options.cloned().unwrap_or_default(),
            known: RefCell::default(),
        }
    }

    /// Returns the configuration field that holds the options.
    pub(crate) fn field(&self) -> &str {
        self.field
    }

    /// Returns an error about an option.
    pub(crate) fn bad(&self, name: &str, wanted: &str) -> Error {
        let value = self.options.get(name).cloned().unwrap_or(Value::Null);
        let value = start_of(&value.to_string());
        Error::config(self.field, format!("`{name}` is {value}: {wanted}"))
    }

    /// Returns the value of an option, or `None` if it is absent or null.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.known.borrow_mut().insert(name.to_owned());
        self.options.get(name).filter(|value| !value.is_null())
    }

    /// Notes the default of an absent option for [`defaults_in`].
    pub(crate) fn note_default(&self, name: &str, default: impl Into<Value>) {
        DEFAULTS.with_borrow_mut(|all| {
            if let Some(all) = all {
                all.insert(format!("{}.{name}", self.field), default.into());
            }
        });
    }

    /// Reads a number from `low` to `high`, inclusive.
    pub(crate) fn number(&self, name: &str, default: f64, low: f64, high: f64) -> Result<f64> {
        let Some(value) = self.value(name) else {
            self.note_default(name, default);
            return Ok(default);
        };
        let number = value.as_f64().filter(|n| (low..=high).contains(n));
        number.ok_or_else(|| {
            let wanted = match (low.is_finite(), high.is_finite()) {
                (true, true) if low == f64::MIN_POSITIVE => {
                    format!("give a number above 0, up to {high}")
                }
                (true, false) if low == f64::MIN_POSITIVE => "give a number above 0".to_owned(),
                (true, true) => format!("give a number from {low} to {high}"),
                (true, false) => format!("give a number of at least {low}"),
                (false, true) => format!("give a number up to {high}"),
                (false, false) => "give a number".to_owned(),
            };
            self.bad(name, &wanted)
        })
    }

    /// Reads a number of either sign, up to [`LARGEST`] in magnitude.
    pub(crate) fn any_number(&self, name: &str, default: f64) -> Result<f64> {
        self.number(name, default, -LARGEST, LARGEST)
    }

    /// Reads a number above zero.
    pub(crate) fn positive(&self, name: &str, default: f64) -> Result<f64> {
        let number = self.number(name, default, 0.0, LARGEST)?;
        if number > 0.0 {
            Ok(number)
        } else {
            Err(self.bad(name, "give a number above 0"))
        }
    }

    /// Reads a whole number of at least `low`.
    pub(crate) fn count(&self, name: &str, default: usize, low: usize) -> Result<usize> {
        let Some(value) = self.value(name) else {
            self.note_default(name, default);
            return Ok(default);
        };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number
            .filter(|n| *n >= low && *n < 1 << 32)
            .ok_or_else(|| self.bad(name, &format!("give a whole number of at least {low}")))
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.value(name) {
            None => {
                self.note_default(name, default);
                Ok(default)
            }
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.bad(name, "give true or false")),
        }
    }

    /// Reads one of some words.
    pub(crate) fn choice(&self, name: &str, default: &str, choices: &[&str]) -> Result<String> {
        match self.value(name).map(Value::as_str) {
            None => {
                self.note_default(name, default);
                Ok(default.to_owned())
            }
            Some(Some(word)) if choices.contains(&word) => Ok(word.to_owned()),
            Some(_) => Err(self.bad(name, &format!("give one of {}", choices.join(", ")))),
        }
    }

    /// Reads two numbers from 0 to below 1.
    pub(crate) fn rates(&self, name: &str, default: (f64, f64)) -> Result<(f64, f64)> {
        let Some(value) = self.value(name) else {
            self.note_default(name, vec![default.0, default.1]);
            return Ok(default);
        };
        match *numbers(value) {
            [a, b] if (0.0..1.0).contains(&a) && (0.0..1.0).contains(&b) => Ok((a, b)),
            _ => Err(self.bad(name, "give two numbers from 0 to below 1")),
        }
    }

    /// Refuses options that were never read.
    pub(crate) fn finish(&self) -> Result<()> {
        let known = self.known.borrow();
        match self.options.keys().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) if known.is_empty() => Err(self.bad(name, "no options are allowed here")),
            Some(name) => {
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                Err(self.bad(name, &format!("the options are {}", names.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_with_other_values_holds_no_numbers() {
        assert_eq!(numbers(&json!([0.5, 2])), [0.5, 2.0]);
        for other in [json!([0.5, "x", 2]), json!([1, null]), json!(3)] {
            assert!(numbers(&other).is_empty(), "{other}");
        }
    }

    #[test]
    fn every_option_is_checked_and_unknown_ones_are_refused() {
        let options: Options = [("a", json!(2)), ("b", json!("x")), ("odd", json!(1))]
            .into_iter()
            .collect();
        let reader = OptionReader::new("loss_options", Some(&options));
        assert_eq!(reader.number("a", 1.0, 0.0, 5.0).unwrap(), 2.0);
        assert_eq!(reader.count("absent", 7, 1).unwrap(), 7);
        let message = |r: Result<f64>| r.unwrap_err().to_string();
        let found = message(reader.number("a", 1.0, 0.0, 1.0));
        assert_eq!(found, "`loss_options`: `a` is 2: give a number from 0 to 1");
        let found = message(reader.number("b", 1.0, f64::MIN_POSITIVE, f64::INFINITY));
        assert_eq!(found, "`loss_options`: `b` is \"x\": give a number above 0");
        assert!(reader.flag("b", true).is_err());
        assert!(reader.choice("b", "y", &["y", "z"]).is_err());
        let left = reader.finish().unwrap_err().to_string();
        assert_eq!(
            left,
            "`loss_options`: `odd` is 1: the options are a, absent, b"
        );
    }
}
