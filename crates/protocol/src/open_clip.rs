//! Models of open_clip by the names of the Python Finetuner, `NAME::PRETRAINED`, and
//! their repositories on the hub.

/// Name, tag of the weights, and repository. The repository is in the layout of
/// `transformers` if the same weights exist in it.
const MODELS: [(&str, &str, &str); 20] = [
    ("ViT-B-32", "openai", "openai/clip-vit-base-patch32"),
    (
        "ViT-B-32-quickgelu",
        "openai",
        "openai/clip-vit-base-patch32",
    ),
    (
        "ViT-B-32",
        "laion400m_e31",
        "timm/vit_base_patch32_clip_224.laion400m_e31",
    ),
    (
        "ViT-B-32",
        "laion400m_e32",
        "timm/vit_base_patch32_clip_224.laion400m_e32",
    ),
    (
        "ViT-B-32-quickgelu",
        "laion400m_e31",
        "timm/vit_base_patch32_clip_224.laion400m_e31",
    ),
    (
        "ViT-B-32-quickgelu",
        "laion400m_e32",
        "timm/vit_base_patch32_clip_224.laion400m_e32",
    ),
    (
        "ViT-B-32",
        "laion2b_e16",
        "timm/vit_base_patch32_clip_224.laion2b_e16",
    ),
    (
        "ViT-B-32",
        "laion2b_s34b_b79k",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    ),
    ("ViT-B-16", "openai", "openai/clip-vit-base-patch16"),
    (
        "ViT-B-16",
        "laion400m_e31",
        "timm/vit_base_patch16_clip_224.laion400m_e31",
    ),
    (
        "ViT-B-16",
        "laion400m_e32",
        "timm/vit_base_patch16_clip_224.laion400m_e32",
    ),
    (
        "ViT-B-16-plus-240",
        "laion400m_e31",
        "timm/vit_base_patch16_plus_clip_240.laion400m_e31",
    ),
    (
        "ViT-B-16-plus-240",
        "laion400m_e32",
        "timm/vit_base_patch16_plus_clip_240.laion400m_e32",
    ),
    ("ViT-L-14", "openai", "openai/clip-vit-large-patch14"),
    (
        "ViT-L-14",
        "laion400m_e31",
        "timm/vit_large_patch14_clip_224.laion400m_e31",
    ),
    (
        "ViT-L-14",
        "laion400m_e32",
        "timm/vit_large_patch14_clip_224.laion400m_e32",
    ),
    (
        "ViT-L-14",
        "laion2b_s32b_b82k",
        "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    ),
    (
        "ViT-L-14-336",
        "openai",
        "openai/clip-vit-large-patch14-336",
    ),
    (
        "ViT-H-14",
        "laion2b_s32b_b79k",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ),
    (
        "ViT-g-14",
        "laion2b_s12b_b42k",
        "laion/CLIP-ViT-g-14-laion2B-s12B-b42K",
    ),
];

/// Meaning of an open_clip name.
///
/// ```
/// use finetuner_protocol::{OpenClip, open_clip};
///
/// let hub = "openai/clip-vit-base-patch32";
/// assert_eq!(open_clip("ViT-B-32::openai"), Some(OpenClip::Hub(hub)));
/// assert_eq!(open_clip("RN50::openai"), Some(OpenClip::Unsupported));
/// assert_eq!(open_clip("bert-base-en"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenClip {
    /// The model's name on the Hugging Face hub.
    Hub(&'static str),
    /// The name has open_clip's form, but the model is not supported.
    Unsupported,
}

/// Looks up an open_clip name, `NAME::PRETRAINED`.
///
/// `NAME#PRETRAINED` is also accepted, the form before version 0.6.4 of the Python
/// Finetuner.
#[must_use]
pub fn open_clip(name: &str) -> Option<OpenClip> {
    let (network, weights) = name.split_once("::").or(name.split_once('#'))?;
    let found = MODELS
        .iter()
        .find(|model| (model.0, model.1) == (network, weights));
    Some(found.map_or(OpenClip::Unsupported, |model| OpenClip::Hub(model.2)))
}

/// Whether a model is in the list, by its name or its repository.
pub(crate) fn is_listed(name: &str) -> bool {
    let is_hub = MODELS.iter().any(|(.., hub)| *hub == name);
    is_hub || matches!(open_clip(name), Some(OpenClip::Hub(_)))
}

/// Returns all names, as `NAME::PRETRAINED`.
pub fn open_clip_names() -> impl Iterator<Item = String> {
    MODELS
        .iter()
        .map(|(network, weights, _)| format!("{network}::{weights}"))
}
