//! Forms that start a run from another one: a clone with the same settings, or a
//! continuation from a checkpoint.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    console::{
        config::{config_of, makes_data, setting},
        failure::{Failure, Page},
        frame::{page as framed, problem},
        links::{crumbs, run_path},
        project_form::ProjectForm,
        session::Session,
        words::{count, name},
    },
    database::{CheckpointRow, RunRow},
    error::ApiError,
    runs::{Continuation, check_keys, continue_from, create_from, find_run},
};

/// Hyper-parameters that can be changed in a clone: field, label, whether it is
/// an integer.
const SETTINGS: [(&str, &str, bool); 3] = [
    ("epochs", "Epochs", true),
    ("batch_size", "Batch size", true),
    ("learning_rate", "Learning rate", false),
];

/// Texts that can be changed in a clone: field, label, JSON pointer in the
/// configuration.
const TEXTS: [(&str, &str, &str); 4] = [
    ("model", "Model", "/model/name"),
    ("train_data", "Training data", "/data/train_data"),
    ("eval_data", "Validation data", "/data/eval_data"),
    ("loss", "Loss", "/hyper_parameters/loss"),
];

/// Submitted values of either form.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Typed {
    name: String,
    description: String,
    epochs: String,
    batch_size: String,
    learning_rate: String,
    checkpoint: String,
    model: String,
    train_data: String,
    eval_data: String,
    loss: String,
}

impl Typed {
    fn setting(&self, field: &str) -> &str {
        match field {
            "epochs" => self.epochs.trim(),
            "batch_size" => self.batch_size.trim(),
            _ => self.learning_rate.trim(),
        }
    }

    fn text(&self, field: &str) -> &str {
        match field {
            "model" => self.model.trim(),
            "train_data" => self.train_data.trim(),
            "eval_data" => self.eval_data.trim(),
            _ => self.loss.trim(),
        }
    }
}

/// Returns a string in the configuration; `None` if it is missing or not a
/// string.
fn text_at<'a>(config: &'a Value, place: &str) -> Option<&'a str> {
    config.pointer(place)?.as_str()
}

/// Renders the buttons of a form.
fn buttons(back: &str) -> Markup {
    html! {
        div .row {
            button type="submit" { "Start the run" }
            a .button .quiet href=(back) { "Back" }
        }
    }
}

/// Renders the fields that both forms have.
fn names(typed: &Typed) -> Markup {
    html! {
        label for="name" { "Name" }
        input #name name="name" value=(typed.name) required maxlength="255" autocapitalize="none";
        label for="description" { "Description" }
        input #description name="description" value=(typed.description);
    }
}

/// Returns the name of the next attempt: `x-2` for `x`, `x-3` for `x-2`.
fn next_name(name: &str) -> String {
    let (start, number) = match name.rsplit_once('-') {
        Some((start, end)) if !start.is_empty() => (start, end.parse::<u32>().ok()),
        _ => (name, None),
    };
    match number.and_then(|number| number.checked_add(1)) {
        Some(next) => format!("{start}-{next}"),
        None => format!("{name}-2"),
    }
}

fn clone_page(session: &Session, run: &RunRow, typed: &Typed, wrong: Option<&str>) -> Markup {
    let here = run_path(run);
    let content = html! {
        (crumbs(run))
        h1 { "Clone " (name(&run.name)) }
        (problem(wrong))
        p { "The new run has the same model, data and settings, except for what you change here." }
        form .stacked method="post" action={ (here) "/clone" } {
            (session.project_field())
            (names(typed))
            @if !makes_data(run) {
                @let config = config_of(run);
                // Settings that the run omits, or gives as a list, can't be edited and
                // are kept.
                @for (field, label, place) in TEXTS {
                    @if text_at(&config, place).is_some() {
                        label for=(field) { (label) }
                        input id=(field) name=(field) value=(typed.text(field)) required autocapitalize="none";
                    }
                }
                @for (field, label, is_whole) in SETTINGS {
                    label for=(field) { (label) @if field != "epochs" { " (empty: chosen for you)" } }
                    input id=(field) name=(field) value=(typed.setting(field))
                        inputmode=(if is_whole { "numeric" } else { "decimal" });
                }
            }
            (buttons(&here))
        }
    };
    framed(session, "Experiments", "Clone a run", &content)
}

pub(crate) async fn clone_form(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let config = config_of(&run);
    let typed = Typed {
        name: next_name(&run.name),
        description: run.description.clone(),
        epochs: setting(&config, "epochs"),
        batch_size: setting(&config, "batch_size"),
        learning_rate: setting(&config, "learning_rate"),
        model: text_at(&config, "/model/name")
            .unwrap_or_default()
            .to_owned(),
        train_data: text_at(&config, "/data/train_data")
            .unwrap_or_default()
            .to_owned(),
        eval_data: text_at(&config, "/data/eval_data")
            .unwrap_or_default()
            .to_owned(),
        loss: text_at(&config, "/hyper_parameters/loss")
            .unwrap_or_default()
            .to_owned(),
        ..Typed::default()
    };
    Ok(clone_page(&session, &run, &typed, None))
}

pub(crate) async fn clone(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let body = check_keys(&session.user, &run).and_then(|()| body_of_clone(&run, &typed));
    let made = match body {
        Ok(body) => create_from(&app, &session.user, run.experiment.clone(), &body, None).await,
        Err(error) => Err(error),
    };
    Ok(match made {
        Ok((_, made)) => Redirect::to(&run_path(&made)).into_response(),
        Err(error) => {
            let page = clone_page(&session, &run, &typed, Some(error.message()));
            (error.status(), page).into_response()
        }
    })
}

/// Returns the submission of a run with the settings of another one.
fn body_of_clone(run: &RunRow, typed: &Typed) -> Result<Value, ApiError> {
    let mut config: Value =
        serde_json::from_str(&run.config).map_err(|e| ApiError::internal(&e))?;
    let new_name = typed.name.trim();
    config["run_name"] = new_name.into();
    if !makes_data(run) {
        let shown = config_of(run);
        if config["hyper_parameters"].is_null() {
            config["hyper_parameters"] = json!({});
        }
        if !config["hyper_parameters"].is_object() {
            let reason = "`hyper_parameters` of this run is not an object: it can't be changed";
            return Err(ApiError::unprocessable(reason));
        }
        for (field, _, place) in TEXTS {
            let text = typed.text(field);
            // A setting without a field in the form is kept.
            if let Some(Value::String(had)) = config.pointer_mut(place)
                && !text.is_empty()
            {
                text.clone_into(had);
            }
        }
        for (field, label, is_whole) in SETTINGS {
            let text = typed.setting(field);
            // An unchanged value keeps its original JSON.
            if text == setting(&shown, field) {
                continue;
            }
            config["hyper_parameters"][field] = number_of(label, text, is_whole)?;
        }
    }
    let mut body = json!({
        "name": new_name, "description": typed.description, "config": config,
        "device": run.device, "task": run.task,
    });
    for (field, number) in [("cpus", run.cpus), ("gpus", run.gpus)] {
        if let Some(number) = number {
            body[field] = number.into();
        }
    }
    Ok(body)
}

/// Parses a number; an empty text is null.
fn number_of(label: &str, text: &str, is_whole: bool) -> Result<Value, ApiError> {
    let read = match (text, is_whole) {
        ("", _) => Some(Value::Null),
        (text, true) => text.parse::<u64>().ok().map(Value::from),
        (text, false) => text
            .parse::<f64>()
            .ok()
            .filter(|x| x.is_finite())
            .map(Value::from),
    };
    let kind = if is_whole {
        "a whole number"
    } else {
        "a number, such as 1e-5"
    };
    read.ok_or_else(|| ApiError::unprocessable(format!("{label} is `{text}`: enter {kind}")))
}

fn continue_page(
    session: &Session,
    run: &RunRow,
    checkpoints: &[CheckpointRow],
    typed: &Typed,
    wrong: Option<&str>,
) -> Markup {
    let here = run_path(run);
    let content = html! {
        (crumbs(run))
        h1 { "Continue " (name(&run.name)) }
        (problem(wrong))
        p { "A new run continues from a checkpoint of this one, with the same model, data and settings." }
        form .stacked method="post" action={ (here) "/continue" } {
            (session.project_field())
            (names(typed))
            label for="checkpoint" { "Checkpoint" }
            select #checkpoint name="checkpoint" {
                @for checkpoint in checkpoints.iter().rev() {
                    @let number = checkpoint.number.to_string();
                    option value=(number) selected[number == typed.checkpoint] {
                        (number) ": " (count(checkpoint.epoch, "epoch")) ", " (count(checkpoint.step, "step"))
                    }
                }
            }
            label for="epochs" { "Total number of epochs, including completed ones" }
            input #epochs name="epochs" value=(typed.epochs) inputmode="numeric" required;
            (buttons(&here))
        }
    };
    framed(session, "Experiments", "Continue a run", &content)
}

pub(crate) async fn continue_form(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let checkpoints = app.database.checkpoints(run.id).await?;
    let none = || ApiError::not_found(format!("run `{}` has no checkpoint", run.name));
    let last = checkpoints.last().ok_or_else(none)?;
    let typed = Typed {
        name: next_name(&run.name),
        epochs: setting(&config_of(&run), "epochs"),
        checkpoint: last.number.to_string(),
        ..Typed::default()
    };
    Ok(continue_page(&session, &run, &checkpoints, &typed, None))
}

pub(crate) async fn go_on(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let made = continued(&app, &session, &run, &typed).await;
    Ok(match made {
        Ok(made) => Redirect::to(&run_path(&made)).into_response(),
        Err(failure) => {
            let checkpoints = app.database.checkpoints(run.id).await?;
            let error = failure.error();
            let wrong = Some(error.message());
            let page = continue_page(&session, &run, &checkpoints, &typed, wrong);
            (error.status(), page).into_response()
        }
    })
}

async fn continued(
    app: &App,
    session: &Session,
    run: &RunRow,
    typed: &Typed,
) -> Result<RunRow, Failure> {
    let whole = |label: &str, text: &str| {
        let number = text.trim().parse::<u32>().ok();
        number.ok_or_else(|| {
            ApiError::unprocessable(format!("{label} is `{text}`: enter a whole number"))
        })
    };
    let number = whole("Checkpoint", &typed.checkpoint)?;
    let new = Continuation {
        name: typed.name.trim().to_owned(),
        description: Some(typed.description.clone()),
        epochs: Some(whole("Epochs", &typed.epochs)?),
    };
    let made = continue_from(app, &session.user, run.clone(), number.into(), new, None).await?;
    Ok(made.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_attempt_has_the_next_number() {
        for (name, next) in [
            ("x", "x-2"),
            ("x-2", "x-3"),
            ("clip-fashion", "clip-fashion-2"),
            ("-7", "-7-2"),
            ("x-4294967295", "x-4294967295-2"),
        ] {
            assert_eq!(next_name(name), next);
        }
    }

    #[test]
    fn number_fields_accept_a_number_or_nothing() {
        assert_eq!(number_of("Epochs", "", true).unwrap(), Value::Null);
        assert_eq!(number_of("Epochs", "3", true).unwrap(), json!(3));
        assert_eq!(
            number_of("Learning rate", "1e-4", false).unwrap(),
            json!(1e-4)
        );
        for (text, is_whole) in [("3.5", true), ("x", false), ("inf", false), ("-1", true)] {
            let error = number_of("Epochs", text, is_whole).unwrap_err();
            assert!(error.message().contains(text), "{}", error.message());
        }
    }
}
