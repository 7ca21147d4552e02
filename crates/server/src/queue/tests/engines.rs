//! Tests of how the engine's job states affect runs.

use super::*;

#[tokio::test]
async fn a_waiting_job_never_expires_and_the_status_says_where_it_waits() {
    let mut harness = remote(one_attempt()).await;
    harness.launcher.state().begins = Some(pending("job 812"));
    harness.round().await;
    for hour in 0..3 {
        harness.app.clock.advance(Duration::from_secs(3600));
        harness.round().await;
        harness.advance(2).await;
        assert_eq!(harness.launcher.jobs(), [job(1, 1)], "hour {hour}");
    }
    let told = "Run submitted: waiting in Slurm's queue, job 812";
    assert_eq!(harness.details().await, told);
    harness.launcher.set(&job(1, 1), JobState::Running);
    harness.round().await;
    assert_eq!(harness.details().await, "Run submitted");
    let run = harness.begin().await;
    assert_eq!((run.launches, run.attempts), (1, 1));
    assert!(harness.launcher.state().stopped.is_empty());
}

#[tokio::test]
async fn an_unlisted_job_without_a_lease_is_lost_after_a_grace_period() {
    let mut harness = remote(Settings::default()).await;
    harness.round().await;
    harness.begin().await;
    harness.launcher.forget(&job(1, 1));
    // The engine has forgotten the job, but the worker still calls.
    harness.advance_with_heartbeats(600).await;
    assert_eq!(harness.launched().await[0].launches, 1);
    // The last lease ends.
    harness.advance(lease() - 2).await;
    assert_eq!(harness.launched().await[0].launches, 1);
    harness.advance(4).await;
    let [run] = harness.launched().await.try_into().unwrap();
    assert_eq!((run.launches, run.attempts), (2, 2));
    let log = harness.log().await;
    assert!(
        log.contains("Slurm knows no job with the name ft-0a1b2c3d-1-1"),
        "{log}"
    );

    // A job that appears late is no longer wanted.
    assert_eq!(harness.launcher.state().stopped, [job(1, 1)]);

    // Without a worker there is no lease, but there is a grace period.
    let grace = Settings::default().job_grace.as_secs();
    harness.launcher.forget(&job(1, 2));
    harness.advance(grace - 2).await;
    assert_eq!(harness.launched().await[0].launches, 2);
    harness.launcher.set(&job(1, 2), JobState::Running);
    harness.advance(1).await;
    harness.launcher.forget(&job(1, 2));
    harness.advance(grace - 1).await;
    assert_eq!(
        harness.launched().await[0].launches,
        2,
        "the grace period restarted"
    );
    harness.advance(5).await;
    let [run] = harness.launched().await.try_into().unwrap();
    assert_eq!(
        (run.launches, run.attempts),
        (3, 2),
        "it does not count as an attempt"
    );
}

#[tokio::test]
async fn an_engine_outage_of_minutes_changes_nothing() {
    let settings = Settings {
        runs_at_once: 3,
        attempts: 1,
        ..Settings::default()
    };
    let mut harness = remote(settings).await;
    harness.round().await;
    harness.begin().await;
    with_run(&harness.app.database, "pending").await;
    harness.launcher.state().begins = Some(pending("job 813"));
    harness.round().await;
    harness.launcher.state().away = Some("no route to the controller".into());
    with_run(&harness.app.database, "new").await;
    harness.advance_with_heartbeats(60).await;
    let note = harness.app.queue.note().unwrap();
    assert!(
        note.starts_with("Slurm has not answered for 59 s"),
        "{note}"
    );
    // Without a list, not even a silent worker counts as lost.
    harness.advance(120).await;
    let launched = harness.launched().await;
    let held: Vec<_> = launched.iter().map(Launched::held).collect();
    assert_eq!(held, [(1, 1), (2, 1)]);
    assert_eq!(harness.launcher.state().starts, 2, "nothing is started");
    assert!(harness.launcher.state().stopped.is_empty());
    let failed = harness.app.database.run_by_id(3).await.unwrap().unwrap();
    assert_eq!(failed.status, "CREATED");
    // The engine and the worker come back.
    harness.launcher.state().away = None;
    harness.app.leases.renew((1, 1));
    harness.round().await;
    assert_eq!(harness.app.queue.note(), None);
    assert_eq!(harness.launched().await.len(), 3);
    let log = harness.log().await;
    assert!(!log.contains("lost"), "{log}");
}

#[tokio::test]
async fn a_restarted_server_finds_its_jobs_by_name() {
    let settings = Settings {
        runs_at_once: 3,
        attempts: 1,
        ..Settings::default()
    };
    let mut harness = remote(settings).await;
    with_run(&harness.app.database, "pending").await;
    with_run(&harness.app.database, "unknown").await;
    harness.round().await;
    let orders: Vec<String> = {
        let state = harness.launcher.state();
        state
            .orders
            .iter()
            .map(|order| order.name.clone())
            .collect()
    };
    assert_eq!(orders, [job(1, 1), job(2, 1), job(3, 1)]);
    // The first job's worker has called, the second job waits, and the engine never
    // had the third one. Another job belongs to an unknown run.
    let state = std::mem::take(&mut *harness.launcher.state());
    harness.launcher.state().is_remote = true;
    harness.launcher.state().orders = vec![state.orders[0].clone()];
    harness.begin().await;
    harness.launcher.set(&job(1, 1), JobState::Running);
    harness.launcher.set(&job(2, 1), pending("job 813"));
    harness.launcher.set(&job(9, 4), pending("job 7"));
    harness.restart().await;
    harness.advance_with_heartbeats(3).await;
    assert_eq!(harness.launcher.state().stopped, [job(9, 4)]);
    let held = async |harness: &Harness| {
        let launched = harness.launched().await;
        launched.iter().map(Launched::held).collect::<Vec<_>>()
    };
    assert_eq!(held(&harness).await, [(1, 1), (2, 1), (3, 1)]);
    harness.advance_with_heartbeats(20).await;
    assert_eq!(
        harness.launcher.state().starts,
        0,
        "its submission may be in progress"
    );
    harness.advance_with_heartbeats(12).await;
    assert_eq!(held(&harness).await, [(1, 1), (2, 1), (3, 2)]);
    let run = harness.app.database.run_by_id(3).await.unwrap().unwrap();
    assert_eq!(run.attempts, 1, "it does not count as an attempt");
    // An adopted worker that was lost while no server was running does not count.
    harness.launcher.forget(&job(1, 1));
    harness.restart().await;
    harness.advance(35).await;
    let run = harness.run().await;
    assert_eq!(
        (run.launches, run.attempts, run.status.as_str()),
        (2, 1, "STARTED")
    );
}

#[tokio::test]
async fn a_refused_order_fails_the_run_with_the_reason() {
    let mut harness = remote(Settings::default()).await;
    let reason = "no machine has 64 graphics processors".to_owned();
    harness
        .launcher
        .state()
        .refusals
        .push_back(LaunchError::Refused(reason));
    harness.round().await;
    let run = harness.run().await;
    assert_eq!(run.status, "FAILED");
    assert_eq!(
        run.noted,
        "Slurm refused the job: no machine has 64 graphics processors"
    );
    harness.advance(5).await;
    assert_eq!(harness.launcher.state().starts, 1);
}

#[tokio::test]
async fn a_start_with_a_lost_answer_leaves_no_job() {
    let mut harness = remote(one_attempt()).await;
    harness.launcher.fail_starts(1);
    harness.round().await;
    assert!(harness.launched().await.is_empty());
    // The answer was lost but the job exists; its worker gets no run.
    harness.launcher.set(&job(1, 1), JobState::Running);
    harness.advance(13).await;
    assert_eq!(harness.launcher.state().stopped, [job(1, 1)]);
    assert_eq!(harness.launcher.jobs(), [job(1, 2)]);
    assert_eq!(harness.begin().await.attempts, 1);
}

#[tokio::test]
async fn a_worker_stopped_by_the_engine_pauses_and_does_not_count() {
    let mut harness = remote(one_attempt()).await;
    for launch in 1..=4 {
        harness.round().await;
        let run = harness.begin().await;
        assert_eq!((run.launches, run.attempts), (launch, 1));
        // The outcome of a worker that wrote its checkpoint after SIGTERM.
        let paused = Release {
            counts: false,
            worked: Duration::ZERO,
            line: None,
        };
        let released = harness.app.database.release(run.held(), paused, || true);
        assert!(released.await.unwrap());
        let ended = JobState::Ended("preempted".into());
        harness.launcher.set(&run.job, ended);
    }
    // The engine puts the job back into its queue, but the start token is spent.
    harness.round().await;
    let run = harness.begin().await;
    harness.launcher.set(&run.job, pending("requeued"));
    harness.advance(lease() - 1).await;
    assert_eq!(harness.launched().await[0].launches, 5);
    harness.advance(5).await;
    let run = harness.run().await;
    assert_eq!(
        (run.launches, run.attempts),
        (6, 1),
        "{}",
        harness.log().await
    );
    assert!(harness.launcher.state().stopped.contains(&job(1, 5)));
}

#[tokio::test]
async fn a_running_job_that_never_calls_is_replaced_and_does_not_count() {
    let mut harness = remote(one_attempt()).await;
    harness.round().await;
    harness.advance(15 * 60 - 2).await;
    assert_eq!(harness.launched().await[0].launches, 1);
    harness.advance(18).await;
    let run = harness.run().await;
    assert_eq!((run.launches, run.attempts), (2, 1));
    let log = harness.log().await;
    assert!(
        log.contains("has not called http://127.0.0.1:1 for 900 seconds"),
        "{log}"
    );
}

/// Returns an engine that has slots for nine runs, and nine runs that wait.
async fn with_nine_runs() -> Harness {
    let settings = Settings {
        runs_at_once: 9,
        ..Settings::default()
    };
    let harness = remote(settings).await;
    for n in 0..8 {
        with_run(&harness.app.database, &format!("r{n}")).await;
    }
    harness
}

#[tokio::test]
async fn slow_job_starts_do_not_delay_the_supervision_of_workers() {
    let mut harness = with_nine_runs().await;
    let clock = harness.app.clock.clone();
    harness.launcher.state().slow = Some((clock, Duration::from_secs(2)));
    for expected in [3, 6, 9] {
        harness.round().await;
        assert_eq!(harness.launcher.state().starts, expected);
        let pause = harness.queue.pause_before_next(REMOTE_TICK);
        assert_eq!(pause == Duration::ZERO, expected < 9, "{pause:?}");
    }
}

#[tokio::test]
async fn slow_stops_of_jobs_do_not_delay_the_supervision_of_workers() {
    let mut harness = with_nine_runs().await;
    harness.launcher.state().begins = Some(pending("job 812"));
    harness.round().await;
    for run in harness.launched().await {
        let failed = harness.app.fail(run.id, None, "cancelled".into()).await;
        assert!(failed.unwrap());
    }
    let clock = harness.app.clock.clone();
    harness.launcher.state().slow = Some((clock, Duration::from_secs(2)));
    for expected in [3, 6, 9] {
        harness.round().await;
        assert_eq!(harness.launcher.state().stopped.len(), expected);
        let pause = harness.queue.pause_before_next(REMOTE_TICK);
        assert_eq!(pause == Duration::ZERO, expected < 9, "{pause:?}");
    }
}

#[tokio::test]
async fn the_job_of_an_ended_run_is_polled_often_but_briefly() {
    let mut harness = remote(Settings::default()).await;
    harness.round().await;
    let run = harness.begin().await;
    harness
        .app
        .fail(run.id, None, "cancelled".into())
        .await
        .unwrap();
    // The job is still listed.
    harness.round().await;
    assert_eq!(harness.queue.pause_before_next(REMOTE_TICK), 2 * TICK);
    harness.advance(10).await;
    assert_eq!(harness.queue.pause_before_next(REMOTE_TICK), REMOTE_TICK);
}

#[tokio::test]
async fn a_job_on_a_dead_machine_does_not_occupy_its_slot_forever() {
    for is_remote in [true, false] {
        let mut harness = harness(Settings::default()).await;
        harness.launcher.state().is_remote = is_remote;
        harness.launcher.state().hangs = true;
        harness.round().await;
        harness.begin().await;
        // The engine waits for the machine to report the end of the job.
        harness.advance(lease() + 2).await;
        harness.advance(ABANDONED_AFTER.as_secs() - 10).await;
        assert_eq!(harness.launcher.state().starts, 1);
        harness.advance(14).await;
        // A process of this machine that can't be killed still needs its memory.
        let starts = harness.launcher.state().starts;
        assert_eq!(starts, 1 + usize::from(is_remote));
    }
}

#[tokio::test]
async fn a_silent_worker_is_detected_when_its_lease_ends() {
    let mut harness = remote(Settings::default()).await;
    harness.round().await;
    assert_eq!(harness.queue.pause_before_next(REMOTE_TICK), REMOTE_TICK);
    harness.begin().await;
    assert_eq!(harness.queue.pause_before_next(REMOTE_TICK), REMOTE_TICK);
    harness.advance(lease() - 2).await;
    let pause = harness.queue.pause_before_next(REMOTE_TICK);
    assert!(pause < Duration::from_millis(2011), "{pause:?}");
    harness.app.clock.advance(pause);
    harness.round().await;
    assert!(harness.launched().await.is_empty());
}

#[tokio::test]
async fn two_servers_on_one_cluster_do_not_touch_each_others_jobs() {
    let mut harness = remote(Settings::default()).await;
    let others = ["ft-99999999-1-1", "ft-0a1b2c3-1-1", "training"];
    for other in others {
        harness.launcher.set(other, JobState::Running);
    }
    harness.round().await;
    harness.begin().await;
    harness.advance_with_heartbeats(60).await;
    assert!(harness.launcher.state().stopped.is_empty());
    assert_eq!(harness.launcher.jobs().len(), 4, "and they occupy no slot");
    harness.app.begin_to_stop().await;
    end_all(&harness.app, &engine(&harness.launcher), true).await;
    assert_eq!(harness.launcher.state().stopped, [job(1, 1)]);
}

#[tokio::test]
async fn a_waiting_job_is_kept_for_the_next_server() {
    let mut harness = remote(Settings::default()).await;
    harness.launcher.state().begins = Some(pending("job 812"));
    harness.round().await;
    harness.app.begin_to_stop().await;
    assert!(
        !harness.queue.round().await.unwrap(),
        "nothing is waited for"
    );
    end_all(&harness.app, &engine(&harness.launcher), false).await;
    assert_eq!(harness.launcher.jobs(), [job(1, 1)]);
    let [run] = harness.launched().await.try_into().unwrap();
    assert!(!run.stopped);
    // With a temporary data folder there is no next server.
    end_all(&harness.app, &engine(&harness.launcher), true).await;
    assert!(harness.launcher.jobs().is_empty());
}

#[tokio::test]
async fn an_order_contains_the_requested_resources() {
    let settings = Settings {
        max_run_memory: Some(1 << 30),
        workers: Workers {
            cpus: Some(2),
            gpus: Some(1),
            max_cpus: Some(4),
            ..Workers::default()
        },
        ..Settings::default()
    };
    let mut harness = remote(settings).await;
    let disturb = "UPDATE runs SET device = 'gpu', cpus = 8 WHERE id = 1";
    harness.app.database.disturb(disturb).await;
    harness.round().await;
    let order = harness.launcher.state().orders[0].clone();
    let wanted = Resources {
        cpus: Some(4),
        gpus: Some(1),
        memory: Some(1 << 30),
    };
    assert_eq!(order.resources, wanted);
    assert_eq!(order.name, job(1, 1));
    let labels: Vec<&str> = order.labels.values().map(String::as_str).collect();
    assert_eq!(labels, ["e", "r", "u"], "experiment, run, user");
    let workers = Workers {
        max_gpus: Some(0),
        ..Workers::default()
    };
    assert_eq!(workers.gpus(Some(1)), None, "the machines have none");
    // A run on the CPU requests no GPU.
    let disturb = "UPDATE runs SET device = 'cpu', cpus = NULL, job = NULL WHERE id = 1";
    harness.app.database.disturb(disturb).await;
    harness.launcher.state().jobs.clear();
    harness.round().await;
    let order = harness.launcher.state().orders[1].clone();
    assert_eq!(
        (order.resources.cpus, order.resources.gpus),
        (Some(2), None)
    );
}
