//! A look into data sets that are stored: some documents of many.

use std::io::{self, Read};

use finetuner_protocol::{Document, DocumentReader};
use tokio::runtime::Handle;

use crate::store::Store;

/// Documents from number `first` on, counted from 0, at most `count`; and how
/// many there are. What comes before is passed over without unpacking it.
pub(crate) async fn read(
    store: &Store,
    content: &str,
    first: u64,
    count: u64,
) -> Result<(Vec<Document>, u64), String> {
    let bytes = StoredBytes::new(store, content).await?;
    let read = move || {
        let mut reader = DocumentReader::new(bytes).map_err(|e| e.to_string())?;
        let total = reader.count_announced();
        reader.skip_documents(first).map_err(|e| e.to_string())?;
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let documents = reader.take(wanted).collect::<Result<Vec<_>, _>>();
        Ok((documents.map_err(|e| e.to_string())?, total))
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| e.to_string())?
}

/// Reads a content in a thread that may block.
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

    /// How many bytes there are.
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

#[cfg(test)]
mod tests {
    use finetuner_protocol::DocumentArray;

    use super::*;

    #[tokio::test]
    async fn some_documents_are_read_of_many() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path()).unwrap();
        let all: Vec<Document> = (0..50)
            .map(|n| Document::text(format!("text {n}")))
            .collect();
        let mut upload = store.upload();
        let bytes = DocumentArray::from(all.clone()).to_bytes().unwrap();
        upload.write(bytes.into()).await.unwrap();
        let content = upload.finish().await.unwrap().content;
        let (some, total) = read(&store, &content, 48, 10).await.unwrap();
        assert_eq!((some.as_slice(), total), (&all[48..], 50));
        let (none, _) = read(&store, &content, 1000, 10).await.unwrap();
        assert!(none.is_empty());
        assert!(read(&store, "00", 0, 1).await.is_err());
    }
}
