//! Tests of the assignment of runs, and of the writes of workers.

use finetuner_protocol::{Event, Status};

use super::*;
use crate::database::{CheckpointRow, End, in_memory, with_run};

const NO_TIME: Duration = Duration::ZERO;

async fn claim(db: &Database, token: &[u8]) -> Option<Launched> {
    let launched = claim_only(db, token).await?;
    // The worker calls at once, with a token derived from the job's.
    let exchanged = db.exchange(token.to_vec(), token.to_vec()).await.unwrap();
    assert_eq!(exchanged, Some(launched.held()));
    Some(launched)
}

async fn claim_only(db: &Database, token: &[u8]) -> Option<Launched> {
    let claim = Claim {
        prefix: "ft-0a1b2c3d-".into(),
        start_token: token.to_vec(),
        delayed: Vec::new(),
    };
    db.claim(claim).await.unwrap()
}

async fn release(db: &Database, held: (i64, u64), counts: bool) -> bool {
    let release = Release {
        counts,
        worked: NO_TIME,
        line: Some((Level::Warning, "lost".into())),
    };
    db.release(held, release, || true).await.unwrap()
}

fn line(text: &str) -> Event {
    Event::Log {
        level: Level::Info,
        message: text.into(),
    }
}

fn step(epoch: u64, step: u64) -> Event {
    Event::Step {
        epoch,
        epochs: 2,
        step,
        steps: 3,
        loss: 1.0,
        mean_loss: 1.0,
        learning_rate: 0.1,
    }
}

async fn seen(db: &Database, run_id: i64) -> Vec<Event> {
    let events = db.events(run_id, None, 0, 100).await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|e| e.number).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    events.into_iter().map(|e| e.event).collect()
}

#[tokio::test]
async fn a_repeated_batch_is_stored_once_and_in_order() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    claim(&db, b"one").await.unwrap();
    let add = async |first, events| {
        let added = db.add_worker_events(run, b"one".to_vec(), NO_TIME, first, events);
        assert!(added.await.unwrap());
    };
    add(0, vec![line("0"), line("1")]).await;
    add(0, vec![line("0"), line("1")]).await;
    add(1, vec![line("1"), line("2")]).await;
    // A line from the server does not change the number of the worker's events.
    let own = db.write(move |db| events::log(db, run, Level::Info, "mine".into()));
    own.await.unwrap();
    add(3, vec![line("3")]).await;
    let expected = ["0", "1", "2", "mine", "3"].map(line);
    assert_eq!(seen(&db, run).await, expected);
}

#[tokio::test]
async fn a_replaced_worker_can_not_write() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    let first = claim(&db, b"one").await.unwrap();
    assert_eq!((first.id, first.launches, first.attempts), (run, 1, 1));
    assert!(claim(&db, b"two").await.is_none());
    assert!(db.begin(run, b"one".to_vec()).await.unwrap());
    assert!(release(&db, first.held(), true).await);
    // Only once, and not for another launch.
    assert!(!release(&db, first.held(), true).await);
    let second = claim(&db, b"two").await.unwrap();
    assert_eq!((second.launches, second.attempts), (2, 2));
    assert!(!release(&db, first.held(), true).await);

    let old = || b"one".to_vec();
    let added = db.add_worker_events(run, old(), NO_TIME, 0, vec![line("stale")]);
    assert!(!added.await.unwrap());
    assert!(!db.begin(run, old()).await.unwrap());
    let checkpoint = CheckpointRow::default();
    let stored = db.add_checkpoint(run, old(), checkpoint.clone()).await;
    assert!(stored.unwrap().is_none());
    let end = |status| End {
        status,
        details: "over".into(),
        lines: vec![(Level::Info, "over".into())],
    };
    let ended = db.end_run(run, Some(old()), end(Status::Finished)).await;
    assert!(ended.unwrap().is_none());
    let new = || b"two".to_vec();
    let stored = db.add_checkpoint(run, new(), checkpoint).await;
    assert!(stored.unwrap().is_some());
    let ended = db.end_run(run, Some(new()), end(Status::Finished)).await;
    assert!(ended.unwrap().is_some());
    // A run ends only once.
    let ended = db.end_run(run, None, end(Status::Failed)).await;
    assert!(ended.unwrap().is_none());
    let run = db.run_by_id(run).await.unwrap().unwrap();
    assert_eq!(run.status(), Status::Finished);
}

#[tokio::test]
async fn a_start_token_is_exchanged_once() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    let job = claim_only(&db, b"start").await.unwrap();
    assert_eq!(
        (job.job.as_str(), job.has_worker),
        ("ft-0a1b2c3d-1-1", false)
    );
    let exchange = async |start: &[u8], token: &[u8]| {
        let exchanged = db.exchange(start.to_vec(), token.to_vec());
        exchanged.await.unwrap().is_some()
    };
    // A start token permits nothing else.
    assert!(!db.begin(run, b"start".to_vec()).await.unwrap());
    assert!(!exchange(b"other", b"own").await);
    assert!(exchange(b"start", b"own").await);
    assert!(exchange(b"start", b"own").await, "the answer was lost");
    assert!(!exchange(b"start", b"thief").await);
    assert!(db.begin(run, b"own".to_vec()).await.unwrap());
    assert!(db.launched().await.unwrap()[0].has_worker);
    // The token of another run's worker is refused.
    with_second_run(&db).await;
    claim_only(&db, b"start 2").await.unwrap();
    assert!(!exchange(b"start 2", b"own").await);
    // A run that has another job, or has ended, accepts no worker.
    assert!(release(&db, job.held(), false).await);
    assert!(!exchange(b"start", b"own").await);
    let again = claim_only(&db, b"start 3").await.unwrap();
    assert_eq!(again.job, "ft-0a1b2c3d-1-2");
    let end = End {
        status: Status::Failed,
        details: String::new(),
        lines: Vec::new(),
    };
    assert!(db.end_run(run, None, end).await.unwrap().is_some());
    assert!(!exchange(b"start 3", b"own").await);
}

/// Creates a second run next to that of [`with_run`].
async fn with_second_run(db: &Database) {
    db.write(|db| {
        db.execute(
            "INSERT INTO runs (experiment_id, name, description, config, device, task, status,
                 details, created_at, artifact_id)
             VALUES (1, 'second', '', '{}', 'cpu', 'training', 'CREATED', '', '', 'second')",
            [],
        )
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_job_of_a_deleted_run_is_never_that_of_another_run() {
    let db = in_memory();
    let deleted = with_run(&db, "r").await;
    db.write(move |db| db.execute("DELETE FROM runs WHERE id = ?1", [deleted]))
        .await
        .unwrap();
    assert_ne!(with_run(&db, "s").await, deleted);
}

#[tokio::test]
async fn repeated_steps_are_stored_once() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    let first = claim(&db, b"one").await.unwrap();
    let batch = vec![step(1, 1), step(1, 2), step(1, 3), step(2, 1)];
    let added = db.add_worker_events(run, b"one".to_vec(), NO_TIME, 0, batch);
    assert!(added.await.unwrap());
    assert!(release(&db, first.held(), true).await);
    claim(&db, b"two").await.unwrap();
    // From the checkpoint after step 2.
    let batch = vec![step(1, 3), step(2, 1), step(2, 2)];
    let added = db.add_worker_events(run, b"two".to_vec(), NO_TIME, 0, batch);
    assert!(added.await.unwrap());
    let steps: Vec<Event> = seen(&db, run).await;
    let expected = vec![step(1, 1), step(1, 2), step(1, 3), step(2, 1)];
    assert_eq!(steps[..4], expected);
    assert!(matches!(steps[4], Event::Log { .. }));
    assert_eq!(steps[5..], [step(2, 2)]);
}

#[tokio::test]
async fn only_failures_without_progress_count_as_attempts() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    let attempts = async |token: &[u8]| {
        let launched = claim(&db, token).await.unwrap();
        (launched.attempts, launched.held())
    };
    let (first, held) = attempts(b"1").await;
    assert!(release(&db, held, false).await, "the launcher's fault");
    let (second, held) = attempts(b"2").await;
    assert!(release(&db, held, true).await, "the worker's own failure");
    let (third, held) = attempts(b"3").await;
    assert_eq!((first, second, third, held.1), (1, 1, 2, 3));
    let keep = async |token: &[u8], epoch, step| {
        let row = CheckpointRow {
            epoch,
            step,
            ..CheckpointRow::default()
        };
        let kept = db.add_checkpoint(run, token.to_vec(), row).await;
        assert!(kept.unwrap().is_some());
    };
    keep(b"3", 1, 5).await;
    assert!(release(&db, held, true).await);
    let (after_progress, held) = attempts(b"4").await;
    assert_eq!(after_progress, 2, "the failure after progress is the first");
    // The same position and an earlier one do not advance the run.
    keep(b"4", 1, 5).await;
    keep(b"4", 0, 9).await;
    assert!(release(&db, held, true).await);
    let (without_progress, held) = attempts(b"5").await;
    assert_eq!(without_progress, 3);
    keep(b"5", 2, 0).await;
    assert!(release(&db, held, true).await);
    assert_eq!(attempts(b"6").await.0, 2);
}

#[tokio::test]
async fn a_heartbeat_just_before_the_release_keeps_the_run() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    let held = claim(&db, b"one").await.unwrap().held();
    let lost = Release {
        counts: true,
        worked: NO_TIME,
        line: Some((Level::Warning, "lost".into())),
    };
    assert!(!db.release(held, lost, || false).await.unwrap());
    let row = db.run_by_id(run).await.unwrap().unwrap();
    assert!(row.has_worker && row.attempts == 1);
    assert!(seen(&db, run).await.is_empty());
}

#[tokio::test]
async fn time_worked_adds_up_over_workers() {
    let db = in_memory();
    let run = with_run(&db, "r").await;
    claim(&db, b"one").await.unwrap();
    let seconds = Duration::from_secs;
    let added = db.add_worker_events(run, b"one".to_vec(), seconds(5), 0, vec![line("0")]);
    assert!(added.await.unwrap());
    let [launched] = db.launched().await.unwrap().try_into().unwrap();
    let paused = Release {
        counts: false,
        worked: seconds(2),
        line: None,
    };
    let released = db.release(launched.held(), paused, || true);
    assert!(released.await.unwrap());
    assert_eq!(claim(&db, b"two").await.unwrap().worked, seconds(7));
}

#[tokio::test]
async fn users_take_turns_each_with_the_oldest_run_first() {
    let db = in_memory();
    with_run(&db, "a1").await;
    db.write(|db| {
        db.execute_batch(
            "INSERT INTO users (id, name, created_at) VALUES ('two', 'b', ''), ('three', 'c', '');
             INSERT INTO experiments (id, project_id, name, description, created_at)
                 VALUES (8, 'two', 'e', '', ''), (9, 'three', 'e', '', '');",
        )?;
        for (name, experiment) in [("a2", 1), ("a3", 1), ("b1", 8), ("b2", 8), ("c1", 9)] {
            db.execute(
                "INSERT INTO runs (experiment_id, name, description, config, device, task,
                     status, details, created_at, artifact_id, created_by)
                 SELECT id, ?2, '', '{}', 'cpu', 'training', 'CREATED', '', '', ?2, project_id
                 FROM experiments WHERE id = ?1",
                params![experiment, name],
            )?;
        }
        Ok(())
    })
    .await
    .unwrap();
    let name = async |id| db.run_by_id(id).await.unwrap().unwrap().name;
    let mut ahead = Vec::new();
    for id in 1..=6 {
        ahead.push((name(id).await, db.ahead(id).await.unwrap()));
    }
    ahead.sort_by_key(|(_, ahead)| *ahead);
    let mut order = Vec::new();
    let mut shown = Vec::new();
    for run in db.waiting(&db.identity_of("u").await).await.unwrap() {
        shown.push(name(run.id).await);
    }
    while let Some(launched) = claim(&db, &[order.len() as u8]).await {
        order.push(name(launched.id).await);
    }
    assert_eq!(shown, order, "the queue page shows the order");
    assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    // The position that a run reports is the real one.
    let told: Vec<(String, u64)> = order.into_iter().zip(0..).collect();
    assert_eq!(ahead, told);
}

#[tokio::test]
async fn a_long_queue_has_true_places_and_deleted_users_take_turns_too() {
    let db = in_memory();
    let first = with_run(&db, "r").await;
    let user = db.identity_of("u").await;
    let (goes, comes) = (db.identity_of("goes").await, db.identity_of("comes").await);
    let made = db.create_project(user.clone(), "team".into(), None);
    made.await.unwrap();
    db.write(move |db| {
        db.execute(
            "INSERT INTO experiments (id, project_id, name, description, created_at)
             SELECT 8, id, 'e', '', '' FROM projects WHERE name = 'team'",
            [],
        )?;
        let mut add = db.prepare(
            "INSERT INTO runs (experiment_id, name, description, config, device, task, status,
                 details, created_at, artifact_id, created_by)
             VALUES (8, ?1, '', '{}', 'cpu', 'training', 'CREATED', '', '', ?1, ?2)",
        )?;
        for number in 0..1500 {
            add.execute(params![format!("u{number}"), user.person])?;
        }
        for (name, person) in [("g1", &goes), ("g2", &goes), ("c1", &comes), ("c2", &comes)] {
            add.execute(params![name, person.person])?;
        }
        Ok(())
    })
    .await
    .unwrap();
    assert!(db.delete_user("goes".into()).await.unwrap());
    let seen = db.waiting(&db.identity_of("u").await).await.unwrap();
    let [g1, g2, c1, c2] = [1501, 1502, 1503, 1504].map(|number| first + number);
    let order: Vec<i64> = seen.iter().map(|run| run.id).collect();
    assert_eq!(order.len(), 1505);
    assert_eq!(order[..7], [first, g1, c1, first + 1, g2, c2, first + 2]);
    // The personal project is viewed: own runs elsewhere and those of others are unnamed.
    let named = [(true, true), (false, false), (false, false), (false, true)];
    for (run, named) in seen.iter().zip(named) {
        assert_eq!((run.is_visible, run.is_own), named);
    }
    for (place, id) in (0..).zip(&order[..7]) {
        assert_eq!(db.ahead(*id).await.unwrap(), place);
    }
    assert_eq!(db.ahead(first + 1500).await.unwrap(), 1504);
    let mut claimed = Vec::new();
    while claimed.len() < 7 {
        let next = claim(&db, &[claimed.len() as u8]).await.unwrap();
        claimed.push(next.id);
    }
    assert_eq!(claimed, order[..7]);
    assert_eq!(db.ahead(first).await.unwrap(), 0, "it waits no more");
}
