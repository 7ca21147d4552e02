//! Starts a run over data that is there. The form begins with settings that fit the
//! data, and shows the same run as code.

mod code;
mod shape;

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::{BACKBONES, Loss, check_name};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Page, ProjectForm, Session,
    frame::page as framed,
    run::run_path,
    words::{count, name, path, query},
};
use crate::{
    api::create_from,
    app::App,
    database::{ArtifactList, ArtifactRow, RunRow, is_duplicate},
    documents,
    error::ApiError,
};
use shape::Shape;

/// Datasets that are offered, the newest first.
const OFFERED: u64 = 200;
/// Documents that are looked at.
const LOOKED_AT: u64 = 24;
/// The experiment of a run whose form names none.
const EXPERIMENT: &str = "default";

/// Losses that need nothing but the data, with the data that they are for.
const LOSSES: [(Loss, &str); 11] = [
    (Loss::MultipleNegativeRanking, "texts that belong together"),
    (Loss::Clip, "pictures and texts"),
    (Loss::SigLip, "pictures and texts, for a SigLIP"),
    (Loss::TripletMargin, "items with labels"),
    (Loss::NtXent, "items with labels"),
    (Loss::SupCon, "items with labels"),
    (Loss::ArcFace, "many labels with few items each"),
    (Loss::CosFace, "many labels with few items each"),
    (Loss::CoSent, "texts with scores"),
    (Loss::AnglE, "texts with scores"),
    (Loss::CosineSimilarity, "texts with cosines"),
];

/// Input of the form.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Typed {
    /// The name of the dataset to train on.
    data: String,
    experiment: String,
    name: String,
    description: String,
    model: String,
    /// A model that is not in the list.
    other_model: String,
    loss: String,
    eval_data: String,
    evaluate: String,
    epochs: String,
    batch_size: String,
    learning_rate: String,
    device: String,
    /// `code` to see the code alone, without starting anything.
    action: String,
}

impl Typed {
    fn model(&self) -> &str {
        match self.other_model.trim() {
            "" => self.model.trim(),
            other => other,
        }
    }

    fn experiment(&self) -> &str {
        match self.experiment.trim() {
            "" => EXPERIMENT,
            given => given,
        }
    }

    fn evaluates(&self) -> bool {
        !self.evaluate.is_empty() && !self.eval_data.trim().is_empty()
    }
}

/// Problem of a form, and the field next to which it is shown.
struct Wrong {
    field: &'static str,
    reason: String,
    status: StatusCode,
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

/// The field that the server's words are about: the first one that they name.
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

/// Content of the chosen data.
struct Found {
    shape: Shape,
    documents: u64,
}

pub(crate) async fn form(
    State(app): State<Arc<App>>,
    session: Session,
    Query(mut typed): Query<Typed>,
) -> Page {
    session.may_write()?;
    let offered = datasets(&app, &session).await?;
    let found = match typed.data.is_empty() {
        true => None,
        false => look(&app, &session, &typed.data).await?,
    };
    if let Some(found) = &found {
        fill(&mut typed, found);
    }
    Ok(page(&session, &typed, &offered, found.as_ref(), None))
}

pub(crate) async fn start(
    State(app): State<Arc<App>>,
    session: Session,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let made = match typed.action == "code" {
        true => None,
        false => Some(made(&app, &session, &typed).await),
    };
    let wrong = match made {
        Some(Ok(run)) => return Ok(Redirect::to(&run_path(&run)).into_response()),
        Some(Err(wrong)) => Some(wrong),
        None => None,
    };
    let offered = datasets(&app, &session).await?;
    let found = look(&app, &session, &typed.data).await?;
    let page = page(&session, &typed, &offered, found.as_ref(), wrong.as_ref());
    let status = wrong.map_or(StatusCode::OK, |wrong| wrong.status);
    Ok((status, page).into_response())
}

async fn datasets(app: &App, session: &Session) -> Result<Vec<ArtifactRow>, ApiError> {
    let list = ArtifactList {
        kind: Some("documentArray".to_owned()),
        newest_first: true,
        page: (0, OFFERED),
        ..ArtifactList::default()
    };
    let project = session.user.namespace.clone();
    let (all, _) = app.database.artifacts(project, list).await?;
    Ok(all.into_iter().filter(|data| data.name.is_some()).collect())
}

/// Looks into a dataset. None if there is none of this name, or it can't be read.
async fn look(app: &App, session: &Session, data: &str) -> Result<Option<Found>, ApiError> {
    let project = session.user.namespace.clone();
    let artifact = app.database.artifact_by_name(project, data.to_owned());
    let Some(artifact) = artifact.await? else {
        return Ok(None);
    };
    let person = &session.user.person;
    let read = documents::read(app, person, &artifact.content, 0, LOOKED_AT).await;
    Ok(read.ok().map(|(documents, total)| Found {
        shape: Shape::of(&documents),
        documents: total,
    }))
}

/// Fills fields that are empty with settings that fit the data.
fn fill(typed: &mut Typed, found: &Found) {
    let defaults = found.shape.defaults(found.documents);
    let fill = |field: &mut String, value: String| {
        if field.is_empty() {
            *field = value;
        }
    };
    if typed.other_model.is_empty() {
        fill(&mut typed.model, defaults.model.to_owned());
    }
    fill(&mut typed.loss, defaults.loss.to_string());
    fill(&mut typed.epochs, defaults.epochs.to_owned());
    fill(&mut typed.batch_size, defaults.batch_size.to_string());
    fill(&mut typed.learning_rate, defaults.learning_rate.to_owned());
}

/// A number of the form, or null for nothing.
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
            false => "a number, such as 1e-5,",
        };
        let text = finetuner_protocol::text::start_of(text);
        Wrong {
            field,
            reason: format!("{label} is `{text}`: {kind} is wanted"),
            status: StatusCode::UNPROCESSABLE_ENTITY,
        }
    })
}

/// Creates the run of a form.
async fn made(app: &App, session: &Session, typed: &Typed) -> Result<RunRow, Wrong> {
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
        return Err(wrong("device", "`cpu` or `gpu` is wanted".to_owned()));
    }
    if !typed.evaluate.is_empty() && typed.eval_data.trim().is_empty() {
        let reason = "choose the data to measure with".to_owned();
        return Err(wrong("eval_data", reason));
    }
    let body = body(typed)?;
    let experiment = typed.experiment().to_owned();
    // The data is checked in the experiment: it must be there first.
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

/// The submission that a client sends for the same run.
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

fn page(
    session: &Session,
    typed: &Typed,
    offered: &[ArtifactRow],
    found: Option<&Found>,
    wrong: Option<&Wrong>,
) -> Markup {
    let has_fields = !offered.is_empty() && !typed.data.is_empty() && found.is_some();
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/" { "Experiments" } }
        h1 { "Start a run" }
        @if let Some(wrong) = wrong.filter(|wrong| wrong.field.is_empty() || !has_fields) {
            p .problem .message role="alert" { (name(&wrong.reason)) }
        }
        @if offered.is_empty() {
            p { "There is no data in this project yet. " a href="/console/data/new" { "Upload a file" } ", or push data with a program." }
        } @else {
            form .row method="get" action="/console/start" {
                label for="choose" { "Training data" }
                select #choose name="data" required {
                    @if typed.data.is_empty() { option value="" { "choose" } }
                    (options(offered, &typed.data))
                }
                @if !typed.experiment.is_empty() { input type="hidden" name="experiment" value=(typed.experiment); }
                button type="submit" .quiet { "Choose" }
                a href={ "/console/data/new" } { "Upload another file" }
            }
            @if has_fields { (beside("data", wrong)) }
            @if !typed.data.is_empty() {
                @match found {
                    None => { p .problem role="alert" { "There is no data named " (name(&typed.data)) " in this project that can be read." } }
                    Some(found) => { (settings(session, typed, offered, found, wrong)) }
                }
            }
        }
    };
    framed(session, "Experiments", "Start a run", &content)
}

fn settings(
    session: &Session,
    typed: &Typed,
    offered: &[ArtifactRow],
    found: &Found,
    wrong: Option<&Wrong>,
) -> Markup {
    html! {
        p { (count(found.documents, "document")) ": " (found.shape.words()) ". The settings below are ones to begin with for such data." }
        form .stacked method="post" action="/console/start" {
            (session.project_field())
            input type="hidden" name="data" value=(typed.data);
            (text("name", "Name of the run", &typed.name, true, wrong))
            (text("experiment", "Experiment (empty: default)", &typed.experiment, false, wrong))
            (text("description", "Description", &typed.description, false, wrong))
            label for="model" { "Model" }
            select #model name="model" aria-describedby="model-wrong" { (models(found.shape, &typed.model)) }
            (text("other_model", "Another model: a name of the Hugging Face hub", &typed.other_model, false, wrong))
            (beside("model", wrong))
            label for="loss" { "Loss" }
            select #loss name="loss" aria-describedby="loss-wrong" {
                @let known = LOSSES.iter().any(|(loss, _)| loss.to_string() == typed.loss);
                @if !known && !typed.loss.is_empty() { option value=(typed.loss) selected { (typed.loss) } }
                @for (loss, what) in &LOSSES {
                    @let value = loss.to_string();
                    option value=(value) selected[value == typed.loss] { (value) ": " (what) }
                }
            }
            (beside("loss", wrong))
            label for="eval_data" { "Data to validate and measure with" }
            select #eval_data name="eval_data" aria-describedby="eval_data-wrong" {
                option value="" { "none" }
                (options(offered, &typed.eval_data))
            }
            (beside("eval_data", wrong))
            label .check { input type="checkbox" name="evaluate" value="yes" checked[!typed.evaluate.is_empty()];
                " Search in it before and after the training" }
            (text("epochs", "Epochs", &typed.epochs, false, wrong))
            (text("batch_size", "Batch size (empty: chosen for you)", &typed.batch_size, false, wrong))
            (text("learning_rate", "Learning rate (empty: chosen for you)", &typed.learning_rate, false, wrong))
            label for="device" { "Device" }
            select #device name="device" aria-describedby="device-wrong" {
                option value="gpu" { "GPU, if the server has one" }
                option value="cpu" selected[typed.device == "cpu"] { "CPU" }
            }
            (beside("device", wrong))
            div .row {
                button type="submit" name="action" value="start" { "Start the run" }
                button .quiet type="submit" name="action" value="code" { "Show as code" }
            }
        }
        section aria-labelledby="code" {
            h2 #code { "The same run as code" }
            (code::code(typed, (!session.user.is_personal).then_some(session.user.project.as_str())))
        }
    }
}

/// A field of text with what is wrong with it.
fn text(
    field: &'static str,
    label: &str,
    value: &str,
    is_required: bool,
    wrong: Option<&Wrong>,
) -> Markup {
    html! {
        label for=(field) { (label) }
        input id=(field) name=(field) value=(value) required[is_required] autocapitalize="none"
            aria-describedby={ (field) "-wrong" };
        @if field != "other_model" { (beside(field, wrong)) }
    }
}

fn beside(field: &str, wrong: Option<&Wrong>) -> Markup {
    let wrong = wrong.filter(|wrong| wrong.field == field);
    html! {
        @if let Some(wrong) = wrong {
            p id={ (field) "-wrong" } .problem .message role="alert" { (name(&wrong.reason)) }
        }
    }
}

fn options(offered: &[ArtifactRow], chosen: &str) -> Markup {
    let names = || offered.iter().filter_map(|data| data.name.as_deref());
    html! {
        @if !chosen.is_empty() && !names().any(|name| name == chosen) {
            option value=(chosen) selected { (chosen) }
        }
        @for name in names() { option value=(name) selected[name == chosen] { (name) } }
    }
}

/// The models that fit the data, those that need no download first.
fn models(shape: Shape, chosen: &str) -> Markup {
    let task = shape.task();
    let fits = |model: &&finetuner_protocol::Backbone| {
        // One whose options must be given can't be chosen here.
        let is_whole = model.options.iter().all(|option| option.default.is_some());
        model.trainable && is_whole && task.as_ref().is_none_or(|task| model.task == *task)
    };
    let mut all: Vec<_> = BACKBONES.iter().filter(fits).collect();
    all.sort_by_key(|model| !model.description.contains("ships with Finetuner"));
    let is_known = all.iter().any(|model| model.name == chosen);
    html! {
        @if !is_known && !chosen.is_empty() { option value=(chosen) selected { (chosen) } }
        @for model in all {
            option value=(model.name) selected[model.name == chosen] { (model.name) ": " (model.description) }
        }
    }
}

/// The address of the form for a dataset.
pub(super) fn address(data: &str) -> String {
    format!("{}{}", path(&["start"]), query(&[("data", data)]))
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
