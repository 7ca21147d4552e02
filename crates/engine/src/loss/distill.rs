//! Distillation losses: a model learns from a teacher.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::{
    distance::normalize,
    maker::Maker,
    math::{log_softmax, softmax},
    pairwise::{MemberLoss, Members, cosines, to_f64},
};
use crate::{Error, Result, params::Param};

/// `EmbedDistillLoss` (Kim et al. 2023, arXiv:2301.12005).
///
/// The loss is the distance to the teacher's embeddings. Equal to the loss of this name
/// in sentence-transformers.
pub(super) struct EmbedDistill {
    distance: Distance,
    /// Whether all members are compared with the teacher's embedding of the first.
    ///
    /// For example, translations are compared with the original.
    first: bool,
    /// Weight and bias of a linear layer to the teacher's dimension.
    projection: Option<(Arc<Param>, Arc<Param>)>,
}

#[derive(Clone, Copy)]
enum Distance {
    Mse,
    L2,
    Cosine,
}

impl EmbedDistill {
    /// Reads its options. The plan loads the model named by `teacher`.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.read.value("teacher");
        let known = ["mse", "l2", "cosine"];
        let distance = m.read.choice("distance_metric", "cosine", &known)?;
        let distance = match distance.as_str() {
            "mse" => Distance::Mse,
            "l2" => Distance::L2,
            _ => Distance::Cosine,
        };
        let known = ["each", "first"];
        let first = m.read.choice("teacher_column", "each", &known)? == "first";
        let projection = match m.read.value("projection_dim") {
            None => None,
            Some(_) => {
                let rows = m.read.count("projection_dim", 0, 1)?;
                Some(m.linear("projection", rows)?)
            }
        };
        Ok(Box::new(Self {
            distance,
            first,
            projection,
        }))
    }
}

impl MemberLoss for EmbedDistill {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let mut losses = Vec::new();
        for (place, part) in batch.parts.iter().enumerate() {
            let wanted = batch.guide.get(if self.first { 0 } else { place });
            let wanted = to_f64(wanted.ok_or_else(|| batch.refused())?)?;
            let mut found = to_f64(part)?;
            if let Some((weight, bias)) = &self.projection {
                // The weights of a loss are on the CPU.
                let value = |param: &Arc<Param>| {
                    let value = to_f64(&batch.pass.value(param))?;
                    Ok::<_, Error>(value.to_device(found.device())?)
                };
                let (weight, bias) = (value(weight)?, value(bias)?);
                found = found.matmul(&weight.t()?)?.broadcast_add(&bias)?;
            }
            if found.dim(1)? != wanted.dim(1)? {
                let reason = format!(
                    "the teacher's embeddings have {} values, but the model's have {}: set \
                     `projection_dim` to {}, or use another teacher",
                    wanted.dim(1)?,
                    found.dim(1)?,
                    wanted.dim(1)?
                );
                return Err(Error::config("loss_options", reason));
            }
            losses.push(match self.distance {
                Distance::Mse => (found - wanted)?.sqr()?.mean_all()?,
                Distance::L2 => {
                    let squares = (found - wanted)?.sqr()?.sum(D::Minus1)?;
                    // Avoids the infinite gradient of the root at 0.
                    squares.maximum(f64::MIN_POSITIVE)?.sqrt()?.mean_all()?
                }
                Distance::Cosine => cosines(&found, &wanted)?.affine(-1.0, 1.0)?.mean_all()?,
            });
        }
        if losses.is_empty() {
            return Err(batch.refused());
        }
        Ok(Tensor::stack(&losses, 0)?.mean_all()?)
    }
}

/// `DistillKLDivLoss` (Lin et al. 2020, arXiv:2010.11386).
///
/// KL divergence between the similarities of a query's documents and the teacher's.
/// Equal to the loss of this name in sentence-transformers.
pub(super) struct DistillKlDiv {
    cosine: bool,
    student_temperature: f64,
    teacher_temperature: f64,
}

impl DistillKlDiv {
    /// Reads its options. The plan loads the model named by `teacher`.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.read.value("teacher");
        let temperature = m.read.positive("temperature", 1.0)?;
        Ok(Box::new(Self {
            cosine: is_cosine(m)?,
            student_temperature: m.read.positive("student_temperature", temperature)?,
            teacher_temperature: m.read.positive("teacher_temperature", temperature)?,
        }))
    }
}

/// Reads `similarity_fct`, under the names of sentence-transformers.
pub(super) fn is_cosine(m: &Maker<'_>) -> Result<bool> {
    let known = ["pairwise_dot_score", "pairwise_cos_sim"];
    let name = m
        .read
        .choice("similarity_fct", "pairwise_dot_score", &known)?;
    Ok(name == "pairwise_cos_sim")
}

/// Returns the similarities of each query and its documents, `[batch, documents]`.
pub(super) fn similarities(parts: &[Tensor], cosine: bool) -> Result<Option<Tensor>> {
    let parts = parts.iter().map(|part| {
        let part = to_f64(part)?;
        if cosine { normalize(&part) } else { Ok(part) }
    });
    let parts: Vec<Tensor> = parts.collect::<Result<_>>()?;
    let [query, documents @ ..] = &parts[..] else {
        return Ok(None);
    };
    if documents.is_empty() {
        return Ok(None);
    }
    let scores = documents
        .iter()
        .map(|document| Ok((query * document)?.sum(D::Minus1)?));
    let scores: Vec<Tensor> = scores.collect::<Result<_>>()?;
    Ok(Some(Tensor::stack(&scores, 1)?))
}

impl MemberLoss for DistillKlDiv {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        if batch.parts.len() < 3 {
            return Err(batch.refused());
        }
        let of = |parts: &[Tensor]| {
            let scores = similarities(parts, self.cosine)?;
            scores.ok_or_else(|| batch.refused())
        };
        let (found, wanted) = (of(batch.parts)?, of(batch.guide)?);
        let found = log_softmax(&(found / self.student_temperature)?)?;
        let wanted = (wanted / self.teacher_temperature)?;
        let divergence = divergence(&found, &softmax(&wanted)?, &log_softmax(&wanted)?)?;
        Ok((divergence * self.student_temperature.powi(2))?)
    }
}

/// Returns the KL divergence: the mean over rows of `sum(p * (log p - log q))`.
///
/// The arguments are `log q`, `p` and `log p`.
pub(super) fn divergence(found: &Tensor, wanted: &Tensor, log_wanted: &Tensor) -> Result<Tensor> {
    let rows = (wanted * (log_wanted - found)?)?.sum(D::Minus1)?;
    Ok(rows.mean_all()?)
}
