//! Life of a content in the store: upload, reference by a name, and removal after
//! its last reference.

use std::sync::Arc;

use super::{App, over_quota};
use crate::{
    database::{Identity, NewArtifact, Put, Which},
    error::Result,
    store::{Hold, Stored, Unnamed, Upload},
    tasks::to_the_end,
};

impl App {
    /// Finds a row that refers to a content, and holds the content: it is not
    /// removed before the hold is dropped, even if its last reference is deleted.
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
            // The content may have been removed before it was held.
            let again = find().await?;
            if again.as_ref().map(content) == Some(content(&named)) {
                return Ok(Some((named, hold)));
            }
            found = again;
        }
        Ok(None)
    }

    /// Starts an upload to a project within its storage limit and the free space.
    /// `replaces` is the name of an artifact that the upload will replace.
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

    /// Stores a content, and lets `enter` insert the row that refers to it. If
    /// `enter` fails or is cancelled, the content is removed. `enter` returns its
    /// result and the contents that have lost their last reference.
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

    /// Stores a content. It is removed unless it gets a reference.
    pub(crate) async fn place(&self, upload: Upload) -> Result<(Stored, Unnamed)> {
        let sealed = upload.seal().await?;
        let hold = self.store.hold(sealed.content()).await;
        let unnamed = Unnamed::new(hold.clone());
        Ok((sealed.place(hold).await?, unnamed))
    }

    /// Inserts an artifact that refers to a stored content. Returns its id and
    /// the content that has lost its last reference.
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

    /// Removes those of the contents that have no reference. A content that is
    /// being read is removed later; one whose removal fails, by the sweep at the
    /// next start. Failures are logged and do not fail the call, because the
    /// change that removed the references is already done.
    pub(crate) async fn remove_orphans(&self, contents: Vec<String>) {
        for content in contents {
            // The content may have got a reference in the meantime.
            let is_wanted = self.database.is_wanted(content.clone());
            if let Err(error) = self.store.remove(&content, is_wanted).await {
                tracing::warn!("Content {content} has no reference but can't be removed: {error}");
            }
        }
    }

    /// Removes contents without a reference once their last reader has ended.
    /// Runs as long as the server.
    pub(crate) async fn remove_suspects(self: Arc<Self>) {
        loop {
            let suspects = self.store.suspects().await;
            self.remove_orphans(suspects).await;
        }
    }

    /// Deletes an artifact of the project. Returns whether it existed.
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
