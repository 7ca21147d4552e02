//! From the losses of pairs, triplets and examples to one number: the classes of
//! `pytorch_metric_learning.reducers`.

use std::collections::HashMap;

use candle_core::{D, Tensor};
use serde_json::Value;

use super::{
    Batch, MetricLoss,
    class::class,
    math::{mask, mean, rows, vector, zero},
    tuples::Pairs,
};
use crate::{Result, options::OptionReader};

/// A part of a loss before it is one number.
pub(super) struct Part {
    /// `[count]`
    pub(super) losses: Tensor,
    /// The examples, pairs or triplets of the losses.
    pub(super) of: Of,
    /// The divisor of `DivisorReducer`.
    pub(super) divisor: Option<f64>,
}

/// The owners of losses.
pub(super) enum Of {
    /// Examples of the batch.
    Examples(Vec<u32>),
    /// Pairs of an example and another.
    Pairs(Pairs),
    /// Triplets, by their anchors.
    Triplets(Vec<u32>),
    /// Something else, such as classes.
    Other,
    /// All together: it is one number already.
    All,
}

impl Part {
    /// Losses of examples.
    pub(super) fn of_examples(losses: Tensor, examples: Vec<u32>) -> Self {
        Self {
            losses,
            of: Of::Examples(examples),
            divisor: None,
        }
    }

    /// Losses of all examples of a batch.
    pub(super) fn of_batch(losses: Tensor, batch: &Batch<'_>) -> Self {
        let count = batch.labels.batch.len() as u32;
        Self::of_examples(losses, (0..count).collect())
    }

    /// Losses of pairs.
    pub(super) fn of_pairs(losses: Tensor, pairs: Pairs) -> Self {
        Self {
            losses,
            of: Of::Pairs(pairs),
            divisor: None,
        }
    }

    /// Losses of triplets.
    pub(super) fn of_triplets(losses: Tensor, triplets: &[[u32; 3]]) -> Self {
        Self {
            losses,
            of: Of::Triplets(triplets.iter().map(|[anchor, ..]| *anchor).collect()),
            divisor: None,
        }
    }
}

/// A loss that is not one number yet.
pub(super) trait PartLoss: Send {
    /// Its parts; none where there is nothing to compare.
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>>;
}

/// A loss with what makes one number of it.
pub(super) struct Reduced<L> {
    pub(super) loss: L,
    pub(super) reducer: Reducer,
}

impl<L: PartLoss> MetricLoss for Reduced<L> {
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let mut sum = zero()?;
        for part in self.loss.parts(batch)? {
            sum = (sum + self.reducer.reduce(part, batch)?)?;
        }
        Ok(sum)
    }
}

/// How losses become one number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reducer {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
    /// The mean of those between two limits.
    Threshold { low: Option<f64>, high: Option<f64> },
    /// Their sum over a number that the loss gives.
    Divisor,
    /// The mean, each loss times the weight of its example's class.
    ClassWeighted(Vec<f64>),
    /// Losses of pairs are put together for each anchor first.
    PerAnchor {
        aggregation: Aggregation,
        reducer: Box<Reducer>,
    },
}

/// How the losses of one anchor are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregation {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
}

/// What a loss gives to a reducer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Losses of examples.
    Examples,
    /// Losses of pairs.
    Pairs,
    /// Losses of triplets.
    Triplets,
    /// Losses of triplets, and a number to divide by.
    DividedTriplets,
    /// Losses of classes, and a number to divide by.
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
    /// The mean of the losses that are not 0.
    pub(super) const NON_ZERO: Self = Self::Threshold {
        low: Some(0.0),
        high: None,
    };

    /// Reads the option `reducer`: a name, or an object with `name` and
    /// `options`. `classes` is how many there are, 0 where that is not known.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where it is none that losses of this shape can
    /// be reduced by.
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
        let Some((name, options)) = class(read, "reducer")? else {
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
                    return bad("`low`, `high` or both are wanted in its `options`");
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
                return bad("a run needs one number, and `DoNothingReducer` gives none");
            }
            _ => return bad(&format!("one of {} is wanted", NAMES.join(", "))),
        };
        inner.finish()?;
        match reducer.refused(shape) {
            Some(reason) => bad(reason),
            None => Ok(reducer),
        }
    }

    /// Why losses of this shape can't be reduced so.
    fn refused(&self, shape: Shape) -> Option<&'static str> {
        let divided = matches!(shape, Shape::DividedTriplets | Shape::DividedClasses);
        match self {
            Self::Divisor if !divided => {
                Some("the loss gives no number to divide by; `MarginLoss` and `ProxyAnchorLoss` do")
            }
            Self::PerAnchor { .. } if matches!(shape, Shape::Triplets | Shape::DividedTriplets) => {
                Some("losses of triplets can't be put together for each anchor")
            }
            Self::ClassWeighted(_) if shape == Shape::DividedClasses => {
                Some("the loss has a part for each class, and none for an example of one")
            }
            _ => None,
        }
    }

    fn reduce(&self, part: Part, batch: &Batch<'_>) -> Result<Tensor> {
        let Part {
            losses,
            of,
            divisor,
        } = part;
        if matches!(of, Of::All) {
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
                    0.0 => zero(),
                    count => Ok(((losses * keep)?.sum_all()? / count)?),
                }
            }
            Self::Divisor => match divisor.unwrap_or(0.0) {
                0.0 => zero(),
                divisor => Ok((losses.sum_all()? / divisor)?),
            },
            Self::ClassWeighted(weights) => {
                let anchors = anchors(&of);
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
                let Of::Pairs(pairs) = &of else {
                    let part = Part {
                        losses,
                        of,
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

/// The example that each loss belongs to.
fn anchors(of: &Of) -> Vec<u32> {
    match of {
        Of::Examples(places) | Of::Triplets(places) => places.clone(),
        Of::Pairs(pairs) => pairs.iter().map(|(anchor, _)| *anchor).collect(),
        Of::Other | Of::All => Vec::new(),
    }
}

/// A loss for each example of the batch; 0 where it is no anchor.
fn per_anchor(
    losses: &Tensor,
    pairs: &Pairs,
    aggregation: Aggregation,
    batch: &Batch<'_>,
) -> Result<Tensor> {
    // Of a pair that was chosen several times, one counts.
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
        .matmul(&rows(losses, &chosen)?.unsqueeze(1)?)?
        .squeeze(1)?;
    match aggregation {
        Aggregation::Sum => Ok(sums),
        Aggregation::Mean => Ok((sums / member.sum(D::Minus1)?.maximum(1.0)?)?),
    }
}

/// `weights`: a number for each class.
fn weights(read: &OptionReader<'_>, classes: usize) -> Result<Vec<f64>> {
    let given = read.value("weights").and_then(Value::as_array);
    let number = |value: &Value| value.as_f64().filter(|n| n.is_finite());
    let numbers: Option<Vec<f64>> = given.and_then(|list| list.iter().map(number).collect());
    let wanted = "a list with a number for each class is wanted";
    let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) else {
        return Err(read.bad("weights", wanted));
    };
    if classes > 0 && numbers.len() != classes {
        let wanted = format!("{wanted}, in the order in which they first come: {classes}");
        return Err(read.bad("weights", &wanted));
    }
    Ok(numbers)
}
