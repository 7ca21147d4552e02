//! Contents of the store: how they come, how long they stay, when they go.

use std::sync::Arc;

use super::{App, over_quota};
use crate::{
    database::{Identity, NewArtifact, Put, Which},
    error::Result,
    store::{Hold, Stored, Unnamed, Upload},
    tasks::to_the_end,
};

impl App {
    /// Finds something that names a content, and holds that content: it stays
    /// until the hold is dropped, whatever is deleted meanwhile.
    pub(crate) async fn held<T, F>(
        &self,
        find: impl Fn() -> F,
        content: fn(&T) -> &str,
    ) -> Result<Option<(T, Hold)>>
    where
        F: Future<Output = rusqlite::Result<Option<T>>>,
    {
        let mut found = find().await?;
        while let Some(named) = found {
            let hold = self.store.hold(content(&named)).await;
            // It may have gone before it was held.
            let again = find().await?;
            if again.as_ref().map(content) == Some(content(&named)) {
                return Ok(Some((named, hold)));
            }
            found = again;
        }
        Ok(None)
    }

    /// Starts to take in data for a project, as far as there is room. An artifact
    /// that it replaces may be named.
    pub(crate) async fn upload(&self, user: &Identity, replaces: Option<&str>) -> Result<Upload> {
        self.space.check("upload", 0)?;
        let space = self.space.clone();
        let quota = self.quota(user, replaces).await?;
        let check = move |size: u64| {
            if let Some((used, most)) = quota
                && used.saturating_add(size) > most
            {
                return Err(over_quota(used.saturating_add(size), most));
            }
            space.check("upload", 0)
        };
        let upload = self.store.upload().checked(Box::new(check));
        Ok(upload)
    }

    /// Puts a content in its place and lets `enter` give it a name. If that does
    /// not happen, or is cancelled, the content is removed. `enter` returns its
    /// result and the contents that nothing refers to any more.
    pub(crate) async fn keep<T>(
        &self,
        upload: Upload,
        enter: impl AsyncFnOnce(&Stored) -> Result<(T, Vec<String>)>,
    ) -> Result<T> {
        let (stored, unnamed) = self.place(upload).await?;
        match enter(&stored).await {
            Ok((made, orphans)) => {
                unnamed.named();
                self.remove_orphans(orphans).await;
                Ok(made)
            }
            Err(error) => {
                drop(unnamed);
                self.remove_orphans(vec![stored.content]).await;
                Err(error)
            }
        }
    }

    /// Puts a content in its place. It is removed unless it gets a name.
    pub(crate) async fn place(&self, upload: Upload) -> Result<(Stored, Unnamed)> {
        let sealed = upload.seal().await?;
        let hold = self.store.hold(sealed.content()).await;
        let unnamed = Unnamed::new(hold.clone());
        Ok((sealed.place(hold).await?, unnamed))
    }

    /// Enters a content as an artifact. Returns its id and the content that
    /// nothing refers to any more.
    pub(crate) async fn put_artifact(
        &self,
        by: Identity,
        new: NewArtifact,
    ) -> Result<(String, Vec<String>)> {
        let most = self.settings.max_stored;
        entered(self.database.put_artifact(by, new, most).await?)
    }

    /// Enters a content as an artifact of a new name. Returns its id, or none if the
    /// name is taken, and the content that nothing refers to any more.
    pub(crate) async fn add_artifact(
        &self,
        by: Identity,
        new: NewArtifact,
    ) -> Result<(Option<String>, Vec<String>)> {
        let (most, content) = (self.settings.max_stored, new.content.clone());
        match self.database.add_artifact(by, new, most).await? {
            Some(put) => entered(put).map(|(id, orphans)| (Some(id), orphans)),
            None => Ok((None, vec![content])),
        }
    }

    /// Removes those of the contents that nothing refers to. One that somebody
    /// still reads is removed later; one that could not be removed, by the sweep
    /// of the next start. What made them orphans was done all the same.
    pub(crate) async fn remove_orphans(&self, contents: Vec<String>) {
        for content in contents {
            // Something may have got it since.
            let is_wanted = self.database.is_wanted(content.clone());
            if let Err(error) = self.store.remove(&content, is_wanted).await {
                tracing::warn!("Content {content}, which nothing refers to, stays: {error}");
            }
        }
    }

    /// Removes contents that nothing refers to once nobody reads them any more,
    /// as long as the server runs.
    pub(crate) async fn remove_suspects(self: Arc<Self>) {
        loop {
            let suspects = self.store.suspects().await;
            self.remove_orphans(suspects).await;
        }
    }

    /// Deletes an artifact of the project. Says whether it was there.
    pub(crate) async fn delete_artifact(
        self: &Arc<Self>,
        by: Identity,
        which: Which,
    ) -> Result<bool> {
        let app = Arc::clone(self);
        to_the_end(async move {
            let (there, orphan) = app.database.delete_artifact(by, which).await?;
            app.remove_orphans(orphan.into_iter().collect()).await;
            Ok(there)
        })
        .await
    }
}

/// Returns the id of an artifact that was stored, and the content that nothing refers
/// to any more.
fn entered(put: Put) -> Result<(String, Vec<String>)> {
    match put {
        Put::Artifact { id, orphan } => Ok((id, orphan.into_iter().collect())),
        Put::OverQuota(stored, most) => Err(over_quota(stored, most)),
    }
}
