//! Data synthesis with the real backend.

use std::path::Path;

use finetuner::{Csv, DocumentArray, Loss, SynthesisModels, local::CrossEncoder};

use crate::backend;

const QUERIES: [&str; 3] = ["what do cats eat", "how far is the moon", "sewing a button"];
const CORPUS: [&str; 8] = [
    "a cat lives on meat and fish",
    "the moon is 384,400 km away",
    "use a needle and thread to fasten buttons",
    "dogs like to walk",
    "a red hat",
    // The query itself, and a duplicate text.
    "how far is the moon",
    "a red hat",
    "the sun is a star",
];

/// Writes a small cross-encoder with random weights.
fn cross_encoder() -> String {
    let fixtures = "crates/engine/tests/fixtures/cross-encoders/bert";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(fixtures);
    folder.display().to_string()
}

fn models() -> SynthesisModels {
    SynthesisModels::new(["minilm-small"], cross_encoder())
}

#[tokio::test]
async fn synthesized_data_has_cross_encoder_margins_and_can_be_trained_on() {
    let (_server, finetuner) = backend::start().await;
    let run = finetuner
        .synthesize(
            Csv::text(QUERIES.join("\n")),
            Csv::text(CORPUS.map(|t| format!("\"{t}\"")).join("\n")),
        )
        .models(models())
        .num_relations(3)
        .run_name("made")
        .device("cpu")
        .await
        .unwrap();
    run.wait().await.unwrap();
    let name = run.train_data().await.unwrap();
    let found = finetuner.get_run("made").await.unwrap();
    assert_eq!(found.train_data().await.unwrap(), name);
    let log = run.logs().await.unwrap();
    for part in [
        "Mining relations",
        "Scoring relations",
        "6 training examples created",
        &name,
    ] {
        assert!(log.contains(part), "{part} is missing in: {log}");
    }

    let made: DocumentArray = finetuner.pull(&name).await.unwrap();
    assert_eq!(made.len(), QUERIES.len() * 2);
    let scorer = CrossEncoder::from_folder(cross_encoder()).unwrap();
    for (number, document) in made.iter().enumerate() {
        let texts: Vec<&str> = document
            .chunks
            .iter()
            .filter_map(|chunk| chunk.as_text())
            .collect();
        let [query, matching, other] = texts[..] else {
            panic!("three chunks are expected: {texts:?}");
        };
        assert_eq!(query, QUERIES[number / 2]);
        assert_ne!(matching, other);
        assert!(CORPUS.contains(&matching) && CORPUS.contains(&other));
        assert!(
            ![matching, other].contains(&query),
            "a query is not its own positive"
        );
        let scores = scorer
            .predict(&[[query, matching], [query, other]])
            .unwrap()
            .values;
        let margin = document.tags["finetuner_score"].as_f64().unwrap();
        assert!(
            (margin - f64::from(scores[0] - scores[1])).abs() < 1e-5,
            "{margin}"
        );
    }
    assert_eq!(made[0].chunks[1].as_text(), Some(CORPUS[0]));
    assert_eq!(made[4].chunks[1].as_text(), Some(CORPUS[2]));

    let fit = finetuner
        .fit("minilm-small", name.as_str())
        .loss(Loss::MarginMse);
    let fit = fit.epochs(1).batch_size(4).device("cpu").await.unwrap();
    fit.wait().await.unwrap();
    // Deleting the run deletes its data.
    finetuner.delete_run("made").await.unwrap();
    assert!(finetuner.pull(&name).await.is_err());
}

#[tokio::test]
async fn several_miners_alternate_and_the_number_of_documents_is_limited() {
    let (_server, finetuner) = backend::start().await;
    let texts = |texts: &[&str]| {
        let documents = texts.iter().map(|text| finetuner::Document::text(*text));
        DocumentArray::from(documents.collect::<Vec<_>>())
    };
    finetuner.push("queries", texts(&QUERIES)).await.unwrap();
    finetuner.push("corpus", texts(&CORPUS)).await.unwrap();
    let run = finetuner
        .synthesize("queries", "corpus")
        .models(SynthesisModels::new(["minilm-small"; 2], cross_encoder()))
        .max_num_docs(5)
        .device("cpu")
        .await
        .unwrap();
    run.wait().await.unwrap();
    let made = finetuner
        .pull(run.train_data().await.unwrap())
        .await
        .unwrap();
    assert_eq!(made.len(), 5);
}

#[tokio::test]
async fn unusable_synthesis_settings_are_refused_by_name() {
    let (_server, finetuner) = backend::start().await;
    let start = || {
        let texts = |texts: &[&str]| Csv::text(texts.join("\n"));
        finetuner
            .synthesize(texts(&["a", "b"]), texts(&["c", "d"]))
            .models(models())
    };
    let embeds = SynthesisModels::new(["minilm-small"], "minilm-small");
    let scores = SynthesisModels::new([cross_encoder()], cross_encoder());
    let images = SynthesisModels::new(["efficientnet-small"], cross_encoder());
    for (job, parts) in [
        (start().num_relations(1), ["num_relations", "at least 2"]),
        (
            start().num_relations(u64::MAX),
            ["num_relations", "1 to 1000"],
        ),
        (start().models(embeds), ["cross_encoder", "model of texts"]),
        (
            start().models(scores),
            ["relation_miner", "model of pairs of texts"],
        ),
        (
            start().models(images),
            ["relation_miner", "model of images"],
        ),
    ] {
        let error = job.await.unwrap_err();
        assert!(error.is_invalid(), "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    let error = finetuner
        .synthesize("nothing", "corpus")
        .models(models())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("`query_data`: there is no data"),
        "{error}"
    );
    let run = finetuner.fit("minilm-small", Csv::text("a,b\nc,d\n"));
    let run = run
        .loss(Loss::MultipleNegativeRanking)
        .epochs(1)
        .batch_size(2)
        .await
        .unwrap();
    assert!(run.train_data().await.is_err());
}
