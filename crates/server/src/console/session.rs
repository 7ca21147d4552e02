//! The session of a request: the signed-in user and their permissions.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{Method, request::Parts},
    response::{IntoResponse, Redirect, Response},
};

use super::{
    cookies::{COOKIE, cookie},
    failure::Failure,
    words,
};
use crate::{
    accounts::by_token,
    app::App,
    database::{Identity, Role, Scope, Wanted},
    error::ApiError,
    peer::Peer,
};

/// A signed-in user. Extracting it redirects to the sign-in page without a
/// session.
pub(crate) struct Session {
    pub(crate) user: Identity,
}

impl FromRequestParts<Arc<App>> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        // Several extractions in one request return the same project, even if
        // another tab switches it in between.
        if let Some(user) = parts.extensions.get::<Identity>() {
            return Ok(Self { user: user.clone() });
        }
        let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
        let signed_in = match cookie(&parts.headers, COOKIE) {
            Some(token) => {
                let user = by_token(app, token, Wanted::OfSession, peer).await;
                user.ok().map(|user| Self { user })
            }
            None => None,
        };
        if let Some(session) = &signed_in {
            parts.extensions.insert(session.user.clone());
        }
        signed_in.ok_or_else(|| {
            let wanted = parts
                .uri
                .path_and_query()
                .map_or("/console/", |p| p.as_str());
            let next = match parts.method {
                Method::GET => wanted,
                _ => "/console/",
            };
            let query = words::query(&[("next", next)]);
            Redirect::to(&format!("/console/signin{query}")).into_response()
        })
    }
}

impl Session {
    /// Returns whether the user may add to the project.
    pub(super) fn writes(&self) -> bool {
        self.is_full() && self.user.role >= Role::Member
    }

    /// Returns whether the user may change what `creator` added to the project.
    pub(super) fn changes(&self, creator: Option<&str>) -> bool {
        let own = self.user.role == Role::Owner || creator == Some(&self.user.person);
        self.writes() && own
    }

    /// Fails unless the user may add to the project.
    pub(crate) fn may_write(&self) -> Result<(), Failure> {
        self.must_be_full()?;
        Ok(self.user.may(Role::Member)?)
    }

    /// Fails unless the user may change everything in the project.
    pub(crate) fn may_own(&self) -> Result<(), Failure> {
        self.must_be_full()?;
        Ok(self.user.may(Role::Owner)?)
    }

    /// Returns whether the session's token has full access.
    pub(super) fn is_full(&self) -> bool {
        self.user.scope == Scope::All
    }

    /// Fails if the session's token is read-only.
    pub(crate) fn must_be_full(&self) -> Result<(), Failure> {
        match self.is_full() {
            true => Ok(()),
            false => Err(ApiError::forbidden(
                "you are signed in with a read-only token: sign in with a token with full access",
            )
            .into()),
        }
    }
}
