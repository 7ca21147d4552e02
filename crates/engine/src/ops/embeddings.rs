//! The embedding layer of a text transformer: from token ids to sequences of
//! vectors.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{FusedOp, Pass, Segments, floats, rows::look_up, with_grad};
use crate::{Error, Result, kernels, kernels::simd, params::Param};

/// The embedding tables of a text transformer.
#[derive(Clone)]
pub(crate) struct TokenTables {
    /// `[vocabulary, width]`
    pub(crate) token: Arc<Param>,
    pub(crate) position: Positions,
    /// `[types, width]`: embeddings of token types, such as the first and
    /// second text of a pair.
    pub(crate) kind: Option<Arc<Param>>,
}

/// The position table, `[rows, width]`, and the scheme that selects each
/// token's row.
#[derive(Clone)]
pub(crate) enum Positions {
    /// Rows are counted from 0.
    Table(Arc<Param>),
    /// Rows are counted from the padding token's id plus 1, as in RoBERTa.
    /// Padding tokens have the row of their id and are not counted.
    AfterPadding(Arc<Param>, u32),
    /// There is no table; the attention encodes positions. Texts may have up to
    /// `longest` tokens.
    None { longest: usize },
}

impl Positions {
    fn table(&self) -> Option<&Arc<Param>> {
        match self {
            Self::Table(table) | Self::AfterPadding(table, _) => Some(table),
            Self::None { .. } => None,
        }
    }

    /// Returns the longest text in tokens.
    fn longest(&self) -> candle_core::Result<usize> {
        Ok(match self {
            Self::Table(table) => table.tensor().dim(0)?,
            Self::AfterPadding(table, padding) => {
                let rows = table.tensor().dim(0)?;
                rows.saturating_sub(*padding as usize + 1)
            }
            Self::None { longest } => *longest,
        })
    }

    /// Returns the row of each token of a text.
    fn rows(&self, ids: &[u32]) -> Vec<u32> {
        match self {
            Self::Table(_) | Self::None { .. } => (0..ids.len() as u32).collect(),
            Self::AfterPadding(_, padding) => {
                let mut count = *padding;
                let row = |id: &u32| {
                    if id == padding {
                        return *padding;
                    }
                    count += 1;
                    count
                };
                ids.iter().map(row).collect()
            }
        }
    }
}

/// Returns `token[id] + position[row] + kind[type]` for the tokens of several
/// texts, `[rows, width]`. If `kinds` is empty, all tokens have type 0.
pub(crate) fn token_embeddings(
    pass: &Pass,
    ids: &[u32],
    kinds: &[u32],
    segments: &Segments,
    tables: &TokenTables,
) -> Result<Tensor> {
    let (vocabulary, width) = tables.token.tensor().dims2()?;
    let longest = tables.position.longest()?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(Error::data(format!(
            "token id {id} is outside the vocabulary of {vocabulary}"
        )));
    }
    if let Some(length) = segments
        .lengths()
        .iter()
        .find(|n| **n == 0 || **n > longest)
    {
        return Err(Error::data(format!(
            "a text of {length} tokens exceeds the model's {longest} positions"
        )));
    }
    if segments.rows() != ids.len() {
        return Err(Error::data(format!(
            "{} token ids for texts of {} tokens in total",
            ids.len(),
            segments.rows()
        )));
    }
    check_kinds(kinds, ids.len(), tables)?;
    let position_rows: Vec<u32> = segments
        .iter()
        .flat_map(|(start, length)| tables.position.rows(&ids[start..start + length]))
        .collect();
    if pass.is_fused() {
        return pass.apply_source(TokenEmbeddings {
            ids: ids.to_vec(),
            kinds: kinds.to_vec(),
            position_rows,
            width,
            tables: tables.clone(),
        });
    }
    let rows = |table: &Arc<Param>, rows: &[u32]| look_up(pass, table, rows);
    let mut sum = rows(&tables.token, ids)?;
    if let Some(position) = tables.position.table() {
        sum = (sum + rows(position, &position_rows)?)?;
    }
    match &tables.kind {
        None => Ok(sum),
        Some(kind) if kinds.is_empty() => Ok(sum.broadcast_add(&rows(kind, &[0])?)?),
        Some(kind) => Ok((sum + rows(kind, kinds)?)?),
    }
}

/// Checks that each of `tokens` has a type, and that the table has a row for
/// it.
fn check_kinds(kinds: &[u32], tokens: usize, tables: &TokenTables) -> Result<()> {
    if !kinds.is_empty() && kinds.len() != tokens {
        return Err(Error::data(format!(
            "{} token types for {tokens} token ids",
            kinds.len()
        )));
    }
    let Some(table) = &tables.kind else {
        return Ok(());
    };
    let rows = table.tensor().dim(0)?;
    match kinds.iter().find(|kind| **kind as usize >= rows) {
        None => Ok(()),
        Some(kind) => Err(Error::data(format!(
            "token type {kind} is outside the model's {rows} types: remove `token_type_ids` \
             from `model_input_names` of tokenizer_config.json",
        ))),
    }
}

struct TokenEmbeddings {
    ids: Vec<u32>,
    /// The type of each token; empty if all are 0.
    kinds: Vec<u32>,
    /// The row of each token in the position table.
    position_rows: Vec<u32>,
    width: usize,
    tables: TokenTables,
}

impl TokenEmbeddings {
    fn row(&self, index: u32) -> std::ops::Range<usize> {
        let start = index as usize * self.width;
        start..start + self.width
    }
}

impl FusedOp for TokenEmbeddings {
    const NAME: &'static str = "token-embeddings";

    fn forward(&self, _: &[f32], _: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let token = floats(self.tables.token.tensor())?;
        let position = self.tables.position.table();
        let position = position.map(|table| floats(table.tensor())).transpose()?;
        let kind = self.tables.kind.as_ref();
        let kind = kind.map(|kind| floats(kind.tensor())).transpose()?;
        let mut y = vec![0.0; self.ids.len() * self.width];
        let rows = self.ids.par_iter().zip(&self.position_rows).enumerate();
        rows.zip(y.par_chunks_exact_mut(self.width))
            .for_each(|((token_index, (&id, &row)), y)| {
                let token = &token[self.row(id)];
                match &position {
                    Some(position) => simd::add(token, &position[self.row(row)], y),
                    None => y.copy_from_slice(token),
                }
                if let Some(kind) = &kind {
                    let of_token = self.kinds.get(token_index).copied().unwrap_or(0);
                    simd::add_assign(y, &kind[self.row(of_token)]);
                }
            });
        Ok((y, vec![self.ids.len(), self.width]))
    }

    fn backward(
        &self,
        _: &[f32],
        _: &[usize],
        g: &[f32],
        _wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        let add = |table: &Arc<Param>, rows: &[u32]| {
            with_grad(table, |grad| {
                for (&row, g) in rows.iter().zip(g.chunks_exact(self.width)) {
                    simd::add_assign(&mut grad[self.row(row)], g);
                }
            });
        };
        add(&self.tables.token, &self.ids);
        if let Some(position) = self.tables.position.table() {
            add(position, &self.position_rows);
        }
        if let Some(kind) = &self.tables.kind {
            match self.kinds.is_empty() {
                true => with_grad(kind, |grad| {
                    kernels::add_column_sums(g, &mut grad[..self.width]);
                }),
                false => add(kind, &self.kinds),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{self, compare, params};

    /// Token ids of three texts, and their lengths.
    const IDS: [u32; 7] = [3, 3, 9, 0, 1, 3, 5];
    const LENGTHS: [usize; 3] = [2, 4, 1];

    #[test]
    fn fused_token_embeddings_equal_composite_and_refuse_unknown_ids() {
        let shapes: [(&str, &[usize]); 3] = [
            ("kind", &[2, 6]),
            ("position", &[4, 6]),
            ("token", &[10, 6]),
        ];
        for with_kind in [false, true] {
            let params = params(&shapes[usize::from(!with_kind)..], &[]);
            let tables = TokenTables {
                token: params.get("token", &[10, 6]).unwrap(),
                position: Positions::Table(params.get("position", &[4, 6]).unwrap()),
                kind: params.get("kind", &[2, 6]).ok(),
            };
            let embed = |pass: &Pass, ids: &[u32], lengths: &[usize]| {
                let segments = Segments::new(lengths.iter().copied());
                token_embeddings(pass, ids, &[], &segments, &tables)
            };
            let x = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
            compare(&params, &x, |pass, _| embed(pass, &IDS, &LENGTHS));
            let segments = Segments::new(LENGTHS);
            let kinds = [0, 1, 0, 1, 1, 1, 0];
            compare(&params, &x, |pass, _| {
                token_embeddings(pass, &IDS, &kinds, &segments, &tables)
            });
            let pass = crate::ops::Runtime::new(&params).unwrap().inference();
            let message = |ids: &[u32], lengths: &[usize]| {
                embed(&pass, ids, lengths).unwrap_err().to_string()
            };
            assert!(message(&[10], &[1]).contains("token id 10"));
            assert!(message(&[1; 5], &[5]).contains("5 tokens"));
            assert!(message(&[1; 5], &[2, 2]).contains("5 token ids"));
            let kinds = |kinds: &[u32]| {
                let segments = Segments::new([1]);
                token_embeddings(&pass, &[1], kinds, &segments, &tables)
                    .map_err(|error| error.to_string())
            };
            assert!(kinds(&[0, 1]).unwrap_err().contains("2 token types"));
            if with_kind {
                assert!(
                    kinds(&[2])
                        .unwrap_err()
                        .contains("2 types: remove `token_type_ids`")
                );
            }
        }
    }

    #[test]
    fn fused_token_embeddings_equal_composite_with_padding_and_without_positions() {
        let params = params(&[("position", &[6, 6]), ("token", &[10, 6])], &[]);
        let token = params.get("token", &[10, 6]).unwrap();
        let position = params.get("position", &[6, 6]).unwrap();
        let segments = Segments::new(LENGTHS);
        let embed = |pass: &Pass, position: &Positions| {
            let tables = TokenTables {
                token: token.clone(),
                position: position.clone(),
                kind: None,
            };
            token_embeddings(pass, &IDS, &[], &segments, &tables)
        };
        let x = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        let after_padding = Positions::AfterPadding(position.clone(), 1);
        compare(&params, &x, |pass, _| embed(pass, &after_padding));
        // Token 1 is the padding token, here inside a text.
        assert_eq!(after_padding.rows(&[9, 1, 1, 3]), [2, 1, 1, 3]);
        let only_tokens = testing::params(&[("token", &[10, 6])], &[]);
        let token = only_tokens.get("token", &[10, 6]).unwrap();
        compare(&only_tokens, &x, |pass, _| {
            let tables = TokenTables {
                token: token.clone(),
                position: Positions::None { longest: 4 },
                kind: None,
            };
            token_embeddings(pass, &IDS, &[], &segments, &tables)
        });
        let pass = crate::ops::Runtime::new(&params).unwrap().inference();
        let after_padding = Positions::AfterPadding(position, 2);
        let refused = embed(&pass, &after_padding).unwrap_err().to_string();
        assert!(refused.contains("a text of 4 tokens"), "{refused}");
        let refused = embed(&pass, &Positions::None { longest: 3 }).unwrap_err();
        assert!(refused.to_string().contains("3 positions"), "{refused}");
    }
}
