//! Storage and runs that users and projects have, and their limits.

use super::App;
use crate::{
    database::{Identity, Usage},
    error::{ApiError, Result},
};

impl App {
    /// Returns what a user and the project have, and their limits.
    pub(crate) async fn usage(&self, of: &Identity) -> Result<Usage> {
        let most = (self.settings.max_open_runs, self.settings.max_stored);
        Ok(self.database.usage(of, most).await?)
    }

    /// Returns the project's stored bytes at the start of an upload, and its
    /// limit. Without the name of the replaced artifact, the stored bytes count
    /// as 0 and only the upload itself is limited; the transaction that inserts
    /// the artifact then checks the total.
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

/// Returns the error for a project that exceeds its storage limit.
pub(crate) fn over_quota(stored: u64, most: u64) -> ApiError {
    ApiError::forbidden(format!(
        "stored bytes: the project's data, models and checkpoints would take {} MiB, and the \
         limit is {} MiB: delete some, or ask the operator for a higher `--max-stored`",
        stored.div_ceil(1 << 20),
        most >> 20
    ))
}
