//! Pages for admins of the server: its health and queue, users, storage, and the
//! audit log.

mod audit;
mod overview;
mod storage;
mod users;

use std::sync::Arc;

use axum::{
    Router,
    extract::FromRequestParts,
    http::request::Parts,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use maud::{Markup, html};

use super::{Failure, Session, frame::page as framed};
use crate::{app::App, database::Manager, error::ApiError};

/// The part of the console that these pages belong to.
const HERE: &str = "Admin";

/// The pages with their addresses.
const PAGES: [(&str, &str); 4] = [
    ("Overview", "/console/admin"),
    ("Users", "/console/admin/users"),
    ("Storage", "/console/admin/storage"),
    ("Audit log", "/console/admin/audit"),
];

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

/// An admin who is signed in with a token that is good for changes.
pub(crate) struct AdminSession(Session);

impl FromRequestParts<Arc<App>> for AdminSession {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let session = Session::from_request_parts(parts, app).await?;
        session
            .must_be_full()
            .map_err(IntoResponse::into_response)?;
        match session.user.is_admin {
            true => Ok(Self(session)),
            false => {
                let reason = "only admins of the server may see this page: ask one of them";
                Err(Failure::from(ApiError::forbidden(reason)).into_response())
            }
        }
    }
}

impl AdminSession {
    fn manager(&self) -> Manager {
        Manager::Admin(self.0.user.clone())
    }

    /// A page with links to the others.
    fn framed(&self, title: &str, content: &Markup) -> Markup {
        let content = html! {
            nav .tabs aria-label="Admin" {
                @for (name, address) in PAGES {
                    a href=(address) aria-current=[(name == title).then_some("page")] { (name) }
                }
            }
            (content)
        };
        framed(&self.0, HERE, title, &content)
    }
}

fn problem(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { p .problem .message role="alert" { (text) } } }
}
