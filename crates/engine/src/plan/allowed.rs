//! Base models that a run may use.

use finetuner_protocol::worker::LocalModels;

use crate::{models::ModelKind, source::HubRules};

/// Base models that a run may use besides the list of backbones.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Folders from which models may be loaded.
    pub local_models: LocalModels,
    /// The kind of model in the artifact that `model_artifact` names, if it
    /// exists.
    pub earlier: Option<ModelKind>,
    /// Rules for requests to the model hub.
    pub hub: HubRules,
}
