//! Finds the runs of a list: with a database query alone if possible, else by
//! reading all runs and filtering in memory.

use super::{
    listed::Listed,
    search::{Conditions, Found, Searched},
};
use crate::{
    app::App,
    console::{failure::Failure, state::State as RunState},
    database::{Identity, RunFilter, RunRow, Standing},
    error::ApiError,
};

/// Number of runs on a page.
pub(super) const PAGE: u64 = 50;

/// Maximum number of runs that are sorted and filtered in memory, or exported.
const MAX_RUNS: u64 = 200_000;

/// Runs whose configurations are in memory at once.
pub(super) const CHUNK: usize = 200;

/// Returns the database filter of a page of a list.
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

/// Returns the runs of a page, and the total number of runs in the list.
pub(super) async fn read(
    app: &App,
    user: &Identity,
    listed: &Listed,
    conditions: Conditions,
) -> Result<(Vec<RunRow>, u64), Failure> {
    // Without conditions and sorted by age, a database query suffices.
    if conditions.is_empty() && listed.order.newest_first().is_some() {
        let among = listed.among(&user.namespace);
        return Ok(app.database.runs(among, filter(listed)).await?);
    }
    let (ids, ()) = search(app, user, listed, conditions, false, |_: &mut (), _| {}).await?;
    let total = ids.len() as u64;
    let start = usize::try_from((listed.number - 1).saturating_mul(PAGE)).unwrap_or(usize::MAX);
    let ids = ids.into_iter().skip(start).take(PAGE as usize).collect();
    Ok((app.database.runs_by_ids(ids).await?, total))
}

/// Returns the ids of all runs of a list, in its order, and the value that `see`
/// accumulates over these runs. `with_details` loads configurations and metrics for
/// `see`.
pub(super) async fn search<T: Default + Send + 'static>(
    app: &App,
    user: &Identity,
    listed: &Listed,
    conditions: Conditions,
    with_details: bool,
    see: fn(&mut T, &Searched<'_>),
) -> Result<(Vec<i64>, T), ApiError> {
    let _turn = app.gates.previews.enter(&user.person).await?;
    let order = listed.order.clone();
    let details = with_details || conditions.need_details() || order.needs_details();
    let among = listed.among(&user.namespace);
    let ids = app
        .database
        .run_ids(among, filter(listed), MAX_RUNS + 1)
        .await?;
    if ids.len() as u64 > MAX_RUNS {
        return Err(ApiError::bad_request(format!(
            "more than {MAX_RUNS} runs: that many can't be sorted or filtered by values; choose an \
             experiment, a state or a tag first"
        )));
    }
    let (mut found, mut seen) = (Found::new(conditions, order), T::default());
    for ids in ids.chunks(CHUNK) {
        let outlines = app.database.outlines(ids.to_vec(), details).await?;
        let add = move || {
            found.add(&outlines, |run| see(&mut seen, run));
            (found, seen)
        };
        (found, seen) = blocking(add).await?;
    }
    Ok((blocking(|| found.sorted()).await?, seen))
}

/// Runs CPU-bound work on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ApiError::internal(&e))
}
