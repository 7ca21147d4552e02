//! Roles of members and scopes of tokens.

/// Role of a member of a project. Each role includes the rights of those before
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Reads everything in the project.
    Viewer,
    /// Adds data and runs; changes and deletes what the member has added.
    Member,
    /// Changes and deletes everything, and manages members.
    Owner,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Viewer, Self::Member, Self::Owner];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// Scope of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All calls.
    All,
    /// Only calls that read.
    Read,
}

impl Scope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Read => "read",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::All, Self::Read]
            .into_iter()
            .find(|scope| scope.as_str() == text)
    }
}
