//! Tokenization of texts, by the tokenizer files of a model.

mod build;
mod config;

use std::{collections::HashMap, ops::Range};

use serde_json::Value;
use tokenizers::{
    Encoding, Model as _, NormalizerWrapper, PostProcessor as _, TruncationParams,
    normalizers::{Lowercase, Sequence},
    utils::truncation::{TruncationDirection, TruncationStrategy},
};

use crate::{Error, Result, ops::Segments, python_json};
use build::Padding;

/// Token IDs of several texts, packed without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// The IDs of all texts.
    pub ids: Vec<u32>,
    /// The number of tokens of each text.
    pub lengths: Vec<usize>,
    /// The type of each token, such as the first or second text of a pair;
    /// empty if all are 0.
    pub kinds: Vec<u32>,
    /// Number of tokens at the start of each text that pooling skips: those of
    /// a prompt, if the model's files say so. Otherwise 0.
    pub left_out: usize,
}

impl TokenBatch {
    /// Creates a batch of packed texts of these lengths.
    #[must_use]
    pub fn new(ids: Vec<u32>, lengths: Vec<usize>) -> Self {
        Self {
            ids,
            lengths,
            kinds: Vec::new(),
            left_out: 0,
        }
    }

    /// Creates a batch of texts of one length, row by row.
    #[must_use]
    pub fn uniform(ids: Vec<u32>, length: usize) -> Self {
        let count = ids.len() / length.max(1);
        Self::new(ids, vec![length; count])
    }

    /// Returns the texts in a range.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let before: usize = self.lengths[..range.start].iter().sum();
        let lengths = self.lengths[range].to_vec();
        let count: usize = lengths.iter().sum();
        Self {
            ids: self.ids[before..before + count].to_vec(),
            kinds: self
                .kinds
                .get(before..before + count)
                .map_or_else(Vec::new, <[u32]>::to_vec),
            lengths,
            left_out: self.left_out,
        }
    }

    pub(crate) fn segments(&self) -> Segments {
        Segments::new(self.lengths.iter().copied()).leaving_out(self.left_out)
    }
}

/// Truncation of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncation {
    /// The longest text in tokens, including special ones; the model's own
    /// limit if `None`.
    pub max_length: Option<usize>,
    /// Whether longer texts are refused instead of truncated.
    pub refuse_longer: bool,
}

/// A tokenizer with its model's limit.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The longest text in tokens, if longer ones are refused.
    limit: Option<usize>,
    /// Whether long texts are truncated on the left.
    truncate_left: bool,
    /// Special tokens that no file lists. Their IDs may exceed the model's
    /// vocabulary.
    implied: Vec<String>,
    padding: Padding,
    /// Whether the model gets token types.
    passes_token_types: bool,
    /// Length of padded texts and ID of the padding token, for a model that
    /// attends to padding.
    padded: Option<(usize, u32)>,
}

impl Tokenizer {
    /// Parses a `tokenizer.json`. Texts are truncated to `max_tokens`,
    /// including special tokens.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is not a tokenizer.
    pub fn parse(json: &[u8], max_tokens: usize) -> Result<Self> {
        Self::read(json)?.truncate_at(max_tokens)
    }

    /// Builds the tokenizer of a transformers model from its files. Also
    /// returns the longest text in tokens, if the files limit it. `config` is
    /// the model's `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if files are missing or broken.
    pub(crate) fn of_model(
        files: &HashMap<String, Vec<u8>>,
        config: &Value,
    ) -> Result<(Self, Option<usize>)> {
        let built = build::build(files, config)?;
        let tokenizer = Self {
            truncate_left: built.truncate_left,
            implied: built.implied,
            padding: built.padding,
            passes_token_types: passes_token_types(files)?,
            ..Self::read(&built.json)?
        };
        let tokenizer = match built.lowercase {
            true => tokenizer.lowercase()?,
            false => tokenizer,
        };
        Ok((tokenizer, built.longest))
    }

    fn read(json: &[u8]) -> Result<Self> {
        let bad = |e: tokenizers::Error| Error::checkpoint(format!("tokenizer.json: {e}"));
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        inner.with_truncation(None).map_err(bad)?;
        inner.with_padding(None);
        Ok(Self {
            inner,
            limit: None,
            truncate_left: false,
            implied: Vec::new(),
            padding: Padding::default(),
            passes_token_types: true,
            padded: None,
        })
    }

    /// Lowercases texts before all other steps.
    pub(crate) fn lowercase(mut self) -> Result<Self> {
        let is_lowercase =
            |part: &NormalizerWrapper| matches!(part, NormalizerWrapper::Lowercase(_));
        let mut parts = match self.inner.get_normalizer() {
            None => Vec::new(),
            Some(NormalizerWrapper::Sequence(parts)) => parts.as_ref().to_vec(),
            Some(other) => vec![other.clone()],
        };
        if !parts.iter().any(is_lowercase) {
            parts.insert(0, Lowercase.into());
            self.inner
                .with_normalizer(Some(Sequence::new(parts)))
                .map_err(|e| Error::checkpoint(format!("tokenizer.json: {e}")))?;
        }
        Ok(self)
    }

    /// Truncates texts to `max_tokens`, including special tokens.
    pub(crate) fn truncate_at(mut self, max_tokens: usize) -> Result<Self> {
        let special = self.inner.get_post_processor();
        let special = special.map_or(0, |post| post.added_tokens(false));
        if max_tokens <= special {
            return Err(Error::checkpoint(format!(
                "texts are truncated to {max_tokens} tokens, {special} of which are special: no room is \
                 left for text. Raise the limit to at least {}",
                special + 1
            )));
        }
        let direction = match self.truncate_left {
            true => TruncationDirection::Left,
            false => TruncationDirection::Right,
        };
        self.inner
            .with_truncation(Some(TruncationParams {
                max_length: max_tokens,
                strategy: TruncationStrategy::LongestFirst,
                direction,
                ..TruncationParams::default()
            }))
            .map_err(|e| Error::checkpoint(format!("tokenizer.json: {e}")))?;
        Ok(Self {
            limit: None,
            ..self
        })
    }

    /// Refuses texts of more than `max_tokens`.
    pub(crate) fn refuse_above(self, max_tokens: usize) -> Self {
        Self {
            limit: Some(max_tokens),
            ..self
        }
    }

    /// Pads texts to `length` tokens.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if no file names the padding token.
    pub(crate) fn pad_to(self, length: usize) -> Result<Self> {
        let token = self.padding.token.as_deref();
        let id = token.and_then(|token| self.inner.token_to_id(token));
        let id = id.ok_or_else(|| {
            let found = match token {
                Some(token) => {
                    format!("`pad_token` is `{token}`, which the tokenizer does not know")
                }
                None => "no file names a `pad_token`".to_owned(),
            };
            Error::checkpoint(format!(
                "{found}: this model reads texts of {length} tokens, and needs it to pad shorter \
                 ones. Name it in tokenizer_config.json"
            ))
        })?;
        Ok(Self {
            padded: Some((length, id)),
            ..self
        })
    }

    /// Returns the length of padded texts, if texts are padded.
    pub(crate) fn text_length(&self) -> Option<usize> {
        self.padded.map(|(length, _)| length)
    }

    /// Checks that texts are padded on the right.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the settings of the padding side.
    pub(crate) fn check_padding_side(&self) -> Result<()> {
        match self.padding.left {
            false => Ok(()),
            true => Err(Error::checkpoint(
                "tokenizer_config.json: `padding_side`, or otherwise `padding.direction` of \
                 tokenizer.json, is left. This network counts positions from the first padding token, so \
                 in Python the embedding of a text depends on the longest text in its batch. Set \
                 it to right",
            )),
        }
    }

    /// Checks that the model has an embedding for every token of the
    /// vocabulary.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the first token without one, or both sizes.
    pub(crate) fn check_vocabulary(&self, rows: usize) -> Result<()> {
        let added = self.inner.get_added_tokens_decoder();
        let beyond = added
            .iter()
            .filter(|(id, token)| **id as usize >= rows && !self.implied.contains(&token.content));
        let first = beyond.min_by_key(|(id, _)| **id);
        let words = self.inner.get_model().get_vocab_size();
        let shown = match first {
            Some((id, token)) => format!("`{}` has the ID {id}", token.content),
            None if words > rows => format!("its vocabulary alone has {words}"),
            None => return Ok(()),
        };
        Err(Error::checkpoint(format!(
            "the tokenizer has {} tokens, the model {rows} ({shown}). In Python, enlarge the model's \
             table with `model.resize_token_embeddings(len(tokenizer))`, save both, and train the \
             new rows",
            self.inner.get_vocab_size(true)
        )))
    }

    /// Returns the number of tokens of a prompt at the start of a text, counted
    /// as in sentence-transformers: the tokens of the prompt alone, without a
    /// special one at its end.
    ///
    /// # Errors
    /// [`Error::Data`] if it can't be tokenized.
    pub(crate) fn prompt_length(&self, prompt: &str) -> Result<usize> {
        let batch = self.encode(&[prompt])?;
        let last = batch.ids.last().and_then(|id| self.inner.id_to_token(*id));
        let vocabulary = self.inner.get_added_vocabulary();
        let is_special = last.is_some_and(|token| vocabulary.is_special_token(&token));
        Ok(batch.ids.len() - usize::from(is_special))
    }

    /// Tokenizes texts.
    ///
    /// # Errors
    /// [`Error::Data`] if a text can't be tokenized, [`Error::Item`] if one is
    /// too long and may not be truncated.
    pub fn encode(&self, texts: &[&str]) -> Result<TokenBatch> {
        let encoded = self
            .inner
            .encode_batch_fast(texts.to_vec(), true)
            .map_err(|e| Error::data(format!("a text can't be tokenized: {e}")))?;
        self.batch(&encoded, |place| texts[place])
    }

    /// Tokenizes pairs of texts, which are truncated together, the longer one
    /// first.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pairs(&self, pairs: &[[&str; 2]]) -> Result<TokenBatch> {
        let special = self.inner.get_post_processor();
        let special = special.map_or(0, |post| post.added_tokens(true));
        if let Some(cut) = self.inner.get_truncation()
            && cut.max_length < special
        {
            return Err(Error::data(format!(
                "pairs are truncated to {} tokens, but {special} of a pair are special: raise the limit \
                 above that",
                cut.max_length
            )));
        }
        let given: Vec<(&str, &str)> = pairs.iter().map(|[a, b]| (*a, *b)).collect();
        let encoded = self
            .inner
            .encode_batch_fast(given, true)
            .map_err(|e| Error::data(format!("a pair can't be tokenized: {e}")))?;
        let mut batch = self.batch(&encoded, |place| pairs[place][0])?;
        if self.passes_token_types && self.padded.is_none() {
            let kinds = encoded.iter().flat_map(|e| e.get_type_ids());
            batch.kinds = kinds.copied().collect();
        }
        Ok(batch)
    }

    /// Collects the tokens of several texts. `shown` returns a text for errors.
    fn batch<'a>(
        &self,
        encoded: &[Encoding],
        shown: impl Fn(usize) -> &'a str,
    ) -> Result<TokenBatch> {
        let lengths: Vec<usize> = encoded.iter().map(|e| e.get_ids().len()).collect();
        if let Some(text) = lengths.iter().position(|length| *length == 0) {
            return Err(Error::data(format!(
                "the tokenizer found no token in `{}`",
                shown(text).chars().take(40).collect::<String>()
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
        let Some((length, padding)) = self.padded else {
            let ids = encoded.iter().flat_map(|e| e.get_ids()).copied().collect();
            return Ok(TokenBatch::new(ids, lengths));
        };
        let mut ids = Vec::with_capacity(length * encoded.len());
        for text in encoded {
            let text = text.get_ids();
            let empty = length.saturating_sub(text.len());
            let before = if self.padding.left { empty } else { 0 };
            ids.extend(std::iter::repeat_n(padding, before));
            ids.extend_from_slice(text);
            ids.extend(std::iter::repeat_n(padding, empty - before));
        }
        Ok(TokenBatch::uniform(ids, length))
    }
}

/// Returns whether the tokenizer in `transformers` passes token types to the
/// model.
fn passes_token_types(files: &HashMap<String, Vec<u8>>) -> Result<bool> {
    const FILE: &str = "tokenizer_config.json";
    let Some(bytes) = files.get(FILE) else {
        return Ok(true);
    };
    let config = python_json::parse(bytes, FILE)?;
    Ok(match config["model_input_names"].as_array() {
        None => true,
        Some(names) => names.iter().any(|name| name == "token_type_ids"),
    })
}
