//! Downloads, and the unpacking of a saved model. What arrives is checked, and
//! appears whole or not at all.

use std::{
    fs,
    io::{self, Write},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Response, header};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};
use zip::ZipArchive;

use crate::{
    Error, Result,
    data::Download,
    transport::{Body, Call, Transport},
};

/// How long a download may stand still.
const IDLE: Duration = Duration::from_secs(60);

/// Downloads an artifact and unpacks it into `folder`.
pub(crate) async fn save(transport: &Transport, id: &str, folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder).map_err(|e| Error::file(folder, e))?;
    check_free(&folder)?;
    let parent = folder.parent().unwrap_or(&folder).to_owned();
    fs::create_dir_all(&parent).map_err(|e| Error::file(&parent, e))?;

    let form = Body::Form(vec![("id", id.to_owned())]);
    let url = transport.addresses().rpc("artifact.getDownloadUrl");
    let Download { download } = transport.rpc(Call::post(url, form).repeatable()).await?;
    let call = Call::get(download).without_token().streaming();
    let answer = transport.open(call).await?;
    let mut file = NamedTempFile::new_in(&parent).map_err(|e| Error::file(&parent, e))?;
    let written = |e| Error::file(&parent, e);
    receive(answer, |bytes| file.write_all(bytes).map_err(written)).await?;
    tokio::task::spawn_blocking(move || unpack(file, &folder))
        .await
        .map_err(Error::setup)?
}

/// Reads a download into memory.
pub(crate) async fn collect(answer: Response) -> Result<Bytes> {
    let mut all = Vec::new();
    receive(answer, |bytes| {
        all.extend_from_slice(bytes);
        Ok(())
    })
    .await?;
    Ok(all.into())
}

/// Takes a download in, and compares it with the length and the SHA-256 that
/// the server announced.
async fn receive(answer: Response, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let header = |name| {
        let value = answer.headers().get(name)?;
        value
            .to_str()
            .ok()
            .map(|text| text.trim_matches('"').to_owned())
    };
    let length: Option<u64> = header(header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
    let hash = header(header::ETAG).filter(|tag| tag.len() == 64);
    let url = answer.url().clone();
    let (mut hasher, mut received) = (Sha256::new(), 0);
    let mut stream = answer.bytes_stream();
    loop {
        let next = tokio::time::timeout(IDLE, stream.next()).await;
        let Some(bytes) = next.map_err(|_| Error::timeout(IDLE).at(&url))? else {
            break;
        };
        let bytes = bytes.map_err(|e| Error::transport(e, IDLE).at(&url))?;
        received += bytes.len() as u64;
        hasher.update(&bytes);
        take(&bytes)?;
    }
    if let Some(length) = length.filter(|length| *length != received) {
        let reason = format!("{received} of {length} bytes arrived; download it again");
        return Err(Error::artifact(reason).at(&url));
    }
    let found: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if hash.is_some_and(|hash| hash != found) {
        let reason = "its SHA-256 is not the one that the server announced; download it again";
        return Err(Error::artifact(reason).at(&url));
    }
    Ok(())
}

/// A model may be saved where there is nothing, or over a saved model.
fn check_free(folder: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file(folder, error)),
    };
    if entries.next().is_none() || folder.join("metadata.yml").is_file() {
        return Ok(());
    }
    Err(Error::file(
        folder,
        io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the folder holds something else than a saved model; choose another",
        ),
    ))
}

/// Unpacks the one folder of the zip as `folder`.
fn unpack(file: NamedTempFile, folder: &Path) -> Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    let failed = |e| Error::file(parent, e);
    let mut zip = ZipArchive::new(file.reopen().map_err(failed)?).map_err(Error::artifact)?;
    let new = folder_beside(folder).map_err(failed)?;
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(Error::artifact)?;
        if entry.is_dir() {
            continue;
        }
        let path = inner_path(
            &entry
                .enclosed_name()
                .ok_or_else(|| Error::artifact(format!("entry {i} leads out of it")))?,
        );
        let path = new.path().join(path);
        let place = path.parent().unwrap_or(new.path());
        fs::create_dir_all(place).map_err(|e| Error::file(place, e))?;
        let mut out = fs::File::create(&path).map_err(|e| Error::file(&path, e))?;
        io::copy(&mut entry, &mut out).map_err(|e| Error::file(&path, e))?;
    }
    // Looked at again: the download may have taken a while.
    check_free(folder)?;
    let aside = folder_beside(folder).map_err(failed)?;
    let old = aside.path().join("old");
    match fs::rename(folder, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file(folder, error));
        }
        _ => {}
    }
    if let Err(error) = fs::rename(new.path(), folder) {
        // The old model goes back; without one there is nothing to put back.
        let _ = fs::rename(&old, folder);
        return Err(Error::file(folder, error));
    }
    Ok(())
}

/// A temporary folder on the same disk as `folder`, as readable for others as
/// any new folder is.
fn folder_beside(folder: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".finetuner-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(folder.parent().unwrap_or(folder))
}

/// The path without the folder that holds all files of the zip.
fn inner_path(path: &Path) -> PathBuf {
    let parts: Vec<Component<'_>> = path.components().collect();
    match parts.as_slice() {
        [_, inner @ ..] if !inner.is_empty() => inner.iter().collect(),
        all => all.iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zip(files: &[(&str, &str)]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let mut zip = ZipWriter::new(file.reopen().unwrap());
        for (name, text) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        file
    }

    #[test]
    fn replaces_a_saved_model_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        let one = zip(&[
            ("run/metadata.yml", "1"),
            ("run/models/a.yml", "a"),
            ("run/old", ""),
        ]);
        unpack(one, &folder).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("models/a.yml")).unwrap(),
            "a"
        );
        unpack(zip(&[("run/metadata.yml", "2")]), &folder).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("metadata.yml")).unwrap(),
            "2"
        );
        assert!(!folder.join("old").exists());

        let other = root.path().join("photos");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("me.jpg"), "x").unwrap();
        let error = unpack(zip(&[("run/metadata.yml", "3")]), &other).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("something else than a saved model"),
            "{error}"
        );
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "temporary folders are left: {left:?}");
    }

    #[test]
    fn refuses_what_is_no_zip_or_leads_out_of_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        let error = unpack(zip(&[("run/../../evil", "x")]), &folder).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        let mut garbage = NamedTempFile::new().unwrap();
        garbage.write_all(b"<html>").unwrap();
        assert!(unpack(garbage, &folder).is_err());
        assert!(!folder.exists() && !root.path().join("evil").exists());
    }
}
