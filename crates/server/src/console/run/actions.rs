//! Cancelling and deleting a run, each with a confirmation page.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Redirect,
};
use maud::html;

use crate::{
    app::App,
    console::{
        config::makes_data,
        failure::Page,
        frame::page as framed,
        links::{crumbs, run_path},
        project_form::{Nothing, ProjectForm},
        session::Session,
        words::{name, path},
    },
    database::{Refusal, RunRow},
    runs::find_run,
};

/// Texts of the confirmation page of an irreversible action.
struct Question<'a> {
    title: &'static str,
    consequence: &'a str,
    action: &'static str,
    button: &'static str,
}

fn ask(session: &Session, run: &RunRow, question: &Question<'_>) -> Page {
    session.may_write()?;
    if !session.changes(run.created_by.as_deref()) {
        let project = session.user.project.clone();
        return Err(rusqlite::Error::from(Refusal::NotOwn { project }).into());
    }
    let here = run_path(run);
    let content = html! {
        (crumbs(run))
        h1 { (question.title) }
        p { "Run " strong { (name(&run.name)) } ". " (question.consequence) }
        form .row method="post" action={ (here) "/" (question.action) } {
            (session.project_field())
            button .danger type="submit" { (question.button) }
            a .button .quiet href=(here) { "Back" }
        }
    };
    Ok(framed(session, "Experiments", question.title, &content))
}

pub(crate) async fn ask_to_cancel(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let question = Question {
        title: "Cancel this run?",
        consequence: "It ends without a model. Its checkpoints stay: another run can continue \
                      from the last one.",
        action: "cancel",
        button: "Cancel the run",
    };
    ask(&session, &run, &question)
}

pub(crate) async fn ask_to_delete(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let consequence = match makes_data(&run) {
        true => "Its log and the training data that it made are deleted with it.",
        false => "Its model, checkpoints, curves and log are deleted with it.",
    };
    let question = Question {
        title: "Delete this run?",
        consequence,
        action: "delete",
        button: "Delete the run",
    };
    ask(&session, &run, &question)
}

pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    ProjectForm(Nothing {}): ProjectForm<Nothing>,
) -> Page<Redirect> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    app.cancel(run.id, session.user).await?;
    Ok(Redirect::to(&run_path(&run)))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    ProjectForm(Nothing {}): ProjectForm<Nothing>,
) -> Page<Redirect> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let list = path(&["experiments", &run.experiment]);
    app.delete_run(session.user, run.id).await?;
    Ok(Redirect::to(&list))
}
