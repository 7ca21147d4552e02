//! Reading a few documents of a stored data set.

use std::io::{self, Read, Seek, SeekFrom};

use finetuner_protocol::{Document, DocumentError, DocumentReader};
use tokio::runtime::Handle;

use crate::{
    app::App,
    error::{ApiError, Result},
    store::Store,
};

/// Size of unpacked documents after which a page ends, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Reads up to `count` documents from index `first` on, fewer if they are
/// large. Also returns the number of documents in the data set. Earlier
/// documents are skipped without unpacking them.
pub(crate) async fn read(
    app: &App,
    person: &str,
    content: &str,
    first: u64,
    count: u64,
) -> Result<(Vec<Document>, u64)> {
    let bytes = StoredBytes::new(&app.store, content).await;
    let bytes = bytes.map_err(ApiError::unprocessable)?;
    let read = move || some(bytes, first, count);
    let read = app.gates.previews.run(person, read).await?;
    read.map_err(|e| ApiError::unprocessable(e.to_string()))
}

fn some(
    bytes: impl Read,
    first: u64,
    count: u64,
) -> std::result::Result<(Vec<Document>, u64), DocumentError> {
    let mut reader = DocumentReader::new(bytes)?;
    let total = reader.count_announced();
    reader.skip_documents(first)?;
    let mut documents = Vec::new();
    while (documents.len() as u64) < count
        && reader.bytes_unpacked() < MAX_BYTES
        && let Some(document) = reader.next()
    {
        documents.push(document?);
    }
    Ok((documents, total))
}

/// Blocking reader of a stored content.
#[derive(Clone)]
pub(crate) struct StoredBytes {
    store: Store,
    content: String,
    size: u64,
    place: u64,
    piece: bytes::Bytes,
    runtime: Handle,
}

impl StoredBytes {
    pub(crate) async fn new(store: &Store, content: &str) -> Result<Self, String> {
        Ok(Self {
            size: store.size(content).await.map_err(|e| e.to_string())?,
            store: store.clone(),
            content: content.to_owned(),
            place: 0,
            piece: bytes::Bytes::new(),
            runtime: Handle::current(),
        })
    }

    /// Returns the size of the content in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

impl Read for StoredBytes {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.place < self.size {
            let end = (self.place + PIECE).min(self.size);
            let read = self.store.range(&self.content, self.place..end);
            self.piece = self.runtime.block_on(read).map_err(io::Error::other)?;
            self.place = end;
        }
        let count = out.len().min(self.piece.len());
        out[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

impl Seek for StoredBytes {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let now = self.place - self.piece.len() as u64;
        let (from, by) = match to {
            SeekFrom::Start(place) => (place, 0),
            SeekFrom::End(by) => (self.size, by),
            SeekFrom::Current(by) => (now, by),
        };
        let place = from.checked_add_signed(by);
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        // A position within the current piece needs no new read.
        match place.checked_sub(now).map(usize::try_from) {
            Some(Ok(ahead)) if ahead <= self.piece.len() => {
                drop(self.piece.split_to(ahead));
            }
            _ => {
                self.piece = bytes::Bytes::new();
                self.place = place;
            }
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::DocumentArray;

    use super::*;

    #[tokio::test]
    async fn a_page_of_documents_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path()).unwrap();
        let all: Vec<Document> = (0..50)
            .map(|n| Document::text(format!("text {n}")))
            .collect();
        let mut upload = store.upload();
        let bytes = DocumentArray::from(all.clone()).to_bytes().unwrap();
        upload.write(bytes.into()).await.unwrap();
        let sealed = upload.seal().await.unwrap();
        let hold = store.hold(sealed.content()).await;
        let content = sealed.place(hold).await.unwrap().content;
        let look = async |first, count| {
            let bytes = StoredBytes::new(&store, &content).await.unwrap();
            let read = tokio::task::spawn_blocking(move || some(bytes, first, count));
            read.await.unwrap().unwrap()
        };
        let (found, total) = look(48, 10).await;
        assert_eq!((found.as_slice(), total), (&all[48..], 50));
        assert!(look(1000, 10).await.0.is_empty());
        assert!(StoredBytes::new(&store, "00").await.is_err());
    }

    #[test]
    fn large_documents_are_read_up_to_the_limit() {
        let large = Document::text("x".repeat(20 << 20));
        let all = DocumentArray::from(vec![large; 6]).to_bytes().unwrap();
        let (found, total) = some(all.as_slice(), 0, 6).unwrap();
        assert_eq!((found.len(), total), (4, 6), "the fourth exceeds 64 MiB");
        assert_eq!(some(all.as_slice(), 4, 6).unwrap().0.len(), 2);
    }
}
