//! Access check and layout of the admin pages.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::request::Parts,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use crate::{
    app::App,
    console::{failure::Failure, frame::page as framed, session::Session},
    database::Manager,
    error::ApiError,
};

/// The navigation entry that these pages belong to.
const HERE: &str = "Admin";

/// Titles and URLs of the admin pages.
const PAGES: [(&str, &str); 4] = [
    ("Overview", "/console/admin"),
    ("Users", "/console/admin/users"),
    ("Storage", "/console/admin/storage"),
    ("Audit log", "/console/admin/audit"),
];

/// An admin's session with full access. Extracting it fails for all other users
/// and for read-only tokens.
pub(crate) struct AdminSession(pub(super) Session);

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
                let reason = "only admins of the server may open this page: ask one of them";
                Err(Failure::from(ApiError::forbidden(reason)).into_response())
            }
        }
    }
}

impl AdminSession {
    /// Returns the admin as the actor of changes to projects and users.
    pub(super) fn manager(&self) -> Manager {
        Manager::Admin(self.0.user.clone())
    }

    /// Puts content into the admin layout, with links to the other admin pages.
    pub(super) fn framed(&self, title: &str, content: &Markup) -> Markup {
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
