//! Losses over triplets of a batch, as defined by pytorch-metric-learning.

use candle_core::{DType, Tensor};
use serde_json::Value;

use super::{
    batch::{Batch, MetricLoss},
    distance::{Limit, Metric, normalize},
    maker::Maker,
    math::{log_sum_exp, mask, mean_of_positive, select_rows, softplus, vector, zero_loss},
    reduce::{Owners, Part, PartLoss, Reducer, Shape},
    tuples::elements_at,
};
use crate::{Result, params::Param};

/// Returns the triplets to compare.
fn triplets(batch: &Batch<'_>, per_anchor: Option<usize>) -> Vec<[u32; 3]> {
    match (batch.tuples, per_anchor) {
        (Some(tuples), _) => tuples.clone().into_triplets(),
        (None, None) => batch.labels.triplets(),
        (None, Some(n)) => batch.labels.random_triplets(Some(n), None, batch.seed),
    }
}

/// Reads `triplets_per_anchor`: `"all"` or a number.
fn triplets_per_anchor(m: &Maker<'_>) -> Result<Option<usize>> {
    match m.read.value("triplets_per_anchor") {
        None => Ok(None),
        Some(Value::String(all)) if all == "all" => Ok(None),
        Some(_) => Ok(Some(m.read.count("triplets_per_anchor", 1, 1)?)),
    }
}

/// Triplet margin loss (Schroff et al. 2015, arXiv:1503.03832).
pub(super) struct TripletMargin {
    options: Violation,
    metric: Metric,
    /// Number of random triplets per anchor; `None` for all.
    triplets_per_anchor: Option<usize>,
}

impl TripletMargin {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            options: Violation::read(m)?,
            metric: m.metric(Metric::LP, Limit::None)?,
            triplets_per_anchor: triplets_per_anchor(m)?,
        };
        m.reduced(loss, Reducer::NON_ZERO, Shape::Triplets)
    }
}

/// Loss of a triplet that violates the margin.
struct Violation {
    margin: f64,
    /// Whether to compare with the positive's distance to the negative, if smaller.
    ///
    /// Otherwise the anchor's distance to the negative counts.
    swap: bool,
    /// Use `log(1 + exp(x))` instead of `max(x, 0)`.
    smooth_loss: bool,
}

impl Violation {
    fn read(m: &Maker<'_>) -> Result<Self> {
        Ok(Self {
            margin: m.read.any_number("margin", 0.05)?,
            swap: m.read.flag("swap", false)?,
            smooth_loss: m.read.flag("smooth_loss", false)?,
        })
    }

    /// Returns the loss of each triplet.
    ///
    /// `farther` is how much farther the positive is than the negative.
    fn of(&self, farther: &Tensor) -> Result<Tensor> {
        let violation = (farther + self.margin)?;
        match self.smooth_loss {
            true => softplus(&violation),
            false => Ok(violation.relu()?),
        }
    }
}

impl PartLoss for TripletMargin {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let triplets = triplets(batch, self.triplets_per_anchor);
        if triplets.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = self.metric.matrix(batch.x, batch.y)?;
        let of =
            |a: usize, b: usize| elements_at(&matrix, triplets.iter().map(move |t| (t[a], t[b])));
        let positive = of(0, 1)?;
        let mut negative = of(0, 2)?;
        if self.options.swap {
            negative = self.metric.nearer(&negative, &of(1, 2)?)?;
        }
        let farther = self.metric.margin(&positive, &negative)?;
        Ok(vec![Part::of_triplets(
            self.options.of(&farther)?,
            &triplets,
        )])
    }
}

/// Centroid triplet loss (Wieczorek et al. 2021, arXiv:2104.13643).
///
/// Compares each example with the mean of the other examples of its class, and with the
/// means of other classes.
pub(super) struct CentroidTriplet(Violation);

impl CentroidTriplet {
    /// Reads the options of [`TripletMargin`], except distance and reducer.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self(Violation::read(m)?);
        triplets_per_anchor(m)?;
        Ok(Box::new(loss))
    }
}

impl MetricLoss for CentroidTriplet {
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let labels = batch.labels.batch;
        let n = labels.len();
        let mut classes: Vec<u32> = labels.to_vec();
        classes.sort_unstable();
        classes.dedup();
        let members =
            |class: u32| -> Vec<usize> { (0..n).filter(|i| labels[*i] == class).collect() };
        // Rows of means: for each example that of the other members of its class, then
        // those of the classes.
        let mut weights = vec![0.0; (n + classes.len()) * n];
        let mut queries = Vec::new();
        for (k, &class) in classes.iter().enumerate() {
            let members = members(class);
            for &i in &members {
                weights[(n + k) * n + i] = 1.0 / members.len() as f64;
                for &j in members.iter().filter(|j| **j != i) {
                    weights[i * n + j] = 1.0 / (members.len() - 1) as f64;
                }
            }
            if members.len() > 1 {
                queries.extend(members);
            }
        }
        let means = Tensor::from_vec(weights, (n + classes.len(), n), batch.x.device())?;
        let means = means.matmul(batch.x)?;
        let triplets: Vec<[u32; 3]> = queries
            .iter()
            .flat_map(|&i| {
                let others = classes.iter().enumerate();
                let others = others.filter(move |(_, class)| **class != labels[i]);
                others.map(move |(k, _)| [i as u32, i as u32, (n + k) as u32])
            })
            .collect();
        if triplets.is_empty() {
            return zero_loss();
        }
        let matrix = Metric::LP.matrix(batch.x, &means)?;
        let of = |b: usize| elements_at(&matrix, triplets.iter().map(move |t| (t[0], t[b])));
        let negative = if self.0.swap {
            // Distance of the negative's centroid from the positive's.
            let between = Metric::LP.matrix(&means, &means)?;
            let other = elements_at(&between, triplets.iter().map(|t| (t[1], t[2])))?;
            of(2)?.minimum(&other)?
        } else {
            of(2)?
        };
        mean_of_positive(&self.0.of(&(of(1)? - negative)?)?)
    }
}

/// Margin loss (Wu et al. 2017, arXiv:1706.07567).
///
/// Positives and negatives are separated by a boundary `beta`. It may be learned, for
/// all classes or for each class.
pub(super) struct Margin {
    margin: f64,
    nu: f64,
    beta: Beta,
    metric: Metric,
    triplets_per_anchor: Option<usize>,
}

impl Margin {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let beta = m.read.any_number("beta", 1.2)?;
        let per_class = m.read.value("num_classes").is_some();
        let beta = if m.read.flag("learn_beta", false)? {
            let count = if per_class { m.classes() } else { 1 };
            Beta::Learned {
                beta: m.weight("beta", &[count], vec![beta as f32; count])?,
                per_class,
            }
        } else {
            Beta::Fixed(beta)
        };
        let loss = Self {
            margin: m.read.any_number("margin", 0.2)?,
            nu: m.read.any_number("nu", 0.0)?,
            beta,
            metric: m.metric(Metric::LP, Limit::None)?,
            triplets_per_anchor: triplets_per_anchor(m)?,
        };
        m.reduced(loss, Reducer::Divisor, Shape::DividedTriplets)
    }
}

/// Source of the boundary.
enum Beta {
    Fixed(f64),
    Learned {
        beta: std::sync::Arc<Param>,
        per_class: bool,
    },
}

impl PartLoss for Margin {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let triplets = triplets(batch, self.triplets_per_anchor);
        if triplets.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = self.metric.matrix(batch.x, batch.y)?;
        let of = |b: usize| elements_at(&matrix, triplets.iter().map(move |t| (t[0], t[b])));
        let beta = match &self.beta {
            Beta::Fixed(beta) => vector(vec![*beta; triplets.len()])?,
            Beta::Learned { beta, per_class } => {
                let class = |t: &[u32; 3]| batch.labels.batch[t[0] as usize];
                let places: Vec<u32> = triplets
                    .iter()
                    .map(|t| if *per_class { class(t) } else { 0 })
                    .collect();
                select_rows(&batch.own(beta)?, &places)?
            }
        };
        let far = (self.metric.margin(&of(1)?, &beta)? + self.margin)?.relu()?;
        let near = (self.metric.margin(&beta, &of(2)?)? + self.margin)?.relu()?;
        let above = |x: &Tensor| -> Result<f64> {
            Ok(x.gt(0f64)?.to_dtype(DType::F64)?.sum_all()?.to_scalar()?)
        };
        let divisor = Some(above(&far)? + above(&near)?);
        let mut parts = vec![Part {
            divisor,
            ..Part::of_triplets((far + near)?, &triplets)
        }];
        match &self.beta {
            Beta::Fixed(_) => {}
            Beta::Learned { beta, per_class } if !per_class => parts.push(Part {
                losses: batch.own(beta)?.affine(self.nu, 0.0)?,
                owners: Owners::All,
                divisor: None,
            }),
            Beta::Learned { .. } => {
                let anchors = triplets.iter().map(|[anchor, ..]| *anchor).collect();
                parts.push(Part {
                    divisor,
                    ..Part::of_examples(beta.affine(self.nu, 0.0)?, anchors)
                });
            }
        }
        Ok(parts)
    }
}

/// Angular loss (Wang et al. 2017, arXiv:1708.01682). The angle is in degrees.
pub(super) struct Angular {
    alpha: f64,
}

impl Angular {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        m.metric(Metric::LP, Limit::Euclidean)?;
        let loss = Self {
            alpha: m.read.number("alpha", 40.0, 0.0, 89.0)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Pairs)
    }
}

impl PartLoss for Angular {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let (positive, negative) = batch.pairs();
        if positive.is_empty() || negative.is_empty() {
            return Ok(Vec::new());
        }
        let (anchors, positives): (Vec<u32>, Vec<u32>) = positive.iter().copied().unzip();
        let a = normalize(&select_rows(batch.x, &anchors)?)?;
        let p = normalize(&select_rows(batch.y, &positives)?)?;
        let labels = batch.labels;
        let (n, m) = (anchors.len(), labels.reference.len());
        let other = |i: usize, j: usize| labels.batch[anchors[i] as usize] != labels.reference[j];
        let places = (0..n).flat_map(|i| (0..m).map(move |j| (i, j)));
        let keep = places
            .filter(|(i, j)| other(*i, *j))
            .map(|(i, j)| (i as u32, j as u32));
        let keep = mask(keep, n, m)?;
        let square = self.alpha.to_radians().tan().powi(2);
        let between = (&a * &p)?
            .sum_keepdim(1)?
            .affine(2.0 * (1.0 + square), 0.0)?;
        let to_others = (a + p)?.matmul(&batch.y.t()?)?.affine(4.0 * square, 0.0)?;
        let logits = to_others.broadcast_sub(&between)?;
        let losses = log_sum_exp(&logits, Some(&keep), true, 1)?;
        Ok(vec![Part::of_pairs(losses, positive)])
    }
}
