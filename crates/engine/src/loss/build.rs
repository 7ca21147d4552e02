//! From a loss's name and options to the loss.

use std::sync::Arc;

use finetuner_protocol::{Loss, Miner as MinerName, Options};
use serde_json::Value;

use super::{
    MetricLoss,
    distance::Metric,
    pairs, proxies,
    proxies::{MarginKind, MarginSoftmax},
    triplets::{self, Beta, TripletMargin},
};
use crate::{
    Error, Result,
    models::{normal_weights, uniform_weights},
    options::OptionReader,
    params::Param,
};

/// A loss and its miner as a run's configuration names them.
#[derive(Clone, Debug)]
pub struct LossSpec {
    /// The loss.
    pub loss: Loss,
    /// Its options.
    pub options: Option<Options>,
    /// The miner.
    pub miner: Option<MinerName>,
    /// Its options.
    pub miner_options: Option<Options>,
}

/// What examples a loss is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossKind {
    /// Text-image pairs.
    Clip,
    /// Examples with labels.
    Labels,
    /// Pairs.
    Pairs,
    /// Pairs with a score.
    Scores,
    /// Triplets with a margin.
    Triplets,
}

impl LossSpec {
    /// A loss without options and miner.
    #[must_use]
    pub fn new(loss: Loss) -> Self {
        Self {
            loss,
            options: None,
            miner: None,
            miner_options: None,
        }
    }

    pub(crate) fn kind(&self) -> LossKind {
        match self.loss {
            Loss::Clip | Loss::SigLip => LossKind::Clip,
            Loss::CosineSimilarity => LossKind::Scores,
            Loss::MarginMse => LossKind::Triplets,
            Loss::MultipleNegativeRanking | Loss::VicReg => LossKind::Pairs,
            _ => LossKind::Labels,
        }
    }

    /// Whether the loss has a weight for each class: it classifies, and needs no
    /// pairs in a batch.
    pub(crate) fn has_classes(&self) -> bool {
        matches!(
            self.loss,
            Loss::ArcFace
                | Loss::CosFace
                | Loss::LargeMarginSoftmax
                | Loss::SphereFace
                | Loss::NormalizedSoftmax
                | Loss::ProxyNca
                | Loss::ProxyAnchor
                | Loss::SoftTriple
        )
    }
}

/// What a loss is made with.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) classes: usize,
    pub(super) dim: usize,
    pub(super) seed: u64,
}

/// The losses that a memory of earlier batches can be put on.
const WITH_MEMORY: [Loss; 14] = [
    Loss::Angular,
    Loss::Circle,
    Loss::Contrastive,
    Loss::GeneralizedLiftedStructure,
    Loss::IntraPairVariance,
    Loss::LiftedStructure,
    Loss::Margin,
    Loss::MultiSimilarity,
    Loss::Nca,
    Loss::NtXent,
    Loss::SignalToNoiseRatioContrastive,
    Loss::SupCon,
    Loss::TripletMargin,
    Loss::TupletMargin,
];

/// A loss over labels, the weights that it has, and the size of its memory.
pub(super) struct Built {
    pub(super) loss: Box<dyn MetricLoss>,
    pub(super) params: Vec<Arc<Param>>,
    pub(super) memory: Option<usize>,
}

/// Makes a loss over labels. The names of its weights begin with `prefix`.
pub(super) fn build(
    loss: &Loss,
    options: Option<&Options>,
    shape: Shape,
    prefix: &str,
) -> Result<Built> {
    match loss {
        Loss::CrossBatchMemory => {
            let read = OptionReader::new("loss_options", options);
            let (name, inner) = nested(&read, "loss")?;
            if !WITH_MEMORY.contains(&name) {
                let known: Vec<&str> = WITH_MEMORY.iter().map(Loss::as_str).collect();
                return Err(read.bad("loss", &format!("one of {} is wanted", known.join(", "))));
            }
            let size = read.count("memory_size", 1024, 2)?;
            read.value("loss_options");
            read.finish()?;
            let built = build(&name, inner.as_ref(), shape, prefix)?;
            Ok(Built {
                memory: Some(size),
                ..built
            })
        }
        Loss::MultipleLosses => {
            let read = OptionReader::new("loss_options", options);
            let names = read.value("losses").and_then(Value::as_array).cloned();
            let names = names.filter(|names| !names.is_empty());
            let names = names.ok_or_else(|| read.bad("losses", "a list of losses is wanted"))?;
            let weights = match read.value("weights") {
                None => vec![1.0; names.len()],
                Some(value) => value
                    .as_array()
                    .map(|list| list.iter().filter_map(Value::as_f64).collect::<Vec<_>>())
                    .filter(|weights| weights.len() == names.len())
                    .ok_or_else(|| read.bad("weights", "a number for each loss is wanted"))?,
            };
            read.finish()?;
            let mut losses = Vec::new();
            let mut params = Vec::new();
            for (i, (value, weight)) in names.iter().zip(weights).enumerate() {
                let (name, inner) = named(value).ok_or_else(|| {
                    read.bad(
                        "losses",
                        "names, or objects with `name` and `options`, are wanted",
                    )
                })?;
                if matches!(name, Loss::MultipleLosses | Loss::CrossBatchMemory)
                    || LossSpec::new(name.clone()).kind() != LossKind::Labels
                {
                    return Err(read.bad("losses", "losses over labels are wanted"));
                }
                let shape = Shape {
                    seed: shape.seed.wrapping_add(i as u64),
                    ..shape
                };
                let built = build(&name, inner.as_ref(), shape, &format!("{i}."))?;
                losses.push((weight, built.loss));
                params.extend(built.params);
            }
            Ok(Built {
                loss: Box::new(Sum(losses)),
                params,
                memory: None,
            })
        }
        _ => single(loss, options, shape, prefix),
    }
}

/// `"Name"`, or `{"name": "Name", "options": {...}}`.
fn named(value: &Value) -> Option<(Loss, Option<Options>)> {
    match value {
        Value::String(name) => Some((Loss::from(name.as_str()), None)),
        Value::Object(map) => {
            let name = map.get("name")?.as_str()?;
            let options = map.get("options").and_then(Value::as_object);
            Some((Loss::from(name), options.cloned().map(Options::from)))
        }
        _ => None,
    }
}

/// A loss named in an option, its own options beside it or in `loss_options`.
fn nested(read: &OptionReader<'_>, name: &str) -> Result<(Loss, Option<Options>)> {
    let found = read.value(name).and_then(named);
    let (loss, inner) = found.ok_or_else(|| read.bad(name, "the name of a loss is wanted"))?;
    let beside = read.value("loss_options").and_then(Value::as_object);
    Ok((loss, inner.or(beside.cloned().map(Options::from))))
}

/// The sum of some losses, each with a weight.
struct Sum(Vec<(f64, Box<dyn MetricLoss>)>);

impl MetricLoss for Sum {
    fn loss(&self, batch: &super::Batch<'_>) -> Result<candle_core::Tensor> {
        let mut sum = super::math::zero()?;
        for (weight, loss) in &self.0 {
            sum = (sum + loss.loss(batch)?.affine(*weight, 0.0)?)?;
        }
        Ok(sum)
    }
}

fn triplet_margin(read: &OptionReader<'_>) -> Result<TripletMargin> {
    Ok(TripletMargin {
        margin: read.any_number("margin", 0.05)?,
        swap: read.flag("swap", false)?,
        smooth_loss: read.flag("smooth_loss", false)?,
        triplets_per_anchor: triplets_per_anchor(read)?,
    })
}

/// `"all"`, or a number.
fn triplets_per_anchor(read: &OptionReader<'_>) -> Result<Option<usize>> {
    match read.value("triplets_per_anchor") {
        None => Ok(None),
        Some(Value::String(all)) if all == "all" => Ok(None),
        Some(_) => Ok(Some(read.count("triplets_per_anchor", 1, 1)?)),
    }
}

fn single(loss: &Loss, options: Option<&Options>, shape: Shape, prefix: &str) -> Result<Built> {
    let read = OptionReader::new("loss_options", options);
    // These follow from data and model; a value that is given must be theirs.
    for (name, own) in [
        ("num_classes", shape.classes),
        ("embedding_size", shape.dim),
    ] {
        if loss_has_shape(loss) && shape.dim > 0 && read.count(name, own, 1)? != own {
            return Err(read.bad(name, &format!("this run has {own}; leave it out")));
        }
    }
    let mut params = Vec::new();
    let mut weight = |name: &str, rows: usize, columns: usize, values: Vec<f32>| {
        let shape = if columns == 0 {
            vec![rows]
        } else {
            vec![rows, columns]
        };
        let param = Param::trainable(&format!("{prefix}{name}"), shape, values)?;
        params.push(param.clone());
        Ok::<_, Error>(param)
    };
    let (classes, dim) = (shape.classes.max(1), shape.dim.max(1));
    let normal = |count: usize, spread: f64| normal_weights(shape.seed, count, spread);
    let loss: Box<dyn MetricLoss> = match loss {
        Loss::TripletMargin => Box::new(triplet_margin(&read)?),
        Loss::CentroidTriplet => Box::new(triplets::CentroidTriplet(triplet_margin(&read)?)),
        Loss::Margin => {
            let beta = read.any_number("beta", 1.2)?;
            let per_class = read.value("num_classes").is_some();
            let beta = if read.flag("learn_beta", false)? {
                let count = if per_class { classes } else { 1 };
                Beta::Learned {
                    beta: weight("beta", count, 0, vec![beta as f32; count])?,
                    per_class,
                }
            } else {
                Beta::Fixed(beta)
            };
            Box::new(triplets::Margin {
                margin: read.any_number("margin", 0.2)?,
                nu: read.any_number("nu", 0.0)?,
                beta,
                triplets_per_anchor: triplets_per_anchor(&read)?,
            })
        }
        Loss::Angular => Box::new(triplets::Angular {
            alpha: read.number("alpha", 40.0, 0.0, 89.0)?,
        }),
        Loss::Contrastive | Loss::SignalToNoiseRatioContrastive => Box::new(pairs::Contrastive {
            pos_margin: read.any_number("pos_margin", 0.0)?,
            neg_margin: read.any_number("neg_margin", 1.0)?,
            metric: if *loss == Loss::Contrastive {
                Metric::Lp
            } else {
                Metric::Snr
            },
        }),
        Loss::IntraPairVariance => Box::new(pairs::IntraPairVariance {
            pos_eps: read.any_number("pos_eps", 0.01)?,
            neg_eps: read.any_number("neg_eps", 0.01)?,
        }),
        Loss::LiftedStructure => Box::new(pairs::LiftedStructure {
            pos_margin: read.any_number("pos_margin", 0.0)?,
            neg_margin: read.any_number("neg_margin", 1.0)?,
        }),
        Loss::GeneralizedLiftedStructure => Box::new(pairs::GeneralizedLiftedStructure {
            pos_margin: read.any_number("pos_margin", 0.0)?,
            neg_margin: read.any_number("neg_margin", 1.0)?,
        }),
        Loss::NtXent | Loss::NtXentMisspelled => Box::new(pairs::NtXent {
            temperature: read.positive("temperature", 0.07)?,
        }),
        Loss::SupCon => Box::new(pairs::SupCon {
            temperature: read.positive("temperature", 0.1)?,
        }),
        Loss::Circle => Box::new(pairs::Circle {
            m: read.any_number("m", 0.4)?,
            gamma: read.any_number("gamma", 80.0)?,
        }),
        Loss::MultiSimilarity => Box::new(pairs::MultiSimilarity {
            alpha: read.positive("alpha", 2.0)?,
            beta: read.positive("beta", 50.0)?,
            base: read.any_number("base", 0.5)?,
        }),
        Loss::TupletMargin => Box::new(pairs::TupletMargin {
            margin: read.number("margin", 5.73, 0.0, 180.0)?,
            scale: read.positive("scale", 64.0)?,
        }),
        Loss::Nca => Box::new(pairs::Nca {
            softmax_scale: read.positive("softmax_scale", 1.0)?,
        }),
        Loss::FastAp => Box::new(pairs::FastAp {
            num_bins: read.count("num_bins", 10, 1)?,
        }),
        Loss::NPairs => Box::new(pairs::NPairs),
        Loss::ArcFace | Loss::CosFace | Loss::LargeMarginSoftmax | Loss::SphereFace => {
            let (kind, margin, scale) = match loss {
                Loss::ArcFace => (MarginKind::ArcFace, 28.6, 64.0),
                Loss::CosFace => (MarginKind::CosFace, 0.35, 64.0),
                Loss::SphereFace => (MarginKind::SphereFace, 4.0, 1.0),
                _ => (MarginKind::LargeMargin, 4.0, 1.0),
            };
            let margin = match kind {
                MarginKind::ArcFace => read.number("margin", margin, 0.0, 180.0)?,
                MarginKind::CosFace => read.any_number("margin", margin)?,
                _ => {
                    let whole = read.number("margin", margin, 1.0, 16.0)?;
                    whole.trunc()
                }
            };
            Box::new(MarginSoftmax {
                kind,
                margin,
                scale: read.positive("scale", scale)?,
                weight: weight("W", dim, classes, normal(dim * classes, 1.0))?,
            })
        }
        Loss::NormalizedSoftmax => Box::new(proxies::NormalizedSoftmax {
            temperature: read.positive("temperature", 0.05)?,
            weight: weight("W", dim, classes, normal(dim * classes, 1.0))?,
        }),
        Loss::ProxyNca => Box::new(proxies::ProxyNca {
            softmax_scale: read.positive("softmax_scale", 1.0)?,
            proxies: weight("proxies", classes, dim, normal(dim * classes, 1.0))?,
        }),
        Loss::ProxyAnchor => {
            let spread = (2.0 / classes as f64).sqrt();
            Box::new(proxies::ProxyAnchor {
                margin: read.any_number("margin", 0.1)?,
                alpha: read.positive("alpha", 32.0)?,
                proxies: weight("proxies", classes, dim, normal(dim * classes, spread))?,
            })
        }
        Loss::SoftTriple => {
            let centers_per_class = read.count("centers_per_class", 10, 1)?;
            let columns = classes * centers_per_class;
            let bound = 1.0 / (columns as f64).sqrt();
            let values = uniform_weights(shape.seed, dim * columns, bound);
            Box::new(proxies::SoftTriple {
                centers_per_class,
                la: read.positive("la", 20.0)?,
                gamma: read.positive("gamma", 0.1)?,
                margin: read.any_number("margin", 0.01)?,
                centers: weight("fc", dim, columns, values)?,
            })
        }
        Loss::BaseMetricLossFunction
        | Loss::GenericPair
        | Loss::EmbeddingRegularizerMixin
        | Loss::WeightRegularizerMixin => {
            let reason = format!("`{loss}` is a base class: choose a loss that is made from it");
            return Err(Error::config("loss", reason));
        }
        other => {
            let known: Vec<&str> = Loss::KNOWN.iter().map(Loss::as_str).collect();
            return Err(Error::config(
                "loss",
                format!("`{other}` is not known; {} are", known.join(", ")),
            ));
        }
    };
    read.finish()?;
    Ok(Built {
        loss,
        params,
        memory: None,
    })
}

/// Whether a loss takes the number of classes and the length of embeddings.
fn loss_has_shape(loss: &Loss) -> bool {
    LossSpec::new(loss.clone()).has_classes()
}
