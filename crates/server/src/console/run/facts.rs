//! The summary of a run's configuration: model, data and main settings.

use maud::{Markup, html};
use serde_json::Value;

use crate::{
    app::App,
    console::{
        config::{config_of, makes_data, model_of, models_of, models_of_synthesis, setting, texts},
        failure::Failure,
        session::Session,
        words::{name, path, seconds, time},
    },
    database::{RunRow, now_ms},
    error::ApiError,
    local_paths::plain_model,
};

/// Renders the facts of a run as a list of names and values.
pub(super) async fn list(app: &App, session: &Session, run: &RunRow) -> Result<Markup, Failure> {
    let config = config_of(run);
    let own = match makes_data(run) {
        true => synthesis(app, session, &config).await?,
        false => training(app, session, run, &config).await?,
    };
    let made = app
        .database
        .artifact(session.user.namespace.clone(), run.artifact_id.clone())
        .await?;
    Ok(html! {
        dl .facts {
            (own)
            @if let Some(made) = made {
                dt { "Result" }
                dd { a href=(path(&["data", &made.id])) { (if makes_data(run) { "data" } else { "model" }) } }
            }
            (fact("Device", &run.device))
            dt { "Created" } dd { (time(&run.created_at)) }
            @if !session.user.is_personal {
                dt { "Started by" } dd { (run.starter.as_deref().map_or(html! { "a deleted user" }, name)) }
            }
            @if let Some(started) = run.started_at {
                @let label = if run.ended_at.is_some() { "Duration" } else { "Running for" };
                dt { (label) } dd { (seconds(run.ended_at.unwrap_or_else(now_ms) - started)) }
            }
            @if run.attempts > 1 { dt { "Attempts" } dd { (run.attempts) } }
        }
    })
}

async fn training(
    app: &App,
    session: &Session,
    run: &RunRow,
    config: &Value,
) -> Result<Markup, ApiError> {
    let data = &config["data"];
    let train = datasets(app, session, &texts(&data["train_data"])).await?;
    let more = texts_of(&data["more_train_data"], "train_data");
    let more = datasets(app, session, &more).await?;
    let eval = datasets(app, session, &texts(&data["eval_data"])).await?;
    let evaluations = config["callbacks"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let queries = evaluations.iter();
    let mut queries: Vec<String> = queries
        .flat_map(|callback| texts(&callback["options"]["query_data"]))
        .collect();
    queries.dedup();
    let queries = datasets(app, session, &queries).await?;
    Ok(html! {
        dt { "Model" } dd { (model(app, session, run, config).await?) }
        dt { "Training data" } dd { (train) @if !more.0.is_empty() { ", " (more) } }
        @if !eval.0.is_empty() { dt { "Validation data" } dd { (eval) } }
        @if !queries.0.is_empty() { dt { "Evaluated on" } dd { (queries) } }
        (hyper_parameters(config))
    })
}

/// Returns the strings in one field of all objects in a list.
fn texts_of(list: &Value, field: &str) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().flat_map(|value| texts(&value[field])).collect()
}

async fn synthesis(app: &App, session: &Session, config: &Value) -> Result<Markup, ApiError> {
    let [miners, cross_encoder] = models_of_synthesis(config);
    let data = &config["data"];
    let queries = datasets(app, session, &texts(&data["queries"])).await?;
    let corpus = datasets(app, session, &texts(&data["corpus"])).await?;
    Ok(html! {
        (fact("Makes", "training data"))
        (fact("Relation miner", &miners.join(", ")))
        (fact("Cross-encoder", &cross_encoder.join(", ")))
        dt { "Queries" } dd { (queries) }
        dt { "Corpus" } dd { (corpus) }
    })
}

/// Renders the facts for a shared page, without names of datasets and other runs.
pub(super) fn shared(run: &RunRow) -> Markup {
    let config = config_of(run);
    let models = models_of(run, &config);
    // A model in a folder of the server is not shown with the folders above it.
    let models: Vec<&str> = models.iter().map(|name| plain_model(name)).collect();
    html! {
        dl .facts {
            (fact("Model", &models.join(", ")))
            (hyper_parameters(&config))
            dt { "Created" } dd { (time(&run.created_at)) }
            @if let Some((started, ended)) = run.started_at.zip(run.ended_at) {
                dt { "Duration" } dd { (seconds(ended - started)) }
            }
        }
    }
}

fn hyper_parameters(config: &Value) -> Markup {
    html! {
        @for (label, field) in [
            ("Loss", "loss"), ("Epochs", "epochs"), ("Batch size", "batch_size"),
            ("Learning rate", "learning_rate"), ("Optimizer", "optimizer"),
        ] { (fact(label, &setting(config, field))) }
    }
}

fn fact(label: &str, value: &str) -> Markup {
    html! { @if !value.is_empty() { dt { (label) } dd { (name(value)) } } }
}

/// Renders the model that a run started from: its name, or a link to the run that
/// created it.
async fn model(
    app: &App,
    session: &Session,
    run: &RunRow,
    config: &Value,
) -> Result<Markup, ApiError> {
    let own = model_of(run, config);
    let Some(artifact) = config["model"]["artifact"].as_str() else {
        return Ok(name(&own));
    };
    let artifacts = vec![artifact.to_owned()];
    let makers = app
        .database
        .makers(session.user.namespace.clone(), artifacts);
    let makers = makers.await?;
    Ok(match makers.get(artifact) {
        Some((experiment, maker)) => {
            let address = path(&["experiments", experiment, "runs", maker]);
            html! { "the model of run " a href=(address) { (name(maker)) } }
        }
        None => html! { "the model " code { (artifact) } },
    })
}

/// Renders dataset names, as links if the datasets still exist.
async fn datasets(app: &App, session: &Session, names: &[String]) -> Result<Markup, ApiError> {
    let mut all = Vec::new();
    for one in names {
        let found = app
            .database
            .artifact_by_name(session.user.namespace.clone(), one.clone())
            .await?;
        all.push(match found {
            Some(found) => html! { a href=(path(&["data", &found.id])) { (name(one)) } },
            None => name(one),
        });
    }
    Ok(html! { @for (i, one) in all.iter().enumerate() { @if i > 0 { ", " } (one) } })
}
