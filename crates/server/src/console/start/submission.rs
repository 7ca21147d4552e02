//! Creates a run from the submitted form.

use axum::http::StatusCode;
use finetuner_protocol::check_name;
use serde_json::{Value, json};

use super::typed::Typed;
use crate::{
    app::App,
    console::session::Session,
    database::{RunRow, is_duplicate},
    error::ApiError,
    runs::create_from,
};

/// An error with the field next to which it is shown.
pub(super) struct Wrong {
    pub(super) field: &'static str,
    pub(super) reason: String,
    pub(super) status: StatusCode,
}

impl From<ApiError> for Wrong {
    fn from(error: ApiError) -> Self {
        Self {
            field: field_of(error.message()),
            reason: error.message().to_owned(),
            status: error.status(),
        }
    }
}

/// Returns the field that an error message is about: the first one that it names.
/// Empty if there is none.
fn field_of(message: &str) -> &'static str {
    const NAMES: [(&str, &str); 13] = [
        ("run_name`", "name"),
        ("`name`", "name"),
        ("`experiment`", "experiment"),
        ("`description`", "description"),
        ("`model`", "model"),
        ("`model.", "model"),
        ("train_data`", "data"),
        ("eval_data`", "eval_data"),
        ("query_data`", "eval_data"),
        ("loss`", "loss"),
        ("epochs`", "epochs"),
        ("batch_size`", "batch_size"),
        ("learning_rate`", "learning_rate"),
    ];
    let places = NAMES
        .iter()
        .filter_map(|(word, field)| Some((message.find(word)?, *field)));
    places.min().map_or("", |(_, field)| field)
}

/// Parses a number; an empty text is null.
fn number(field: &'static str, label: &str, text: &str, is_whole: bool) -> Result<Value, Wrong> {
    let text = text.trim();
    let read = match is_whole {
        _ if text.is_empty() => Some(Value::Null),
        true => text.parse::<u64>().ok().map(Value::from),
        false => {
            let number = text.parse::<f64>().ok();
            number.filter(|number| number.is_finite()).map(Value::from)
        }
    };
    read.ok_or_else(|| {
        let kind = match is_whole {
            true => "a whole number",
            false => "a number, such as 1e-5",
        };
        let text = finetuner_protocol::text::start_of(text);
        Wrong {
            field,
            reason: format!("{label} is `{text}`: enter {kind}"),
            status: StatusCode::UNPROCESSABLE_ENTITY,
        }
    })
}

/// Creates the run of a form.
pub(super) async fn create_run(
    app: &App,
    session: &Session,
    typed: &Typed,
) -> Result<RunRow, Wrong> {
    let wrong = |field, reason: String| Wrong {
        field,
        reason,
        status: StatusCode::UNPROCESSABLE_ENTITY,
    };
    check_name("name", typed.name.trim()).map_err(|e| wrong("name", e.to_string()))?;
    check_name("experiment", typed.experiment()).map_err(|e| wrong("experiment", e.to_string()))?;
    if typed.data.is_empty() {
        return Err(wrong("data", "choose the data to train on".to_owned()));
    }
    if !["", "cpu", "gpu"].contains(&typed.device.as_str()) {
        return Err(wrong("device", "choose `cpu` or `gpu`".to_owned()));
    }
    if !typed.evaluate.is_empty() && typed.eval_data.trim().is_empty() {
        let reason = "choose the data to measure with".to_owned();
        return Err(wrong("eval_data", reason));
    }
    let body = body(typed)?;
    let experiment = typed.experiment().to_owned();
    // The experiment must exist before the submission is checked.
    let created = app.database.create_experiment(
        session.user.clone(),
        experiment.clone(),
        String::new(),
        None,
    );
    match created.await {
        Ok(_) => {}
        Err(error) if is_duplicate(&error) => {}
        Err(error) => return Err(ApiError::from(error).into()),
    }
    let (_, run) = create_from(app, &session.user, experiment, &body, None).await?;
    Ok(run)
}

/// Returns the submission that a client sends for the same run.
fn body(typed: &Typed) -> Result<Value, Wrong> {
    let mut hyper = json!({
        "epochs": number("epochs", "Epochs", &typed.epochs, true)?,
        "batch_size": number("batch_size", "Batch size", &typed.batch_size, true)?,
        "learning_rate": number("learning_rate", "Learning rate", &typed.learning_rate, false)?,
    });
    if let Some(members) = hyper.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    if !typed.loss.is_empty() {
        hyper["loss"] = typed.loss.as_str().into();
    }
    let mut data = json!({"train_data": typed.data});
    let mut callbacks = Vec::new();
    if !typed.eval_data.trim().is_empty() {
        data["eval_data"] = typed.eval_data.trim().into();
        if typed.evaluates() {
            callbacks.push(json!({
                "name": "EvaluationCallback",
                "options": {"query_data": typed.eval_data.trim(), "gather_examples": true},
            }));
        }
    }
    let name = typed.name.trim();
    Ok(json!({
        "name": name,
        "description": typed.description,
        "device": if typed.device.is_empty() { "gpu" } else { typed.device.as_str() },
        "config": {
            "model": {"name": typed.model()},
            "data": data,
            "hyper_parameters": hyper,
            "callbacks": callbacks,
            "run_name": name,
            "experiment_name": typed.experiment(),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_are_shown_beside_their_field() {
        for (message, field) in [
            (
                "`run_name`: experiment `e` has a run `name` already",
                "name",
            ),
            (
                "`loss`: there is no loss `X`; the losses are `epochs`",
                "loss",
            ),
            ("`eval_data`: there is no data named `x`", "eval_data"),
            ("open runs: you have 3", ""),
        ] {
            assert_eq!(field_of(message), field, "{message}");
        }
    }

    #[test]
    fn the_form_submits_what_a_client_would() {
        let typed = Typed {
            data: "train".into(),
            name: " r ".into(),
            model: "clip-small".into(),
            loss: "CLIPLoss".into(),
            eval_data: "eval".into(),
            evaluate: "yes".into(),
            epochs: "2".into(),
            learning_rate: "1e-4".into(),
            ..Typed::default()
        };
        let body = body(&typed).ok().unwrap();
        let new: finetuner_protocol::NewRun = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(new.name, "r");
        assert!(new.config.training().is_some());
        let hyper = &body["config"]["hyper_parameters"];
        assert_eq!(
            *hyper,
            json!({"epochs": 2, "learning_rate": 1e-4, "loss": "CLIPLoss"})
        );
        assert_eq!(
            body["config"]["callbacks"][0]["options"]["query_data"],
            "eval"
        );
    }
}
