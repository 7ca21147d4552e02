//! Pages for admins of the server: health and queue, users, storage, audit log.

mod audit;
mod frame;
mod overview;
mod storage;
mod users;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use crate::app::App;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/console/admin", get(overview::page))
        .route("/console/admin/users", get(users::list).post(users::add))
        .route(
            "/console/admin/users/change",
            get(users::ask).post(users::change),
        )
        .route(
            "/console/admin/storage",
            get(storage::list).post(storage::set),
        )
        .route("/console/admin/audit", get(audit::page))
        .route("/console/admin/audit.csv", get(audit::download))
        .route("/console/admin/users/quota", post(users::set_quota))
}
