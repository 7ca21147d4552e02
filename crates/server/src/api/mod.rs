//! The HTTP API, with one file for each group of routes.
//!
//! It serves both generations of the Python client. [`routes`] lists each path without a
//! final slash; `crate::routes` adds the same path with one.

mod admin;
mod annotations;
mod artifact_update;
mod artifacts;
mod auth;
mod continuation;
mod declared;
mod dry_run;
mod experiments;
mod fields;
mod health;
mod identity;
mod logins;
mod logs;
mod models;
mod openai;
mod pages;
mod projects;
mod refusals;
mod runs;
mod shares;
mod tokens;
mod uploads;
mod webhooks;
mod worker;

use std::sync::Arc;

use axum::{
    extract::DefaultBodyLimit,
    routing::{MethodRouter, delete, get, post, put},
};

pub(crate) use refusals::{nothing_here, refusals_as_json};

use crate::app::App;

/// Returns the routes of the API.
pub(crate) fn routes() -> Vec<(String, MethodRouter<Arc<App>>)> {
    let run = "/api/v1/experiments/{experiment}/runs/{run}";
    vec![
        ("/".into(), get(health::front)),
        (
            "/api/v1/experiments".into(),
            get(experiments::list)
                .post(experiments::create)
                .delete(experiments::delete_all),
        ),
        (
            "/api/v1/experiments/{experiment}".into(),
            get(experiments::get).delete(experiments::delete),
        ),
        (
            "/api/v1/experiments/{experiment}/check".into(),
            post(dry_run::check),
        ),
        (
            "/api/v1/experiments/{experiment}/runs".into(),
            get(runs::list).post(runs::create).delete(runs::delete_all),
        ),
        (run.into(), get(runs::get).delete(runs::delete)),
        (format!("{run}/status"), get(runs::status)),
        (format!("{run}/metrics"), get(runs::metrics)),
        (format!("{run}/examples"), get(runs::examples)),
        (format!("{run}/history"), get(runs::history)),
        (format!("{run}/events"), get(runs::events)),
        (format!("{run}/checkpoints"), get(runs::checkpoints)),
        (
            format!("{run}/checkpoints/{{number}}/runs"),
            post(continuation::create),
        ),
        (
            format!("{run}/annotations"),
            get(annotations::get).put(annotations::put),
        ),
        (format!("{run}/cancel"), post(runs::cancel)),
        (
            format!("{run}/shares"),
            get(shares::list).post(shares::create),
        ),
        (format!("{run}/shares/{{share}}"), delete(shares::delete)),
        (format!("{run}/logs"), get(logs::logs)),
        (format!("{run}/logstream"), get(logs::stream)),
        ("/api/v1/models".into(), get(models::task)),
        (
            "/api/v1/admin/users".into(),
            get(admin::users).post(admin::add_user),
        ),
        ("/api/v1/admin/users/{user}".into(), put(admin::change_user)),
        ("/api/v1/admin/storage".into(), get(admin::storage)),
        (
            "/api/v1/admin/storage/{project}".into(),
            put(admin::set_storage),
        ),
        ("/api/v1/admin/runs".into(), get(admin::runs)),
        ("/api/v1/admin/audit".into(), get(admin::audit)),
        (
            "/api/v1/projects".into(),
            get(projects::list).post(projects::create),
        ),
        (
            "/api/v1/projects/{project}".into(),
            get(projects::get).delete(projects::delete),
        ),
        (
            "/api/v1/projects/{project}/members/{user}".into(),
            put(projects::set_member).delete(projects::remove_member),
        ),
        (
            "/api/v1/webhooks".into(),
            get(webhooks::list).post(webhooks::create),
        ),
        (
            "/api/v1/webhooks/{webhook}".into(),
            get(webhooks::get).delete(webhooks::delete),
        ),
        (
            "/api/v1/webhooks/{webhook}/test".into(),
            post(webhooks::test),
        ),
        (
            "/api/v1/webhooks/{webhook}/deliveries".into(),
            get(webhooks::deliveries),
        ),
        (
            "/api/v1/webhooks/{webhook}/deliveries/{delivery}".into(),
            post(webhooks::redeliver),
        ),
        ("/api/v1/worker/start".into(), post(worker::start)),
        ("/api/v1/worker/job".into(), get(worker::job)),
        ("/api/v1/worker/content".into(), get(worker::content)),
        ("/api/v1/worker/data".into(), get(worker::data)),
        ("/api/v1/worker/events".into(), post(worker::events)),
        (
            "/api/v1/worker/checkpoint".into(),
            post(worker::checkpoint).layer(DefaultBodyLimit::disable()),
        ),
        (
            "/api/v1/worker/artifact".into(),
            post(worker::artifact).layer(DefaultBodyLimit::disable()),
        ),
        ("/api/v1/worker/outcome".into(), post(worker::outcome)),
        (
            "/v2/rpc/user.identity.whoami".into(),
            get(identity::whoami).post(identity::whoami),
        ),
        (
            "/v2/rpc/user.identity.proxiedAuthorize".into(),
            get(logins::proxied),
        ),
        (
            "/v2/rpc/user.identity.authorize".into(),
            get(logins::redirected),
        ),
        (
            "/v2/rpc/user.identity.grant.auto".into(),
            post(logins::grant),
        ),
        (
            "/v2/rpc/user.identity.grant.auth0Unified".into(),
            post(logins::grant),
        ),
        (
            "/v2/rpc/artifact.upload".into(),
            post(artifacts::upload).layer(DefaultBodyLimit::disable()),
        ),
        (
            "/v2/rpc/artifact.getDownloadUrl".into(),
            get(artifacts::url_by_query).post(artifacts::url_by_form),
        ),
        ("/v2/rpc/artifact.beginUpload".into(), post(uploads::begin)),
        (
            "/v2/rpc/artifact.uploadPart".into(),
            put(uploads::part).layer(DefaultBodyLimit::max(uploads::MAX_PART_BYTES)),
        ),
        (
            "/v2/rpc/artifact.finishUpload".into(),
            post(uploads::finish),
        ),
        ("/v2/rpc/artifact.abortUpload".into(), post(uploads::abort)),
        ("/v2/rpc/artifact.list".into(), post(artifacts::list)),
        ("/v2/rpc/artifact.getDetail".into(), post(artifacts::detail)),
        ("/v2/rpc/artifact.delete".into(), post(artifacts::delete)),
        (
            "/v2/rpc/artifact.deleteMany".into(),
            post(artifacts::delete_many),
        ),
        (
            "/v2/rpc/artifact.update".into(),
            post(artifact_update::update),
        ),
        ("/v2/rpc/user.pat.create".into(), post(tokens::create)),
        ("/v2/rpc/user.pat.list".into(), post(tokens::list)),
        ("/v2/rpc/user.pat.delete".into(), post(tokens::delete)),
        ("/v2/rpc/user.session.dismiss".into(), post(tokens::dismiss)),
        ("/v2/rpc/user.session.getRaw".into(), post(tokens::session)),
        (
            "/v2/rpc/dockerRegistry.listInternalRegistries".into(),
            post(identity::registries),
        ),
        (
            "/v2/.well-known/jwks.json".into(),
            get(identity::signing_keys),
        ),
        ("/v2/download/{key}".into(), get(artifacts::download)),
        (
            "/v1/embeddings".into(),
            post(openai::create_embeddings).layer(DefaultBodyLimit::max(openai::MAX_BODY)),
        ),
        ("/v1/models".into(), get(openai::list_models)),
        ("/v1/models/{model}".into(), get(openai::model)),
        (
            "/v1/models/{experiment}/{run}".into(),
            get(openai::model_of_experiment),
        ),
        ("/openapi.json".into(), get(health::openapi)),
        ("/health".into(), get(async || "ok\n")),
        ("/healthz".into(), get(async || "ok\n")),
        ("/readyz".into(), get(health::ready)),
        ("/metrics".into(), get(health::counters)),
    ]
}
