//! Forms that change a project. Each has a hidden field with the project of its
//! page. If another tab has switched the session to another project in the
//! meantime, the form is rejected, so that it never changes the wrong project.

use std::sync::Arc;

use axum::{
    Form,
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde::de::DeserializeOwned;

use super::{failure::Failure, session::Session, words::visible};
use crate::{app::App, error::ApiError};

/// The name of the hidden field.
const FIELD: &str = "project";

/// Size limit of a form in bytes: the same as for all requests except uploads.
const MAX_BYTES: usize = 4 << 20;

impl Session {
    /// Renders the hidden field. Every form that changes the project needs it.
    pub(super) fn project_field(&self) -> Markup {
        html! { input type="hidden" name=(FIELD) value=(self.user.project); }
    }

    /// Fails if the session has switched to another project since the form was
    /// rendered.
    pub(super) fn check_project(&self, form: Option<&str>) -> Result<(), Failure> {
        let now = &self.user.project;
        let reason = match form {
            Some(project) if project == now => return Ok(()),
            Some(project) => format!(
                "this page belongs to project `{}`, and the session has switched to project \
                 `{}` since: nothing was changed. Switch back on the page Projects, or open the \
                 page again",
                visible(project),
                visible(now)
            ),
            None => format!(
                "the form lacks the field `{FIELD}` with its project: nothing was changed. Open \
                 the page again"
            ),
        };
        Err(ApiError::conflict(reason).into())
    }
}

/// Extractor for the fields of a form. Rejects forms of other projects.
pub(crate) struct ProjectForm<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for ProjectForm<T> {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, app).await?;
        let bytes = axum::body::to_bytes(body, MAX_BYTES).await.map_err(|_| {
            let reason = format!("the form has more than {} MiB", MAX_BYTES >> 20);
            Failure::from(ApiError::too_large(reason)).into_response()
        })?;
        let project = url::form_urlencoded::parse(&bytes).find(|(name, _)| name == FIELD);
        let project = project.map(|(_, value)| value);
        session
            .check_project(project.as_deref())
            .map_err(IntoResponse::into_response)?;
        let request = Request::from_parts(parts, Body::from(bytes));
        let form = Form::from_request(request, app).await;
        form.map(|Form(fields)| Self(fields))
            .map_err(IntoResponse::into_response)
    }
}

/// The fields of a form that has only the hidden field.
#[derive(serde::Deserialize)]
pub(crate) struct Nothing {}
