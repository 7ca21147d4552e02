//! Joins a text model and an image model as the towers of a text-to-image
//! model.

use serde_json::{Value, json};

use super::{extras::Extras, files::ModelFiles};
use crate::{
    Error, Result,
    models::{
        FIRST_LOGIT_SCALE, ModelConfig, ModelKind, TEXT_TOWER, TWO_TOWERS, VISION_TOWER,
        new_projections,
    },
    ops::Pooler,
};

/// Joins two models under new projections to the dimension `dim`.
///
/// # Errors
/// [`Error::Model`] if a model has a part that a tower can't have.
pub(super) fn join(
    text: ModelFiles,
    vision: ModelFiles,
    dim: usize,
    seed: u64,
) -> Result<ModelFiles> {
    let mut tensors = std::collections::HashMap::new();
    let mut tower = |files: &mut ModelFiles, wanted: ModelKind, prefix: &str| -> Result<_> {
        let config = ModelConfig::parse(&files.config)?;
        if config.kind() != wanted {
            let reason = format!(
                "it embeds {}; give a model of {}",
                config.kind().inputs(),
                wanted.inputs()
            );
            return Err(Error::model(option(wanted), reason));
        }
        if files.extras.head.is_some() {
            let reason = "it has a projection head, which a tower can't have; use the model on which \
                          it is based, or one without a head";
            return Err(Error::model(option(wanted), reason));
        }
        let modules = &files.modules;
        let has_more = !modules.layers.is_empty()
            || modules.sentence.lowercase
            || modules.prompts.default_prompt().is_some();
        if has_more {
            let reason = "it has modules after its pooling, a default prompt or `do_lower_case`, \
                          which a tower can't have; use the network on which it is based";
            return Err(Error::model(option(wanted), reason));
        }
        let own = config.canonical(std::mem::take(&mut files.tensors))?;
        tensors.extend(
            own.into_iter()
                .map(|(name, t)| (format!("{prefix}{name}"), t)),
        );
        let pooler = files.extras.pooler;
        let pooler = pooler.unwrap_or(config.architecture().default_pooler());
        Ok((config.dim(), pooling(pooler, wanted)?))
    };
    let (mut text, mut vision) = (text, vision);
    let (text_dim, text_pooler) = tower(&mut text, ModelKind::Text, TEXT_TOWER)?;
    let (vision_dim, vision_pooler) = tower(&mut vision, ModelKind::Image, VISION_TOWER)?;
    tensors.extend(new_projections([text_dim, vision_dim], dim, seed));
    Ok(ModelFiles {
        config: json!({
            "model_type": TWO_TOWERS,
            "projection_dim": dim,
            "logit_scale_init_value": FIRST_LOGIT_SCALE,
            "text_pooler": text_pooler,
            "vision_pooler": vision_pooler,
            "text_config": text.config,
            "vision_config": vision.config,
        }),
        tensors,
        preprocessor: vision.preprocessor,
        side_files: text.side_files,
        extras: Extras {
            max_tokens: text.modules.sentence.max_tokens.or(text.extras.max_tokens),
            ..Extras::default()
        },
        modules: Default::default(),
        origins: [text.origins, vision.origins].concat(),
    })
}

/// Returns the option that names a tower's model.
fn option(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Text => "text_model",
        _ => "image_model",
    }
}

/// Returns the name of a pooling in a two-tower `config.json`.
fn pooling(pooler: Pooler, kind: ModelKind) -> Result<Value> {
    Ok(match pooler {
        Pooler::Mean => "mean".into(),
        Pooler::Max => "max".into(),
        Pooler::Cls => "cls".into(),
        _ => {
            let reason = "its pooling is not supported in a tower; use mean, max or cls";
            return Err(Error::model(option(kind), reason));
        }
    })
}
