//! Documents of a data set, read from the fetched file, with the images that
//! they refer to.

use std::{io::BufReader, sync::Arc};

use finetuner_engine::Error as EngineError;
use finetuner_protocol::{Document, DocumentReader};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;

use super::signals::Signals;
use crate::images::Images;

/// Documents whose images are fetched together and held in memory.
const BATCH: usize = 32;

/// A data set in a file. Its images are fetched while it is read.
pub(super) struct FetchedDocuments {
    /// The data set's name in messages.
    shown: String,
    reader: DocumentReader<BufReader<NamedTempFile>>,
    images: Images,
    runtime: Handle,
    signals: Arc<Signals>,
    ready: std::vec::IntoIter<Document>,
}

impl FetchedDocuments {
    /// Opens the file of a data set that messages call `shown`.
    pub(super) fn new(
        file: NamedTempFile,
        shown: String,
        images: Images,
        runtime: Handle,
        signals: Arc<Signals>,
    ) -> Result<Self, EngineError> {
        let reader = DocumentReader::new(BufReader::new(file));
        Ok(Self {
            reader: reader.map_err(|e| EngineError::Data(format!("{shown}: {e}")))?,
            shown,
            images,
            runtime,
            signals,
            ready: Vec::new().into_iter(),
        })
    }

    fn read_some(&mut self) -> Result<Vec<Document>, EngineError> {
        let bad = |reason: String| EngineError::Data(format!("{}: {reason}", self.shown));
        let some: Result<Vec<_>, _> = self.reader.by_ref().take(BATCH).collect();
        let mut some = some.map_err(|e| bad(e.to_string()))?;
        let fetched = self.images.fetch_all(&mut some);
        let fetched = self.signals.unless_interrupted(fetched);
        self.runtime.block_on(fetched)?.map_err(bad)?;
        Ok(some)
    }
}

impl Iterator for FetchedDocuments {
    type Item = Result<Document, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.len() == 0 {
            match self.read_some() {
                Ok(some) => self.ready = some.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.next().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use finetuner_protocol::DocumentArray;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn fetched(bytes: &[u8], runtime: &Runtime) -> FetchedDocuments {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        FetchedDocuments::new(
            file,
            "`train_data` (`shoes`)".to_owned(),
            Images::new(false).unwrap(),
            runtime.handle().clone(),
            Arc::default(),
        )
        .unwrap()
    }

    #[test]
    fn documents_keep_their_order_and_truncation_is_reported_once() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let all: Vec<Document> = (0..2 * BATCH + 3)
            .map(|n| Document::text(n.to_string()))
            .collect();
        let bytes = DocumentArray::from(all.clone()).to_bytes().unwrap();
        let read: Result<Vec<_>, _> = fetched(&bytes, &runtime).collect();
        assert_eq!(read.unwrap(), all);

        let cut = fetched(&bytes[..bytes.len() - 1], &runtime);
        let (good, bad): (Vec<_>, Vec<_>) = cut.partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (2 * BATCH, 1));
        let reason = bad[0].as_ref().unwrap_err().to_string();
        assert!(
            reason.contains("`train_data` (`shoes`): the stream of documents ends early"),
            "{reason}"
        );
    }
}
