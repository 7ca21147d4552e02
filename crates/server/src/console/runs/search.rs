//! Filter conditions and sort order of a list of runs.

use std::cmp::Ordering;

use serde_json::Value;

use crate::{
    console::{metrics, state::State},
    database::Outline,
};

/// Maximum number of conditions.
const MAX_CONDITIONS: usize = 20;
/// Comparison operators. Longer ones come first, because `<=` starts with `<`.
const OPERATORS: [&str; 7] = ["<=", ">=", "!=", "=", "<", ">", "~"];

/// Value of a run's field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Field {
    Number(f64),
    Text(String),
    Tags(Vec<String>),
    Missing,
}

/// A run with parsed configuration and metrics.
pub(super) struct Searched<'a> {
    pub(super) outline: &'a Outline,
    pub(super) config: Value,
    pub(super) metrics: finetuner_protocol::MetricsInfo,
}

/// Fields that need neither configuration nor metrics.
const PLAIN: [&str; 8] = [
    "created",
    "duration",
    "experiment",
    "name",
    "description",
    "note",
    "tag",
    "tags",
];

impl<'a> Searched<'a> {
    pub(super) fn of(outline: &'a Outline) -> Self {
        Self {
            outline,
            config: serde_json::from_str(&outline.config).unwrap_or_default(),
            metrics: metrics::named(&outline.metrics, &outline.config),
        }
    }

    /// Returns the hyper-parameters that are set in the configuration.
    pub(super) fn hyper_parameters(&self) -> impl Iterator<Item = (&String, &Value)> {
        let own = self.config["hyper_parameters"].as_object();
        own.into_iter().flatten()
    }

    pub(super) fn tags(&self) -> Vec<String> {
        serde_json::from_str(&self.outline.tags).unwrap_or_default()
    }

    /// Returns the value of a field: a fixed one, a hyper-parameter or a metric.
    pub(super) fn field(&self, name: &str) -> Field {
        let number = |value: Option<f64>| value.map_or(Field::Missing, Field::Number);
        let own = self.outline;
        let text = |text: &String| match text.is_empty() {
            true => Field::Missing,
            false => Field::Text(text.clone()),
        };
        match name {
            "created" => return Field::Number(own.id as f64),
            "experiment" => return text(&own.experiment),
            "name" => return text(&own.name),
            "description" => return text(&own.description),
            "note" => return text(&own.note),
            "tag" | "tags" => {
                let tags = self.tags();
                return if tags.is_empty() {
                    Field::Missing
                } else {
                    Field::Tags(tags)
                };
            }
            "state" => return Field::Text(State::of_outline(own).word().to_owned()),
            "duration" => {
                let times = own.started_at.zip(own.ended_at);
                return number(times.map(|(started, ended)| (ended - started) as f64 / 1000.0));
            }
            _ => {}
        }
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
            "model" => of_json(&self.config["model"]["name"]),
            "train_data" => of_json(&self.config["data"]["train_data"]),
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

/// Conditions that must all hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Vec<Condition>);

#[derive(Clone, Debug)]
struct Condition {
    field: String,
    operator: &'static str,
    value: String,
}

impl Conditions {
    /// Parses conditions separated by commas.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        if parts.len() > MAX_CONDITIONS {
            return Err(format!(
                "{} conditions: at most {MAX_CONDITIONS} are allowed",
                parts.len()
            ));
        }
        let conditions = parts.into_iter().map(Condition::read);
        conditions.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether configurations or metrics are needed.
    pub(super) fn need_details(&self) -> bool {
        let mut fields = self.0.iter().map(|condition| &condition.field);
        fields.any(|field| !PLAIN.contains(&field.as_str()))
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
                "`{text}` is not a condition: write a field, one of {} and a value, as in \
                 `epochs>=5`",
                OPERATORS.join(" ")
            )),
        }
    }

    fn holds(&self, field: &Field) -> bool {
        let order = match (field, self.value.parse::<f64>()) {
            (Field::Missing, _) => return self.operator == "!=",
            (Field::Tags(tags), _) => return self.holds_of(tags),
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

impl Condition {
    /// Returns whether any tag meets the condition, or with `!=`, whether all do.
    fn holds_of(&self, tags: &[String]) -> bool {
        let wanted = self.value.to_lowercase();
        let mut tags = tags.iter().map(|tag| tag.to_lowercase());
        match self.operator {
            "=" => tags.any(|tag| tag == wanted),
            "!=" => tags.all(|tag| tag != wanted),
            "~" => tags.any(|tag| tag.contains(&wanted)),
            _ => false,
        }
    }
}

/// The order of a list: a field and a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    field: String,
    descending: bool,
}

impl Order {
    /// Parses a field name; a leading minus sorts in descending order. Without a
    /// field, the newest run comes first.
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

    /// Returns the field, and whether the order is descending.
    pub(super) fn shown(&self) -> (&str, bool) {
        (&self.field, self.descending)
    }

    /// Returns whether the newest runs come first; `None` if another field
    /// determines the order.
    pub(super) fn newest_first(&self) -> Option<bool> {
        (self.field == "created").then_some(self.descending)
    }

    /// Whether configurations or metrics are needed.
    pub(super) fn needs_details(&self) -> bool {
        !PLAIN.contains(&self.field.as_str())
    }

    fn compare(&self, one: &Field, other: &Field) -> Ordering {
        let order = match (one, other) {
            // Runs without a value come last in both directions.
            (Field::Missing, Field::Missing) => return Ordering::Equal,
            (Field::Missing, _) => return Ordering::Greater,
            (_, Field::Missing) => return Ordering::Less,
            (Field::Number(one), Field::Number(other)) => one.total_cmp(other),
            (Field::Text(one), Field::Text(other)) => one.to_lowercase().cmp(&other.to_lowercase()),
            (Field::Tags(one), Field::Tags(other)) => one.cmp(other),
            (Field::Number(_), _) | (Field::Text(_), Field::Tags(_)) => Ordering::Less,
            (_, Field::Number(_)) | (Field::Tags(_), Field::Text(_)) => Ordering::Greater,
        };
        if self.descending {
            order.reverse()
        } else {
            order
        }
    }
}

/// The runs that meet the conditions, among those that it was given: only their ids and
/// what they are sorted by.
pub(super) struct Found {
    conditions: Conditions,
    order: Order,
    runs: Vec<(Field, i64)>,
}

impl Found {
    pub(super) fn new(conditions: Conditions, order: Order) -> Self {
        Self {
            conditions,
            order,
            runs: Vec::new(),
        }
    }

    /// Adds those of the runs that meet the conditions, and shows them to `see`. Runs
    /// come oldest first.
    pub(super) fn add(&mut self, outlines: &[Outline], mut see: impl FnMut(&Searched<'_>)) {
        for outline in outlines {
            let run = Searched::of(outline);
            if self.conditions.hold(&run) {
                see(&run);
                self.runs.push((run.field(&self.order.field), outline.id));
            }
        }
    }

    /// Returns the ids of the runs in order; equal ones newest first.
    pub(super) fn sorted(mut self) -> Vec<i64> {
        self.runs.reverse();
        let order = &self.order;
        self.runs
            .sort_by(|one, other| order.compare(&one.0, &other.0));
        self.runs.into_iter().map(|(_, id)| id).collect()
    }
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
            tags: format!(r#"["all", "tag-{id}"]"#),
            status: if id == 1 { "FAILED" } else { "FINISHED" }.to_owned(),
            ..Outline::default()
        };
        vec![
            outline(1, "1e-4", 20, 0.5),
            outline(2, "1e-5", 20, 0.75),
            outline(3, "null", 8, 1.0),
        ]
    }

    fn found(filter: &str, sort: &str) -> Vec<i64> {
        let conditions = Conditions::read(filter).unwrap();
        let mut found = Found::new(conditions, Order::read(sort));
        let mut seen = 0;
        for outlines in outlines().chunks(2) {
            found.add(outlines, |_| seen += 1);
        }
        let sorted = found.sorted();
        assert_eq!(sorted.len(), seen);
        sorted
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
        assert_eq!(found("", "-tags"), [3, 2, 1]);
        assert_eq!(found("", "state"), [1, 3, 2]);
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
            ("tags=TAG-2", vec![2]),
            ("tag!=tag-2, tag~ag", vec![3, 1]),
            ("state=failed", vec![1]),
            ("note=x", vec![]),
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
