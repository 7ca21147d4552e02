//! The web console. The server renders all HTML, and every page works without
//! JavaScript. A small script updates live parts. Nothing is loaded from other
//! hosts.

mod account;
mod admin;
mod annotations;
mod artifacts;
mod assets;
mod chart;
mod compare;
mod config;
mod cookies;
mod data;
mod document;
mod experiments;
mod failure;
mod frame;
mod guard;
mod guides;
mod links;
mod mail;
mod metrics;
mod oidc;
mod project_form;
mod projects;
mod queue;
mod run;
mod runs;
mod session;
mod sign_in;
mod snippets;
mod start;
mod state;
mod tokens;
mod try_it;
mod webhooks;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    response::Redirect,
    routing::{any, get, post},
};

use crate::{app::App, error::ApiError};
use assets::asset;
use failure::Failure;
use guard::guarded;

/// Returns the routes of the console.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let run = "/console/experiments/{experiment}/runs/{run}";
    Router::new()
        .route("/console/", get(experiments::page))
        .route("/console", get(async || Redirect::to("/console/")))
        .route("/console/experiments/{experiment}", get(runs::page))
        .route(run, get(run::page))
        .route(&format!("{run}/live"), get(run::live))
        .route(
            &format!("{run}/cancel"),
            get(run::ask_to_cancel).post(run::cancel),
        )
        .route(
            &format!("{run}/delete"),
            get(run::ask_to_delete).post(run::delete),
        )
        .route(
            &format!("{run}/clone"),
            get(run::clone_form).post(run::clone),
        )
        .route(
            &format!("{run}/continue"),
            get(run::continue_form).post(run::go_on),
        )
        .route(
            &format!("{run}/share"),
            get(run::list_shares).post(run::create_share),
        )
        .route(&format!("{run}/share/revoke"), post(run::revoke_share))
        .route("/share/{key}", get(run::shared_page))
        .route("/share/{key}/picture", get(run::shared_image))
        .route("/share/{key}/download", get(run::shared_download))
        .route(
            &format!("{run}/annotations"),
            get(annotations::run_form).post(annotations::save_run),
        )
        .route(
            &format!("{run}/try"),
            get(try_it::page)
                .post(try_it::search)
                .layer(DefaultBodyLimit::max(crate::multipart::MAX_IN_MEMORY)),
        )
        .route("/console/runs", get(runs::all))
        .route("/console/runs/csv", get(runs::csv))
        .route("/console/runs/selected", post(runs::act))
        .route("/console/compare", get(compare::page))
        .route("/console/start", get(start::form).post(start::start))
        .route("/console/queue", get(queue::page))
        .route("/console/data", get(data::list))
        .route(
            "/console/data/new",
            get(data::upload_form)
                .post(data::upload)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/console/data/{id}", get(data::page))
        .route("/console/data/{id}/picture", get(data::image))
        .route("/console/data/{id}/download", get(data::download))
        .route(
            "/console/projects",
            get(projects::list).post(projects::create),
        )
        .route("/console/projects/switch", post(projects::switch))
        .route("/console/project", get(projects::page))
        .route("/console/project/members", post(projects::set_member))
        .route(
            "/console/project/members/remove",
            get(projects::ask_to_remove).post(projects::remove_member),
        )
        .route(
            "/console/project/delete",
            get(projects::ask_to_delete).post(projects::delete),
        )
        .route(
            "/console/data/{id}/annotations",
            get(annotations::artifact_form).post(annotations::save_artifact),
        )
        .route("/console/account", get(account::show))
        .route("/console/tokens", get(tokens::list).post(tokens::create))
        .route("/console/tokens/delete", post(tokens::delete))
        .route("/console/mail", get(mail::show).post(mail::put))
        .route("/console/mail/confirm", post(mail::confirm))
        .route("/console/mail/off", post(mail::turn_off))
        .route(
            "/console/webhooks",
            get(webhooks::list).post(webhooks::create),
        )
        .route("/console/webhooks/{webhook}", get(webhooks::show_one))
        .route("/console/webhooks/{webhook}/test", post(webhooks::test))
        .route(
            "/console/webhooks/{webhook}/delete",
            get(webhooks::ask_to_delete).post(webhooks::delete),
        )
        .route(
            "/console/webhooks/{webhook}/deliveries/{message}",
            post(webhooks::redeliver),
        )
        .route("/console/signin", get(sign_in::page).post(sign_in::sign_in))
        .route("/console/signout", post(sign_in::sign_out))
        .route("/console/oidc/start", get(oidc::start))
        .route("/console/oidc/callback", get(oidc::callback))
        .route("/console/oidc/account", get(oidc::account))
        .route("/console/oidc/account/link", post(oidc::link))
        .route("/console/oidc/account/create", post(oidc::create))
        .route(
            "/console/oidc/unlink",
            get(oidc::ask_to_unlink).post(oidc::unlink),
        )
        .route(
            "/console/password",
            get(sign_in::password).post(sign_in::set_password),
        )
        .route(
            "/console/authorize",
            get(sign_in::consent).post(sign_in::answer),
        )
        .route(
            "/console/style.css",
            asset("text/css", include_str!("style.css")),
        )
        .route(
            "/console/live.js",
            asset("text/javascript", include_str!("live.js")),
        )
        .route(
            "/console/charts.js",
            asset("text/javascript", include_str!("charts.js")),
        )
        .route(
            "/console/icon.svg",
            asset("image/svg+xml", include_str!("icon.svg")),
        )
        .merge(guides::router())
        .merge(admin::router())
        .route("/console/{*rest}", any(nothing_here))
        .method_not_allowed_fallback(async || Failure::from(ApiError::method_not_allowed()))
        .layer(middleware::from_fn_with_state(Arc::clone(app), guarded))
        .with_state(Arc::clone(app))
}

async fn nothing_here() -> Failure {
    ApiError::not_found("there is no page at this address").into()
}
