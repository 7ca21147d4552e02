//! The working folder of a Ray job: a zip with the files that the worker must
//! find, and that must not stand in what Ray shows of a job.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::launcher::WorkOrder;

/// The file with the start token.
pub(super) const START: &str = "start";
/// The file with the certificate authority.
pub(super) const CA: &str = "ca.pem";

/// What the package of a job is called.
pub(super) fn name(job: &str) -> String {
    format!("{job}.zip")
}

/// The files of an order.
pub(super) fn zip(order: &WorkOrder) -> Result<Vec<u8>, String> {
    let files = [(START, Some(&order.start_token)), (CA, order.ca.as_ref())];
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        // Ray keeps this when it unpacks.
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
