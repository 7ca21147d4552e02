//! Mining of hard negatives: documents of a corpus that are similar to a query
//! and don't belong to it. Equal to `mine_hard_negatives` of
//! sentence-transformers 6.2: the same candidates, limits, order and counts.
//!
//! The corpus is embedded block by block, and only the best documents of each
//! query are remembered, so that memory grows with the number of queries and
//! items, and not with the product of queries and corpus.

mod choose;
mod encoder;
mod report;
mod rows;
mod top;

use std::collections::HashMap;

use finetuner_protocol::HardNegatives;
use rayon::prelude::*;

pub use encoder::{Prompts, mine_with};
pub use report::{Report, Spread};
pub use rows::{Format, Row};
use top::Top;

use crate::{Error, Result, data::Item, infer::Embeddings, kernels::gemm};

/// Documents of the corpus that are embedded and compared together.
const BLOCK: usize = 4096;
/// Queries that are compared together with such a block.
const QUERIES: usize = 256;

/// Embeds items: queries, or documents of the corpus.
pub type Embed<'a> = dyn FnMut(Role, &[&Item]) -> Result<Embeddings> + 'a;

/// What items are embedded as; models may have a prompt for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The queries.
    Query,
    /// The documents that are searched.
    Document,
}

/// Queries with what belongs to them, and what is searched for negatives.
#[derive(Clone, Copy, Default)]
pub struct Source<'a> {
    /// Queries and their matches. A query may stand in several pairs.
    pub pairs: &'a [[Item; 2]],
    /// Documents to choose from, beside the matches of all pairs.
    pub corpus: &'a [Item],
    /// Further matches of the same queries, which are no candidates.
    pub known: &'a [[Item; 2]],
}

/// A query, what belongs to it, and its negatives.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    /// The first pair with each match, the match and its score.
    matches: Vec<Match>,
    /// Place in the corpus and score, the best first.
    negatives: Vec<(u32, f32)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Match {
    pair: u32,
    document: u32,
    score: f32,
}

/// The negatives of all queries.
pub struct Mined {
    queries: Vec<Item>,
    /// The corpus without duplicates: that of the source first, then the
    /// matches.
    corpus: Vec<Item>,
    found: Vec<Found>,
    format: Format,
    output_scores: bool,
    num_negatives: usize,
    /// The outcome of mining, in numbers.
    pub report: Report,
}

/// Queries and corpus without duplicates, by their places.
struct Places<'a> {
    queries: Vec<&'a Item>,
    corpus: Vec<&'a Item>,
    /// For each query its matches: the first pair with it, and its place.
    matches: Vec<Vec<(u32, u32)>>,
    /// For each query what is no candidate.
    own: Vec<Vec<u32>>,
    /// How many pairs each query has.
    pairs: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(source: Source<'a>) -> Self {
        let mut corpus = Unique::default();
        for item in source.corpus {
            corpus.add(item);
        }
        let mut queries = Unique::default();
        let (mut matches, mut pairs) = (Vec::new(), Vec::new());
        for (number, [query, document]) in source.pairs.iter().enumerate() {
            let query = queries.add(query) as usize;
            let document = corpus.add(document);
            if query == matches.len() {
                matches.push(Vec::new());
                pairs.push(0);
            }
            pairs[query] += 1;
            if !matches[query].iter().any(|(_, known)| *known == document) {
                matches[query].push((number as u32, document));
            }
        }
        let places = |matches: &Vec<(u32, u32)>| matches.iter().map(|(_, place)| *place).collect();
        let mut own: Vec<Vec<u32>> = matches.iter().map(places).collect();
        for [query, document] in source.known {
            if let (Some(query), Some(document)) = (queries.find(query), corpus.find(document)) {
                own[query as usize].push(document);
            }
        }
        Self {
            queries: queries.items,
            corpus: corpus.items,
            matches,
            own,
            pairs,
        }
    }
}

/// Items without duplicates, in the order of their first appearance.
#[derive(Default)]
struct Unique<'a> {
    items: Vec<&'a Item>,
    places: HashMap<u64, u32>,
}

impl<'a> Unique<'a> {
    fn add(&mut self, item: &'a Item) -> u32 {
        let next = self.items.len() as u32;
        let place = *self.places.entry(item.content_key()).or_insert(next);
        if place == next {
            self.items.push(item);
        }
        place
    }

    fn find(&self, item: &Item) -> Option<u32> {
        self.places.get(&item.content_key()).copied()
    }
}

/// Mines negatives. `seed` decides what the strategy `random` draws.
/// `progress` is told how many documents of the corpus have been compared, and
/// how many there are; it may end the mining with an error.
///
/// # Errors
/// [`Error::Config`] where the options can't be used, [`Error::Data`] where
/// there is no pair, and what embedding or `progress` answer.
pub fn mine(
    source: Source<'_>,
    options: &HardNegatives,
    seed: u64,
    embed: &mut Embed<'_>,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Mined> {
    check(options)?;
    if source.pairs.is_empty() {
        return Err(Error::data(
            "hard negatives are mined for pairs, and there is none",
        ));
    }
    let places = Places::of(source);
    let rules = choose::Rules::new(options, &places.pairs, seed);
    let width = rules.width.min(places.corpus.len());
    let mut asked = embed(Role::Query, &places.queries)?;
    normalize(&mut asked);
    let mut scores: Vec<Vec<f32>> = places.matches.iter().map(|m| vec![0.0; m.len()]).collect();
    // The queries that a document belongs to.
    let mut owners: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    for (query, matches) in places.matches.iter().enumerate() {
        for (number, (_, document)) in matches.iter().enumerate() {
            let owners = owners.entry(*document).or_default();
            owners.push((query as u32, number as u32));
        }
    }
    let mut tops: Vec<Top> = places.queries.iter().map(|_| Top::new(width)).collect();
    for (number, block) in places.corpus.chunks(BLOCK).enumerate() {
        let first = number * BLOCK;
        let mut found = embed(Role::Document, block)?;
        if found.dim != asked.dim {
            return Err(Error::data(format!(
                "queries of {} values can't be compared with documents of {}",
                asked.dim, found.dim
            )));
        }
        normalize(&mut found);
        for (place, row) in found.iter().enumerate() {
            let document = (first + place) as u32;
            for (query, number) in owners.get(&document).into_iter().flatten() {
                let dot = asked
                    .get(*query as usize)
                    .iter()
                    .zip(row)
                    .map(|(a, b)| a * b);
                scores[*query as usize][*number as usize] = dot.sum();
            }
        }
        compare(&asked, &found, first, &mut tops);
        progress(first + block.len(), places.corpus.len())?;
    }
    let chosen = rules.choose(tops, &scores, &places.own);
    let found = places.matches.iter().zip(scores).zip(chosen.negatives);
    let found = found.map(|((matches, scores), negatives)| Found {
        matches: matches
            .iter()
            .zip(scores)
            .map(|((pair, document), score)| Match {
                pair: *pair,
                document: *document,
                score,
            })
            .collect(),
        negatives,
    });
    let mut mined = Mined {
        found: found.collect(),
        queries: places.queries.into_iter().cloned().collect(),
        corpus: places.corpus.into_iter().cloned().collect(),
        format: rules.format,
        output_scores: options.output_scores,
        num_negatives: rules.num_negatives,
        report: Report::default(),
    };
    mined.report = report::of(&mined, &rules, chosen.skipped, source.pairs.len());
    Ok(mined)
}

/// Compares all queries with a block of the corpus that begins at `first`.
fn compare(asked: &Embeddings, block: &Embeddings, first: usize, tops: &mut [Top]) {
    let (dim, documents) = (asked.dim, block.len());
    if dim == 0 || documents == 0 {
        return;
    }
    let mut dots = vec![0.0; QUERIES.min(tops.len()) * documents];
    for (queries, tops) in asked
        .values
        .chunks(QUERIES * dim)
        .zip(tops.chunks_mut(QUERIES))
    {
        let rows = queries.len() / dim;
        let dots = &mut dots[..rows * documents];
        gemm::matmul(
            gemm::MatMut::new(dots, rows, documents),
            gemm::Mat::new(queries, rows, dim),
            gemm::Mat::new(&block.values, documents, dim).t(),
            1.0,
            false,
            gemm::Threads::All,
        );
        dots.par_chunks(documents)
            .zip(tops)
            .for_each(|(dots, top)| {
                for (place, score) in dots.iter().enumerate() {
                    top.add((first + place) as u32, *score);
                }
            });
    }
}

/// Scales each embedding to length 1; one of zeros stays so.
fn normalize(embeddings: &mut Embeddings) {
    let dim = embeddings.dim.max(1);
    embeddings.values.par_chunks_mut(dim).for_each(|row| {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= length);
    });
}

/// Refuses options that can't be used.
///
/// # Errors
/// [`Error::Config`] names the option.
pub(crate) fn check(options: &HardNegatives) -> Result<()> {
    let bad = |e: finetuner_protocol::InvalidField| {
        Error::config(e.field, format!("{}: {}", e.value, e.limit))
    };
    options.check().map_err(bad)
}

/// The places of chosen negatives, as a checkpoint holds them.
pub(crate) type Chosen = Vec<Vec<u32>>;

impl Mined {
    /// Which documents of the corpus each query got.
    pub(crate) fn chosen(&self) -> Chosen {
        let places = |found: &Found| found.negatives.iter().map(|(place, _)| *place).collect();
        self.found.iter().map(places).collect()
    }

    /// The outcome of [`mine`] that chose this, without embedding anything;
    /// scores are left out.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the choice is not one from this source.
    pub(crate) fn again(
        source: Source<'_>,
        options: &HardNegatives,
        chosen: Chosen,
    ) -> Result<Self> {
        let places = Places::of(source);
        let known = places.corpus.len();
        let fits = |place: &u32| (*place as usize) < known;
        if chosen.len() != places.queries.len() || !chosen.iter().flatten().all(fits) {
            let reason = "its hard negatives were mined from other data";
            return Err(Error::checkpoint(reason));
        }
        let rules = choose::Rules::new(options, &places.pairs, 0);
        let found = places.matches.iter().zip(chosen);
        let found = found.map(|(matches, negatives)| Found {
            matches: matches
                .iter()
                .map(|(pair, document)| Match {
                    pair: *pair,
                    document: *document,
                    score: 0.0,
                })
                .collect(),
            negatives: negatives.into_iter().map(|place| (place, 0.0)).collect(),
        });
        Ok(Self {
            found: found.collect(),
            queries: places.queries.into_iter().cloned().collect(),
            corpus: places.corpus.into_iter().cloned().collect(),
            format: rules.format,
            output_scores: false,
            num_negatives: rules.num_negatives,
            report: Report::default(),
        })
    }
}
