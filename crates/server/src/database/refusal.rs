//! Reasons why a transaction refuses a change.

use std::fmt;

use super::Role;

/// Reason why a transaction refused a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The user is not, or no longer, a member.
    NotMember { project: String },
    /// The user's role is too low.
    Role {
        project: String,
        has: Role,
        needs: Role,
    },
    /// A member tried to change what another member added.
    NotOwn { project: String },
    /// The user is not, or no longer, an admin of the server.
    NoAdmin,
    /// An admin has disabled the user.
    Disabled(String),
    /// The current state does not allow the change.
    Conflict(String),
    /// A limit is reached.
    Limit(String),
    /// There is no such user or project.
    Missing(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMember { project } => write!(
                f,
                "there is no project `{project}`, or you are not a member of it: check the name, \
                 or ask an owner of the project to add you"
            ),
            Self::Role {
                project,
                has,
                needs,
            } => write!(
                f,
                "you are a {} of project `{project}`, and this needs the role {}: ask an owner of \
                 the project",
                has.as_str(),
                needs.as_str()
            ),
            Self::NotOwn { project } => write!(
                f,
                "somebody else added this to project `{project}`: members change and delete what \
                 they added themselves, so ask an owner of the project, or use another name"
            ),
            Self::NoAdmin => f.write_str("only admins of the server may do this: ask one of them"),
            Self::Disabled(name) => write!(
                f,
                "the user `{name}` is disabled on this server: ask one of its admins"
            ),
            Self::Conflict(reason) | Self::Limit(reason) | Self::Missing(reason) => {
                f.write_str(reason)
            }
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for rusqlite::Error {
    fn from(refusal: Refusal) -> Self {
        Self::ToSqlConversionFailure(refusal.into())
    }
}

impl Refusal {
    /// Returns the refusal in the error of a transaction, if there is one.
    pub(crate) fn of(error: &rusqlite::Error) -> Option<&Self> {
        match error {
            rusqlite::Error::ToSqlConversionFailure(cause) => cause.downcast_ref(),
            _ => None,
        }
    }
}
