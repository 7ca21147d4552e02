//! What a run needs before its first step: its data, and the trainer.

use crate::{
    Error, Result,
    data::{self, Classes, Documents, Item, Layout, Pictures, TrainingSet},
    infer::{ItemRef, embed_body},
    loss::Criterion,
    models::{ModelConfig, ModelKind},
    optim::layer_scales,
    plan::Plan,
    source::{LoadedModel, ModelDescription},
    train::{Sampling, Trainer, TrainerOptions, choose_batch_size},
};

/// What a run trains on and validates with.
pub(super) struct Data {
    pub(super) train: TrainingSet,
    pub(super) validation: TrainingSet,
    /// How many classes the training data has.
    classes: usize,
}

impl Data {
    pub(super) fn describe(&self, layout: &Layout) -> String {
        let what = match layout {
            Layout::TextImage(_) | Layout::Pairs(_) | Layout::Scored(_) => "pairs".to_owned(),
            Layout::Triplets(_) => "triplets".to_owned(),
            Layout::Labelled(_) => format!("examples of {} classes", self.classes),
        };
        let train = self.train.len();
        match self.validation.len() {
            0 => format!("{train} {what} to train on"),
            n => format!("{train} {what} to train on, {n} to validate with"),
        }
    }
}

pub(super) fn read_data(
    plan: &Plan,
    documents: &dyn Fn(&str) -> Result<Documents>,
    pictures: &Pictures,
) -> Result<Data> {
    let read = |name: &str| data::read(documents(name)?, &plan.layout, name, pictures);
    let train = read(&plan.train_data)?;
    let (train, mut validation) = match &plan.eval_data {
        Some(name) => (train, read(name)?),
        None => data::split(train, plan.val_split, plan.seed),
    };
    if train.len() < 2 {
        return Err(Error::data(format!(
            "`{}` holds {} example to train on; at least 2 are needed",
            plan.train_data,
            train.len()
        )));
    }
    let mut numbers = Classes::default();
    let train = numbers.number(train);
    let classes = numbers.len();
    if matches!(plan.layout, Layout::Labelled(_)) {
        let bad = |what: &str| Err(Error::data(format!("`{}`: {what}", plan.train_data)));
        if classes < 2 {
            return bad("all examples have one label; there must be at least two to tell apart");
        }
        if !plan.loss.has_classes() && classes == train.len() {
            return bad(
                "no two examples share a label; the loss needs examples that belong together",
            );
        }
    }
    if plan.loss.has_classes() {
        // Such a loss knows nothing of other classes.
        validation.retain(|example| numbers.knows(&example.label));
    }
    Ok(Data {
        train,
        validation: numbers.number(validation),
        classes,
    })
}

/// The most bytes that outputs of a frozen network may take.
const REMEMBERED: usize = 1 << 30;

/// Puts what a frozen network makes of the examples in their place, so that
/// each goes through it once and not in every epoch.
pub(super) fn remember_frozen(loaded: &mut LoadedModel, data: &mut Data) -> Result<()> {
    let (model, preparer) = (&loaded.model, &mut loaded.preparer);
    let sets = [&mut data.train, &mut data.validation];
    let items: usize = sets
        .iter()
        .flat_map(|set| &set.examples)
        .map(|example| example.parts.len())
        .sum();
    let dim = model.config().dim();
    if model.kind() == ModelKind::Features || items * dim * 4 > REMEMBERED {
        return Ok(());
    }
    for set in sets {
        let parts: Vec<ItemRef<'_>> = set
            .examples
            .iter()
            .flat_map(|example| example.parts.iter().map(ItemRef::from))
            .collect();
        let width = set.examples.first().map_or(1, |e| e.parts.len().max(1));
        let embedded = embed_body(model, preparer, &parts).map_err(|e| match e {
            Error::Item { place, reason } => {
                let id = &set.examples[place / width].id;
                Error::data(format!("document `{id}`: {reason}"))
            }
            other => other,
        })?;
        let mut values = embedded.iter();
        for part in set.examples.iter_mut().flat_map(|e| &mut e.parts) {
            if let Some(values) = values.next() {
                *part = Item::Features(values.into());
            }
        }
    }
    preparer.features = Some(dim);
    Ok(())
}

/// Everything that the training loop needs, and what of it is worth a line of
/// the log.
pub(super) fn build_trainer(
    plan: &Plan,
    loaded: LoadedModel,
    data: &Data,
    batch_size: Option<usize>,
) -> Result<(Trainer, ModelDescription, Vec<String>)> {
    let LoadedModel {
        model,
        preparer,
        description,
    } = loaded;
    let mut notes = Vec::new();
    let batch_size = match batch_size {
        Some(size) => size,
        None => {
            let (size, note) = choose_batch_size(&model, &preparer, &data.train)?;
            notes.push(note);
            size
        }
    };
    let sampling = if matches!(plan.layout, Layout::Labelled(_)) {
        let (sampling, changes) = Sampling::choose(
            &plan.sampler,
            !plan.loss.has_classes(),
            batch_size,
            plan.items_per_class,
            &data.train.classes,
        );
        notes.extend(changes);
        if let Sampling::Class { items_per_class } = sampling {
            notes.push(format!(
                "Batches of {batch_size} hold {items_per_class} examples of each class in them"
            ));
        }
        sampling
    } else {
        Sampling::Random
    };
    let criterion = Criterion::new(&plan.loss, data.classes, model.dim(), plan.seed)?;
    let (_, extras) = plan.optimizer.build(Default::default())?;
    let scales = match extras.layer_wise_lr_decay {
        Some(decay) => layer_scales(model.config(), decay)?,
        None => Default::default(),
    };
    let (optimizer, _) = plan.optimizer.build(scales)?;
    let loss_optimizer = if criterion.params().count() > 0 {
        Some(plan.loss_optimizer.build(Default::default())?.0)
    } else {
        None
    };
    let steps = sampling
        .batches(&data.train.classes, batch_size, plan.seed, 0)
        .len();
    let schedule = plan
        .schedule
        .build(plan.epochs, steps, plan.learning_rate)?;
    let rate = plan.learning_rate;
    if plan.freeze && matches!(model.config(), ModelConfig::Mlp(_)) {
        notes.push("`freeze`: a new perceptron keeps its random weights".to_owned());
    }
    let trainer = Trainer::new(
        model,
        preparer,
        criterion,
        optimizer,
        loss_optimizer,
        TrainerOptions {
            batch_size,
            sampling,
            learning_rate: Box::new(move |epoch, step| rate * schedule.factor(epoch, step)),
            loss_learning_rate: plan.loss_optimizer.learning_rate(plan.learning_rate),
            max_grad_norm: extras.max_grad_norm,
            seed: plan.seed,
            augment: plan.augment,
        },
    );
    Ok((trainer, description, notes))
}
