//! The package of a Ray job: a zip with the files that the worker needs and
//! that must not appear in Ray's description of the job. Ray unpacks it into
//! the working folder.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::launcher::WorkOrder;

/// The file with the start token.
pub(super) const START: &str = "start";
/// The file with the certificate authority.
pub(super) const CA: &str = "ca.pem";

/// Returns the name of a job's package.
pub(super) fn name(job: &str) -> String {
    format!("{job}.zip")
}

/// Packs the files of an order.
pub(super) fn zip(order: &WorkOrder) -> Result<Vec<u8>, String> {
    let files = [(START, Some(&order.start_token)), (CA, order.ca.as_ref())];
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        // Ray keeps the permissions when it unpacks.
        .unix_permissions(0o600);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let Some(content) = content else { continue };
        zip.start_file(name, options).map_err(|e| e.to_string())?;
        zip.write_all(content.as_bytes())
            .map_err(|e| e.to_string())?;
    }
    let written = zip.finish().map_err(|e| e.to_string())?;
    Ok(written.into_inner())
}
