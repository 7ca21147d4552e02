//! Searches a corpus for the texts most similar to queries, block by block.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{
    Result,
    evaluation::{Distance, rank, smallest_first},
    infer::Encoder,
};

/// Settings of the search.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// Number of texts to find for each query.
    pub(super) count: usize,
    /// Number of corpus texts that are embedded and searched together.
    pub(super) block: usize,
}

/// A text that was found for a query.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) text: Arc<str>,
    distance: f32,
}

/// Progress of a search.
pub(super) struct Progress {
    /// Number of texts of the corpus that were searched.
    pub(super) seen: usize,
}

/// Returns the corpus texts nearest to each query, nearest first. Skips texts
/// equal to the query, and counts repeated corpus texts once. `report` is
/// called after each block of queries and of the corpus.
pub(super) fn candidates(
    model: &Encoder,
    queries: &[Arc<str>],
    mut corpus: impl Iterator<Item = Result<Arc<str>>>,
    Search { count, block }: Search,
    mut report: impl FnMut(Progress) -> Result<()>,
) -> Result<Vec<Vec<Candidate>>> {
    let asking = prompted(model, &["query"])?;
    let mut asked = Vec::with_capacity(queries.len() * model.dim());
    for part in queries.chunks(block) {
        asked.extend(embed(&asking, part)?);
        report(Progress { seen: 0 })?;
    }
    let documents = prompted(model, &["document", "passage"])?;
    let mut found: Vec<Vec<Candidate>> = vec![Vec::new(); queries.len()];
    let (mut known, mut seen) = (HashSet::new(), 0);
    loop {
        let texts: Vec<Arc<str>> = corpus.by_ref().take(block).collect::<Result<_>>()?;
        if texts.is_empty() {
            return Ok(found);
        }
        seen += texts.len();
        let new: Vec<Arc<str>> = texts
            .into_iter()
            .filter(|text| known.insert(key(text)))
            .collect();
        let embedded = embed(&documents, &new)?;
        // One more, since the query itself may be among them.
        let rankings = rank(
            &asked,
            &embedded,
            model.dim(),
            count.saturating_add(1),
            Distance::Cosine,
        );
        for ((found, ranking), query) in found.iter_mut().zip(rankings).zip(queries) {
            let others = ranking.iter().filter(|near| new[near.index] != *query);
            found.extend(others.map(|near| Candidate {
                text: new[near.index].clone(),
                distance: near.distance,
            }));
            // A stable sort: of equally near texts the earlier stays first.
            found.sort_by(|a, b| smallest_first(a.distance, b.distance));
            found.truncate(count);
        }
        report(Progress { seen })?;
    }
}

fn key(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn embed(model: &Encoder, texts: &[Arc<str>]) -> Result<Vec<f32>> {
    let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
    Ok(model.encode_texts(&texts)?.values)
}

/// Returns the model with the first of these prompts that it has.
fn prompted(model: &Encoder, names: &[&str]) -> Result<Encoder> {
    let has = |name: &&&str| model.prompts().names().any(|known| known == **name);
    match names.iter().find(has) {
        Some(name) => model.prompt(name),
        None => Ok(model.clone()),
    }
}

/// Merges the lists of several models: takes the best of each in turn, every
/// text once, up to `count`.
pub(super) fn merge(lists: Vec<Vec<Candidate>>, count: usize) -> Vec<Candidate> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let mut merged: Vec<Candidate> = Vec::new();
    for rank in 0..longest {
        for candidate in lists.iter().filter_map(|list| list.get(rank)) {
            let is_new = merged.iter().all(|known| known.text != candidate.text);
            if is_new && merged.len() < count {
                merged.push(candidate.clone());
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_any_size_find_the_same_texts() {
        let model = Encoder::from_backbone("minilm-small").unwrap();
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| Arc::from(*text))
                .collect::<Vec<_>>()
        };
        let queries = texts(&["a cat", "the moon", "a red hat"]);
        let corpus = texts(&[
            "a dog",
            "the sun",
            "a red hat",
            "a kitten",
            "a dog",
            "a blue hat",
            "the moon at night",
        ]);
        let found = |block: usize| {
            let corpus = corpus.iter().cloned().map(Ok);
            let mut seen = Vec::new();
            let search = Search { count: 3, block };
            let found = candidates(&model, &queries, corpus, search, |progress| {
                if progress.seen > 0 {
                    seen.push(progress.seen);
                }
                Ok(())
            });
            let texts = found.unwrap().into_iter().map(|found| {
                let texts = found
                    .into_iter()
                    .map(|candidate| candidate.text.to_string());
                texts.collect::<Vec<_>>()
            });
            (texts.collect::<Vec<_>>(), seen)
        };
        let (whole, seen) = found(100);
        assert_eq!(seen, [7]);
        assert_eq!(whole[0][0], "a kitten");
        assert!(!whole[2].contains(&"a red hat".to_owned()), "{whole:?}");
        assert!(whole.iter().all(|texts| texts.len() == 3));
        for block in [1, 2, 3] {
            let (found, seen) = found(block);
            assert_eq!(found, whole);
            assert_eq!(seen.len(), 7_usize.div_ceil(block));
        }
    }

    #[test]
    fn lists_of_several_models_take_turns() {
        let list = |texts: &[&str]| {
            let texts = texts.iter().map(|text| Candidate {
                text: Arc::from(*text),
                distance: 0.0,
            });
            texts.collect::<Vec<_>>()
        };
        let merged = merge(vec![list(&["a", "b", "c"]), list(&["b", "d"])], 3);
        let texts: Vec<&str> = merged.iter().map(|candidate| &*candidate.text).collect();
        assert_eq!(texts, ["a", "b", "d"]);
        assert!(merge(Vec::new(), 3).is_empty());
    }
}
