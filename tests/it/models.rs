//! Training of models of every kind with the real backend.

use std::path::Path;

use finetuner::{
    Csv, Document, DocumentArray, EvaluationCallback, Finetuner, Loss, Optimizer, Options,
    local::Distance,
};

use crate::backend::start;

/// Returns sentences about three topics.
fn sentences() -> DocumentArray {
    let rows = [
        ("how do I sew on a button", 0),
        ("use a needle and thread to fasten buttons", 0),
        ("what do cats eat", 1),
        ("a cat lives on meat and fish", 1),
        ("how far is the moon", 2),
        (
            "the distance to our satellite is 384 thousand kilometres",
            2,
        ),
    ];
    let documents = rows
        .iter()
        .map(|(text, label)| Document::text(*text).with_label(*label));
    documents.collect()
}

async fn trained(finetuner: &Finetuner) -> finetuner::Run {
    let run = finetuner
        .fit("minilm-small", sentences())
        .run_name("sentences")
        .loss(Loss::TripletMargin)
        .loss_options(Options::new().margin(0.4))
        .epochs(2)
        .batch_size(6)
        .learning_rate(1e-4)
        .optimizer(Optimizer::AdamW)
        .callback(EvaluationCallback::new(sentences()).limit(1))
        .await
        .unwrap();
    run.wait().await.unwrap();
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_model_is_trained_saved_searched_and_continued() {
    let (server, finetuner) = start().await;
    let run = trained(&finetuner).await;
    let metrics = run.metrics().await.unwrap();
    assert!(metrics.after["hit_at_k"] >= metrics.before["hit_at_k"]);

    // Opens the model by the artifact's id, without a folder.
    let id = run.artifact_id().await.unwrap().to_owned();
    let model = finetuner.get_model(&id).await.unwrap();
    let index = model
        .encode_texts(&["cats and dogs", "the moon", "a coat"])
        .unwrap();
    let asked = model.encode_texts(&["our satellite"]).unwrap();
    let found = index.search(&asked, 1, Distance::Cosine).unwrap();
    assert_eq!(found[0][0].index, 1);

    let next = finetuner
        .fit("minilm-small", sentences())
        .model_artifact(&id)
        .run_name("more sentences")
        .loss(Loss::CosineSimilarity)
        .epochs(1)
        .await;
    let refused = next.unwrap_err();
    // The data has no scores.
    assert!(
        refused.to_string().contains("pairs with a score"),
        "{refused}"
    );
    let next = finetuner
        .fit("minilm-small", sentences())
        .model_artifact(&id)
        .run_name("more sentences")
        .loss(Loss::NtXent)
        .epochs(1)
        .batch_size(6)
        .await
        .unwrap();
    next.wait().await.unwrap();
    let next_id = next.artifact_id().await.unwrap();
    let again = finetuner.get_model(next_id).await.unwrap();
    assert_ne!(asked, again.encode_texts(&["our satellite"]).unwrap());

    let missing = finetuner
        .fit("minilm-small", sentences())
        .model_artifact("no-such-id")
        .await;
    let missing = missing.unwrap_err().to_string();
    assert!(
        missing.contains("`model_artifact`: `no-such-id`"),
        "{missing}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_of_a_csv_file_train_a_text_model() {
    let (server, finetuner) = start().await;
    let rows = "\
what is a borrow,a reference that does not own its value
what is a trait,methods that several types have in common
what is a lifetime,how long a reference may be used
";
    let run = finetuner
        .fit("minilm-small", Csv::text(rows))
        .run_name("questions")
        .loss(Loss::MultipleNegativeRanking)
        .epochs(1)
        .batch_size(3)
        .await
        .unwrap();
    run.wait().await.unwrap();
    let lines: Vec<String> = run
        .logs()
        .await
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let told = lines
        .iter()
        .any(|line| line.contains("3 pairs to train on"));
    assert!(told, "{lines:?}");
    server.stop().await;
}

/// Writes a text model to a folder with another name.
fn text_model(named: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(named);
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/models/minilm-small/files");
    std::fs::create_dir_all(model.join("1_Pooling")).unwrap();
    std::fs::write(
        model.join("1_Pooling/config.json"),
        r#"{"pooling_mode_mean_tokens": true}"#,
    )
    .unwrap();
    for file in ["config.json", "modules.json"] {
        std::fs::copy(files.join(file), model.join(file)).unwrap();
    }
    let name = model.to_str().unwrap().to_owned();
    (folder, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_task_determines_the_csv_columns() {
    let (server, finetuner) = start().await;
    let (_folder, model) = text_model("clip-resnet");
    let rows = "what is a borrow,a reference\nwhat is a trait,methods of several types\n";
    let push = finetuner.push("pairs", Csv::text(rows)).model(&model);
    push.await.unwrap();
    let pulled = finetuner.pull("pairs").await.unwrap();
    let texts: Vec<_> = pulled.iter().filter_map(Document::as_text).collect();
    assert_eq!(texts[..2], ["what is a borrow", "a reference"]);
    assert_eq!(texts.len(), 4);
    // The check of the run returns the model's task.
    let fit = finetuner.fit(&model, Csv::text(rows));
    fit.loss(Loss::MultipleNegativeRanking).await.unwrap();
    let unknown = finetuner.push("pairs", Csv::text(rows)).model("none");
    let unknown = unknown.await.unwrap_err().to_string();
    assert!(unknown.contains("not in the list"), "{unknown}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_the_backend_can_not_train_are_refused_by_field() {
    let (server, finetuner) = start().await;
    finetuner.push("sentences", sentences()).await.unwrap();
    let fit = |model: &str| finetuner.fit(model, "sentences").epochs(1);
    let images = fit("efficientnet-small").await;
    let images = images.unwrap_err().to_string();
    assert!(images.contains("are not labelled documents"), "{images}");
    assert!(images.contains("holds no image"), "{images}");
    let sparse = fit("minilm-small").optimizer(Optimizer::SparseAdam).await;
    let sparse = sparse.unwrap_err();
    assert!(sparse.is_invalid());
    assert!(
        sparse.to_string().contains("gradients are dense"),
        "{sparse}"
    );
    server.stop().await;
}
