//! Reduces the losses of pairs, triplets or examples to one number.
//!
//! The reducers are those of `pytorch_metric_learning.reducers`.

use std::collections::HashMap;

use candle_core::{D, Tensor};
use serde_json::Value;

use super::{
    batch::{Batch, MetricLoss},
    class::read_class,
    math::{mask, mean, select_rows, vector, zero_loss},
    tuples::Pairs,
};
use crate::{Result, options::OptionReader};

/// Unreduced losses of one kind.
pub(super) struct Part {
    /// `[count]`
    pub(super) losses: Tensor,
    /// Owner of each loss.
    pub(super) owners: Owners,
    /// Divisor for `DivisorReducer`.
    pub(super) divisor: Option<f64>,
}

/// Owners of the losses of a part, in the same order.
pub(super) enum Owners {
    /// Examples of the batch.
    Examples(Vec<u32>),
    /// Pairs: anchor and other example.
    Pairs(Pairs),
    /// Triplets, given by their anchors.
    Triplets(Vec<u32>),
    /// Other things, such as classes.
    Other,
    /// The whole batch: the loss is a single number already.
    All,
}

impl Part {
    /// Creates the losses of some examples.
    pub(super) fn of_examples(losses: Tensor, examples: Vec<u32>) -> Self {
        Self {
            losses,
            owners: Owners::Examples(examples),
            divisor: None,
        }
    }

    /// Creates the losses of all examples of a batch.
    pub(super) fn of_batch(losses: Tensor, batch: &Batch<'_>) -> Self {
        let count = batch.labels.batch.len() as u32;
        Self::of_examples(losses, (0..count).collect())
    }

    /// Creates the losses of pairs.
    pub(super) fn of_pairs(losses: Tensor, pairs: Pairs) -> Self {
        Self {
            losses,
            owners: Owners::Pairs(pairs),
            divisor: None,
        }
    }

    /// Creates the losses of triplets.
    pub(super) fn of_triplets(losses: Tensor, triplets: &[[u32; 3]]) -> Self {
        Self {
            losses,
            owners: Owners::Triplets(triplets.iter().map(|[anchor, ..]| *anchor).collect()),
            divisor: None,
        }
    }
}

/// A loss before its reduction.
pub(super) trait PartLoss: Send {
    /// Returns the parts of the loss; empty if there is nothing to compare.
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>>;
}

/// A loss with its reducer.
pub(super) struct Reduced<L> {
    pub(super) loss: L,
    pub(super) reducer: Reducer,
}

impl<L: PartLoss> MetricLoss for Reduced<L> {
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let mut sum = zero_loss()?;
        for part in self.loss.parts(batch)? {
            sum = (sum + self.reducer.reduce(part, batch)?)?;
        }
        Ok(sum)
    }
}

/// Method that reduces losses to one number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reducer {
    /// Mean of all losses.
    Mean,
    /// Sum of all losses.
    Sum,
    /// Mean of the losses between two limits.
    Threshold { low: Option<f64>, high: Option<f64> },
    /// Sum divided by a number from the loss.
    Divisor,
    /// Mean of the losses times the weights of their classes.
    ClassWeighted(Vec<f64>),
    /// Aggregates the losses of pairs by anchor, then reduces these.
    PerAnchor {
        aggregation: Aggregation,
        reducer: Box<Reducer>,
    },
}

/// Aggregation of the losses of one anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregation {
    /// Mean of the losses.
    Mean,
    /// Sum of the losses.
    Sum,
}

/// Kind of losses that a loss passes to its reducer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Losses of examples.
    Examples,
    /// Losses of pairs.
    Pairs,
    /// Losses of triplets.
    Triplets,
    /// Losses of triplets, with a divisor.
    DividedTriplets,
    /// Losses of classes, with a divisor.
    DividedClasses,
}

const NAMES: [&str; 7] = [
    "AvgNonZeroReducer",
    "ClassWeightedReducer",
    "DivisorReducer",
    "MeanReducer",
    "PerAnchorReducer",
    "SumReducer",
    "ThresholdReducer",
];

impl Reducer {
    /// Mean of the non-zero losses.
    pub(super) const NON_ZERO: Self = Self::Threshold {
        low: Some(0.0),
        high: None,
    };

    /// Reads the option `reducer`: a name, or an object with `name` and `options`.
    ///
    /// `classes` is the number of classes, or 0 if unknown.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if it is unknown or can't reduce losses of this shape.
    pub(super) fn read(
        read: &OptionReader<'_>,
        default: Self,
        shape: Shape,
        classes: usize,
    ) -> Result<Self> {
        Self::named(read, false, default, shape, classes)
    }

    fn named(
        read: &OptionReader<'_>,
        within: bool,
        default: Self,
        shape: Shape,
        classes: usize,
    ) -> Result<Self> {
        let Some((name, options)) = read_class(read, "reducer")? else {
            read.note_default("reducer", default.name());
            return Ok(default);
        };
        let bad = |wanted: &str| Err(read.bad("reducer", wanted));
        let field = format!("{}.reducer", read.field());
        let inner = OptionReader::new(&field, options.as_ref());
        let reducer = match name.as_str() {
            "MeanReducer" => Self::Mean,
            "SumReducer" => Self::Sum,
            "AvgNonZeroReducer" => Self::NON_ZERO,
            "DivisorReducer" => Self::Divisor,
            "ThresholdReducer" => {
                let limit = |name: &str| match inner.value(name) {
                    None => Ok(None),
                    Some(_) => inner.any_number(name, 0.0).map(Some),
                };
                let (low, high) = (limit("low")?, limit("high")?);
                if low.is_none() && high.is_none() {
                    return bad("give `low`, `high` or both in its `options`");
                }
                Self::Threshold { low, high }
            }
            "ClassWeightedReducer" => Self::ClassWeighted(weights(&inner, classes)?),
            "PerAnchorReducer" if !within => {
                let sums = inner.choice("aggregation", "mean", &["mean", "sum"])? == "sum";
                let reducer = Self::named(&inner, true, Self::Mean, Shape::Examples, classes)?;
                Self::PerAnchor {
                    aggregation: match sums {
                        true => Aggregation::Sum,
                        false => Aggregation::Mean,
                    },
                    reducer: Box::new(reducer),
                }
            }
            "DoNothingReducer" => {
                return bad("a run needs one number, which `DoNothingReducer` does not return");
            }
            _ => return bad(&format!("give one of {}", NAMES.join(", "))),
        };
        inner.finish()?;
        match reducer.refused(shape) {
            Some(reason) => bad(reason),
            None => Ok(reducer),
        }
    }

    /// Returns the name of the class.
    fn name(&self) -> &'static str {
        match self {
            Self::Mean => "MeanReducer",
            Self::Sum => "SumReducer",
            own if *own == Self::NON_ZERO => "AvgNonZeroReducer",
            Self::Threshold { .. } => "ThresholdReducer",
            Self::Divisor => "DivisorReducer",
            Self::ClassWeighted(_) => "ClassWeightedReducer",
            Self::PerAnchor { .. } => "PerAnchorReducer",
        }
    }

    /// Returns why this reducer can't reduce losses of this shape, if so.
    fn refused(&self, shape: Shape) -> Option<&'static str> {
        let divided = matches!(shape, Shape::DividedTriplets | Shape::DividedClasses);
        match self {
            Self::Divisor if !divided => {
                Some("the loss has no divisor; only `MarginLoss` and `ProxyAnchorLoss` have one")
            }
            Self::PerAnchor { .. } if matches!(shape, Shape::Triplets | Shape::DividedTriplets) => {
                Some("losses of triplets can't be aggregated by anchor")
            }
            Self::ClassWeighted(_) if shape == Shape::DividedClasses => {
                Some("the loss is computed per class, not per example")
            }
            _ => None,
        }
    }

    fn reduce(&self, part: Part, batch: &Batch<'_>) -> Result<Tensor> {
        let Part {
            losses,
            owners,
            divisor,
        } = part;
        if matches!(owners, Owners::All) {
            return Ok(losses.sum_all()?);
        }
        match self {
            Self::Mean => mean(&losses),
            Self::Sum => Ok(losses.sum_all()?),
            Self::Threshold { low, high } => {
                let mut keep = losses.ones_like()?;
                if let Some(low) = low {
                    keep = (keep * losses.gt(*low)?.to_dtype(losses.dtype())?)?;
                }
                if let Some(high) = high {
                    keep = (keep * losses.lt(*high)?.to_dtype(losses.dtype())?)?;
                }
                let count: f64 = keep.sum_all()?.to_scalar()?;
                match count {
                    0.0 => zero_loss(),
                    count => Ok(((losses * keep)?.sum_all()? / count)?),
                }
            }
            Self::Divisor => match divisor.unwrap_or(0.0) {
                0.0 => zero_loss(),
                divisor => Ok((losses.sum_all()? / divisor)?),
            },
            Self::ClassWeighted(weights) => {
                let anchors = anchors(&owners);
                let weight = |place: u32| {
                    let class = batch.labels.batch.get(place as usize);
                    let weight = class.and_then(|class| weights.get(*class as usize));
                    weight.copied().unwrap_or(0.0)
                };
                let weights = anchors.into_iter().map(weight).collect();
                mean(&(losses * vector(weights)?)?)
            }
            Self::PerAnchor {
                aggregation,
                reducer,
            } => {
                let Owners::Pairs(pairs) = &owners else {
                    let part = Part {
                        losses,
                        owners,
                        divisor: None,
                    };
                    return reducer.reduce(part, batch);
                };
                let of_anchors = per_anchor(&losses, pairs, *aggregation, batch)?;
                reducer.reduce(Part::of_batch(of_anchors, batch), batch)
            }
        }
    }
}

/// Returns the example that each loss belongs to.
fn anchors(owners: &Owners) -> Vec<u32> {
    match owners {
        Owners::Examples(places) | Owners::Triplets(places) => places.clone(),
        Owners::Pairs(pairs) => pairs.iter().map(|(anchor, _)| *anchor).collect(),
        Owners::Other | Owners::All => Vec::new(),
    }
}

/// Returns one loss per example of the batch; 0 for examples that are not anchors.
fn per_anchor(
    losses: &Tensor,
    pairs: &Pairs,
    aggregation: Aggregation,
    batch: &Batch<'_>,
) -> Result<Tensor> {
    // Count each pair once, even if it was selected several times.
    let mut last: HashMap<(u32, u32), u32> = HashMap::new();
    for (number, pair) in pairs.iter().enumerate() {
        last.insert(*pair, number as u32);
    }
    let mut chosen: Vec<u32> = last.into_values().collect();
    chosen.sort_unstable();
    let count = batch.labels.batch.len();
    let anchors: Vec<u32> = chosen.iter().map(|i| pairs[*i as usize].0).collect();
    let places = anchors.iter().enumerate().map(|(i, a)| (*a, i as u32));
    let member = mask(places, count, chosen.len())?;
    let sums = member
        .matmul(&select_rows(losses, &chosen)?.unsqueeze(1)?)?
        .squeeze(1)?;
    match aggregation {
        Aggregation::Sum => Ok(sums),
        Aggregation::Mean => Ok((sums / member.sum(D::Minus1)?.maximum(1.0)?)?),
    }
}

/// Reads `weights`: one number for each class.
fn weights(read: &OptionReader<'_>, classes: usize) -> Result<Vec<f64>> {
    let given = read.value("weights").and_then(Value::as_array);
    let number = |value: &Value| value.as_f64().filter(|n| n.is_finite());
    let numbers: Option<Vec<f64>> = given.and_then(|list| list.iter().map(number).collect());
    let wanted = "give a list with one number for each class";
    let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) else {
        return Err(read.bad("weights", wanted));
    };
    if classes > 0 && numbers.len() != classes {
        let wanted = format!("{wanted}, in the order of their first occurrence: {classes} numbers");
        return Err(read.bad("weights", &wanted));
    }
    Ok(numbers)
}
