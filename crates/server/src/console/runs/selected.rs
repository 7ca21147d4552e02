//! Actions on the selected runs of a list: tagging, cancelling and deleting. Each
//! has a confirmation page.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::{AnnotationChange, split_tags};
use maud::{Markup, html};

use super::find::CHUNK;
use crate::{
    app::App,
    console::{
        failure::Page,
        frame::{page as framed, problem},
        links::run_address,
        session::Session,
        state::State as RunState,
        words::{count, name, own_address},
    },
    database::{Identity, Refusal, SelectedRun},
    error::ApiError,
    runs::annotate,
    tasks::to_the_end,
};

/// Maximum number of runs that are changed at once.
const MAX_RUNS: usize = 1000;

/// An action on the selected runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tag,
    Cancel,
    Delete,
}

impl Action {
    fn read(word: &str) -> Result<Self, ApiError> {
        match word {
            "tag" => Ok(Self::Tag),
            "cancel" => Ok(Self::Cancel),
            "delete" => Ok(Self::Delete),
            _ => Err(ApiError::bad_request(format!(
                "`do` is `{word}`: `tag`, `cancel` and `delete` are allowed"
            ))),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Cancel => "cancel",
            Self::Delete => "delete",
        }
    }
}

/// Fields of the form; some are repeated.
struct Sent(Vec<(String, String)>);

impl Sent {
    fn read(body: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(body).into_owned().collect())
    }

    fn find(&self, wanted: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    fn of(&self, wanted: &str) -> &str {
        self.find(wanted).unwrap_or_default()
    }

    /// Returns the URL of the list. URLs of other sites are ignored.
    fn back(&self) -> &str {
        own_address(self.of("back")).unwrap_or("/console/runs")
    }

    fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = Vec::new();
        for (_, id) in self.0.iter().filter(|(name, _)| name == "run") {
            if !ids.contains(&id.as_str()) {
                ids.push(id);
            }
        }
        ids
    }
}

/// Finds runs by their experiments and names.
pub(super) async fn find_all(
    app: &App,
    session: &Session,
    ids: &[&str],
) -> Result<Vec<SelectedRun>, ApiError> {
    if ids.len() > MAX_RUNS {
        return Err(ApiError::bad_request(format!(
            "`run` names {} runs: at most {MAX_RUNS} are allowed at once; select fewer",
            ids.len()
        )));
    }
    let places = ids.iter().map(|id| match id.split_once('/') {
        Some((experiment, name)) => Ok((experiment.to_owned(), name.to_owned())),
        None => Err(ApiError::bad_request(format!(
            "`run` is `{id}`: it must be `experiment/run`"
        ))),
    });
    let places = places.collect::<Result<Vec<_>, ApiError>>()?;
    let mut runs = Vec::new();
    for places in places.chunks(CHUNK) {
        let project = session.user.namespace.clone();
        let found = app.database.selected_runs(project, places.to_vec()).await?;
        for (run, (experiment, name)) in found.into_iter().zip(places) {
            runs.push(run.ok_or_else(|| {
                ApiError::not_found(format!(
                    "there is no run `{name}` in experiment `{experiment}`"
                ))
            })?);
        }
    }
    Ok(runs)
}

/// Returns the states of runs by id. They depend on configurations and metrics, of which
/// only those of [`CHUNK`] runs are in memory at once.
async fn states(app: &App, runs: &[SelectedRun]) -> Result<HashMap<i64, RunState>, ApiError> {
    let ids: Vec<i64> = runs.iter().map(|run| run.id).collect();
    let mut states = HashMap::new();
    for ids in ids.chunks(CHUNK) {
        let outlines = app.database.outlines(ids.to_vec(), true).await?;
        states.extend(
            outlines
                .iter()
                .map(|run| (run.id, RunState::of_outline(run))),
        );
    }
    Ok(states)
}

/// Shows the confirmation page, or executes a confirmed action.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    session: Session,
    body: Bytes,
) -> Page<Response> {
    session.may_write()?;
    let sent = Sent::read(&body);
    session.check_project(sent.find("project"))?;
    let action = Action::read(sent.of("do"))?;
    let runs = find_all(&app, &session, &sent.ids()).await?;
    if runs.is_empty() {
        let content = html! {
            h1 { "Nothing is selected" }
            p { "Select runs in the list first." }
            p { a href=(sent.back()) { "Back to the list" } }
        };
        return Ok(framed(&session, "Runs", "Nothing is selected", &content).into_response());
    }
    // If the user may not change one of the runs, none is changed.
    if !runs
        .iter()
        .all(|run| session.changes(run.created_by.as_deref()))
    {
        let project = session.user.project.clone();
        return Err(rusqlite::Error::from(Refusal::NotOwn { project }).into());
    }
    if sent.of("confirmed") != "yes" {
        let states = states(&app, &runs).await?;
        return Ok(ask(&session, action, (&runs, &states), &sent, None).into_response());
    }
    match action {
        Action::Tag => {
            let change = AnnotationChange::default()
                .add_tags(split_tags(sent.of("add")))
                .remove_tags(split_tags(sent.of("remove")));
            let ids = runs.iter().map(|run| run.id).collect();
            if let Err(error) = annotate(&app, session.user.clone(), ids, change).await {
                let states = states(&app, &runs).await?;
                let wrong = Some(error.message());
                let page = ask(&session, action, (&runs, &states), &sent, wrong);
                return Ok((error.status(), page).into_response());
            }
        }
        Action::Cancel | Action::Delete => {
            let by = session.user.clone();
            // All are tried, whoever stops waiting for it.
            let outcome = to_the_end(async move { Ok(end_all(&app, &by, action, runs).await) });
            let outcome = outcome.await?;
            if let Some((_, error)) = outcome.failed.first() {
                let page = report(&session, action, &outcome, &sent);
                return Ok((error.status(), page).into_response());
            }
        }
    }
    Ok(Redirect::to(sent.back()).into_response())
}

/// Result of cancelling or deleting several runs.
struct Outcome {
    done: u64,
    failed: Vec<(SelectedRun, ApiError)>,
}

/// Cancels or deletes runs. One that fails does not stop the others.
async fn end_all(app: &Arc<App>, by: &Identity, action: Action, runs: Vec<SelectedRun>) -> Outcome {
    let mut outcome = Outcome {
        done: 0,
        failed: Vec::new(),
    };
    for run in runs {
        let done = match action {
            Action::Delete => app.delete_run(by.clone(), run.id).await,
            _ if run.status().is_final() => continue,
            _ => app.cancel(run.id, by.clone()).await,
        };
        match done {
            Ok(()) => outcome.done += 1,
            Err(error) => outcome.failed.push((run, error)),
        }
    }
    outcome
}

/// Says how many runs were cancelled or deleted, and why the others were not.
fn report(session: &Session, action: Action, outcome: &Outcome, sent: &Sent) -> Markup {
    let done = match action {
        Action::Delete => "deleted",
        _ => "cancelled",
    };
    let failed = count(outcome.failed.len() as u64, "run");
    let title = format!("{failed} not {done}");
    let content = html! {
        h1 { (title) }
        p .problem role="alert" {
            (count(outcome.done, "run")) " " (done) ". " (failed) " not " (done) ":"
        }
        ul .selected { @for (run, error) in &outcome.failed { li {
            a href=(run_address(&run.experiment, &run.name)) { (name(&run.label())) } ": "
            span .message { (name(error.message())) }
        } } }
        p { a href=(sent.back()) { "Back to the list" } }
    };
    framed(session, "Runs", &title, &content)
}

fn ask(
    session: &Session,
    action: Action,
    (runs, states): (&[SelectedRun], &HashMap<i64, RunState>),
    sent: &Sent,
    wrong: Option<&str>,
) -> Markup {
    let open = runs.iter().filter(|run| !run.status().is_final()).count() as u64;
    let all = count(runs.len() as u64, "run");
    let (title, consequence, button) = match action {
        Action::Tag => (
            format!("Tag {all}"),
            "The other tags of these runs stay.".to_owned(),
            "Save the tags".to_owned(),
        ),
        Action::Cancel => (
            format!("Cancel {}?", count(open, "run")),
            "They end without a model. Their checkpoints stay: other runs can continue from the \
             last ones. Runs that have ended stay as they are."
                .to_owned(),
            format!("Cancel {}", count(open, "run")),
        ),
        Action::Delete => (
            format!("Delete {all}?"),
            "Their models, checkpoints, curves and logs are deleted with them. Runs that train \
             are ended."
                .to_owned(),
            format!("Delete {all}"),
        ),
    };
    let content = html! {
        h1 { (title) }
        (problem(wrong))
        p { (consequence) }
        ul .selected { @for run in runs { li {
            a href=(run_address(&run.experiment, &run.name)) { (name(&run.label())) }
            // A run that was deleted meanwhile has none.
            @if let Some(state) = states.get(&run.id) { " " (state.badge()) }
        } } }
        form .stacked method="post" action="/console/runs/selected" {
            (session.project_field())
            @for run in runs { input type="hidden" name="run" value=(run.label()); }
            input type="hidden" name="do" value=(action.word());
            input type="hidden" name="confirmed" value="yes";
            input type="hidden" name="back" value=(sent.back());
            @if action == Action::Tag {
                label for="add" { "Tags to add, separated by commas" }
                input #add name="add" value=(sent.of("add")) autocapitalize="none";
                label for="remove" { "Tags to remove, separated by commas" }
                input #remove name="remove" value=(sent.of("remove")) autocapitalize="none";
            }
            div .row {
                @if action != Action::Cancel || open > 0 {
                    button .danger[action != Action::Tag] type="submit" { (button) }
                }
                a .button .quiet href=(sent.back()) { "Back" }
            }
        }
    };
    framed(session, "Runs", &title, &content)
}
