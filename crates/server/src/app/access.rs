//! Changes of permissions. Streams of users who have lost access end.

use std::sync::Arc;

use super::App;
use crate::{
    database::{AccountChange, Identity, Manager},
    error::Result,
    tasks::to_the_end,
};

impl App {
    /// Removes a member of a project, and ends the streams that the member
    /// follows.
    pub(crate) async fn remove_member(
        self: &Arc<Self>,
        by: Identity,
        project: String,
        name: String,
    ) -> Result<()> {
        let app = Arc::clone(self);
        to_the_end(async move {
            app.database.remove_member(by, project, name).await?;
            app.changes.notify_all();
            Ok(())
        })
        .await
    }

    /// Changes a user, and ends the streams of a disabled one.
    pub(crate) async fn change_account(
        self: &Arc<Self>,
        by: Manager,
        name: String,
        change: AccountChange,
    ) -> Result<()> {
        let app = Arc::clone(self);
        to_the_end(async move {
            app.database.change_account(by, name, change).await?;
            app.changes.notify_all();
            Ok(())
        })
        .await
    }
}
