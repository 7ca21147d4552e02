//! The origin of a model on the hub.

/// The origin of a model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `owner/name`.
    pub name: String,
    /// The requested branch, tag or commit; `main` by default.
    pub revision: String,
    /// The commit to which the revision resolved.
    pub commit: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            revision,
            commit,
        } = self;
        match revision == commit {
            true => write!(f, "`{name}` at commit {commit}"),
            false => write!(f, "`{name}` at commit {commit} (`{revision}`)"),
        }
    }
}
