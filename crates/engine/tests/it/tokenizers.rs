//! Compares tokenizers built from sentencepiece models with sentencepiece itself
//! (`fixtures/make_sentencepiece.py`), and trains models with such tokenizers.

use std::collections::HashMap;

use finetuner_engine::{
    infer::Encoder,
    models::ModelConfig,
    params::{FloatFormat, write_safetensors},
    tokenizer::Tokenizer,
};

use crate::{
    runs,
    support::{fixture, json},
};

#[test]
fn token_ids_equal_those_of_sentencepiece() {
    let expected = json("sentencepiece/expected.json");
    let texts: Vec<&str> = expected["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    for name in ["xlm-roberta", "t5"] {
        let file = std::fs::read(fixture(&format!("sentencepiece/{name}.json"))).unwrap();
        let tokenizer = Tokenizer::parse(&file, 512).unwrap();
        let batch = tokenizer.encode(&texts).unwrap();
        let mut ids = batch.ids.iter().map(|id| u64::from(*id));
        for (i, length) in batch.lengths.iter().enumerate() {
            let found: Vec<u64> = ids.by_ref().take(*length).collect();
            let expected = expected[name][i].as_array().unwrap().iter();
            let expected: Vec<u64> = expected.map(|id| id.as_u64().unwrap()).collect();
            assert_eq!(found, expected, "{name}: {:?}", texts[i]);
        }
        // A truncated text still ends in the special token.
        let tokenizer = Tokenizer::parse(&file, 4).unwrap();
        let cut = tokenizer.encode(&texts[..1]).unwrap().ids;
        let whole = expected[name][0].as_array().unwrap();
        assert_eq!(cut.len(), 4, "{name}");
        assert_eq!(u64::from(cut[3]), whole.last().unwrap().as_u64().unwrap());
    }
}

#[test]
fn a_model_with_a_sentencepiece_tokenizer_is_trained_and_loads_again() {
    for (backbone, tokenizer) in [("t5", "t5"), ("xlm-roberta", "xlm-roberta")] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut config = json(&format!("backbones/{backbone}.json"));
        config["vocab_size"] = 200.into();
        if backbone == "xlm-roberta" {
            config["max_position_embeddings"] = 40.into();
        }
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let weights = ModelConfig::parse(&config).unwrap().random_weights(1);
        write_safetensors(&path("model.safetensors"), &weights, FloatFormat::F32).unwrap();
        let from = fixture(&format!("sentencepiece/{tokenizer}.json"));
        std::fs::copy(from, path("tokenizer.json")).unwrap();

        let model = serde_json::json!({"name": folder.path()});
        let hyper = serde_json::json!({"loss": "TripletMarginLoss", "epochs": 2, "batch_size": 9,
            "learning_rate": 1e-3, "optimizer_options": {"layer_wise_lr_decay": 0.9}});
        let data = HashMap::from([("train", runs::texts())]);
        let config = runs::config(model, hyper, serde_json::json!([]));
        let trained = runs::run(config, &data).unwrap().encoder();
        let new = Encoder::from_folder(folder.path()).unwrap();
        let texts = ["the quick fox", "мир", ""];
        let (before, after) = (new.encode_texts(&texts), trained.encode_texts(&texts));
        let (before, after) = (before.unwrap(), after.unwrap());
        assert_eq!(after.dim, 16, "{backbone}");
        for text in 0..texts.len() {
            assert!(after.get(text).iter().all(|value| value.is_finite()));
            assert_ne!(after.get(text), before.get(text), "{backbone}");
        }
    }
}
