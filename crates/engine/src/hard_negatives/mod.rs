//! Mines hard negatives: similar documents that are not relevant to a query.
//!
//! Candidates, limits, order and counts equal those of `mine_hard_negatives` in
//! sentence-transformers 6.2.
//!
//! The corpus is embedded in blocks, and only the best documents of each query are
//! kept. Memory grows with the number of queries plus documents, not with their
//! product.

mod choose;
mod encoder;
mod format;
mod mined;
mod report;
mod rows;
mod statistics;
mod top;

use std::collections::HashMap;

use finetuner_protocol::HardNegatives;
use rayon::prelude::*;

use crate::{Error, Result, data::Item, infer::Embeddings, kernels::gemm};
use mined::{Found, Match};
use top::Top;

pub use encoder::{Prompts, mine_with};
pub use format::Format;
pub use mined::Mined;
pub use report::{Report, Spread};
pub use rows::Row;

/// Number of documents that are embedded and compared at once.
const BLOCK: usize = 4096;
/// Number of queries per matrix product.
const QUERIES: usize = 256;

/// Embeds items: queries, or documents of the corpus.
pub type Embed<'a> = dyn FnMut(Role, &[&Item]) -> Result<Embeddings> + 'a;

/// Role in which items are embedded. A model may have a prompt for each role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The queries.
    Query,
    /// The documents to search.
    Document,
}

/// Input of the mining.
#[derive(Clone, Copy, Default)]
pub struct Source<'a> {
    /// Queries and their positives. A query may occur in several pairs.
    pub pairs: &'a [[Item; 2]],
    /// Candidate documents in addition to the positives of all pairs.
    pub corpus: &'a [Item],
    /// Further positives of the same queries, which are not candidates for them.
    pub known: &'a [[Item; 2]],
}

/// Queries and corpus without duplicates.
struct Deduplicated<'a> {
    queries: Vec<&'a Item>,
    corpus: Vec<&'a Item>,
    /// For each query its positives: number of the first pair, and corpus index.
    matches: Vec<Vec<(u32, u32)>>,
    /// For each query the corpus indices that are not candidates.
    own: Vec<Vec<u32>>,
    /// Number of pairs of each query.
    pairs: Vec<usize>,
}

impl<'a> Deduplicated<'a> {
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

/// Distinct items in the order of their first occurrence.
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

/// Mines negatives.
///
/// `seed` is for the sampling strategy `random`, unless the options have a seed.
/// `progress` is called with the number of compared documents and their total, and may
/// stop the mining with an error.
///
/// # Errors
/// [`Error::Config`] for invalid options, [`Error::Data`] if there are no pairs, and
/// errors of `embed` and `progress`.
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
            "hard negatives are mined for pairs, but there are none",
        ));
    }
    let places = Deduplicated::of(source);
    let rules = choose::Rules::new(options, &places.pairs, seed);
    let width = rules.width.min(places.corpus.len());
    let mut query_embeddings = embed(Role::Query, &places.queries)?;
    normalize(&mut query_embeddings);
    let mut scores: Vec<Vec<f32>> = places.matches.iter().map(|m| vec![0.0; m.len()]).collect();
    // Maps a positive's corpus index to its queries.
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
        if found.dim != query_embeddings.dim {
            return Err(Error::data(format!(
                "query embeddings of {} values can't be compared with document embeddings of {} values",
                query_embeddings.dim, found.dim
            )));
        }
        normalize(&mut found);
        for (place, row) in found.iter().enumerate() {
            let document = (first + place) as u32;
            for (query, number) in owners.get(&document).into_iter().flatten() {
                let dot = query_embeddings
                    .get(*query as usize)
                    .iter()
                    .zip(row)
                    .map(|(a, b)| a * b);
                scores[*query as usize][*number as usize] = dot.sum();
            }
        }
        compare(&query_embeddings, &found, first, &mut tops);
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
    mined.report = statistics::build_report(&mined, &rules, chosen.skipped, source.pairs.len());
    Ok(mined)
}

/// Compares all queries with the block of the corpus that starts at index `first`.
fn compare(query_embeddings: &Embeddings, block: &Embeddings, first: usize, tops: &mut [Top]) {
    let (dim, documents) = (query_embeddings.dim, block.len());
    if dim == 0 || documents == 0 {
        return;
    }
    let mut dots = vec![0.0; QUERIES.min(tops.len()) * documents];
    for (queries, tops) in query_embeddings
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

/// Scales each embedding to length 1. Zero vectors stay zero.
fn normalize(embeddings: &mut Embeddings) {
    let dim = embeddings.dim.max(1);
    embeddings.values.par_chunks_mut(dim).for_each(|row| {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= length);
    });
}

/// Checks the options.
///
/// # Errors
/// [`Error::Config`] names the invalid option.
pub(crate) fn check(options: &HardNegatives) -> Result<()> {
    let bad = |e: finetuner_protocol::InvalidField| {
        Error::config(e.field, format!("{}: {}", e.value, e.limit))
    };
    options.check().map_err(bad)
}

/// Corpus indices of each query's negatives, as a checkpoint stores them.
pub(crate) type Chosen = Vec<Vec<u32>>;

impl Mined {
    /// Returns the corpus indices of each query's negatives.
    pub(crate) fn chosen(&self) -> Chosen {
        let places = |found: &Found| found.negatives.iter().map(|(place, _)| *place).collect();
        self.found.iter().map(places).collect()
    }

    /// Restores the result of [`mine`] from its selection, without scores.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the selection does not belong to this source.
    pub(crate) fn restore(
        source: Source<'_>,
        options: &HardNegatives,
        chosen: Chosen,
    ) -> Result<Self> {
        let places = Deduplicated::of(source);
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
