//! Conditions that runs of a list must meet, and the order of a list.

use std::cmp::Ordering;

use serde_json::Value;

use crate::{console::metrics, database::Outline};

/// The most conditions of a list.
const MOST: usize = 20;
/// Longer ones come first: `<=` begins with `<`.
const OPERATORS: [&str; 7] = ["<=", ">=", "!=", "=", "<", ">", "~"];

/// What a run has in a field.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Number(f64),
    Text(String),
    Missing,
}

/// A run as it is searched.
struct Searched<'a> {
    outline: &'a Outline,
    config: Value,
    metrics: finetuner_protocol::MetricsInfo,
}

impl<'a> Searched<'a> {
    fn of(outline: &'a Outline) -> Self {
        Self {
            outline,
            config: serde_json::from_str(&outline.config).unwrap_or_default(),
            metrics: metrics::named(&outline.metrics, &outline.config),
        }
    }

    fn field(&self, name: &str) -> Field {
        let number = |value: Option<f64>| value.map_or(Field::Missing, Field::Number);
        let after = self.metrics.after.get(name);
        if let Some(value) = after {
            return Field::Number(*value);
        }
        match name.rsplit_once('.') {
            Some((metric, "before")) => return number(self.metrics.before.get(metric).copied()),
            Some((metric, "change")) => {
                let values = [&self.metrics.after, &self.metrics.before];
                let [after, before] = values.map(|values| values.get(metric).copied());
                return number(after.zip(before).map(|(after, before)| after - before));
            }
            _ => {}
        }
        match name {
            "created" => Field::Number(self.outline.id as f64),
            "name" => Field::Text(self.outline.name.clone()),
            "model" => of_json(&self.config["model"]["name"]),
            "train_data" => of_json(&self.config["data"]["train_data"]),
            "duration" => {
                let times = self.outline.started_at.zip(self.outline.ended_at);
                number(times.map(|(started, ended)| (ended - started) as f64 / 1000.0))
            }
            other => of_json(&self.config["hyper_parameters"][other]),
        }
    }
}

fn of_json(value: &Value) -> Field {
    match value {
        Value::Null => Field::Missing,
        Value::Number(number) => number.as_f64().map_or(Field::Missing, Field::Number),
        Value::String(text) => Field::Text(text.clone()),
        other => Field::Text(other.to_string()),
    }
}

/// Conditions, all of which must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Vec<Condition>);

#[derive(Clone, Debug)]
struct Condition {
    field: String,
    operator: &'static str,
    value: String,
}

impl Conditions {
    /// Reads conditions with commas between them.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        if parts.len() > MOST {
            return Err(format!(
                "{} conditions: at most {MOST} are allowed",
                parts.len()
            ));
        }
        let conditions = parts.into_iter().map(Condition::read);
        conditions.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn hold(&self, run: &Searched<'_>) -> bool {
        self.0
            .iter()
            .all(|condition| condition.holds(&run.field(&condition.field)))
    }
}

impl Condition {
    fn read(text: &str) -> Result<Self, String> {
        let first = text.find(['<', '>', '!', '=', '~']);
        let found = first.and_then(|place| {
            let rest = &text[place..];
            let operator = OPERATORS.into_iter().find(|op| rest.starts_with(op))?;
            Some((
                text[..place].trim(),
                operator,
                rest[operator.len()..].trim(),
            ))
        });
        match found {
            Some((field, operator, value)) if !field.is_empty() && !value.is_empty() => Ok(Self {
                field: field.to_owned(),
                operator,
                value: value.to_owned(),
            }),
            _ => Err(format!(
                "`{text}` is not a condition: a field, one of {} and a value are wanted, as in \
                 `epochs>=5`",
                OPERATORS.join(" ")
            )),
        }
    }

    fn holds(&self, field: &Field) -> bool {
        let order = match (field, self.value.parse::<f64>()) {
            (Field::Missing, _) => return self.operator == "!=",
            (Field::Number(own), Ok(wanted)) => own.partial_cmp(&wanted),
            (Field::Number(_), Err(_)) => return self.operator == "!=",
            (Field::Text(own), _) => {
                let (own, wanted) = (own.to_lowercase(), self.value.to_lowercase());
                if self.operator == "~" {
                    return own.contains(&wanted);
                }
                Some(own.cmp(&wanted))
            }
        };
        let Some(order) = order else { return false };
        match self.operator {
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            ">=" => order.is_ge(),
            "!=" => order.is_ne(),
            _ => order.is_eq(),
        }
    }
}

/// The order of a list: a field, and whether the greatest comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    field: String,
    descending: bool,
}

impl Order {
    /// Reads a field with a minus before it for the greatest first; the newest
    /// first where there is none.
    pub(super) fn read(text: &str) -> Self {
        match (text.strip_prefix('-'), text) {
            (_, "") => Self {
                field: "created".to_owned(),
                descending: true,
            },
            (Some(field), _) => Self {
                field: field.to_owned(),
                descending: true,
            },
            (None, field) => Self {
                field: field.to_owned(),
                descending: false,
            },
        }
    }

    /// The field, and whether the greatest comes first.
    pub(super) fn shown(&self) -> (&str, bool) {
        (&self.field, self.descending)
    }

    /// Whether the newest come first; `None` where something else decides.
    pub(super) fn newest_first(&self) -> Option<bool> {
        (self.field == "created").then_some(self.descending)
    }

    fn compare(&self, one: &Field, other: &Field) -> Ordering {
        let order = match (one, other) {
            // Runs without a value come last, whichever way.
            (Field::Missing, Field::Missing) => return Ordering::Equal,
            (Field::Missing, _) => return Ordering::Greater,
            (_, Field::Missing) => return Ordering::Less,
            (Field::Number(one), Field::Number(other)) => one.total_cmp(other),
            (Field::Text(one), Field::Text(other)) => one.to_lowercase().cmp(&other.to_lowercase()),
            (Field::Number(_), Field::Text(_)) => Ordering::Less,
            (Field::Text(_), Field::Number(_)) => Ordering::Greater,
        };
        if self.descending {
            order.reverse()
        } else {
            order
        }
    }
}

/// The ids of the runs that meet the conditions, in order; of equal ones the
/// newest first.
pub(super) fn ids(outlines: &[Outline], conditions: &Conditions, order: &Order) -> Vec<i64> {
    let searched = outlines.iter().rev().map(Searched::of);
    let mut found: Vec<(Field, i64)> = searched
        .filter(|run| conditions.hold(run))
        .map(|run| (run.field(&order.field), run.outline.id))
        .collect();
    found.sort_by(|one, other| order.compare(&one.0, &other.0));
    found.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlines() -> Vec<Outline> {
        let outline = |id: i64, rate: &str, limit: u64, recall: f64| Outline {
            id,
            name: format!("run-{id}"),
            config: format!(
                r#"{{"model": {{"name": "Clip"}}, "hyper_parameters": {{"learning_rate": {rate}, "loss": "CLIPLoss"}},
                "callbacks": [{{"name": "EvaluationCallback", "options": {{"limit": {limit}}}}}]}}"#
            ),
            metrics: format!(
                r#"{{"before": {{"recall_at_k": 0.25}}, "after": {{"recall_at_k": {recall}}}}}"#
            ),
            started_at: Some(0),
            ended_at: Some(id * 1000),
        };
        vec![
            outline(1, "1e-4", 20, 0.5),
            outline(2, "1e-5", 20, 0.75),
            outline(3, "null", 8, 1.0),
        ]
    }

    fn found(filter: &str, sort: &str) -> Vec<i64> {
        let conditions = Conditions::read(filter).unwrap();
        ids(&outlines(), &conditions, &Order::read(sort))
    }

    #[test]
    fn runs_are_sorted_by_any_field_and_those_without_it_come_last() {
        assert_eq!(found("", ""), [3, 2, 1]);
        assert_eq!(found("", "created"), [1, 2, 3]);
        assert_eq!(found("", "-recall_at_20"), [2, 1, 3]);
        assert_eq!(found("", "recall_at_20"), [1, 2, 3]);
        assert_eq!(found("", "learning_rate"), [2, 1, 3]);
        assert_eq!(found("", "-recall_at_20.change"), [2, 1, 3]);
        assert_eq!(found("", "-name"), [3, 2, 1]);
        assert_eq!(found("", "nothing"), [3, 2, 1]);
    }

    #[test]
    fn runs_are_filtered_by_conditions() {
        for (filter, expected) in [
            ("recall_at_20>0.6", vec![2]),
            ("recall_at_8 >= 1", vec![3]),
            ("learning_rate=0.0001", vec![1]),
            ("learning_rate<1e-3, recall_at_20<0.6", vec![1]),
            ("loss=cliploss, model~LI", vec![3, 2, 1]),
            ("loss!=CLIPLoss", vec![]),
            ("duration<=2", vec![2, 1]),
            ("recall_at_20.before=0.25", vec![2, 1]),
            ("nothing=1", vec![]),
            ("learning_rate=x", vec![]),
            (" , ", vec![3, 2, 1]),
        ] {
            assert_eq!(found(filter, ""), expected, "{filter}");
        }
        for wrong in ["epochs", "=5", "epochs=", "a!5"] {
            let error = Conditions::read(wrong).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
        assert!(Conditions::read(&"a=1,".repeat(21)).is_err());
    }
}
