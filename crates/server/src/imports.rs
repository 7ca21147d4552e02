//! Training data uploaded by a browser. A file is spooled to disk, read with the
//! client's reader (`finetuner-data`), and stored as the same documents that the
//! client would upload.
//!
//! The files are untrusted. Paths in them can't leave the folder of the upload,
//! sizes are counted and not taken from headers, and the numbers of rows, pages
//! and files are limited.

mod pack;
mod refusal;
mod spool;
mod table;
mod unzip;

use std::{path::Path, sync::Arc};

use finetuner_data::{DocumentSource, Error as DataError};
use serde_json::json;

use crate::{
    app::App,
    database::{Identity, NewArtifact},
    secret,
    store::Upload,
};

pub(crate) use refusal::Refusal;
pub(crate) use spool::{Spool, sweep};
pub(crate) use table::{FirstRow, Reading, Rows};

/// Number of valid documents shown beside the errors of others.
const MAX_SHOWN: usize = 3;

/// A dataset to store.
pub(crate) struct NewData {
    pub(crate) user: Identity,
    pub(crate) name: String,
    pub(crate) public: bool,
    /// Whether it may take the place of data of the same name.
    pub(crate) replaces: bool,
    pub(crate) reading: Reading,
}

/// Reads a completely received file and stores its documents. Returns the ID of
/// the dataset.
pub(crate) async fn store(app: Arc<App>, spool: Spool, new: NewData) -> Result<String, Refusal> {
    let upload = app.upload(&new.user, Some(&new.name)).await?;
    let (spooled, space) = (spool.finish().await?, app.space.clone());
    let (runtime, reading) = (tokio::runtime::Handle::current(), new.reading.clone());
    let file = spooled.name.clone();
    let read = move || {
        let source = table::source(&spooled, &reading, &space)?;
        let checked = source
            .check("the file")
            .map_err(|error| refused(error, &source, spooled.folder()))?;
        let fault = |error| Refusal::data(error, spooled.folder());
        let upload = pack::pack(&source, &checked, upload, spooled.size, &runtime, fault)?;
        Ok::<_, Refusal>((checked.summary, upload))
    };
    let read = app.gates.imports.run(&new.user.person, read).await?;
    let (summary, upload): (_, Upload) = read?;
    let mut meta_data = summary.to_meta_data();
    meta_data["version"] = json!({"finetuner-server": env!("CARGO_PKG_VERSION")});
    meta_data["file"] = file.into();
    let id = app
        .keep(upload, async |stored| {
            let row = NewArtifact {
                id: secret::new_id(),
                project_id: new.user.namespace.clone(),
                created_by: Some(new.user.person.clone()),
                name: Some(new.name),
                kind: "documentArray".to_owned(),
                public: new.public,
                meta_data: meta_data.to_string(),
                content: stored.content.clone(),
                size: stored.size,
            };
            if !new.replaces {
                return app.add_artifact(new.user, row).await;
            }
            let (id, orphans) = app.put_artifact(new.user, row).await?;
            Ok((Some(id), orphans))
        })
        .await?;
    id.ok_or_else(taken)
}

/// Returns the refusal of a name that other data has.
pub(crate) fn taken() -> Refusal {
    let reason = "there is data of this name already: choose another name, or replace it";
    Refusal::Field("replace", reason.to_owned())
}

/// Converts a read error. Errors of rows come with the first valid documents.
fn refused(error: DataError, source: &DocumentSource, folder: &Path) -> Refusal {
    match Refusal::data(error, folder) {
        Refusal::Rows(problems, _) => {
            let good = source.loaded().take(MAX_SHOWN).map_while(Result::ok);
            Refusal::Rows(problems, good.collect())
        }
        other => other,
    }
}
