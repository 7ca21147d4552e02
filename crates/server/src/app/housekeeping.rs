//! Regular writes and removal of what has expired.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::App;

impl App {
    /// A token was used.
    pub(crate) fn note_use(&self, hash: Vec<u8>) {
        let mut used = self
            .used_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.insert(hash);
    }

    /// Writes down, from time to time, what is not worth a write each time, and
    /// forgets what has ended.
    pub(crate) async fn keep_house(self: Arc<Self>) {
        const PAUSE: Duration = Duration::from_secs(60);
        loop {
            tokio::time::sleep(PAUSE).await;
            self.write_uses().await;
            if let Err(error) = self.database.drop_expired_tokens().await {
                tracing::warn!("ended tokens could not be removed: {error}");
            }
            if let Err(error) = self.database.prune_audit(self.settings.audit_days).await {
                tracing::warn!("old entries of the audit log could not be removed: {error}");
            }
            if let Err(error) = self.database.drop_expired_shares().await {
                tracing::warn!("expired links could not be removed: {error}");
            }
            self.uploads.forget();
            self.logins.forget();
            if let Some(oidc) = &self.oidc {
                oidc.forget();
            }
        }
    }

    /// Writes down which tokens were used.
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
            tracing::warn!("the use of tokens could not be noted: {error}");
        }
    }
}
