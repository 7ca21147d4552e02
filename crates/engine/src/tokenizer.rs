//! Text to token ids, by the `tokenizer.json` of a model.

use tokenizers::{TruncationParams, utils::truncation::TruncationStrategy};

use crate::{Error, Result};

/// Token ids of several texts, all padded to the longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// Row by row, `seq` ids each.
    pub ids: Vec<u32>,
    /// Tokens of the longest text.
    pub seq: usize,
}

/// A tokenizer with the limit of its model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; texts are cut to `max_tokens`, special tokens
    /// included.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file is not a tokenizer.
    pub fn parse(json: &[u8], max_tokens: usize) -> Result<Self> {
        let bad = |e: tokenizers::Error| Error::checkpoint(format!("tokenizer.json: {e}"));
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        inner
            .with_truncation(Some(TruncationParams {
                max_length: max_tokens,
                strategy: TruncationStrategy::LongestFirst,
                ..TruncationParams::default()
            }))
            .map_err(bad)?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// Token ids of `texts`. Shorter texts are filled up with their own last
    /// token, the end of text: CLIP takes the first one, so what comes behind
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Data`] where a text can't be tokenized.
    pub fn encode(&self, texts: &[&str]) -> Result<TokenBatch> {
        let encoded = self
            .inner
            .encode_batch_fast(texts.to_vec(), true)
            .map_err(|e| Error::data(format!("a text can't be tokenized: {e}")))?;
        let seq = encoded.iter().map(|e| e.get_ids().len()).max().unwrap_or(0);
        if seq == 0 && !texts.is_empty() {
            return Err(Error::data("the tokenizer found no token in any text"));
        }
        let mut ids = Vec::with_capacity(texts.len() * seq);
        for encoding in &encoded {
            let tokens = encoding.get_ids();
            let last = tokens.last().copied().unwrap_or(0);
            ids.extend_from_slice(tokens);
            ids.extend(std::iter::repeat_n(last, seq - tokens.len()));
        }
        Ok(TokenBatch { ids, seq })
    }
}
