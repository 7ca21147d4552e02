//! The number of documents and the SHA-256 that a client declares for an upload.
//! Both must match the received bytes, so that a truncated upload is never kept.

use crate::{
    app::App,
    error::{ApiError, Result},
    store::Stored,
};

/// Length of a document stream's header: a version byte and the number of
/// documents as 64 bits.
const HEAD: usize = 9;

/// Declared properties of an upload. Older clients omit one or both fields.
#[derive(Default)]
pub(super) struct Declared {
    pub(super) sha256: Option<String>,
    pub(super) documents: Option<u64>,
}

impl Declared {
    /// Stores a field of a form. Returns `false` for the name of another field.
    pub(super) fn read_field(&mut self, name: &str, text: &str) -> Result<bool> {
        match name {
            "sha256" => self.sha256 = Some(text.to_owned()),
            "documents" => {
                let number = text.parse().map_err(|_| {
                    ApiError::unprocessable(format!("`documents` is `{text}`, not a whole number"))
                })?;
                self.documents = Some(number);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses a content that differs from what the client has declared.
    pub(super) async fn check(&self, app: &App, stored: &Stored) -> Result<()> {
        if let Some(declared) = &self.sha256
            && !declared.eq_ignore_ascii_case(&stored.content)
        {
            return Err(ApiError::unprocessable(format!(
                "`sha256` differs from the SHA-256 of the {} bytes received: send the data again",
                stored.size
            )));
        }
        if let Some(declared) = self.documents {
            let head = app
                .store
                .range(&stored.content, 0..stored.size.min(HEAD as u64));
            let head = head.await?;
            let announced = match <[u8; HEAD]>::try_from(&head[..]) {
                Ok([1, count @ ..]) => u64::from_be_bytes(count),
                _ => 0,
            };
            if announced != declared {
                return Err(ApiError::unprocessable(format!(
                    "`documents` is {declared}, but the upload has {announced} documents: send \
                     the data again"
                )));
            }
        }
        Ok(())
    }
}
