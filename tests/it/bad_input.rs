//! Bad settings and data are refused by name before a run is created.

use finetuner::{
    BestModelCheckpoint, Document, DocumentArray, EvaluationCallback, Finetuner, Fit, FitCallback,
};

use crate::backend::{self, TRAIN_DATA, pair, pairs, short_fit, with_data};

/// Submits a job and returns its error; checks that no run was created.
async fn refused(finetuner: &Finetuner, fit: Fit) -> String {
    let error = match fit.await {
        Err(error) => error,
        Ok(run) => panic!("accepted: {:?}", run.config()),
    };
    assert!(error.is_invalid(), "{error:?}");
    assert!(
        finetuner.list_runs().await.unwrap().is_empty(),
        "a run was created despite: {error}"
    );
    error.to_string()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[tokio::test]
async fn unknown_names_are_refused() {
    let (_server, finetuner) = with_data(4).await;
    let fit = || short_fit(&finetuner, "bad");

    let text = refused(&finetuner, finetuner.fit("clip-huge", TRAIN_DATA)).await;
    assert_says(&text, &["model", "`clip-huge`", "clip-small"]);

    let text = refused(&finetuner, fit().loss("MagicLoss")).await;
    assert_says(&text, &["loss", "`MagicLoss`", "CLIPLoss"]);

    let callback = FitCallback::other("EarlyStart", [("patience", 2)]);
    let text = refused(&finetuner, fit().callback(callback)).await;
    assert_says(&text, &["callbacks", "`EarlyStart`", "EvaluationCallback"]);

    let text = refused(&finetuner, fit().optimizer("Adamant")).await;
    assert_says(&text, &["optimizer", "`Adamant`", "AdamW"]);

    let callback = BestModelCheckpoint::new().monitor("beauty");
    let text = refused(&finetuner, fit().callback(callback)).await;
    assert_says(&text, &["monitor", "beauty"]);

    let text = refused(&finetuner, fit().run_name("../etc")).await;
    assert_says(&text, &["run_name", "../etc"]);
}

#[tokio::test]
async fn numbers_out_of_bounds_are_refused() {
    let (_server, finetuner) = with_data(4).await;
    let fit = || short_fit(&finetuner, "bad");
    for epochs in [0, 50] {
        let text = refused(&finetuner, fit().epochs(epochs)).await;
        assert_says(&text, &["epochs", &epochs.to_string(), "49"]);
    }
    for rate in [0.0, -1e-5, 1e-300, 1.0, f64::NAN] {
        let text = refused(&finetuner, fit().learning_rate(rate)).await;
        assert_says(&text, &["learning_rate"]);
    }
    let text = refused(&finetuner, fit().batch_size(0)).await;
    assert_says(&text, &["batch_size", "0"]);
    let text = refused(&finetuner, fit().val_split(1.0)).await;
    assert_says(&text, &["val_split", "1"]);
    let text = refused(&finetuner, fit().model_option("seed", "high")).await;
    assert_says(&text, &["model_options", "seed", "high"]);
}

#[tokio::test]
async fn missing_data_is_refused() {
    let (_server, finetuner) = with_data(4).await;
    let text = refused(
        &finetuner,
        finetuner.fit("clip-small", "no-data").loss("CLIPLoss"),
    )
    .await;
    assert_says(&text, &["`train_data`", "`no-data`", "push"]);
    let fit = short_fit(&finetuner, "bad");
    let text = refused(&finetuner, fit.eval_data("no-eval-data")).await;
    assert_says(&text, &["`eval_data`", "`no-eval-data`"]);
    let fit = short_fit(&finetuner, "bad").callback(EvaluationCallback::new("no-queries"));
    let text = refused(&finetuner, fit).await;
    assert_says(&text, &["`query_data`", "`no-queries`"]);
}

#[tokio::test]
async fn documents_that_are_not_pairs_are_refused() {
    let (_server, finetuner) = backend::start().await;
    let good = pairs("train", 3);
    let text_only = || Document::text("red shoe").with_modality("text");
    let cases: [(Document, &[&str]); 4] = [
        (
            Document::new().with_id("lonely").with_chunk(text_only()),
            &["lonely", "image"],
        ),
        (Document::new().with_id("bare"), &["bare"]),
        (
            pair(b"\x89PNG\r\n\x1a\nbroken".to_vec(), "red shoe"),
            &["image"],
        ),
        (
            pair(
                good[0].chunks[0].as_blob().unwrap()[..300].to_vec(),
                "red shoe",
            ),
            &["image"],
        ),
    ];
    for (bad, parts) in cases {
        let id = bad.id.clone();
        let mut documents: DocumentArray = good.clone();
        documents.push(bad);
        let fit = finetuner.fit("clip-small", documents).loss("CLIPLoss");
        let text = refused(&finetuner, fit).await;
        assert_says(&text, parts);
        assert_says(&text, &[&id]);
    }
    let fit = finetuner
        .fit("clip-small", DocumentArray::new())
        .loss("CLIPLoss");
    let text = refused(&finetuner, fit).await;
    assert_says(&text, &["train"]);
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let (server, _) = backend::start().await;
    let login = Finetuner::builder().registry(server.url()).token("guessed");
    let error = login.login().await.unwrap_err();
    assert!(error.is_unauthorized(), "{error:?}");
    let text = format!("{error} {error:?}");
    assert_says(&text, &["token"]);
    assert!(!text.contains("guessed"), "{text}");
}

#[tokio::test]
async fn a_model_folder_without_a_config_is_refused() {
    let (_server, finetuner) = with_data(4).await;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().to_str().unwrap();
    let fit = finetuner
        .fit(model, TRAIN_DATA)
        .loss("CLIPLoss")
        .run_name("bad");
    let error = match fit.await {
        Err(error) => error,
        Ok(run) => run.wait().await.unwrap_err(),
    };
    assert_says(&error.to_string(), &["config.json", model]);
}

#[tokio::test]
async fn a_run_name_can_be_used_once() {
    let (_server, finetuner) = with_data(8).await;
    let run = short_fit(&finetuner, "mine").await.unwrap();
    let error = short_fit(&finetuner, "mine").await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_says(&error.to_string(), &["run_name", "`mine`"]);
    run.wait().await.unwrap();
    assert_eq!(finetuner.list_runs().await.unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_names_delete_nothing() {
    let (_server, finetuner) = with_data(8).await;
    let run = short_fit(&finetuner, "mine").await.unwrap();
    run.wait().await.unwrap();
    let experiment = finetuner.experiment(run.experiment());
    for name in ["", " ", ".", ".."] {
        let error = finetuner.delete_experiment(name).await.unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert_says(&error.to_string(), &["name"]);
        let error = experiment.delete_run(name).await.unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert_says(&error.to_string(), &["run_name"]);
        let nameless = finetuner.experiment(name);
        let error = nameless.delete_runs().await.unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert_says(&error.to_string(), &["experiment", &format!("`{name}`")]);
        assert!(experiment.get_run(name).await.unwrap_err().is_invalid());
    }
    assert_eq!(finetuner.list_runs().await.unwrap().len(), 1);
}
