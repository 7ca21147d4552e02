//! The options of `fit`, under the names of the SDK's arguments.

use clap::{Args, builder::PossibleValuesParser};
use finetuner::{Loss, Miner, MultiDatasetBatchSampler, Optimizer, Sampler, Scheduler};
use serde::Serialize;
use serde_json::Value;

use crate::values::{
    Pair, parse_callback, parse_finite, parse_pair, parse_text_pair, parse_weighted_data,
};

/// Parser of the known names of a setting.
macro_rules! names {
    ($kind:ty) => {
        PossibleValuesParser::new(<$kind>::KNOWN.iter().map(<$kind>::as_str))
    };
}

/// Settings that have the same value in the run configuration, by name.
#[derive(Debug, Args, Serialize)]
pub(super) struct Settings {
    #[command(flatten)]
    #[serde(flatten)]
    run: RunSettings,
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelSettings,
    #[command(flatten)]
    #[serde(flatten)]
    data: DataSettings,
    #[command(flatten)]
    #[serde(flatten)]
    training: TrainingSettings,
    #[command(flatten)]
    #[serde(skip)]
    pub(super) options: OptionPairs,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Run")]
struct RunSettings {
    /// Name of the run, unique in its experiment [default: random]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    run_name: Option<String>,
    /// Experiment of the run, which is created if necessary [default: default]
    #[arg(long, short, value_name = "NAME", alias = "experiment")]
    #[serde(skip_serializing_if = "Option::is_none")]
    experiment_name: Option<String>,
    /// Description of the run
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// A tag of the run; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// A note about the run, which can be changed later
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Device: cuda or cpu [default: cuda, if the backend has it]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// Allow others to read the model
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    public: bool,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Model")]
struct ModelSettings {
    /// Model from `finetuner models`, another model of the Hugging Face hub, or a
    /// folder on the backend's machine
    #[arg(long, short)]
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Start from the artifact of an earlier run, by its id
    #[arg(long, value_name = "ID", conflicts_with = "model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    model_artifact: Option<String>,
    /// Train only a new last layer
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    freeze: bool,
    /// Embedding dimension, if different from the model's
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    output_dim: Option<u64>,
    /// Also add the model as ONNX to the artifact
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    to_onnx: bool,
    /// The model has two towers; backends derive this from the model
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    multi_modal: bool,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Data")]
struct DataSettings {
    /// Further training data, with the number of passes per epoch as its weight; may
    /// be given several times
    #[arg(long, value_name = "DATA[=WEIGHT]", value_parser = parse_weighted_data)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more_train_data: Vec<Value>,
    /// Number of passes through the first data per epoch [default: 1]
    #[arg(long, value_name = "WEIGHT", value_parser = parse_finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    train_data_weight: Option<f64>,
    /// Order of the batches of several data sets
    #[arg(long, value_name = "NAME", value_parser = names!(MultiDatasetBatchSampler))]
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_dataset_batch_sampler: Option<String>,
    /// Data for the validation loss after each epoch
    #[arg(long, value_name = "DATA")]
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_data: Option<String>,
    /// Fraction of the training data to validate with, at least 0 and less than 1, if
    /// there is no --eval-data
    #[arg(long, value_name = "PART", value_parser = parse_finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    val_split: Option<f64>,
    /// How batches are formed [default: auto]
    #[arg(long, value_name = "NAME", value_parser = names!(Sampler))]
    #[serde(skip_serializing_if = "Option::is_none")]
    sampler: Option<String>,
    /// Number of documents of each class in a batch [default: 4]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    num_items_per_class: Option<u64>,
    /// Number of threads that load data [default: 4]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    num_workers: Option<u64>,
    /// Modality of the chunks with images [default: image]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    image_modality: Option<String>,
    /// Modality of the chunks with texts [default: text]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    text_modality: Option<String>,
    /// Further documents to mine hard negatives from, besides the matches of all pairs
    #[arg(long, value_name = "DATA")]
    #[serde(skip_serializing_if = "Option::is_none")]
    corpus: Option<String>,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Training")]
struct TrainingSettings {
    /// Number of epochs [default: 5]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    epochs: Option<u64>,
    /// Number of examples per batch [default: the backend chooses]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u64>,
    /// Number of batches per optimizer step [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    gradient_accumulation_steps: Option<u64>,
    /// Learning rate [default: the optimizer's]
    #[arg(long, value_name = "RATE", value_parser = parse_finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    /// Loss [default: TripletMarginLoss]; CLIPLoss for models for texts and
    /// images
    #[arg(long, value_name = "NAME", value_parser = names!(Loss), hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<String>,
    /// Optimizer for the weights of the loss
    #[arg(long, value_name = "NAME", value_parser = names!(Optimizer), hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_optimizer: Option<String>,
    /// Miner, which selects pairs or triplets from a batch
    #[arg(long, value_name = "NAME", value_parser = names!(Miner), hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    miner: Option<String>,
    /// Optimizer [default: Adam]
    #[arg(long, value_name = "NAME", value_parser = names!(Optimizer))]
    #[serde(skip_serializing_if = "Option::is_none")]
    optimizer: Option<String>,
    /// Learning rate schedule [default: constant]
    #[arg(long, value_name = "NAME", value_parser = names!(Scheduler))]
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler: Option<String>,
    /// Prompt before all texts; use --prompt COLUMN=TEXT for single columns
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts: Option<String>,
}

/// Options that are pairs, and callbacks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options and callbacks, each may be given several times")]
pub(super) struct OptionPairs {
    /// Option of the model: seed, precision, augmentation, pooler, ...
    #[arg(long = "model-option", visible_alias = "option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) model_options: Vec<Pair>,
    /// Train low-rank adapters with this option: r, lora_alpha, lora_dropout,
    /// target_modules, ...
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) lora: Vec<Pair>,
    /// Option of the loss: margin, temperature, mini_batch_size, ...
    #[arg(long = "loss-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) loss_options: Vec<Pair>,
    /// Option of the optimizer for the weights of the loss
    #[arg(long = "loss-optimizer-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) loss_optimizer_options: Vec<Pair>,
    /// Option of the miner
    #[arg(long = "miner-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) miner_options: Vec<Pair>,
    /// Option of the optimizer: weight_decay, betas, layer_wise_lr_decay, ...
    #[arg(long = "optimizer-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) optimizer_options: Vec<Pair>,
    /// Option of the schedule: num_warmup_steps, scheduler_step, ...
    #[arg(long = "scheduler-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) scheduler_options: Vec<Pair>,
    /// Prompt before the texts of a column: anchor, positive, negative
    #[arg(long = "prompt", value_name = "COLUMN=TEXT", value_parser = parse_text_pair)]
    pub(super) prompt: Vec<Pair>,
    /// Mine hard negatives with this option: num_negatives, range_min,
    /// relative_margin, ...
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) mine_hard_negatives: Vec<Pair>,
    /// Callback: BestModelCheckpoint, EarlyStopping:patience=3, ...
    #[arg(long = "callback", value_name = "NAME[:KEY=VALUE,...]", value_parser = parse_callback)]
    pub(super) callbacks: Vec<Value>,
    /// Evaluate retrieval with this query data, before and after training
    #[arg(long, value_name = "DATA")]
    pub(super) evaluate: Option<String>,
    /// Data that the queries of --evaluate search in [default: the queries]
    #[arg(long, value_name = "DATA", requires = "evaluate")]
    pub(super) evaluate_index: Option<String>,
    /// Option of --evaluate: limit, metrics, distance, gather_examples, ...
    #[arg(long = "evaluate-option", value_name = "KEY=VALUE", value_parser = parse_pair, requires = "evaluate")]
    pub(super) evaluate_options: Vec<Pair>,
    /// Any other member of the run configuration, by path, such as
    /// hyper_parameters.epochs=3
    #[arg(long, value_name = "PATH=VALUE", value_parser = parse_pair)]
    pub(super) set: Vec<Pair>,
}

/// Whether a flag was not set, so that the configuration file decides.
#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_off(flag: &bool) -> bool {
    !flag
}
