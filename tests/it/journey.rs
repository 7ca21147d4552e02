//! From login to a saved model, against the real backend.

use finetuner::{BestModelCheckpoint, Finetuner, RetryPolicy, Status};
use finetuner_engine::infer::Encoder;
use finetuner_server::Server;

use crate::backend::{self, EVAL_DATA, TRAIN_DATA, pairs, rows, short_fit, with_data};

const METRICS: [&str; 9] = [
    "average_precision",
    "dcg_at_k",
    "f1_score_at_k",
    "hit_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "reciprocal_rank",
];

#[tokio::test]
async fn the_steps_of_the_guide_work_from_login_to_saved_model() {
    let (server, finetuner) = with_data(48).await;
    assert_pulled_equals_pushed(&finetuner, 48).await;

    let run = finetuner
        .fit("clip-small", TRAIN_DATA)
        .run_name("clip-fashion-1")
        .eval_data(EVAL_DATA)
        .epochs(4)
        .batch_size(16)
        .learning_rate(1e-3)
        .callback(BestModelCheckpoint::new().monitor("train_loss"))
        .callback(finetuner::EvaluationCallback::new(EVAL_DATA).limit(3))
        .loss(finetuner::Loss::Clip)
        .image_modality("image")
        .text_modality("text")
        .multi_modal(true)
        .await
        .unwrap();
    assert_eq!(
        (run.name(), run.experiment()),
        ("clip-fashion-1", "default")
    );

    let mut lines = Vec::new();
    let mut stream = run.stream_logs();
    while let Some(line) = stream.next().await {
        lines.push(line.unwrap());
    }
    let log = run.logs().await.unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), lines);
    for part in [
        "Starting finetuning run",
        "Training [4/4] 3/3",
        "val_loss",
        "Artifact pushed",
    ] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    assert!(
        log.contains("training on the CPU"),
        "the device's warning is not in\n{log}"
    );

    // As another program would.
    let finetuner = backend::login(&server).await;
    let run = finetuner.get_run("clip-fashion-1").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, Status::Finished);
    assert_eq!(run.config().training().unwrap().hyper_parameters.epochs, 4);
    assert_eq!(finetuner.list_runs().await.unwrap().len(), 1);

    let metrics = run.metrics().await.unwrap();
    for values in [&metrics.before, &metrics.after] {
        assert_eq!(values.keys().collect::<Vec<_>>(), METRICS);
        assert!(values.values().all(|value| (0.0..=1.0).contains(value)));
    }
    assert_ne!(metrics.before, metrics.after);

    let folder = tempfile::tempdir().unwrap();
    let model = run
        .save_model(folder.path().join("clip-model"))
        .await
        .unwrap();
    let again = run.save_model(&model).await.unwrap();
    assert_eq!(model, again, "a saved model may be replaced");

    // The model finds its training data, so it has learned.
    let trained_on = rows("train", 8);
    let images: Vec<&[u8]> = trained_on.iter().map(|(p, _)| p.as_slice()).collect();
    let titles: Vec<&str> = trained_on.iter().map(|(_, t)| t.as_str()).collect();
    let mean_similarity = |encoder: &Encoder| {
        let images = encoder.encode_images(&images).unwrap();
        let titles = encoder.encode_texts(&titles).unwrap();
        let cosine = |(a, b): (&[f32], &[f32])| -> f32 {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        images.iter().zip(titles.iter()).map(cosine).sum::<f32>() / 8.0
    };
    let before = mean_similarity(&Encoder::from_backbone("clip-small").unwrap());
    let after = mean_similarity(&Encoder::from_folder(&model).unwrap());
    assert!(after > before + 0.1, "{before} before, {after} after");
}

/// Checks that pulled documents equal the pushed ones.
async fn assert_pulled_equals_pushed(finetuner: &Finetuner, count: usize) {
    let pulled = finetuner.pull(TRAIN_DATA).await.unwrap();
    let pushed = pairs("train", count);
    assert_eq!(pulled.len(), pushed.len());
    for (a, b) in pulled.iter().zip(pushed.iter()) {
        // Ids are random.
        assert_eq!(a.chunks[0].as_blob(), b.chunks[0].as_blob());
        assert_eq!(a.chunks[1].as_text(), b.chunks[1].as_text());
    }
}

#[tokio::test]
async fn queued_runs_wait_and_equal_seeds_give_equal_models() {
    let (_server, finetuner) = with_data(16).await;
    let one = short_fit(&finetuner, "one").await.unwrap();
    let two = short_fit(&finetuner, "two").await.unwrap();
    let status = two.status().await.unwrap();
    assert_eq!(
        status.to_string(),
        "{'status': 'CREATED', 'details': 'Run submitted and awaits execution'}"
    );
    one.wait().await.unwrap();
    two.wait().await.unwrap();
    assert_eq!(one.metrics().await.unwrap(), two.metrics().await.unwrap());
    let names: Vec<_> = finetuner.list_runs().await.unwrap();
    let names: Vec<_> = names.iter().map(|run| run.name().to_owned()).collect();
    assert_eq!(names, ["one", "two"]);
}

#[tokio::test]
async fn experiments_are_created_fetched_and_listed() {
    let (_server, finetuner) = backend::start().await;
    let experiment = finetuner.create_experiment("shoes").await.unwrap();
    assert_eq!(experiment.name(), "shoes");
    let error = finetuner.create_experiment("shoes").await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(
        finetuner.get_experiment("shoes").await.unwrap().name(),
        "shoes"
    );
    for n in 0..120 {
        finetuner.create_experiment(&format!("e{n}")).await.unwrap();
    }
    let all = finetuner.list_experiments().await.unwrap();
    assert_eq!(all.len(), 121, "more than a page");
    assert!(experiment.list_runs().await.unwrap().is_empty());
    let error = finetuner.get_run("nothing").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn users_do_not_see_each_others_objects() {
    let (server, ada) = with_data(8).await;
    ada.create_experiment("secret-shoes").await.unwrap();
    let token = server.create_token("bob", "laptop").await.unwrap();
    let bob = Finetuner::builder().registry(server.url()).token(token);
    let bob = bob.login().await.unwrap();
    assert_ne!(bob.user(), ada.user());
    assert!(bob.list_experiments().await.unwrap().is_empty());
    assert!(
        bob.get_experiment("secret-shoes")
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(bob.pull(TRAIN_DATA).await.unwrap_err().is_not_found());
    // Names belong to their user.
    bob.push(TRAIN_DATA, pairs("train", 2)).await.unwrap();
    assert_eq!(ada.pull(TRAIN_DATA).await.unwrap().len(), 8);
}

#[tokio::test]
async fn a_restarted_backend_keeps_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::embedded().folder(folder.path()).start();
    let server = start().await.unwrap();
    let token = server.first_token().unwrap().to_owned();
    let finetuner = backend::login(&server).await;
    finetuner
        .push(TRAIN_DATA, pairs("train", 16))
        .await
        .unwrap();
    finetuner.push(EVAL_DATA, pairs("eval", 8)).await.unwrap();
    let run = short_fit(&finetuner, "kept").await.unwrap();
    run.wait().await.unwrap();
    let (log, metrics) = (run.logs().await.unwrap(), run.metrics().await.unwrap());
    server.stop().await;
    assert!(run.status().await.is_err());

    let server = start().await.unwrap();
    assert_eq!(server.first_token(), None, "it was given out before");
    let finetuner = Finetuner::builder()
        .registry(server.url())
        .token(token)
        .retry(RetryPolicy::never())
        .login()
        .await
        .unwrap();
    let run = finetuner.get_run("kept").await.unwrap();
    assert_eq!(run.logs().await.unwrap(), log);
    assert_eq!(run.metrics().await.unwrap(), metrics);
    let saved = tempfile::tempdir().unwrap();
    run.save_model(saved.path().join("model")).await.unwrap();
}
