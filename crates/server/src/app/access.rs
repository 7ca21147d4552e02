//! Changes of who may do what. Each ends what the user follows.

use std::sync::Arc;

use super::App;
use crate::{
    database::{AccountChange, Identity, Manager},
    error::Result,
    tasks::to_the_end,
};

impl App {
    /// Removes a member of a project, and ends what the member follows.
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

    /// Changes a user, and ends what a disabled one follows.
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
