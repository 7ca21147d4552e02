//! The page behind a share link: metrics, curves and examples of a run, for
//! readers without an account. It shows no log, no full configuration and no
//! names of datasets.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;
use serde::Deserialize;

use super::{curves, examples::Examples, facts, top::headline};
use crate::{
    app::App,
    console::{
        chart::{View, ViewQuery},
        config::makes_data,
        document::image_of,
        failure::{Failure, Page},
        frame::document,
        metrics,
        state::badge,
        words::{name, time, visible},
    },
    database::{RunRow, ShareRow},
    error::ApiError,
    ticket::Download,
};

/// Finds the share link with this key, and its run.
async fn find(app: &App, key: &str) -> Result<(ShareRow, RunRow), Failure> {
    let found = app.database.shared(key).await?;
    found.ok_or_else(|| {
        ApiError::not_found(
            "this link is not valid: it has expired, was revoked, or was not copied completely",
        )
        .into()
    })
}

/// Adds headers that keep the link's URL secret from other sites and search
/// engines.
fn secluded(answer: impl IntoResponse) -> Response {
    let mut answer = answer.into_response();
    let headers = answer.headers_mut();
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(
        HeaderName::from_static("x-robots-tag"),
        HeaderValue::from_static("noindex, nofollow"),
    );
    answer
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(asked): Query<ViewQuery>,
) -> Page<Response> {
    let (share, run) = find(&app, &key).await?;
    // Reading a run's events takes a turn, as all reading of data.
    let turn = app.gates.previews.enter(&reader(&share)).await?;
    let here = format!("/share/{key}");
    let metrics = metrics::of(&run);
    let view = View::from(&asked);
    let curves = curves::figures(&app, &run, &view, &here, &[]).await?;
    let examples = match makes_data(&run) {
        true => html! {},
        false => Examples::of(&app, &run).await?.section(Some(&here)),
    };
    drop(turn);
    let artifact = app
        .database
        .artifact(run.project_id.clone(), run.artifact_id.clone());
    let has_artifact = share.with_artifact && artifact.await?.is_some();
    let body = html! {
        main id="content" {
            div .head {
                h1 { (name(&run.name)) }
                (badge(&run))
                @if has_artifact { div .actions {
                    a .button href={ (here) "/download" } download {
                        "Download " @if makes_data(&run) { "the data" } @else { "the model" }
                    }
                } }
            }
            p .hint { "Shared by " (name(&share.created_by)) " until " (time(&share.expires_at)) "." }
            @if !run.description.is_empty() { p { (name(&run.description)) } }
            @if let Some(change) = metrics::headline(&metrics) {
                (headline(&change, ["Before", "After"]))
            }
            div .columns {
                section aria-labelledby="settings" {
                    h2 #settings { "Settings" }
                    (facts::shared(&run))
                }
                @if !metrics.before.is_empty() || !metrics.after.is_empty() {
                    section aria-labelledby="metrics" {
                        h2 #metrics { "Metrics" }
                        (metrics::table(&metrics))
                    }
                }
            }
            (examples)
            div #curves { (curves) }
        }
    };
    if let Err(error) = app.database.note_opened(share.id).await {
        tracing::warn!("Can't count the opening of a share link: {error}");
    }
    Ok(secluded(document(&visible(&run.name), &body)))
}

/// Returns the name under which readers of a link take turns.
fn reader(share: &ShareRow) -> String {
    format!("link {}", share.id)
}

#[derive(Deserialize)]
pub(crate) struct ImageQuery {
    document: u64,
}

/// Sends an image of a document in the example results. Images of other
/// documents are not accessible.
pub(crate) async fn image(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(ImageQuery { document }): Query<ImageQuery>,
) -> Page<Response> {
    let (share, run) = find(&app, &key).await?;
    let turn = app.gates.previews.enter(&reader(&share)).await?;
    let examples = Examples::of(&app, &run).await?;
    drop(turn);
    let data = examples.data_with(document);
    let data = data.ok_or_else(|| ApiError::not_found("there is no such image"))?;
    let image = image_of(&app, &reader(&share), data, document, "").await?;
    Ok(secluded(image))
}

/// Redirects to the content of the run's artifact if the link allows downloads.
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
) -> Page<Response> {
    let (share, run) = find(&app, &key).await?;
    if !share.with_artifact {
        return Err(ApiError::forbidden("this link does not allow the download").into());
    }
    let artifact = app
        .database
        .artifact(run.project_id, run.artifact_id)
        .await?;
    let artifact = artifact.ok_or_else(|| ApiError::not_found("there is nothing to download"))?;
    let key = app.signer.download(Download::of(&artifact));
    Ok(secluded(Redirect::to(&format!("/v2/download/{key}"))))
}
