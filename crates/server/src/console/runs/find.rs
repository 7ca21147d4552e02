//! The runs of a list: found by the database alone, or by reading all of them.

use super::{
    listed::Listed,
    search::{self, Conditions},
};
use crate::{
    app::App,
    console::{failure::Failure, session::Session, state::State as RunState},
    database::{ExperimentRow, Identity, Outline, RunFilter, RunRow, Standing},
    error::ApiError,
};

/// Runs of a page.
pub(super) const PAGE: u64 = 50;

/// Runs that are sorted and filtered by values, or written into a file.
const MOST: u64 = 200_000;

pub(super) async fn find_experiment(
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
pub(super) async fn read(
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
pub(super) async fn search<T: Send + 'static>(
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
