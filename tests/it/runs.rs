//! Runs from submission to deletion, against the real backend.

use std::time::Duration;

use finetuner::{
    Error, EvaluationCallback, Experiment, Finetuner, Fit, Run, RunTask, Status, Update, Watch,
    protocol::Event,
};
use finetuner_test::Fault;
use futures_util::TryStreamExt;

use crate::{
    backend::{self, EVAL_DATA, TRAIN_DATA, short_fit, with_data},
    mock::finished_test_run,
};

#[tokio::test]
async fn a_run_is_watched_to_its_end_and_its_history_stays() {
    let (_server, finetuner) = with_data(32).await;
    let run = finetuner
        .fit("clip-small", TRAIN_DATA)
        .run_name("watched")
        .description("two epochs of images")
        .epochs(2)
        .batch_size(8)
        .loss("CLIPLoss")
        .callback(
            EvaluationCallback::new(EVAL_DATA)
                .limit(3)
                .gather_examples(true)
                .num_example_queries(2),
        )
        .await
        .unwrap();
    let mut watch = run.watch();
    let (mut statuses, mut progress, mut points) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(update) = watch.next().await {
        match update.unwrap() {
            Update::Status(status) => statuses.push(status.status),
            Update::Progress(p) => progress.push((p.step, p.steps, p.epoch)),
            Update::Point(point) => points.push(point),
            _ => {}
        }
    }
    assert_eq!(statuses.last(), Some(&Status::Finished));
    assert_eq!(progress.len(), 8, "{progress:?}");
    assert_eq!(progress[0], (1, 8, 1));
    assert_eq!(progress[7], (8, 8, 2));
    let history = run.metric_history(None).await.unwrap();
    assert_eq!(points, history);
    let epochs = history
        .iter()
        .filter(|p| matches!(p.event, Event::Epoch { .. }));
    assert_eq!(epochs.count(), 2);
    let half = history[history.len() / 2].number;
    let rest = run.metric_history(Some(half)).await.unwrap();
    assert!(rest.iter().all(|point| point.number > half));
    assert_eq!(run.watch().await.unwrap().status, Status::Finished);

    let again = finetuner.get_run("watched").await.unwrap();
    assert_eq!(again.description(), "two epochs of images");
    assert_eq!(*again.task(), RunTask::Training);

    let examples = run.example_results().await.unwrap();
    assert_eq!((examples.before.len(), examples.after.len()), (2, 2));
    assert!(examples.after.values().all(|found| found.len() == 3));
    let table = run.display_examples(1).await.unwrap().to_string();
    assert_eq!(table.matches("Match 1").count(), 4, "{table}");
    assert!(!table.contains("Match 2"));
    let table = run.display_metrics().await.unwrap().to_string();
    assert!(
        table.contains("Retrieval metrics after fine-tuning:"),
        "{table}"
    );
}

#[tokio::test]
async fn an_artifact_is_saved_unchanged_and_can_be_opened() {
    let (_server, finetuner) = with_data(16).await;
    let run = short_fit(&finetuner, "zipped").await.unwrap();
    run.wait().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let zip = run
        .save_artifact(folder.path().join("artifacts"))
        .await
        .unwrap();
    assert!(zip.ends_with("artifacts/zipped.zip"), "{}", zip.display());
    let folder = run.save_model(folder.path().join("model")).await.unwrap();
    let texts = ["a shoe"];
    let (a, b) = tokio::task::spawn_blocking(move || {
        let encode = |path| {
            finetuner::local::get_model(path)
                .unwrap()
                .encode_texts(&texts)
        };
        (encode(zip).unwrap(), encode(folder).unwrap())
    })
    .await
    .unwrap();
    assert_eq!(a, b);
    let id = run.artifact_id().await.unwrap().to_owned();
    let info = finetuner.describe_artifact(&id).await.unwrap();
    assert_eq!(info.id, id);
    let models = finetuner.list_artifacts("model").await.unwrap();
    assert_eq!(models.len(), 1);
    run.delete().await.unwrap();
    assert!(
        finetuner
            .describe_artifact(&id)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn a_cancelled_run_ends_and_the_next_one_starts() {
    let (_server, finetuner) = with_data(64).await;
    let long = |name: &str| short_fit(&finetuner, name).epochs(49).batch_size(2);
    let running = long("running").await.unwrap();
    let waiting = long("waiting").await.unwrap();
    let next = short_fit(&finetuner, "next").await.unwrap();
    let mut watch = running.watch();
    while let Some(update) = watch.next().await {
        if matches!(update.unwrap(), Update::Progress(_)) {
            break;
        }
    }
    let error = waiting.logs().await.unwrap_err();
    assert!(error.is_run_preparing(), "{error}");
    let error = running.artifact_id().await.unwrap_err();
    assert!(error.is_run_in_progress(), "{error}");
    waiting.cancel().await.unwrap();
    running.cancel().await.unwrap();
    for run in [&running, &waiting] {
        let error = run.wait().await.unwrap_err();
        assert!(error.is_run_failed(), "{error}");
        assert!(error.to_string().contains("cancelled"), "{error}");
    }
    next.wait().await.unwrap();
    // A run that has ended does not change.
    next.cancel().await.unwrap();
    assert_eq!(next.status().await.unwrap().status, Status::Finished);
    assert_eq!(next.checkpoints().await.unwrap(), []);
}

#[tokio::test]
async fn unsupported_calls_are_distinguished_from_missing_objects() {
    let (backend, _, run) = finished_test_run().await;
    let unknown = |path| backend.fault(Fault::status(404).on(path).always());
    for path in ["/checkpoints", "/history", "/cancel"] {
        unknown(path);
    }
    let errors = [
        run.checkpoints().await.err().unwrap(),
        run.metric_history(None).await.err().unwrap(),
        run.cancel().await.err().unwrap(),
        run.resume_from(1, "next").await.err().unwrap(),
    ];
    for error in errors {
        assert!(error.is_unsupported(), "{error}");
    }
    unknown("/status");
    let error = run.checkpoints().await.unwrap_err();
    assert!(error.is_not_found() && !error.is_unsupported(), "{error}");
}

#[tokio::test]
async fn runs_and_experiments_are_deleted() {
    let (_server, finetuner) = with_data(16).await;
    for name in ["a", "b", "c"] {
        let run = short_fit(&finetuner, name)
            .experiment_name("shoes")
            .epochs(1);
        run.await.unwrap();
    }
    let shoes = finetuner.get_experiment("shoes").await.unwrap();
    let names = |runs: Vec<Run>| runs.iter().map(|r| r.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(shoes.list_runs().await.unwrap()), ["a", "b", "c"]);
    let page = shoes.list_runs().page(2, 2).await.unwrap();
    assert_eq!((page.total, names(page.items)), (3, vec!["c".to_owned()]));
    let past = shoes.list_runs().page(9, 2).await.unwrap();
    assert!(past.items.is_empty());
    let streamed: Vec<Run> = finetuner.list_runs().stream().try_collect().await.unwrap();
    assert_eq!(streamed.len(), 3);

    shoes.delete_run("a").await.unwrap();
    assert!(shoes.get_run("a").await.unwrap_err().is_not_found());
    shoes.delete_runs().await.unwrap();
    assert!(shoes.list_runs().await.unwrap().is_empty());
    let deleted = finetuner.delete_experiment("shoes").await.unwrap();
    assert_eq!(deleted.name(), "shoes");
    finetuner.create_experiment("one").await.unwrap();
    assert_eq!(finetuner.delete_experiments().await.unwrap().len(), 1);
    assert!(finetuner.list_experiments().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_synthesis_without_relations_is_refused() {
    let (_server, finetuner) = backend::start().await;
    let error = finetuner
        .synthesize("q", "c")
        .num_relations(0)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("num_relations"), "{error}");
}

#[test]
fn every_call_has_a_blocking_form() {
    use finetuner::blocking::{Wait, WaitIter};

    let outside = tokio::runtime::Runtime::new().unwrap();
    let (_server, finetuner) = outside.block_on(with_data(16));
    let run = short_fit(&finetuner, "blocking").wait().unwrap();
    let lines: Result<Vec<String>, Error> = run.stream_logs().wait_iter().collect();
    assert!(lines.unwrap().len() > 3);
    assert_eq!(run.status().wait().unwrap().status, Status::Finished);
    // Also inside a runtime.
    outside.block_on(async {
        assert_eq!(finetuner.list_runs().wait().unwrap().len(), 1);
    });
}

#[tokio::test]
async fn futures_are_small_and_send() {
    fn is_send<T: Send>(value: T) -> usize {
        size_of_val(&value)
    }
    fn shared<T: Clone + Send + Sync>() {}
    shared::<Finetuner>();
    shared::<Run>();
    shared::<Experiment>();
    shared::<Fit>();
    fn sent<T: Send>() {}
    sent::<Watch>();
    let (_backend, finetuner, run) = finished_test_run().await;
    let sizes = [
        ("status", is_send(run.status())),
        ("logs", is_send(run.logs())),
        ("metrics", is_send(run.metrics())),
        ("wait", is_send(run.wait())),
        ("cancel", is_send(run.cancel())),
        ("get_run", is_send(finetuner.get_run("r"))),
        (
            "create_experiment",
            is_send(finetuner.create_experiment("e")),
        ),
        ("fit", is_send(finetuner.fit("m", "t").into_future())),
        ("push", is_send(finetuner.push("n", "t").into_future())),
        ("pull", is_send(finetuner.pull("n").into_future())),
        ("save_model", is_send(run.save_model("m").into_future())),
        ("login", is_send(Finetuner::login().into_future())),
    ];
    for (call, size) in sizes {
        assert!(size <= 4096, "the future of {call} has {size} bytes");
    }
    tokio::time::timeout(Duration::from_secs(5), run.status())
        .await
        .unwrap()
        .unwrap();
}
