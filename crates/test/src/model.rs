//! The default artifact of a run.

use std::io::{Cursor, Write};

use zip::{ZipWriter, result::ZipError, write::SimpleFileOptions};

/// A safetensors file without tensors: the length of its header, then the header.
const NO_TENSORS: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

/// Returns the zip of a model folder without weights.
pub(crate) fn empty_model() -> Vec<u8> {
    let files = [
        ("config.json", &b"{\"model_type\": \"test\"}\n"[..]),
        ("model.safetensors", NO_TENSORS),
    ];
    // Writing to memory fails only for names or sizes that these files don't have.
    zip_of(&files).unwrap_or_default()
}

/// Returns a zip with these files in one folder, like an artifact.
pub(crate) fn zip_of<N: AsRef<str>, B: AsRef<[u8]>>(files: &[(N, B)]) -> Result<Vec<u8>, ZipError> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let name = format!("model/{}", name.as_ref());
        zip.start_file(name, SimpleFileOptions::default())?;
        zip.write_all(content.as_ref())?;
    }
    Ok(zip.finish()?.into_inner())
}
