//! Renders the form.

use finetuner_protocol::{BACKBONES, Loss};
use maud::{Markup, html};

use super::{code, offer::Found, shape::Shape, submission::Wrong, typed::Typed};
use crate::{
    console::{
        frame::page as framed,
        session::Session,
        words::{count, name},
    },
    database::ArtifactRow,
};

/// Losses without required options, and the data that they suit.
const LOSSES: [(Loss, &str); 11] = [
    (Loss::MultipleNegativeRanking, "texts that belong together"),
    (Loss::Clip, "images and texts"),
    (Loss::SigLip, "images and texts, for a SigLIP"),
    (Loss::TripletMargin, "items with labels"),
    (Loss::NtXent, "items with labels"),
    (Loss::SupCon, "items with labels"),
    (Loss::ArcFace, "many labels with few items each"),
    (Loss::CosFace, "many labels with few items each"),
    (Loss::CoSent, "texts with scores"),
    (Loss::AnglE, "texts with scores"),
    (Loss::CosineSimilarity, "texts with cosines"),
];

pub(super) fn page(
    session: &Session,
    typed: &Typed,
    offered: &[ArtifactRow],
    found: Option<&Found>,
    wrong: Option<&Wrong>,
) -> Markup {
    let has_fields = !offered.is_empty() && !typed.data.is_empty() && found.is_some();
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/" { "Experiments" } }
        h1 { "Start a run" }
        @if let Some(wrong) = wrong.filter(|wrong| wrong.field.is_empty() || !has_fields) {
            p .problem .message role="alert" { (name(&wrong.reason)) }
        }
        @if offered.is_empty() {
            p { "There is no data in this project yet. " a href="/console/data/new" { "Upload a file" } ", or push data with a program." }
        } @else {
            form .row method="get" action="/console/start" {
                label for="choose" { "Training data" }
                select #choose name="data" required {
                    @if typed.data.is_empty() { option value="" { "choose" } }
                    (options(offered, &typed.data))
                }
                @if !typed.experiment.is_empty() { input type="hidden" name="experiment" value=(typed.experiment); }
                button type="submit" .quiet { "Choose" }
                a href={ "/console/data/new" } { "Upload another file" }
            }
            @if has_fields { (beside("data", wrong)) }
            @if !typed.data.is_empty() {
                @match found {
                    None => { p .problem role="alert" { "There is no readable data named " (name(&typed.data)) " in this project." } }
                    Some(found) => { (settings(session, typed, offered, found, wrong)) }
                }
            }
        }
    };
    framed(session, "Experiments", "Start a run", &content)
}

fn settings(
    session: &Session,
    typed: &Typed,
    offered: &[ArtifactRow],
    found: &Found,
    wrong: Option<&Wrong>,
) -> Markup {
    html! {
        p { (count(found.documents, "document")) ": " (found.shape.words()) ". The settings below are a good start for such data." }
        form .stacked method="post" action="/console/start" {
            (session.project_field())
            input type="hidden" name="data" value=(typed.data);
            (text("name", "Name of the run", &typed.name, true, wrong))
            (text("experiment", "Experiment (empty: default)", &typed.experiment, false, wrong))
            (text("description", "Description", &typed.description, false, wrong))
            label for="model" { "Model" }
            select #model name="model" aria-describedby="model-wrong" { (models(found.shape, &typed.model)) }
            (text("other_model", "Another model: a name of the Hugging Face hub", &typed.other_model, false, wrong))
            (beside("model", wrong))
            label for="loss" { "Loss" }
            select #loss name="loss" aria-describedby="loss-wrong" {
                @let known = LOSSES.iter().any(|(loss, _)| loss.to_string() == typed.loss);
                @if !known && !typed.loss.is_empty() { option value=(typed.loss) selected { (typed.loss) } }
                @for (loss, what) in &LOSSES {
                    @let value = loss.to_string();
                    option value=(value) selected[value == typed.loss] { (value) ": " (what) }
                }
            }
            (beside("loss", wrong))
            label for="eval_data" { "Data to validate and measure with" }
            select #eval_data name="eval_data" aria-describedby="eval_data-wrong" {
                option value="" { "none" }
                (options(offered, &typed.eval_data))
            }
            (beside("eval_data", wrong))
            label .check { input type="checkbox" name="evaluate" value="yes" checked[!typed.evaluate.is_empty()];
                " Search in it before and after the training" }
            (text("epochs", "Epochs", &typed.epochs, false, wrong))
            (text("batch_size", "Batch size (empty: chosen for you)", &typed.batch_size, false, wrong))
            (text("learning_rate", "Learning rate (empty: chosen for you)", &typed.learning_rate, false, wrong))
            label for="device" { "Device" }
            select #device name="device" aria-describedby="device-wrong" {
                option value="gpu" { "GPU, if the server has one" }
                option value="cpu" selected[typed.device == "cpu"] { "CPU" }
            }
            (beside("device", wrong))
            div .row {
                button type="submit" name="action" value="start" { "Start the run" }
                button .quiet type="submit" name="action" value="code" { "Show as code" }
            }
        }
        section aria-labelledby="code" {
            h2 #code { "The same run as code" }
            (code::code(typed, (!session.user.is_personal).then_some(session.user.project.as_str())))
        }
    }
}

/// Renders a text field with its error.
fn text(
    field: &'static str,
    label: &str,
    value: &str,
    is_required: bool,
    wrong: Option<&Wrong>,
) -> Markup {
    html! {
        label for=(field) { (label) }
        input id=(field) name=(field) value=(value) required[is_required] autocapitalize="none"
            aria-describedby={ (field) "-wrong" };
        @if field != "other_model" { (beside(field, wrong)) }
    }
}

fn beside(field: &str, wrong: Option<&Wrong>) -> Markup {
    let wrong = wrong.filter(|wrong| wrong.field == field);
    html! {
        @if let Some(wrong) = wrong {
            p id={ (field) "-wrong" } .problem .message role="alert" { (name(&wrong.reason)) }
        }
    }
}

fn options(offered: &[ArtifactRow], chosen: &str) -> Markup {
    let names = || offered.iter().filter_map(|data| data.name.as_deref());
    html! {
        @if !chosen.is_empty() && !names().any(|name| name == chosen) {
            option value=(chosen) selected { (chosen) }
        }
        @for name in names() { option value=(name) selected[name == chosen] { (name) } }
    }
}

/// Renders the models that fit the data, those without a download first.
fn models(shape: Shape, chosen: &str) -> Markup {
    let task = shape.task();
    let fits = |model: &&finetuner_protocol::Backbone| {
        // The form has no fields for model options.
        let is_whole = model.options.iter().all(|option| option.default.is_some());
        model.trainable && is_whole && task.as_ref().is_none_or(|task| model.task == *task)
    };
    let mut all: Vec<_> = BACKBONES.iter().filter(fits).collect();
    all.sort_by_key(|model| !model.description.contains("ships with Finetuner"));
    let is_known = all.iter().any(|model| model.name == chosen);
    html! {
        @if !is_known && !chosen.is_empty() { option value=(chosen) selected { (chosen) } }
        @for model in all {
            option value=(model.name) selected[model.name == chosen] { (model.name) ": " (model.description) }
        }
    }
}
