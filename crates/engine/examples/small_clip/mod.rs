//! Builds small untrained CLIP models: configuration, tokenizer and preprocessor files.
//! The caller draws the weights.

use std::{collections::BTreeMap, path::Path};

use finetuner_engine::image::ImageProcessor;
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainer},
    normalizers::{Lowercase, NFC, Sequence},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

use crate::rows::Fallible;

const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Maximum number of tokens of a text.
pub(crate) const LONGEST_TEXT: usize = 32;

/// Sizes of the text tower and the vision tower.
pub(crate) struct Shape {
    pub(crate) text_width: usize,
    pub(crate) text_layers: usize,
    pub(crate) vision_width: usize,
    pub(crate) vision_layers: usize,
    /// Height and width of an image in pixels.
    pub(crate) side: u32,
    /// Height and width of a patch in pixels.
    pub(crate) patch: usize,
}

/// Returns the `config.json` of a CLIP with these sizes and this `tokenizer.json`.
pub(crate) fn config(tokenizer: &str, shape: &Shape) -> Fallible<Value> {
    let tokenizer: tokenizers::Tokenizer = tokenizer.parse()?;
    let id = |token: &str| tokenizer.token_to_id(token);
    let tower = |width: usize, layers: usize, heads: usize| {
        json!({
            "hidden_size": width, "intermediate_size": 4 * width,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 128,
        })
    };
    let (mut text, mut vision) = (
        tower(shape.text_width, shape.text_layers, 4),
        tower(
            shape.vision_width,
            shape.vision_layers,
            shape.vision_width / 32,
        ),
    );
    text["vocab_size"] = tokenizer.get_vocab_size(true).into();
    text["max_position_embeddings"] = LONGEST_TEXT.into();
    text["bos_token_id"] = id(BEGIN).into();
    text["eos_token_id"] = id(END).into();
    text["pad_token_id"] = id(END).into();
    text["model_type"] = "clip_text_model".into();
    vision["image_size"] = shape.side.into();
    vision["patch_size"] = shape.patch.into();
    vision["num_channels"] = 3.into();
    vision["model_type"] = "clip_vision_model".into();
    Ok(json!({
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 128,
        "logit_scale_init_value": 2.6592, "text_config": text, "vision_config": vision,
        "dtype": "float32",
    }))
}

/// Writes `config.json`, `preprocessor_config.json` and `tokenizer_config.json`.
pub(crate) fn describe(folder: &Path, config: &Value, processor: &ImageProcessor) -> Fallible<()> {
    let tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END,
        "model_max_length": LONGEST_TEXT,
    });
    for (name, value) in [
        ("config.json", config),
        ("preprocessor_config.json", &processor.to_json()),
        ("tokenizer_config.json", &tokenizer),
    ] {
        std::fs::write(folder.join(name), serde_json::to_string_pretty(value)?)?;
    }
    Ok(())
}

/// Trains a byte-level BPE tokenizer like CLIP's. Returns its `tokenizer.json`.
pub(crate) fn train_tokenizer(texts: &[String]) -> Fallible<String> {
    const SUFFIX: &str = "</w>";
    let pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let split = Split::new(
        SplitPattern::Regex(pattern.to_owned()),
        SplitDelimiterBehavior::Removed,
        true,
    )?;
    let bpe = BPE::builder()
        .end_of_word_suffix(SUFFIX.to_owned())
        .build()?;
    let mut tokenizer: TokenizerImpl<BPE, Sequence, PreTokenizers, RobertaProcessing, ByteLevel> =
        TokenizerBuilder::new()
            .with_model(bpe)
            .with_normalizer(Some(Sequence::new(vec![NFC.into(), Lowercase.into()])))
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![
                split.into(),
                ByteLevel::new(false, true, true).into(),
            ])))
            .with_post_processor(None)
            .with_decoder(None)
            .build()?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(1500)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![
            AddedToken::from(BEGIN, true),
            AddedToken::from(END, true),
        ])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .end_of_word_suffix(SUFFIX.to_owned())
        .build();
    tokenizer.train(&mut trainer, texts.iter())?;
    let special = |token: &str| {
        let id = tokenizer.token_to_id(token);
        id.map(|id| (token.to_owned(), id))
            .ok_or("a special token is missing")
    };
    let frame = RobertaProcessing::new(special(END)?, special(BEGIN)?)
        .trim_offsets(false)
        .add_prefix_space(false);
    tokenizer.with_post_processor(Some(frame));
    tokenizer.to_string(true)
}

/// Reads the long caption of each title from `concepts.csv`.
pub(crate) fn read_captions(path: &Path) -> Fallible<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Concept {
        title: String,
        caption: String,
    }
    let mut reader = csv::Reader::from_path(path)?;
    let concepts = reader.deserialize().map(|row| {
        let Concept { title, caption } = row?;
        Ok((title, caption))
    });
    concepts.collect()
}
