//! What a client says of an upload: how many documents it sent, and the
//! SHA-256 of all bytes. What has come must agree, so that an upload that was
//! cut short is never kept as a whole one.

use crate::{
    app::App,
    error::{ApiError, Result},
    store::Stored,
};

/// The head of a stream of documents: a version, then their number as 64 bits.
const HEAD: usize = 9;

/// A client's statement of what it has sent. Older clients state less, or nothing.
#[derive(Default)]
pub(super) struct Told {
    pub(super) sha256: Option<String>,
    pub(super) documents: Option<u64>,
}

impl Told {
    /// Takes in a field of a form. Returns whether it is one of these.
    pub(super) fn take(&mut self, name: &str, text: &str) -> Result<bool> {
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

    /// Refuses a content that is not what the client has sent.
    pub(super) async fn compare(&self, app: &App, stored: &Stored) -> Result<()> {
        if let Some(told) = &self.sha256
            && !told.eq_ignore_ascii_case(&stored.content)
        {
            return Err(ApiError::unprocessable(format!(
                "`sha256`: {} bytes have come, and they have another SHA-256: send the data again",
                stored.size
            )));
        }
        if let Some(told) = self.documents {
            let head = app
                .store
                .range(&stored.content, 0..stored.size.min(HEAD as u64));
            let head = head.await?;
            let announced = match <[u8; HEAD]>::try_from(&head[..]) {
                Ok([1, count @ ..]) => u64::from_be_bytes(count),
                _ => 0,
            };
            if announced != told {
                return Err(ApiError::unprocessable(format!(
                    "`documents` is {told}, but {announced} documents have come: send the data \
                     again"
                )));
            }
        }
        Ok(())
    }
}
