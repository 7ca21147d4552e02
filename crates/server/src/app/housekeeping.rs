//! Periodic task: deferred writes, and removal of expired data.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::App;

impl App {
    /// Records the use of a token, to be written later.
    pub(crate) fn note_use(&self, hash: Vec<u8>) {
        let mut used = self
            .used_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.insert(hash);
    }

    /// Writes deferred data and removes expired data, once a minute.
    pub(crate) async fn housekeeping(self: Arc<Self>) {
        const PAUSE: Duration = Duration::from_secs(60);
        loop {
            tokio::time::sleep(PAUSE).await;
            self.write_uses().await;
            if let Err(error) = self.database.drop_expired_tokens().await {
                tracing::warn!("Expired tokens can't be removed: {error}");
            }
            if let Err(error) = self.database.prune_audit(self.settings.audit_days).await {
                tracing::warn!("Old entries of the audit log can't be removed: {error}");
            }
            if let Err(error) = self.database.drop_expired_shares().await {
                tracing::warn!("Expired links can't be removed: {error}");
            }
            self.uploads.forget();
            self.logins.forget();
            if let Some(oidc) = &self.oidc {
                oidc.forget();
            }
        }
    }

    /// Writes which tokens were used since the last write.
    pub(crate) async fn write_uses(&self) {
        let used = {
            let mut used = self
                .used_tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *used).into_iter().collect::<Vec<_>>()
        };
        if !used.is_empty()
            && let Err(error) = self.database.touch_tokens(used).await
        {
            tracing::warn!("The use of tokens can't be recorded: {error}");
        }
    }
}
