//! Text to token ids, by the `tokenizer.json` of a model.

use tokenizers::{TruncationParams, utils::truncation::TruncationStrategy};

use crate::{Error, Result, ops::Segments};

/// Token ids of several texts, one after the other, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// The ids of all texts.
    pub ids: Vec<u32>,
    /// How many of them each text has.
    pub lengths: Vec<usize>,
    /// Tokens at the beginning of each text that pooling leaves out: those of a
    /// prompt, in models of sentence-transformers that say so. 0 elsewhere.
    pub left_out: usize,
}

impl TokenBatch {
    /// Texts of these lengths, one behind the other.
    #[must_use]
    pub fn new(ids: Vec<u32>, lengths: Vec<usize>) -> Self {
        Self {
            ids,
            lengths,
            left_out: 0,
        }
    }

    /// Texts of one length, row by row.
    #[must_use]
    pub fn uniform(ids: Vec<u32>, length: usize) -> Self {
        let count = ids.len() / length.max(1);
        Self::new(ids, vec![length; count])
    }

    pub(crate) fn segments(&self) -> Segments {
        Segments::new(self.lengths.iter().copied()).leaving_out(self.left_out)
    }
}

/// A tokenizer with the limit of its model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The longest text in tokens, where longer ones are not cut.
    limit: Option<usize>,
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
        Ok(Self { inner, limit: None })
    }

    /// Reads a `tokenizer.json`; texts of more than `max_tokens` are refused.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file is not a tokenizer.
    pub(crate) fn parse_uncut(json: &[u8], max_tokens: usize) -> Result<Self> {
        let bad = |e: tokenizers::Error| Error::checkpoint(format!("tokenizer.json: {e}"));
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        inner.with_truncation(None).map_err(bad)?;
        inner.with_padding(None);
        Ok(Self {
            inner,
            limit: Some(max_tokens),
        })
    }

    /// Token ids of `texts`.
    ///
    /// # Errors
    /// [`Error::Data`] where a text can't be tokenized, [`Error::Item`] where one
    /// is too long and may not be cut.
    pub fn encode(&self, texts: &[&str]) -> Result<TokenBatch> {
        let encoded = self
            .inner
            .encode_batch_fast(texts.to_vec(), true)
            .map_err(|e| Error::data(format!("a text can't be tokenized: {e}")))?;
        let lengths: Vec<usize> = encoded.iter().map(|e| e.get_ids().len()).collect();
        if let Some(text) = lengths.iter().position(|length| *length == 0) {
            return Err(Error::data(format!(
                "the tokenizer found no token in `{}`",
                texts[text].chars().take(40).collect::<String>()
            )));
        }
        if let Some(limit) = self.limit
            && let Some(place) = lengths.iter().position(|length| *length > limit)
        {
            let reason = format!(
                "the text has {} tokens, the model reads {limit}, and `truncation` is off",
                lengths[place]
            );
            return Err(Error::Item { place, reason });
        }
        let ids = encoded.iter().flat_map(|e| e.get_ids()).copied().collect();
        Ok(TokenBatch::new(ids, lengths))
    }
}
