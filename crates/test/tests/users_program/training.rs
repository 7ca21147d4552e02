use answers::{Outcome, train};
use finetuner::Finetuner;
use finetuner_test::{Fault, TestBackend};

const PAIRS: &str = "what is a borrow,a reference\nwhat is a trait,methods of several types\n";

async fn connect(backend: &TestBackend) -> finetuner::Result<Finetuner> {
    let builder = Finetuner::builder()
        .registry(backend.url())
        .token(backend.token())
        .http_service(backend.service());
    builder.login().await
}

#[tokio::test(start_paused = true)]
async fn a_better_model_is_saved() -> Result<(), Box<dyn std::error::Error>> {
    let backend = TestBackend::start().await?;
    let run = backend.run("answers");
    run.metric_before("recall_at_k", 0.5);
    run.finish_with([("recall_at_k", 0.75)]);

    let folder = tempfile::tempdir()?;
    let model = folder.path().join("model");
    let outcome = train(&connect(&backend).await?, PAIRS, &model).await?;
    assert_eq!(outcome, Outcome::Saved);
    assert!(model.join("config.json").exists());

    // What the program sent.
    let submitted = backend.submitted();
    let config = submitted[0].training().ok_or("not a training run")?;
    assert_eq!(config.model.name.as_deref(), Some("minilm-small"));
    assert_eq!(config.hyper_parameters.epochs, 3);
    let pushed = backend.pushed(&config.data.train_data)?;
    assert_eq!(pushed.ok_or("no data was pushed")?.len(), 4);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_reported() -> Result<(), Box<dyn std::error::Error>> {
    let backend = TestBackend::start().await?;
    backend.run("answers").fail("out of memory");
    let folder = tempfile::tempdir()?;
    let outcome = train(&connect(&backend).await?, PAIRS, folder.path()).await?;
    let Outcome::Failed(reason) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains("out of memory"), "{reason}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_again() -> Result<(), Box<dyn std::error::Error>> {
    let backend = TestBackend::start().await?;
    backend.fault(Fault::status(503).on("/status").times(2));
    let folder = tempfile::tempdir()?;
    let outcome = train(&connect(&backend).await?, PAIRS, folder.path()).await?;
    assert_eq!(outcome, Outcome::NotBetter);
    assert_eq!(
        backend.count("/api/v1/experiments/default/runs/answers/status"),
        4
    );
    Ok(())
}
