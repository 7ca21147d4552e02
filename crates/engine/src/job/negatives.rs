//! Mines hard negatives for the pairs of a run, with the run's initial model.
//!
//! A checkpoint keeps the selection, so a resumed run trains on the same negatives.

use std::{path::Path, time::Instant};

use finetuner_protocol::{HardNegatives, Level};

use super::{
    log::{PROGRESS_INTERVAL, log},
    prepared::{Data, TWICE},
};
use crate::{
    Error, Result,
    data::{CORPUS, Classes, DataName, Documents, Example, Images, Item, read_corpus},
    hard_negatives::{Mined, Role, Source, mine},
    infer::{ItemRef, embed},
    observer::Observer,
    plan::Plan,
    source::LoadedModel,
};

/// File in a checkpoint that holds the indices of the selected negatives.
pub(super) const FILE: &str = "hard-negatives.json";

/// Inputs of the mining other than the model and the pairs.
pub(super) struct Mining<'a> {
    pub(super) plan: &'a Plan,
    pub(super) options: &'a HardNegatives,
    pub(super) documents: &'a dyn Fn(&str) -> Result<Documents>,
    pub(super) images: &'a Images,
    /// The run's folder.
    pub(super) folder: &'a Path,
}

impl Mining<'_> {
    /// Replaces the pairs of the training data with pairs that have negatives.
    pub(super) fn run(
        &self,
        model: &LoadedModel,
        data: &mut Data,
        resumed: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let further = match self.options.corpus.as_deref() {
            None => Vec::new(),
            Some(name) => corpus(self.plan, name, self.documents, self.images)?,
        };
        let pairs = pairs_of(&data.train.examples)?;
        let known = pairs_of(&data.validation.examples)?;
        let source = Source {
            pairs: &pairs,
            corpus: &further,
            known: &known,
        };
        let file = self.folder.join(FILE);
        let mined = match resumed {
            true => {
                let mined = Mined::restore(source, self.options, read(&file)?)?;
                let note = "Using the hard negatives that were mined before the checkpoint";
                log(observer, Level::Info, note);
                mined
            }
            false => {
                let mined = self.mine(model, source, observer)?;
                write(&file, &mined)?;
                mined
            }
        };
        let examples = mined.examples(&data.train.examples);
        if examples.len() < 2 {
            let reason = format!(
                "only {1} of {0} pairs get enough negatives, and training needs at least 2: \
                 raise `range_max`, lower `num_negatives` or `range_min`, relax the limits of \
                 the scores, or give a larger `corpus`",
                pairs.len(),
                examples.len()
            );
            return Err(Error::config("mine_hard_negatives", reason));
        }
        let note = format!(
            "{} training examples, each with {} hard negatives, from {} pairs",
            examples.len(),
            examples
                .first()
                .map_or(0, |example| example.parts.len() - 2),
            pairs.len()
        );
        log(observer, Level::Info, note);
        let mut numbers = Classes::default();
        data.train = numbers.number(examples);
        let validation = std::mem::take(&mut data.validation.examples);
        data.validation = numbers.number(validation);
        Ok(())
    }

    fn mine(
        &self,
        model: &LoadedModel,
        source: Source<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Mined> {
        log(observer, Level::Info, "Mining hard negatives ...");
        let batch = self.options.batch_size as usize;
        let mut encode = |role: Role, items: &[&Item]| {
            let items: Vec<ItemRef<'_>> = items.iter().map(|item| (*item).into()).collect();
            let preparer = model.preparer.of_member(match role {
                Role::Query => 0,
                Role::Document => 1,
            });
            embed(&model.model, &preparer, &items, batch).map_err(|e| match e {
                Error::Item { reason, .. } => Error::data(match role {
                    Role::Query => format!("a query of the training data: {reason}"),
                    Role::Document => format!("a document to mine from: {reason}"),
                }),
                other => other,
            })
        };
        let mut last_line = Instant::now();
        let mut progress = |done: usize, all: usize| {
            if observer.interrupted().is_some() {
                return Err(Error::Interrupted);
            }
            if last_line.elapsed() >= PROGRESS_INTERVAL && done < all {
                last_line = Instant::now();
                let line = format!("Mining: compared {done} of {all} documents");
                log(observer, Level::Info, line);
            }
            Ok(())
        };
        let seed = self.plan.seed;
        let mined = mine(source, self.options, seed, &mut encode, &mut progress)?;
        for line in mined.report.lines() {
            log(observer, Level::Info, line);
        }
        Ok(mined)
    }
}

/// Reads and checks the corpus to mine from.
pub(super) fn corpus(
    plan: &Plan,
    name: &str,
    documents: &dyn Fn(&str) -> Result<Documents>,
    images: &Images,
) -> Result<Vec<Item>> {
    let shown = DataName {
        field: CORPUS,
        name,
    };
    read_corpus(documents(name)?, plan.kind, shown, images)
}

/// Returns the query and the positive of each example.
///
/// Fails if an example already has negatives.
pub(super) fn pairs_of(examples: &[Example]) -> Result<Vec<[Item; 2]>> {
    let pair = |example: &Example| match &example.parts[..] {
        _ if example.is_twice() => Err(Error::config(
            "mine_hard_negatives",
            format!("{TWICE}. Remove `mine_hard_negatives`, or give pairs"),
        )),
        [query, matched] => Ok([query.clone(), matched.clone()]),
        parts => Err(Error::config(
            "mine_hard_negatives",
            format!(
                "document `{}` of the training data has {} negatives already: remove \
                 `mine_hard_negatives`, or give pairs",
                example.id,
                parts.len().saturating_sub(2)
            ),
        )),
    };
    examples.iter().map(pair).collect()
}

fn write(file: &Path, mined: &Mined) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(file, e);
    let text = serde_json::to_vec(&mined.chosen()).map_err(|e| failed(e.into()))?;
    std::fs::write(file, text).map_err(failed)
}

fn read(file: &Path) -> Result<Vec<Vec<u32>>> {
    let text =
        std::fs::read(file).map_err(|e| Error::checkpoint(format!("it has no `{FILE}`: {e}")))?;
    serde_json::from_slice(&text).map_err(|e| Error::checkpoint(format!("`{FILE}`: {e}")))
}
