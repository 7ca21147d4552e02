//! Links with which anybody can read a run's page until they expire.

use axum::http::HeaderMap;

use crate::{
    app::App,
    database::{Identity, NewShare, RunRow, ShareRow},
    error::{ApiError, Result},
    origin::address,
};

/// Maximum validity of a link, in days.
pub(crate) const MAX_SHARE_DAYS: u32 = 90;

/// Maximum number of valid links to a run.
const MAX_SHARES: u64 = 20;

/// Creates a link to a run. Also returns the secret key for its address.
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
            "this run already has {MAX_SHARES} links, the maximum: revoke \
             one first"
        ))
    })
}

/// Returns the address of a link's page. `headers` are those of the request.
pub(crate) fn share_address(app: &App, headers: &HeaderMap, key: &str) -> Result<String> {
    let base = match &app.settings.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => address(headers)?,
    };
    Ok(format!("{base}/share/{key}"))
}
