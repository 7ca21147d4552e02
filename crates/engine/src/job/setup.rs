//! Sets up the trainer before the first step.

use finetuner_protocol::{Device as AskedDevice, Level, Sampler};

use super::{
    examples::choose_sampling,
    prepared::{Data, TWICE},
};
use crate::{
    Error, Result,
    data::{Example, Item, Layout},
    infer::{ItemRef, embed_frozen},
    loss::Criterion,
    models::{Model, ModelKind},
    optim::layer_scales,
    plan::{Plan, choose_device},
    prepare::Preparer,
    source::{HubRules, LoadOptions, LoadedModel, ModelDescription, ModelSource},
    train::{Guide, Trainer, TrainerOptions, choose_batch_size, describe_mix},
};

/// Maximum bytes of cached outputs of a frozen network.
const REMEMBERED: usize = 1 << 30;

/// Replaces the examples with the frozen network's outputs.
///
/// Each example then passes through the network once, and not once per epoch. Does
/// nothing if the outputs would take more than [`REMEMBERED`] bytes.
pub(super) fn remember_frozen(loaded: &mut LoadedModel, data: &mut Data) -> Result<()> {
    let (model, preparer) = (&loaded.model, &mut loaded.preparer);
    let sets = [&mut data.train, &mut data.validation];
    let items: usize = sets
        .iter()
        .flat_map(|set| &set.examples)
        .map(|example| example.parts.len())
        .sum();
    let dims = model.frozen_dims();
    let longest = dims[0].max(dims[1]);
    let apart = !matches!(model.kind(), ModelKind::Features | ModelKind::TextPairs);
    if !apart || items * longest * 4 > REMEMBERED {
        return Ok(());
    }
    for set in sets {
        if !preparer.member_prompts.is_empty() {
            // Each member has its own prompt, so embed the members separately.
            let members = set.examples.iter().map(|e| e.parts.len()).max();
            for member in 0..members.unwrap_or(0) {
                let preparer = preparer.of_member(member);
                let places = (member, usize::MAX);
                remember(model, &preparer, &mut set.examples, places, dims[0])?;
            }
            continue;
        }
        // The two members of a CLIP example have different encoders.
        let members = match model.kind() {
            ModelKind::TextImage => 2,
            _ => 1,
        };
        for (member, dim) in dims.into_iter().enumerate().take(members) {
            let places = (member, members);
            remember(model, preparer, &mut set.examples, places, dim)?;
        }
    }
    preparer.features = Some(longest);
    Ok(())
}

/// Embeds every `step`th member of each example, starting with member `first`.
///
/// Each embedding has `dim` values.
fn remember(
    model: &Model,
    preparer: &Preparer,
    examples: &mut [Example],
    (first, step): (usize, usize),
    dim: usize,
) -> Result<()> {
    let places = || {
        examples.iter().enumerate().flat_map(|(example, e)| {
            let members = (first..e.parts.len()).step_by(step);
            members.map(move |member| (example, member))
        })
    };
    let parts: Vec<ItemRef<'_>> = places()
        .map(|(example, member)| ItemRef::from(&examples[example].parts[member]))
        .collect();
    let embedded = embed_frozen(model, preparer, &parts, dim).map_err(|e| match e {
        Error::Item { place, reason } => {
            let id = places()
                .nth(place)
                .map_or("", |(example, _)| &examples[example].id);
            Error::data(format!("document `{id}`: {reason}"))
        }
        other => other,
    })?;
    let places: Vec<(usize, usize)> = places().collect();
    for ((example, member), values) in places.into_iter().zip(embedded.iter()) {
        examples[example].parts[member] = Item::Features(values.into());
    }
    Ok(())
}

/// Decides whether training applies the dropout rates of the model's files.
fn choose_dropout(plan: &Plan, model: &Model, data: &Data, notes: &mut Vec<Note>) -> Result<bool> {
    let mut note = |level, text: &str| notes.push((level, text.to_owned()));
    let has_dropout = model.has_dropout();
    if data.validation.examples.iter().any(Example::is_twice) {
        let text = "The validation texts have no matching texts. Without dropout, each text matches \
                    itself: `val_loss` measures how far apart the texts are, not retrieval quality. Give \
                    pairs as `eval_data`";
        note(Level::Warning, text);
    }
    if data.is_twice {
        if !has_dropout {
            return Err(Error::data(format!(
                "{TWICE}, but the model applies no dropout: its config.json has no rate above 0, or \
                 `freeze` is set. Give pairs, or a model with dropout"
            )));
        }
        let text = "Single texts: each is embedded twice under dropout, and must match itself among \
                    the other texts of its batch (SimCSE)";
        note(Level::Info, text);
        return Ok(true);
    }
    if plan.dropout == Some(true) && !has_dropout {
        let text = "`dropout` has no effect: the config.json of the model has no rate above 0, or \
                    `freeze` is set";
        note(Level::Warning, text);
    }
    // Point cloud networks train from random weights, with the dropout of their
    // configuration.
    let wanted = plan.dropout.unwrap_or(plan.kind == ModelKind::PointCloud);
    if wanted && has_dropout {
        note(
            Level::Info,
            "Using the dropout rates of the model's config.json",
        );
    }
    Ok(wanted && has_dropout)
}

/// Loads the second model that the loss uses, and returns it with a log line.
pub(super) fn load_guide(
    source: &ModelSource,
    hub: &HubRules,
    device: &AskedDevice,
    plan: &Plan,
) -> Result<(Guide, String)> {
    let bad = |e: Error| Error::config("loss_options", format!("the loss's second model: {e}"));
    let files = source.read_with(hub).map_err(bad)?;
    let (device, _) = choose_device(device);
    let mut loaded = files.load(&LoadOptions::default(), &device).map_err(bad)?;
    // The guide must see the same texts as the trained model.
    if let Some(prompts) = &plan.prompts {
        loaded.set_prompts(prompts).map_err(bad)?;
    }
    let origins: Vec<String> = loaded
        .description
        .origins
        .iter()
        .map(|origin| format!(" ({origin})"))
        .collect();
    let note = format!(
        "The loss uses a second, frozen model{}: embeddings of {} values, {} \
         parameters",
        origins.concat(),
        loaded.model.dim(),
        loaded.model.params().count()
    );
    let guide = Guide {
        model: loaded.model,
        preparer: loaded.preparer,
    };
    Ok((guide, note))
}

/// A line for the log.
type Note = (Level, String);

/// Builds the trainer.
///
/// Returns it with the model's description and lines for the log.
pub(super) fn build_trainer(
    plan: &Plan,
    loaded: LoadedModel,
    guide: Option<Guide>,
    data: &Data,
    batch_size: Option<usize>,
    memory_limit: Option<u64>,
) -> Result<(Trainer, ModelDescription, Vec<Note>)> {
    let LoadedModel {
        model,
        preparer,
        description,
        notes: _,
    } = loaded;
    let mut notes = Vec::new();
    let batch_size = match batch_size {
        Some(size) => size,
        None => {
            // Trial steps may change the state of a loss, so they get one of their own.
            let criterion = Criterion::new(&plan.loss, data.classes, model.dim(), plan.seed)?;
            let moments = plan.optimizer.build(Default::default())?.0.moments();
            let (size, note) = choose_batch_size(
                &model,
                criterion,
                &preparer,
                guide.as_ref(),
                &data.train,
                moments,
                memory_limit,
            )?;
            notes.push((Level::Info, note));
            size
        }
    };
    if batch_size == 1 && model.setup().head.is_some() {
        let reason = "1: the model has a projection head with batch normalisation, which needs at \
                      least 2 examples in a batch";
        return Err(Error::config("batch_size", reason));
    }
    let (sampling, changes) = choose_sampling(plan, batch_size, data);
    notes.extend(changes.into_iter().map(|note| (Level::Info, note)));
    if let Some(note) = sampling.describe(&data.train, batch_size, plan.seed) {
        notes.push((Level::Info, note));
    }
    if model.kind() == ModelKind::TextPairs && model.dim() != 1 {
        let reason = format!(
            "`{}` trains cross-encoders with one label; the model has {}",
            plan.loss.loss,
            model.dim()
        );
        return Err(Error::config("loss", reason));
    }
    let criterion = Criterion::new(&plan.loss, data.classes, model.dim(), plan.seed)?;
    if plan.loss.uses_layers() && model.earlier_layers() == 0 {
        let reason = format!(
            "`{}` needs a network of several equal layers, which this model does not have",
            plan.loss.loss
        );
        return Err(Error::config("loss", reason));
    }
    if model.trunk_compares_rows() {
        criterion.refuse_mini_batches()?;
    }
    let dropout = choose_dropout(plan, &model, data, &mut notes)?;
    if plan.sampler == Sampler::Class && !matches!(plan.layout, Layout::Labelled(_)) {
        let note = "`sampler` `class` has no effect: the examples have no classes to choose by";
        notes.push((Level::Warning, note.to_owned()));
    }
    let (_, extras) = plan.optimizer.build(Default::default())?;
    let has_layers = !model.config().architecture().layer_marks().is_empty();
    if extras.layer_wise_lr_decay.is_some() && !has_layers {
        let note = "`layer_wise_lr_decay` has no effect: only transformers have layers with \
                    learning rates of their own";
        notes.push((Level::Warning, note.to_owned()));
    }
    let scales = match extras.layer_wise_lr_decay {
        Some(decay) => {
            let names = model.params().iter().map(|param| param.name());
            layer_scales(model.config(), names, decay)
        }
        None => Default::default(),
    };
    let (optimizer, _) = plan.optimizer.build(scales)?;
    let loss_optimizer = if criterion.params().count() > 0 {
        Some(plan.loss_optimizer.build(Default::default())?.0)
    } else {
        None
    };
    let first_epoch = sampling.batches(&data.train, batch_size, plan.seed, 0);
    notes.extend(describe_mix(&data.train, &first_epoch).map(|note| (Level::Info, note)));
    let steps = first_epoch.len().div_ceil(plan.accumulation_steps);
    let mut schedule = plan.schedule.clone();
    if let Some(warning) = schedule.limit_warmup(plan.epochs, steps) {
        notes.push((Level::Warning, warning));
    }
    let schedule = schedule.build(plan.epochs, steps, plan.learning_rate)?;
    let rate = plan.learning_rate;
    if plan.freeze && plan.source.is_new() {
        let note = "`freeze`: a new network keeps its random weights";
        notes.push((Level::Warning, note.to_owned()));
    }
    let mut trainer = Trainer::new(
        model,
        preparer,
        criterion,
        optimizer,
        loss_optimizer,
        TrainerOptions {
            batch_size,
            accumulation_steps: plan.accumulation_steps,
            sampling,
            learning_rate: Box::new(move |epoch, step| rate * schedule.factor(epoch, step)),
            loss_learning_rate: plan.loss_optimizer.learning_rate(plan.learning_rate),
            max_grad_norm: extras.max_grad_norm,
            seed: plan.seed,
            augment: plan.augment,
            dropout,
        },
    );
    trainer.guide = guide;
    Ok((trainer.with_first_epoch(first_epoch), description, notes))
}
