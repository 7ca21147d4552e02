//! Links by which anybody may read a run's page for a while.

use axum::http::HeaderMap;

use crate::{
    app::App,
    database::{Identity, NewShare, RunRow, ShareRow},
    error::{ApiError, Result},
    origin::address,
};

/// The longest that a link may be good.
pub(crate) const MAX_SHARE_DAYS: u32 = 90;

/// Links to a run at a time.
const MAX_SHARES: u64 = 20;

/// Makes a link to a run. Returns it with the key of its address.
pub(crate) async fn create_share(
    app: &App,
    user: &Identity,
    run: &RunRow,
    days: u32,
    with_artifact: bool,
) -> Result<(ShareRow, String)> {
    if !(1..=MAX_SHARE_DAYS).contains(&days) {
        return Err(ApiError::unprocessable(format!(
            "`days` is {days}: 1 to {MAX_SHARE_DAYS} are allowed"
        )));
    }
    let new = NewShare {
        days,
        with_artifact,
    };
    let made = app
        .database
        .add_share(user.clone(), run.id, new, MAX_SHARES)
        .await?;
    made.ok_or_else(|| {
        ApiError::forbidden(format!(
            "there are {MAX_SHARES} links to this run already, the most that are allowed: revoke \
             one first"
        ))
    })
}

/// The address of a link's page. `headers` are those of the request.
pub(crate) fn share_address(app: &App, headers: &HeaderMap, key: &str) -> Result<String> {
    let base = match &app.settings.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => address(headers)?,
    };
    Ok(format!("{base}/share/{key}"))
}
