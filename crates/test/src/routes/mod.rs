//! The calls that the SDK makes, one file per group. Every route accepts a trailing
//! slash.

mod account;
mod artifacts;
mod experiments;
mod logs;
mod page;
mod request;
mod runs;
mod uploads;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::Uri,
    routing::{MethodRouter, get, post, put},
};

use crate::{answer::Refusal, artifact::DOWNLOADS, state::Shared};

fn routes() -> Vec<(String, MethodRouter<Arc<Shared>>)> {
    let experiment = "/api/v1/experiments/{experiment}";
    let run = format!("{experiment}/runs/{{run}}");
    let rpc = |method: &str| format!("/v2/rpc/{method}");
    vec![
        (
            "/api/v1/experiments".to_owned(),
            get(experiments::list)
                .post(experiments::create)
                .delete(experiments::delete_all),
        ),
        (
            experiment.to_owned(),
            get(experiments::get).delete(experiments::delete),
        ),
        (format!("{experiment}/check"), post(runs::check)),
        (
            format!("{experiment}/runs"),
            get(runs::list).post(runs::create).delete(runs::delete_all),
        ),
        (run.clone(), get(runs::get).delete(runs::delete)),
        (format!("{run}/status"), get(runs::status)),
        (format!("{run}/metrics"), get(runs::metrics)),
        (format!("{run}/examples"), get(runs::examples)),
        (format!("{run}/history"), get(runs::history)),
        (format!("{run}/checkpoints"), get(runs::checkpoints)),
        (
            format!("{run}/checkpoints/{{number}}/runs"),
            post(runs::go_on),
        ),
        (
            format!("{run}/annotations"),
            get(runs::annotations).put(runs::annotate),
        ),
        (format!("{run}/cancel"), post(runs::cancel)),
        (format!("{run}/logs"), get(logs::text)),
        (format!("{run}/logstream"), get(logs::stream)),
        ("/api/v1/models".to_owned(), get(runs::model)),
        (
            rpc("user.identity.whoami"),
            get(account::whoami).post(account::whoami),
        ),
        (rpc("user.pat.create"), post(account::create_token)),
        (rpc("user.pat.list"), post(account::list_tokens)),
        (rpc("user.pat.delete"), post(account::delete_token)),
        (rpc("user.session.dismiss"), post(account::dismiss)),
        (rpc("artifact.upload"), post(uploads::whole)),
        (rpc("artifact.beginUpload"), post(uploads::begin)),
        (rpc("artifact.uploadPart"), put(uploads::part)),
        (rpc("artifact.finishUpload"), post(uploads::finish)),
        (rpc("artifact.abortUpload"), post(uploads::abort)),
        (
            rpc("artifact.getDownloadUrl"),
            get(artifacts::url_by_query).post(artifacts::url_by_form),
        ),
        (rpc("artifact.list"), post(artifacts::list)),
        (rpc("artifact.getDetail"), post(artifacts::detail)),
        (rpc("artifact.update"), post(artifacts::update)),
        (rpc("artifact.delete"), post(artifacts::delete)),
        (format!("{DOWNLOADS}{{id}}"), get(artifacts::download)),
    ]
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for (path, handler) in routes() {
        router = router.route(&format!("{path}/"), handler.clone());
        router = router.route(&path, handler);
    }
    router
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::disable())
        .with_state(shared)
}

async fn nothing_here(address: Uri) -> Refusal {
    let path = address.path();
    Refusal::not_found(format!("the test backend has nothing at `{path}`"))
}
