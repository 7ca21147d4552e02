//! Who is signed in, and what they may do.

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

/// Somebody who is signed in.
pub(crate) struct Session {
    pub(crate) user: Identity,
}

impl FromRequestParts<Arc<App>> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        // Whoever asks again in the same request gets the same project, whatever another
        // tab does meanwhile.
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
    /// Whether the user may add to the project.
    pub(super) fn writes(&self) -> bool {
        self.is_full() && self.user.role >= Role::Member
    }

    /// Whether the user may change what `creator` added to the project.
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

    /// Whether the session's token is good for changing things.
    pub(super) fn is_full(&self) -> bool {
        self.user.scope == Scope::All
    }

    /// Fails if the session's token is good for reading alone.
    pub(crate) fn must_be_full(&self) -> Result<(), Failure> {
        match self.is_full() {
            true => Ok(()),
            false => Err(ApiError::forbidden(
                "you are signed in with a read-only token: sign in with one of full access",
            )
            .into()),
        }
    }
}
