//! Combines queries, positives and negatives into documents of the output.

use super::{
    format::Format,
    mined::{Found, Match, Mined},
};
use crate::data::{Example, Item};

/// One document of the output.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Index of the pair that the document was made from.
    pub pair: usize,
    /// The items, query first.
    pub items: Vec<&'a Item>,
    /// Label of each item after the query: 1 for a positive, 0 for a negative.
    ///
    /// Empty if the output has no labels.
    pub labels: Vec<u8>,
    /// Score of each item after the query; empty if the options ask for none.
    pub scores: Vec<f32>,
}

impl Mined {
    /// Returns the format of the output.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the output, in the order of the queries' first appearance.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let queries = self.queries.iter().zip(&self.found);
        queries.flat_map(|(query, found)| match self.format {
            Format::Triplet => self.triplets(query, found),
            Format::Tuple | Format::LabeledList => self.lists(query, found),
            Format::LabeledPair => self.labeled_pairs(query, found),
        })
    }

    fn row<'a>(
        &'a self,
        query: &'a Item,
        pair: u32,
        matched: Option<&Match>,
        negatives: &[(u32, f32)],
    ) -> Row<'a> {
        let matched = matched.map(|m| (m.document, m.score));
        let chosen = || matched.iter().chain(negatives);
        let documents = chosen().map(|(place, _)| &self.corpus[*place as usize]);
        let is_labeled = matches!(self.format, Format::LabeledList | Format::LabeledPair);
        let labels = matched.iter().map(|_| 1).chain(negatives.iter().map(|_| 0));
        Row {
            pair: pair as usize,
            items: std::iter::once(query).chain(documents).collect(),
            labels: match is_labeled && !self.output_scores {
                true => labels.collect(),
                false => Vec::new(),
            },
            scores: match self.output_scores {
                true => chosen().map(|(_, score)| *score).collect(),
                false => Vec::new(),
            },
        }
    }

    fn triplets<'a>(&'a self, query: &'a Item, found: &'a Found) -> Vec<Row<'a>> {
        let of = |matched: &'a Match| {
            let negatives = found.negatives.chunks(1);
            negatives.map(|negative| self.row(query, matched.pair, Some(matched), negative))
        };
        found.matches.iter().flat_map(of).collect()
    }

    fn lists<'a>(&'a self, query: &'a Item, found: &'a Found) -> Vec<Row<'a>> {
        let least = match self.format {
            Format::Tuple => self.num_negatives,
            _ => 1,
        };
        if found.negatives.len() < least {
            return Vec::new();
        }
        let of = |matched: &Match| self.row(query, matched.pair, Some(matched), &found.negatives);
        found.matches.iter().map(of).collect()
    }

    fn labeled_pairs<'a>(&'a self, query: &'a Item, found: &'a Found) -> Vec<Row<'a>> {
        let matches = found.matches.iter();
        let matches = matches.map(|matched| self.row(query, matched.pair, Some(matched), &[]));
        let first = found.matches.first().map_or(0, |matched| matched.pair);
        let negatives = found.negatives.chunks(1);
        let negatives = negatives.map(|negative| self.row(query, first, None, negative));
        matches.chain(negatives).collect()
    }

    /// Returns the output as training examples, with id and label of their pairs.
    pub(crate) fn examples(&self, pairs: &[Example]) -> Vec<Example> {
        let rows = self.rows().filter_map(|row| {
            let pair = pairs.get(row.pair)?;
            Some(Example {
                id: pair.id.clone(),
                parts: row.items.into_iter().cloned().collect(),
                label: pair.label.clone(),
                scores: Vec::new(),
            })
        });
        rows.collect()
    }
}
