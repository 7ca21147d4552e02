//! Checks of settings that contradict each other, and the choice of a default
//! loss.

use finetuner_protocol::{
    Callback, HardNegatives, Loss, NegativesFormat, RunConfig, Sampler, text::start_of,
};

use super::allowed::Allowed;
use crate::{
    Error, Result, callbacks, hard_negatives,
    loss::{LossKind, LossSpec},
    models::ModelKind,
    source::ModelSource,
};

/// Returns the loss of a run. If the user chose none, the Python client sends
/// its default for every kind of model.
pub(super) fn loss_of(config: &RunConfig, kind: ModelKind, notes: &mut Vec<String>) -> Loss {
    let hyper = &config.hyper_parameters;
    let unchanged = hyper.loss == Loss::TripletMargin
        && hyper.miner.is_none()
        && hyper.loss_options.as_ref().is_none_or(|o| o.is_empty());
    if kind != ModelKind::TextImage || !unchanged {
        return hyper.loss.clone();
    }
    notes.push(format!(
        "`loss` is `{}`, the default: a text-to-image model is trained with `{}` instead",
        Loss::TripletMargin,
        Loss::Clip
    ));
    Loss::Clip
}

/// Returns the settings for mining hard negatives, if they are requested and
/// possible.
pub(super) fn mining_settings(
    config: &RunConfig,
    source: &ModelSource,
    loss: &LossSpec,
) -> Result<Option<HardNegatives>> {
    let Some(options) = &config.hyper_parameters.mine_hard_negatives else {
        return Ok(None);
    };
    const FIELD: &str = "mine_hard_negatives";
    hard_negatives::check(options)?;
    let bad = |name: &str, reason: String| Err(Error::config(format!("{FIELD}{name}"), reason));
    if loss.kind() != LossKind::Ranking {
        let reason = format!(
            "`{}` uses no negatives besides its pairs; `{}` does",
            loss.base(),
            Loss::MultipleNegativeRanking
        );
        return bad("", reason);
    }
    if let Some(more) = config.data.more_train_data.first() {
        let reason = format!(
            "negatives are mined from one data set, but `more_train_data` also names `{}`: \
             omit one of the two, or mine each data set beforehand \
             (`local::mine_hard_negatives`)",
            start_of(&more.name)
        );
        return bad("", reason);
    }
    if source.is_new() || config.model.freeze || config.model.output_dim.is_some() {
        let reason = "a new network or a new projection head has random weights, which can't be used \
                      for search: omit `freeze` and `output_dim`, or mine with another model \
                      beforehand (`local::mine_hard_negatives`)";
        return bad("", reason.to_owned());
    }
    if options.include_positives {
        let reason = "true: a run would learn that matches are negatives; it is only for \
                      `local::mine_hard_negatives`";
        return bad(".include_positives", reason.to_owned());
    }
    if options.output_scores {
        let reason = format!("true: `{}` uses no scores; omit the field", loss.base());
        return bad(".output_scores", reason);
    }
    let format = &options.output_format;
    if !matches!(format, NegativesFormat::Triplet | NegativesFormat::NTuple) {
        let reason = format!(
            "`{format}`: `{}` needs `triplet` or `n-tuple`; the other formats are for \
             `local::mine_hard_negatives`",
            loss.base()
        );
        return bad(".output_format", reason);
    }
    Ok(Some(options.clone()))
}

/// Refuses batches that are too small to learn from.
pub(super) fn check_batch_size(config: &RunConfig, kind: ModelKind, loss: &LossSpec) -> Result<()> {
    let Some(size) = config.hyper_parameters.batch_size else {
        return Ok(());
    };
    let bad = |reason: &str| Err(Error::config("batch_size", format!("{size}: {reason}")));
    let name = &loss.base();
    if size == 1
        && kind != ModelKind::TextPairs
        && (config.model.freeze || config.model.output_dim.is_some())
    {
        return bad(
            "`freeze` and `output_dim` train a projection head with batch normalisation, which \
             needs at least 2 examples in a batch",
        );
    }
    if size == 1 && kind == ModelKind::PointCloud {
        return bad(
            "the network has batch normalisation, which needs at least 2 clouds in a batch",
        );
    }
    let alone = match loss.kind() {
        LossKind::Clip | LossKind::Pairs | LossKind::Ranking => 2,
        LossKind::Items
        | LossKind::PairScores
        | LossKind::Scores
        | LossKind::Negatives
        | LossKind::Margins => 1,
        LossKind::Labels if loss.has_classes() || *name == Loss::CrossBatchMemory => 1,
        LossKind::Labels if config.data.sampler == Sampler::Random => 2,
        LossKind::Labels => 4,
    };
    if size >= alone {
        return Ok(());
    }
    if alone == 4 {
        return bad(&format!(
            "`{name}` compares examples of one class with each other and with those of others: at \
             least 4 are needed, 2 of each of 2 classes"
        ));
    }
    bad(&format!(
        "`{name}` compares the examples of a batch with each other: at least 2 are needed"
    ))
}

/// Resolves the further model that the loss uses, which must embed the same
/// kind of data.
pub(super) fn guide_source(
    loss: &LossSpec,
    kind: ModelKind,
    allowed: &Allowed,
) -> Result<Option<ModelSource>> {
    let Some((option, name)) = loss.guide() else {
        return Ok(None);
    };
    let bad = |reason: String| Err(Error::config("loss_options", format!("`{option}`{reason}")));
    let Some(name) = name else {
        return bad(format!(
            ": `{}` needs the name of a model, such as `sentence-transformers/all-MiniLM-L6-v2`",
            loss.base()
        ));
    };
    let resolved = ModelSource::resolve(&name, &allowed.local_models);
    let resolved = resolved.and_then(|source| Ok((source.kind(&allowed.hub)?, source)));
    let (found, source) = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return bad(format!(": {error}")),
    };
    if found != kind {
        let (found, wanted) = (found.inputs(), kind.inputs());
        return bad(format!(
            " is `{name}`: that model embeds {found}, but the run's model {wanted}"
        ));
    }
    if source.is_new() {
        return bad(format!(" is `{name}`: it has random weights"));
    }
    Ok(Some(source))
}

/// Refuses losses over earlier layers for models that can't train them.
pub(super) fn check_layers(config: &RunConfig, kind: ModelKind, loss: &LossSpec) -> Result<()> {
    if !loss.uses_layers() {
        return Ok(());
    }
    let bad = |reason: &str| Err(Error::config("loss", format!("`{}` {reason}", loss.loss)));
    if kind != ModelKind::Text {
        return bad("is for text models, which have uniform layers");
    }
    if config.model.freeze {
        return bad("trains earlier layers, which `freeze` keeps unchanged");
    }
    Ok(())
}

/// Refuses callbacks that monitor a metric which is never measured.
pub(super) fn check_monitors(
    config: &RunConfig,
    kind: ModelKind,
    notes: &mut Vec<String>,
) -> Result<()> {
    let validates = config.data.eval_data.is_some() || config.data.val_split > 0.0;
    let measured = |callbacks: &[Callback]| -> Result<Vec<String>> {
        let mut names = Vec::new();
        for callback in callbacks {
            if let Callback::EvaluationCallback(evaluation) = callback {
                names.extend(callbacks::measured_names(evaluation, kind)?);
            }
        }
        Ok(names)
    };
    for (index, callback) in config.callbacks.iter().enumerate() {
        let monitor = match callback {
            Callback::BestModelCheckpoint(best) => &best.monitor,
            Callback::EarlyStopping(early) => &early.monitor,
            _ => continue,
        };
        let bad = |reason: &str| {
            let field = format!("callbacks.{}.monitor", callback.name());
            Err(Error::config(field, format!("`{monitor}`: {reason}")))
        };
        let name = callbacks::metric_name(monitor);
        if name == "train_loss" {
            if name != monitor {
                notes.push(format!(
                    "`monitor` of `{}` is `{monitor}`: it monitors `{name}`",
                    callback.name()
                ));
            }
            continue;
        }
        if name == "val_loss" {
            // The default: users' programs keep it, also without validation.
            if !validates && matches!(callback, Callback::BestModelCheckpoint(_)) {
                notes.push(
                    "`BestModelCheckpoint` monitors `val_loss`, which the run does not measure: the \
                     model of the last epoch is saved. Set `eval_data` or a `val_split` above 0, \
                     or monitor `train_loss`"
                        .to_owned(),
                );
                continue;
            }
            if !validates {
                return bad(
                    "the run measures no validation loss; set `eval_data` or a `val_split` above \
                     0, or monitor `train_loss`",
                );
            }
            continue;
        }
        if measured(&config.callbacks[..index])?
            .iter()
            .any(|n| n == name)
        {
            continue;
        }
        let all = measured(&config.callbacks)?;
        if all.iter().any(|n| n == name) {
            return bad(
                "callbacks run in order; put the `EvaluationCallback` that measures it \
                 before this one",
            );
        }
        if all.is_empty() {
            return bad(
                "the run evaluates nothing; add an `EvaluationCallback` before this one, or monitor \
                 `train_loss`",
            );
        }
        return bad(&format!(
            "it is not measured; the run measures {}",
            all.join(", ")
        ));
    }
    Ok(())
}

/// Decides whether the run trains a cross-encoder, by a loss over scores of
/// pairs, or an embedding model, by any other loss.
pub(super) fn scores_or_embeds(
    config: &RunConfig,
    kind: ModelKind,
    notes: &mut Vec<String>,
) -> Result<ModelKind> {
    let loss = &config.hyper_parameters.loss;
    let scores = LossSpec::new(loss.clone()).kind() == LossKind::PairScores;
    match (kind, scores) {
        (ModelKind::Text | ModelKind::TextPairs, true) => Ok(ModelKind::TextPairs),
        (_, true) => Err(Error::config(
            "loss",
            format!(
                "`{loss}` trains cross-encoders, which score pairs of texts; the model embeds {}",
                kind.inputs()
            ),
        )),
        (ModelKind::TextPairs, false) => {
            notes.push(format!(
                "The model is a sequence classifier: `{loss}` trains its network as an embedding \
                 model, without the classification head. `{}` and `{}` train it as a \
                 cross-encoder",
                Loss::BinaryCrossEntropy,
                Loss::Mse
            ));
            Ok(ModelKind::Text)
        }
        _ => Ok(kind),
    }
}
