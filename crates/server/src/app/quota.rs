//! What users and projects take of the server, and their limits.

use super::App;
use crate::{
    database::{Identity, Usage},
    error::{ApiError, Result},
};

impl App {
    /// What a user and the project have taken of the server, and their limits.
    pub(crate) async fn usage(&self, of: &Identity) -> Result<Usage> {
        let most = (self.settings.max_open_runs, self.settings.max_stored);
        Ok(self.database.usage(of, most).await?)
    }

    /// The bytes of a project that count when an upload begins, and the most that
    /// it may have. Without the name of what it replaces only the upload itself
    /// can be limited; what is stored in the end is counted when it gets its name.
    pub(super) async fn quota(
        &self,
        user: &Identity,
        replaces: Option<&str>,
    ) -> Result<Option<(u64, u64)>> {
        let usage = self.usage(user).await?;
        let Some(most) = usage.max_stored else {
            return Ok(None);
        };
        let Some(name) = replaces else {
            return Ok(Some((0, most)));
        };
        let project = user.namespace.clone();
        let replaced = self.database.artifact_by_name(project, name.to_owned());
        let replaced = replaced.await?.map_or(0, |artifact| artifact.size);
        Ok(Some((usage.stored.saturating_sub(replaced), most)))
    }
}

/// Refuses what is too much for its user.
pub(crate) fn over_quota(stored: u64, most: u64) -> ApiError {
    ApiError::forbidden(format!(
        "stored bytes: the project's data, models and checkpoints would take {} MiB, and the \
         limit is {} MiB: delete some, or ask the operator for a higher `--max-stored`",
        stored.div_ceil(1 << 20),
        most >> 20
    ))
}
