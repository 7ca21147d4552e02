//! Lists of runs, of one experiment or of all: tables that are filtered and sorted
//! by what the runs were asked to do and by what came of them.

mod columns;
mod file;
mod form;
mod search;
mod selected;
mod table;

use std::sync::Arc;

use axum::{
    extract::{Path, Query, RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    Failure, Page, Session,
    frame::{page as framed, pager, pages},
    metrics,
    sign_in::add_cookie,
    state::State as RunState,
    words::{name, path, query},
};
use crate::{
    app::App,
    database::{Among, ExperimentRow, Identity, Outline, RunFilter, RunRow, Standing, now_ms},
    error::ApiError,
};
use columns::Columns;
use search::{Conditions, Order};

pub(crate) use file::download as csv;
pub(crate) use selected::act;

/// Runs of a page.
const PAGE: u64 = 50;
/// Runs that are sorted and filtered by values, or written into a file.
const MOST: u64 = 200_000;

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    /// `live` for the table alone.
    part: String,
    /// A text in name, description or note.
    q: String,
    state: String,
    /// A tag that the runs have.
    tag: String,
    /// Conditions, such as `learning_rate<1e-4, recall_at_20>0.5`.
    filter: String,
    sort: String,
    /// The metric that is shown.
    metric: String,
    page: Option<u64>,
    /// `set` where columns are chosen, `default` where they are forgotten.
    columns: String,
}

/// A list as it is looked at.
struct Listed {
    /// The experiment; none for the runs of all.
    of: Option<ExperimentRow>,
    here: String,
    asked: ListQuery,
    order: Order,
    columns: Columns,
    number: u64,
}

impl Listed {
    fn new(of: Option<ExperimentRow>, asked: ListQuery, columns: Columns) -> Self {
        let here = match &of {
            Some(experiment) => path(&["experiments", &experiment.name]),
            None => path(&["runs"]),
        };
        Self {
            of,
            here,
            order: Order::read(&asked.sort),
            number: asked.page.unwrap_or(1).max(1),
            columns,
            asked,
        }
    }

    /// Whether all runs are of one experiment.
    fn is_of_one(&self) -> bool {
        self.of.is_some()
    }

    fn among(&self, project: &str) -> Among {
        match &self.of {
            Some(experiment) => experiment.id.into(),
            None => Among::Project(project.to_owned()),
        }
    }

    /// The fields of the address, but for the page.
    fn fields(&self) -> [(&'static str, &str); 6] {
        let asked = &self.asked;
        [
            ("q", &asked.q),
            ("state", &asked.state),
            ("tag", &asked.tag),
            ("filter", &asked.filter),
            ("sort", &asked.sort),
            ("metric", &asked.metric),
        ]
    }

    /// The address of this list with other fields.
    fn with(&self, changes: &[(&str, &str)]) -> String {
        let page = self.number.to_string();
        let page = if self.number > 1 { page.as_str() } else { "" };
        let mut fields = vec![("part", ""), ("page", page)];
        fields.extend(self.fields());
        for (name, value) in &mut fields {
            if let Some((_, changed)) = changes.iter().find(|(changed, _)| changed == name) {
                *value = *changed;
            }
        }
        format!("{}{}", self.here, query(&fields))
    }

    /// The fields of the address for another form of the page.
    fn hidden_fields(&self) -> Markup {
        html! { @for (name, value) in self.fields() { @if !value.is_empty() {
            input type="hidden" name=(name) value=(value);
        } } }
    }
}

/// The runs of an experiment.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(experiment): Path<String>,
    Query(asked): Query<ListQuery>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Page<Response> {
    let found = find_experiment(&app, &session, experiment).await?;
    list(&app, &session, Some(found), asked, raw, &headers).await
}

/// The runs of all experiments.
pub(crate) async fn all(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<ListQuery>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Page<Response> {
    list(&app, &session, None, asked, raw, &headers).await
}

async fn find_experiment(
    app: &App,
    session: &Session,
    name: String,
) -> Result<ExperimentRow, ApiError> {
    let found = app
        .database
        .experiment(session.user.namespace.clone(), name.clone())
        .await?;
    found.ok_or_else(|| ApiError::not_found(format!("there is no experiment `{name}`")))
}

async fn list(
    app: &App,
    session: &Session,
    of: Option<ExperimentRow>,
    asked: ListQuery,
    raw: Option<String>,
    headers: &HeaderMap,
) -> Page<Response> {
    let listed = Listed::new(of, asked, Columns::read(headers));
    if !listed.asked.columns.is_empty() {
        return remember(&listed, &raw.unwrap_or_default(), headers);
    }
    let (conditions, wrong) = match Conditions::read(&listed.asked.filter) {
        Ok(conditions) => (conditions, None),
        Err(reason) => (Conditions::default(), Some(reason)),
    };
    let (runs, total) = read(app, &session.user, &listed, conditions).await?;
    let last = pages(total, PAGE);
    if listed.number > last {
        let to = listed.with(&[("page", &*last.to_string())]);
        return Ok(Redirect::to(&to).into_response());
    }
    let shown = table::Shown::of(&runs, &listed.asked.metric, now_ms());
    let table = html! { div #runs {
        (table::markup(&shown, &listed, total, session.writes()))
        (pager(total, listed.number, PAGE, |page| listed.with(&[("page", &*page.to_string())])))
    } };
    if listed.asked.part == "live" {
        return Ok(table.into_response());
    }
    let tags = app
        .database
        .tags_of_runs(session.user.namespace.clone())
        .await?;
    let title = listed.of.as_ref().map_or("Runs", |of| of.name.as_str());
    let content = html! {
        @if let Some(experiment) = &listed.of {
            nav .crumbs aria-label="Path" { a href="/console/" { "Experiments" } }
            h1 { (name(&experiment.name)) }
            @if !experiment.description.is_empty() { p { (name(&experiment.description)) } }
        } @else { h1 { "Runs" } }
        (form::markup(&listed, &shown, &tags, wrong.as_deref()))
        (columns::form(&listed, &shown))
        form #selection method="post" action="/console/runs/selected" {
            (listed.hidden_fields())
            (session.project_field())
            input type="hidden" name="back" value=(listed.with(&[]));
            @if let Some(experiment) = &listed.of {
                input type="hidden" name="experiment" value=(experiment.name);
            }
            div data-live=(listed.with(&[("part", "live")])) data-every=(pause(total)) { (table) }
        }
    };
    let part = if listed.is_of_one() {
        "Experiments"
    } else {
        "Runs"
    };
    Ok(framed(session, part, title, &content).into_response())
}

/// Sets the cookie with the columns that were chosen, and leads back to the list.
fn remember(listed: &Listed, raw: &str, headers: &HeaderMap) -> Page<Response> {
    let mut answer = Redirect::to(&listed.with(&[])).into_response();
    if listed.asked.columns == "default" {
        add_cookie(headers, &mut answer, columns::COOKIE, "", 0);
        return Ok(answer);
    }
    let fields = url::form_urlencoded::parse(raw.as_bytes());
    let fields: Vec<(String, String)> = fields.into_owned().collect();
    let chosen = Columns::chosen(&fields).map_err(ApiError::bad_request)?;
    add_cookie(
        headers,
        &mut answer,
        columns::COOKIE,
        &chosen.value(),
        columns::AGE,
    );
    Ok(answer)
}

/// Which runs a list wants, of the given page.
fn filter(listed: &Listed) -> RunFilter {
    let asked = &listed.asked;
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let state = RunState::ALL
        .into_iter()
        .find(|one| one.word() == asked.state);
    let first = (listed.number - 1).saturating_mul(PAGE);
    RunFilter {
        standing: state.map(|state| match state {
            RunState::Waiting => Standing::Waiting,
            RunState::Running => Standing::Running,
            RunState::Finished | RunState::Worse => Standing::Finished,
            RunState::Failed => Standing::Failed,
            RunState::Cancelled => Standing::Cancelled,
        }),
        text: given(asked.q.trim()),
        tag: given(&asked.tag),
        newest_first: listed.order.newest_first().unwrap_or_default(),
        page: Some((first, PAGE)),
    }
}

/// The runs of a page, and how many there are on all.
async fn read(
    app: &App,
    user: &Identity,
    listed: &Listed,
    conditions: Conditions,
) -> Result<(Vec<RunRow>, u64), Failure> {
    // The database alone can do this, however many runs there are.
    if conditions.is_empty() && listed.order.newest_first().is_some() {
        let among = listed.among(&user.namespace);
        return Ok(app.database.runs(among, filter(listed)).await?);
    }
    let ids: Vec<i64> = search(app, user, listed, conditions, false, |found| {
        found.into_iter().map(|outline| outline.id).collect()
    })
    .await?;
    let total = ids.len() as u64;
    let start = usize::try_from((listed.number - 1).saturating_mul(PAGE)).unwrap_or(usize::MAX);
    let ids = ids.into_iter().skip(start).take(PAGE as usize).collect();
    Ok((app.database.runs_by_ids(ids).await?, total))
}

/// Finds all runs that a list wants, in its order, and lets `make` make something
/// of them in a thread that may block. `with_details` says whether that needs the
/// configurations and metrics.
async fn search<T: Send + 'static>(
    app: &App,
    user: &Identity,
    listed: &Listed,
    conditions: Conditions,
    with_details: bool,
    make: impl FnOnce(Vec<Outline>) -> T + Send + 'static,
) -> Result<T, ApiError> {
    // The configurations of all runs are in memory for a moment.
    let turn = app.gates.previews.enter(&user.person).await?;
    let order = listed.order.clone();
    let details = with_details || conditions.need_details() || order.needs_details();
    let outlines = outlines(app, user, listed, details).await?;
    let made = tokio::task::spawn_blocking(move || {
        let made = make(search::sorted(outlines, &conditions, &order));
        drop(turn);
        made
    });
    made.await.map_err(|e| ApiError::internal(&e))
}

/// The outlines of all runs of a list, before its conditions.
async fn outlines(
    app: &App,
    user: &Identity,
    listed: &Listed,
    details: bool,
) -> Result<Vec<Outline>, ApiError> {
    let among = listed.among(&user.namespace);
    let outlines = app
        .database
        .outlines(among, filter(listed), details, MOST + 1);
    let outlines = outlines.await?;
    match outlines.len() as u64 > MOST {
        true => Err(ApiError::bad_request(format!(
            "more than {MOST} runs: that many can't be sorted or filtered by values; choose an \
             experiment, a state or a tag first"
        ))),
        false => Ok(outlines),
    }
}

/// Which metrics the runs have, the one that tells most first.
fn metrics_of(runs: &[RunRow]) -> Vec<String> {
    let mut all = finetuner_protocol::MetricsInfo::default();
    for run in runs {
        let own = metrics::of(run);
        all.before.extend(own.before);
        all.after.extend(own.after);
    }
    let changes = metrics::changes(&all).into_iter();
    changes.map(|change| change.name).collect()
}

/// Seconds after which a page asks again. Sorting very many runs takes a while.
fn pause(total: u64) -> u64 {
    if total > 1000 { 30 } else { 5 }
}
