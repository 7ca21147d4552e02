//! Miners, which select the pairs or triplets for a loss from a batch.
//!
//! Names, options and defaults are those of pytorch-metric-learning.

mod hard;
mod margin;
mod mined;

use finetuner_protocol::{Miner as MinerName, Options};

use crate::{Error, Result, options::OptionReader};

pub(crate) use mined::{Mined, Miner};

/// Constructor of a miner.
type Make = fn(&OptionReader<'_>) -> Result<Miner>;

/// All miners by name.
const MINERS: &[(MinerName, Make)] = &[
    (MinerName::Angular, margin::Angular::make),
    (MinerName::BatchEasyHard, hard::BatchEasyHard::make),
    (MinerName::BatchHard, hard::BatchHard::make),
    (MinerName::DistanceWeighted, margin::DistanceWeighted::make),
    (
        MinerName::EmbeddingsAlreadyPackagedAsTriplets,
        margin::Packaged::make,
    ),
    (MinerName::Hdc, margin::Hdc::make),
    (MinerName::MaximumLoss, Miner::maximum_loss),
    (MinerName::MultiSimilarity, hard::MultiSimilarity::make),
    (MinerName::PairMargin, margin::PairMargin::make),
    (MinerName::TripletMargin, margin::TripletMargin::make),
    (MinerName::UniformHistogram, margin::UniformHistogram::make),
];

impl Miner {
    /// Builds a miner from its name and options.
    ///
    /// # Errors
    /// [`Error::Config`] names an unknown miner or an invalid option.
    pub(crate) fn new(name: &MinerName, options: Option<&Options>) -> Result<Self> {
        let Some((_, make)) = MINERS.iter().find(|(known, _)| known == name) else {
            let reason = match name {
                MinerName::Base | MinerName::BaseSubsetBatch | MinerName::BaseTuple => {
                    format!("`{name}` is a base class: choose a miner that is derived from it")
                }
                other => {
                    let known: Vec<&str> = MinerName::KNOWN.iter().map(MinerName::as_str).collect();
                    format!("`{other}` is unknown; the miners are {}", known.join(", "))
                }
            };
            return Err(Error::config("miner", reason));
        };
        let read = OptionReader::new("miner_options", options);
        let miner = make(&read)?;
        read.finish()?;
        Ok(miner)
    }

    fn maximum_loss(read: &OptionReader<'_>) -> Result<Self> {
        let output_batch_size = match read.count("output_batch_size", 0, 2)? {
            0 => {
                let wanted = "give the number of examples to choose";
                return Err(read.bad("output_batch_size", wanted));
            }
            size => size,
        };
        Ok(Self::Subset {
            output_batch_size,
            num_trials: read.count("num_trials", 5, 1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::{Map, Value};

    use super::*;
    use crate::loss::{Labels, Tuples};

    /// Written by `tests/fixtures/make_losses.py`.
    #[derive(Deserialize)]
    struct Fixture {
        dim: usize,
        batches: BTreeMap<String, Batch>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Batch {
        labels: Vec<u32>,
        embeddings: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Case {
        miner: String,
        options: Map<String, Value>,
        batch: String,
        tuples: Vec<Vec<u32>>,
    }

    fn fixture() -> Fixture {
        serde_json::from_str(include_str!("../../tests/fixtures/miners.json")).unwrap()
    }

    fn mine(name: &str, options: &Map<String, Value>, batch: &Batch, dim: usize) -> Tuples {
        let options = Options::from(options.clone());
        let miner = Miner::new(&MinerName::from(name), Some(&options)).unwrap();
        let Miner::Tuples(miner) = miner else {
            panic!("{name} chooses no tuples")
        };
        miner
            .mine(&Mined {
                labels: Labels {
                    batch: &batch.labels,
                    reference: &batch.labels,
                    same: true,
                },
                batch: &batch.embeddings,
                reference: &batch.embeddings,
                dim,
                seed: 5,
            })
            .unwrap()
    }

    /// Sorts tuples, whose order has no meaning.
    fn sorted(mut tuples: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
        tuples.sort();
        tuples
    }

    /// Converts a list per position to a list per tuple.
    fn rows(places: &[Vec<u32>]) -> Vec<Vec<u32>> {
        let count = places.first().map_or(0, Vec::len);
        (0..count)
            .map(|i| places.iter().map(|place| place[i]).collect())
            .collect()
    }

    fn compare(found: Tuples, wanted: &[Vec<u32>], what: &str) {
        match found {
            Tuples::Triplets(found) => {
                let found = found.iter().map(|t| t.to_vec()).collect();
                assert_eq!(sorted(found), sorted(rows(wanted)), "{what}");
            }
            Tuples::Pairs { positive, negative } => {
                let listed = |pairs: Vec<(u32, u32)>| {
                    sorted(pairs.into_iter().map(|(a, b)| vec![a, b]).collect())
                };
                let expected = |from: usize| sorted(rows(&wanted[from..from + 2]));
                assert_eq!(listed(positive), expected(0), "{what}");
                assert_eq!(listed(negative), expected(2), "{what}");
            }
        }
    }

    #[test]
    fn selected_tuples_equal_those_of_pytorch_metric_learning() {
        let fixture = fixture();
        assert_eq!(fixture.cases.len(), 64);
        for case in &fixture.cases {
            let batch = &fixture.batches[&case.batch];
            let what = format!("{} {:?} {}", case.miner, case.options, case.batch);
            let found = mine(&case.miner, &case.options, batch, fixture.dim);
            compare(found, &case.tuples, &what);
        }
    }

    /// Written by `tests/fixtures/make_distances.py`.
    #[derive(Deserialize)]
    struct Distances {
        dim: usize,
        labels: Vec<u32>,
        embeddings: Vec<f64>,
        distances: Vec<Option<(String, Value)>>,
        miners: Vec<(String, Map<String, Value>)>,
        mined: Vec<Vec<Value>>,
    }

    #[test]
    fn tuples_are_selected_by_each_distance() {
        let fixture = include_str!("../../tests/fixtures/distances.json");
        let fixture: Distances = serde_json::from_str(fixture).unwrap();
        let batch = Batch {
            labels: fixture.labels,
            embeddings: fixture.embeddings,
        };
        assert_eq!(fixture.mined.len(), 81);
        for case in &fixture.mined {
            let place = |i: usize| case[i].as_u64().unwrap() as usize;
            let (name, options) = &fixture.miners[place(0)];
            let mut options = options.clone();
            if let Some((distance, its)) = &fixture.distances[place(1)] {
                let distance = serde_json::json!({"name": distance, "options": its});
                options.insert("distance".to_owned(), distance);
            }
            let what = format!("{name} {options:?}");
            if case.len() == 2 {
                let name = MinerName::from(name.as_str());
                let error = Miner::new(&name, Some(&options.into())).err();
                let error = error.unwrap_or_else(|| panic!("{what}")).to_string();
                assert!(error.contains("`distance`"), "{error}");
                continue;
            }
            let mut wanted: Vec<Vec<u32>> = case[2..]
                .iter()
                .map(|places| serde_json::from_value(places.clone()).unwrap())
                .collect();
            let mut found = mine(name, &options, &batch, fixture.dim);
            // A pair and its reverse have the same distance, and this miner may cut
            // between them.
            if name == "HDCMiner" {
                found = unordered(found);
                for places in wanted.as_chunks_mut::<2>().0 {
                    let [a, b] = places;
                    for (a, b) in a.iter_mut().zip(b).filter(|(a, b)| a > b) {
                        std::mem::swap(a, b);
                    }
                }
            }
            compare(found, &wanted, &what);
        }
    }

    /// Sorts the two indices of each pair.
    fn unordered(tuples: Tuples) -> Tuples {
        let (mut positive, mut negative) = tuples.into_pairs();
        for (a, b) in positive.iter_mut().chain(&mut negative) {
            if *a > *b {
                std::mem::swap(a, b);
            }
        }
        Tuples::Pairs { positive, negative }
    }

    #[test]
    fn random_tuples_are_valid_and_depend_on_the_seed_only() {
        let fixture = fixture();
        let batch = &fixture.batches["balanced"];
        let labels = Labels {
            batch: &batch.labels,
            reference: &batch.labels,
            same: true,
        };
        let draw = |name: &str, options: &[(&str, u64)]| {
            let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).into()));
            mine(name, &options.collect(), batch, fixture.dim)
        };
        let Tuples::Triplets(drawn) = draw("DistanceWeightedMiner", &[]) else {
            panic!("not triplets")
        };
        let all = labels.triplets();
        assert!(!drawn.is_empty() && drawn.iter().all(|t| all.contains(t)));
        assert_eq!(draw("DistanceWeightedMiner", &[]), Tuples::Triplets(drawn));

        let options = [("num_bins", 3), ("pos_per_bin", 2), ("neg_per_bin", 4)];
        let Tuples::Pairs { positive, negative } = draw("UniformHistogramMiner", &options) else {
            panic!("not pairs")
        };
        assert_eq!((positive.len(), negative.len()), (6, 12));
        assert!(positive.iter().all(|pair| labels.positive().contains(pair)));
        assert!(negative.iter().all(|pair| labels.negative().contains(pair)));
    }
}
