//! A loss that is ready to train with.

use std::collections::HashMap;

use candle_core::Tensor;
use finetuner_protocol::{Loss, Miner as MinerName};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    batch::{Batch, MetricLoss},
    build::build,
    maker::{Made, Shape, build_loss},
    math::select_rows,
    memory::Memory,
    pairwise::{MemberLoss, Members},
    registry::{self, Make},
    spec::LossSpec,
    tuples::{Labels, Tuples},
    wrappers::Wrappers,
};
use crate::{
    Error, Result,
    draw::sample,
    miner::{Mined, Miner},
    models::Model,
    ops::Pass,
    options::OptionReader,
    params::{Params, RawTensor},
};

/// A loss with its miner and its own weights.
pub struct Criterion {
    spec: LossSpec,
    objective: Objective,
    miner: Option<Miner>,
    /// Losses that wrap this one, such as `MatryoshkaLoss`.
    wrappers: Wrappers,
    mini_batch: Option<usize>,
    params: Params,
    seed: u64,
}

enum Objective {
    Members(Box<dyn MemberLoss>),
    Labels {
        loss: Box<dyn MetricLoss>,
        memory: Option<Memory>,
    },
}

/// Training targets of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Class of each example.
    pub labels: &'a [u32],
    /// Score of each pair, or the margins of each example, concatenated.
    pub scores: &'a [f32],
}

/// Additional inputs of some losses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// Embeddings by a guide or teacher, one tensor for each member.
    pub guide: &'a [Tensor],
    /// Indices of earlier layers, with their embeddings.
    pub layers: &'a [(usize, Vec<Tensor>)],
}

impl Criterion {
    /// Builds a loss for embeddings with `dim` values and a number of classes.
    ///
    /// # Errors
    /// [`Error::Config`] names an invalid option.
    pub fn new(spec: &LossSpec, classes: usize, dim: usize, seed: u64) -> Result<Self> {
        let wrappers = Wrappers::of(spec, dim)?;
        let inner = wrappers.inner.clone();
        let options = inner.options.as_ref();
        let shape = Shape { classes, dim, seed };
        let own;
        let mut mini_batch = None;
        let objective = match registry::find(&inner.loss)?.make {
            Make::Members(_, make) => {
                let read = OptionReader::new("loss_options", options);
                let made: Made<_> = build_loss(read, shape, "", make)?;
                (own, mini_batch) = (made.params, made.mini_batch);
                Objective::Members(made.loss)
            }
            _ => {
                let built = build(&inner.loss, options, shape, "")?;
                own = built.params;
                Objective::Labels {
                    loss: built.loss,
                    memory: built.memory.map(|size| Memory::new(size, dim.max(1))),
                }
            }
        };
        if let Some(size) = mini_batch.filter(|_| wrappers.layers.is_some()) {
            let reason = format!(
                "`mini_batch_size` is {size}: `{}` uses embeddings of several layers, which do \
                 not support mini-batches. Remove the option",
                spec.loss
            );
            return Err(Error::config("loss_options", reason));
        }
        let miner = match &spec.miner {
            None => None,
            Some(name) if matches!(objective, Objective::Members(_)) => {
                return Err(Error::config(
                    "miner",
                    format!(
                        "`{name}`: `{}` uses all examples of a batch and no miner",
                        spec.loss
                    ),
                ));
            }
            Some(name) => Some(Miner::new(name, spec.miner_options.as_ref())?),
        };
        if spec.uses_given_triplets() && !registry::with_memory().any(|known| *known == inner.loss)
        {
            let known: Vec<&str> = registry::with_memory().map(Loss::as_str).collect();
            let reason = format!(
                "`{}`: `{}` can't use triplets from the data; the losses that can are {}",
                MinerName::EmbeddingsAlreadyPackagedAsTriplets,
                inner.loss,
                known.join(", ")
            );
            return Err(Error::config("miner", reason));
        }
        if matches!(
            (&objective, &miner),
            (
                Objective::Labels {
                    memory: Some(_),
                    ..
                },
                Some(Miner::Subset { .. })
            )
        ) {
            let reason = "`MaximumLossMiner` can't be used with a memory of earlier batches";
            return Err(Error::config("miner", reason));
        }
        Ok(Self {
            spec: spec.clone(),
            objective,
            miner,
            wrappers,
            mini_batch,
            params: Params::of(own),
            seed,
        })
    }

    /// Returns the weights of the loss; most losses have none.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Returns `mini_batch_size`: the examples to embed at once.
    ///
    /// If it is set, gradients are cached.
    #[must_use]
    pub fn mini_batch(&self) -> Option<usize> {
        self.mini_batch
    }

    /// Rejects `mini_batch_size`, for networks that compare the examples of a batch.
    ///
    /// # Errors
    /// [`Error::Config`] if the option is set.
    pub(crate) fn refuse_mini_batches(&self) -> Result<()> {
        let Some(size) = self.mini_batch else {
            return Ok(());
        };
        let reason = format!(
            "`mini_batch_size` is {size}: the network has batch normalisation, so its \
             embeddings depend on the whole batch. Remove the option, set `freeze`, or use a network \
             without batch normalisation"
        );
        Err(Error::config("loss_options", reason))
    }

    /// Returns the specification of the loss.
    #[must_use]
    pub fn spec(&self) -> &LossSpec {
        &self.spec
    }

    /// Computes the loss of a batch: a scalar for [`Params::backward`].
    ///
    /// `parts` holds the embeddings of the examples' members, one tensor `[batch, dim]`
    /// for each. Random selections depend on `step`. If `training` is set, the memory
    /// of `CrossBatchMemory` stores the batch.
    ///
    /// # Errors
    /// Returns an error if there are too few parts, or if the device fails.
    pub fn loss(
        &mut self,
        model: &Model,
        pass: &Pass,
        parts: &[Tensor],
        target: Target<'_>,
        step: u64,
        training: bool,
    ) -> Result<Tensor> {
        let beside = Beside::default();
        self.loss_beside(model, pass, parts, beside, target, step, training)
    }

    /// Returns the earlier layers out of `count` that the loss needs in a step.
    ///
    /// Most losses need none.
    pub(crate) fn layers_of_step(&self, count: usize, step: u64) -> Vec<usize> {
        let layers = self.wrappers.layers.as_ref();
        layers.map_or_else(Vec::new, |layers| layers.of_step(count, self.seed_of(step)))
    }

    fn seed_of(&self, step: u64) -> u64 {
        self.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Computes [`Criterion::loss`] with inputs from a guide or from earlier layers.
    ///
    /// # Errors
    /// See [`Criterion::loss`].
    #[allow(clippy::too_many_arguments)]
    pub fn loss_beside(
        &mut self,
        model: &Model,
        pass: &Pass,
        parts: &[Tensor],
        beside: Beside<'_>,
        target: Target<'_>,
        step: u64,
        training: bool,
    ) -> Result<Tensor> {
        let seed = self.seed_of(step);
        let name = self.spec.loss.as_str();
        let (miner, objective) = (self.miner.as_ref(), &mut self.objective);
        let lengths = self.wrappers.lengths.as_ref();
        let mut of = |parts: &[Tensor], call: u64| {
            let seed = seed.wrapping_add(call);
            let mut of = |parts: &[Tensor]| {
                let members = Members {
                    model,
                    pass,
                    parts,
                    scores: target.scores,
                    guide: beside.guide,
                    loss: name,
                };
                objective.loss(&members, target.labels, miner, seed, training)
            };
            match lengths {
                None => of(parts),
                Some(lengths) => lengths.sum(parts, seed, of),
            }
        };
        match &self.wrappers.layers {
            None => of(parts, 0),
            Some(layers) => layers.sum(parts, beside.layers, of),
        }
    }

    /// Returns the state of the loss except its weights.
    #[must_use]
    pub fn state(&self) -> HashMap<String, RawTensor> {
        match &self.objective {
            Objective::Labels {
                memory: Some(memory),
                ..
            } => memory.state(),
            _ => HashMap::new(),
        }
    }

    /// Restores a state from [`Criterion::state`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the state does not belong to this loss.
    pub fn load_state(&mut self, state: &HashMap<String, RawTensor>) -> Result<()> {
        match &mut self.objective {
            Objective::Labels {
                memory: Some(memory),
                ..
            } => memory.load_state(state),
            _ => Ok(()),
        }
    }
}

impl Objective {
    fn loss(
        &mut self,
        members: &Members<'_>,
        labels: &[u32],
        miner: Option<&Miner>,
        seed: u64,
        training: bool,
    ) -> Result<Tensor> {
        match self {
            Self::Members(loss) => loss.loss(members),
            Self::Labels { loss, .. } if members.parts.len() > 1 => {
                given_triplets(loss.as_ref(), members, seed, training)
            }
            Self::Labels { loss, memory } => {
                let [x] = &members.all_on_cpu()?[..] else {
                    return Err(members.refused());
                };
                match memory {
                    Some(memory) if training => {
                        with_memory(loss.as_ref(), memory, miner, x, labels, seed)
                    }
                    _ => labelled(loss.as_ref(), miner, x, labels, seed, training),
                }
            }
        }
    }
}

/// Computes a loss over labels on triplets from the data.
///
/// These are each anchor with its positive and each of its negatives.
fn given_triplets(
    loss: &dyn MetricLoss,
    members: &Members<'_>,
    seed: u64,
    training: bool,
) -> Result<Tensor> {
    let parts = members.all_on_cpu()?;
    let count = parts.first().map_or(Ok(0), |part| part.dim(0))? as u32;
    let negatives = parts.len() as u32 - 2;
    let of_anchor = |i: u32| (0..negatives).map(move |n| [i, count + i, (2 + n) * count + i]);
    let tuples = Tuples::Triplets((0..count).flat_map(of_anchor).collect());
    // A positive has its anchor's class. Each negative has a class of its own.
    let places = 0..count * parts.len() as u32;
    let labels: Vec<u32> = places
        .map(|i| if i < 2 * count { i % count } else { i - count })
        .collect();
    let x = Tensor::cat(&parts, 0)?;
    loss.loss(&Batch {
        x: &x,
        y: &x,
        labels: Labels {
            batch: &labels,
            reference: &labels,
            same: true,
        },
        tuples: Some(&tuples),
        seed,
        training,
    })
}

/// Computes a loss over labels on the tuples that the miner selects.
fn labelled(
    loss: &dyn MetricLoss,
    miner: Option<&Miner>,
    x: &Tensor,
    labels: &[u32],
    seed: u64,
    training: bool,
) -> Result<Tensor> {
    let of = |x: &Tensor, labels: &[u32], tuples: Option<&Tuples>| {
        loss.loss(&Batch {
            x,
            y: x,
            labels: Labels {
                batch: labels,
                reference: labels,
                same: true,
            },
            tuples,
            seed,
            training,
        })
    };
    match miner {
        None => of(x, labels, None),
        Some(Miner::Tuples(_)) => {
            let tuples = mine(miner, x, x, labels, labels, true, seed)?;
            of(x, labels, tuples.as_ref())
        }
        Some(Miner::Subset {
            output_batch_size,
            num_trials,
        }) => {
            let size = (*output_batch_size).min(labels.len());
            let mut best: Option<(f64, Tensor)> = None;
            for trial in 0..*num_trials {
                let chosen = draw(labels.len(), size, seed.wrapping_add(trial as u64));
                let part: Vec<u32> = chosen.iter().map(|i| labels[*i as usize]).collect();
                let found = of(&select_rows(x, &chosen)?, &part, None)?;
                let value: f64 = found.to_scalar()?;
                if best.as_ref().is_none_or(|(most, _)| value > *most) {
                    best = Some((value, found));
                }
            }
            best.map_or_else(super::math::zero_loss, |(_, loss)| Ok(loss))
        }
    }
}

/// Draws `size` distinct numbers below `n`.
fn draw(n: usize, size: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all: Vec<u32> = (0..n as u32).collect();
    sample(&mut all, size, &mut rng);
    all
}

fn with_memory(
    loss: &dyn MetricLoss,
    memory: &mut Memory,
    miner: Option<&Miner>,
    x: &Tensor,
    labels: &[u32],
    seed: u64,
) -> Result<Tensor> {
    let values: Vec<f64> = x.flatten_all()?.to_vec1()?;
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    let places = memory.push(&values, labels)?;
    let y = memory.tensor()?;
    let reference = memory.labels().to_vec();
    let all = Labels {
        batch: labels,
        reference: &reference,
        same: false,
    };
    let tuples = match miner {
        Some(_) => mine(miner, x, &y, labels, &reference, false, seed)?,
        None => None,
    };
    let tuples = tuples.unwrap_or_else(|| Tuples::Pairs {
        positive: all.positive(),
        negative: all.negative(),
    });
    // Each example is in the memory too, but is not its own positive.
    let itself = |a: u32, p: u32| places.get(a as usize) == Some(&p);
    let tuples = match tuples {
        Tuples::Pairs {
            mut positive,
            negative,
        } => {
            positive.retain(|(a, p)| !itself(*a, *p));
            Tuples::Pairs { positive, negative }
        }
        Tuples::Triplets(mut triplets) => {
            triplets.retain(|[a, p, _]| !itself(*a, *p));
            Tuples::Triplets(triplets)
        }
    };
    loss.loss(&Batch {
        x,
        y: &y,
        labels: all,
        tuples: Some(&tuples),
        seed,
        training: true,
    })
}

fn mine(
    miner: Option<&Miner>,
    x: &Tensor,
    y: &Tensor,
    labels: &[u32],
    reference: &[u32],
    same: bool,
    seed: u64,
) -> Result<Option<Tuples>> {
    let Some(Miner::Tuples(miner)) = miner else {
        return Ok(None);
    };
    let flat = |t: &Tensor| -> Result<Vec<f64>> { Ok(t.detach().flatten_all()?.to_vec1()?) };
    let batch = flat(x)?;
    let others = if same { batch.clone() } else { flat(y)? };
    let tuples = miner.mine(&Mined {
        labels: Labels {
            batch: labels,
            reference,
            same,
        },
        batch: &batch,
        reference: &others,
        dim: x.dim(1)?,
        seed,
    })?;
    Ok(Some(tuples))
}
