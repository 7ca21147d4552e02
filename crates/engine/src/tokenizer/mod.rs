//! Text to token ids, by the tokenizer files of a model.

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

/// Token ids of several texts, one after the other, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// The ids of all texts.
    pub ids: Vec<u32>,
    /// How many of them each text has.
    pub lengths: Vec<usize>,
    /// The kind of each token, such as the first or the second text of a pair;
    /// empty where all are of the first.
    pub kinds: Vec<u32>,
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
            kinds: Vec::new(),
            left_out: 0,
        }
    }

    /// Texts of one length, row by row.
    #[must_use]
    pub fn uniform(ids: Vec<u32>, length: usize) -> Self {
        let count = ids.len() / length.max(1);
        Self::new(ids, vec![length; count])
    }

    /// The texts at these places.
    pub(crate) fn slice(&self, places: Range<usize>) -> Self {
        let before: usize = self.lengths[..places.start].iter().sum();
        let lengths = self.lengths[places].to_vec();
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

/// A tokenizer with the limit of its model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The longest text in tokens, where longer ones are not cut.
    limit: Option<usize>,
    /// Whether too long texts lose their beginning.
    cut_left: bool,
    /// Special tokens that no file lists: they may lie behind the model's table.
    implied: Vec<String>,
    padding: Padding,
    /// Whether the model is told which text of a pair a token belongs to.
    tells_kinds: bool,
    /// Length of every text with its padding, and the padding's id, for a model
    /// that reads it.
    filled_up: Option<(usize, u32)>,
}

/// How texts are filled up, for models that read the padding.
#[derive(Clone, Debug, Default)]
struct Padding {
    /// The token that stands for nothing, where the files name one.
    token: Option<String>,
    /// Whether it comes before the text.
    left: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; texts are cut to `max_tokens`, special tokens
    /// included.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file is not a tokenizer.
    pub fn parse(json: &[u8], max_tokens: usize) -> Result<Self> {
        Self::read(json)?.cut_at(max_tokens)
    }

    /// Makes the tokenizer of a model of transformers from its files, and
    /// returns it with the longest text in tokens that they allow, if they say
    /// so. `config` is the model's `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where files are missing or broken.
    pub(crate) fn of_model(
        files: &HashMap<String, Vec<u8>>,
        config: &Value,
    ) -> Result<(Self, Option<usize>)> {
        let built = build::build(files, config)?;
        let tokenizer = Self {
            cut_left: built.cut_left,
            implied: built.implied,
            padding: built.padding,
            tells_kinds: tells_kinds(files)?,
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
            cut_left: false,
            implied: Vec::new(),
            padding: Padding::default(),
            tells_kinds: true,
            filled_up: None,
        })
    }

    /// Texts are lowercased before anything else.
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

    /// Texts are cut to `max_tokens`, special tokens included.
    pub(crate) fn cut_at(mut self, max_tokens: usize) -> Result<Self> {
        let special = self.inner.get_post_processor();
        let special = special.map_or(0, |post| post.added_tokens(false));
        if max_tokens <= special {
            return Err(Error::checkpoint(format!(
                "texts are cut to {max_tokens} tokens, {special} of which are special: no room is \
                 left for a text. Raise the limit to at least {}",
                special + 1
            )));
        }
        let direction = match self.cut_left {
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

    /// Texts of more than `max_tokens` are refused.
    pub(crate) fn refuse_above(self, max_tokens: usize) -> Self {
        Self {
            limit: Some(max_tokens),
            ..self
        }
    }

    /// Texts are filled up to `length` tokens with padding.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where no file names the token for it.
    pub(crate) fn fill_up(self, length: usize) -> Result<Self> {
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
                "{found}: this model reads texts of {length} tokens, and shorter ones are filled \
                 up with it. Name it in tokenizer_config.json"
            ))
        })?;
        Ok(Self {
            filled_up: Some((length, id)),
            ..self
        })
    }

    /// Length of every text with its padding, where texts are filled up.
    pub(crate) fn text_length(&self) -> Option<usize> {
        self.filled_up.map(|(length, _)| length)
    }

    /// Checks that texts are padded behind their end.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the settings of the side.
    pub(crate) fn pads_right(&self) -> Result<()> {
        match self.padding.left {
            false => Ok(()),
            true => Err(Error::checkpoint(
                "tokenizer_config.json: `padding_side`, or else `padding.direction` of \
                 tokenizer.json, is left. This network counts positions from the padding on, so \
                 that in Python the embedding of a text depends on the longest text beside it. Set \
                 it to right",
            )),
        }
    }

    /// Checks that the model has a row for every token of its vocabulary.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a token has none, with both numbers.
    pub(crate) fn fits(&self, rows: usize) -> Result<()> {
        let added = self.inner.get_added_tokens_decoder();
        let beyond = added
            .iter()
            .filter(|(id, token)| **id as usize >= rows && !self.implied.contains(&token.content));
        let first = beyond.min_by_key(|(id, _)| **id);
        let words = self.inner.get_model().get_vocab_size();
        let shown = match first {
            Some((id, token)) => format!("`{}` has the number {id}", token.content),
            None if words > rows => format!("its vocabulary alone has {words}"),
            None => return Ok(()),
        };
        Err(Error::checkpoint(format!(
            "the tokenizer has {} tokens, the model {rows} ({shown}). Make the model's table \
             larger in Python: `model.resize_token_embeddings(len(tokenizer))`, then save both, \
             and train the new rows",
            self.inner.get_vocab_size(true)
        )))
    }

    /// Number of the tokens at the beginning of a text that begins with
    /// `prompt`, as sentence-transformers counts them: those of the prompt alone,
    /// without a special one at its end.
    ///
    /// # Errors
    /// [`Error::Data`] where it can't be tokenized.
    pub(crate) fn prompt_length(&self, prompt: &str) -> Result<usize> {
        let batch = self.encode(&[prompt])?;
        let last = batch.ids.last().and_then(|id| self.inner.id_to_token(*id));
        let vocabulary = self.inner.get_added_vocabulary();
        let is_special = last.is_some_and(|token| vocabulary.is_special_token(&token));
        Ok(batch.ids.len() - usize::from(is_special))
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
        self.batch(&encoded, |place| texts[place])
    }

    /// Token ids of pairs of texts, which are cut together, the longer one first.
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
                "pairs are cut to {} tokens, and {special} of a pair are special: raise the limit \
                 to more than that",
                cut.max_length
            )));
        }
        let given: Vec<(&str, &str)> = pairs.iter().map(|[a, b]| (*a, *b)).collect();
        let encoded = self
            .inner
            .encode_batch_fast(given, true)
            .map_err(|e| Error::data(format!("a pair can't be tokenized: {e}")))?;
        let mut batch = self.batch(&encoded, |place| pairs[place][0])?;
        if self.tells_kinds && self.filled_up.is_none() {
            let kinds = encoded.iter().flat_map(|e| e.get_type_ids());
            batch.kinds = kinds.copied().collect();
        }
        Ok(batch)
    }

    /// The tokens of several texts. `shown` gives the beginning of one.
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
        let Some((length, padding)) = self.filled_up else {
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

/// Whether the tokenizer of `transformers` tells the model the kinds of tokens.
fn tells_kinds(files: &HashMap<String, Vec<u8>>) -> Result<bool> {
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
