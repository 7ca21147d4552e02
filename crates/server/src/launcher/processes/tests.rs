//! Tests with real child processes, and with processes of an earlier server.

use tokio::io::AsyncBufReadExt;

use super::*;
use crate::launcher::example;

const JOB: &str = "ft-0a1b2c3d-1-1";

/// Starts a process that waits and has the command line of a job's worker.
fn sleeper(script: &str, job: &str) -> Child {
    Command::new("sh")
        .args(["-c", script, "worker", job])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Returns the identity of a process, once its command line is readable. The
/// command line appears a moment after the process.
async fn noted(child: &Child, job: &str) -> Foreign {
    let process = Foreign::started(child.id().unwrap()).unwrap();
    let is_there = async {
        while !process.is_worker(job) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), is_there).await;
    waited.expect("a process with the job's name in its command line");
    process
}

fn processes(folder: &Path) -> Processes {
    let home = Home {
        prefix: "ft-0a1b2c3d-".into(),
        folder,
        ca: Some("/etc/ca.pem".into()),
    };
    Processes::new(&ProcessesSettings::default(), &home).unwrap()
}

async fn state(processes: &Processes, job: &str) -> Option<JobState> {
    processes.list().await.unwrap().remove(job)
}

#[tokio::test]
async fn a_job_of_a_previous_server_is_found_by_name_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut child = sleeper("read line", JOB);
    let process = noted(&child, JOB).await;
    let note = |job: &str, text: String| std::fs::write(jobs.join(job), text).unwrap();
    note(JOB, process.to_string());
    // In this order: the same id with another start time, the process of
    // another job, no process, and a job of another server.
    let later = process.started + 1;
    note("ft-0a1b2c3d-2-1", format!("{} {later}", process.pid));
    note("ft-0a1b2c3d-3-1", process.to_string());
    note("ft-0a1b2c3d-4-1", String::new());
    note("ft-99999999-1-1", process.to_string());
    let processes = processes(folder.path());
    let listed = processes.list().await.unwrap();
    let mut names: Vec<&str> = listed.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, [JOB, "ft-0a1b2c3d-2-1", "ft-0a1b2c3d-3-1"]);
    assert_eq!(listed[JOB], JobState::Running);
    assert!(matches!(listed["ft-0a1b2c3d-2-1"], JobState::Ended(_)));
    assert!(matches!(listed["ft-0a1b2c3d-3-1"], JobState::Ended(_)));
    assert!(jobs.join(JOB).exists() && !jobs.join("ft-0a1b2c3d-2-1").exists());
    assert!(jobs.join("ft-99999999-1-1").exists(), "of another server");
    for name in ["ft-0a1b2c3d-3-1", "unknown", JOB] {
        processes.stop(name).await.unwrap();
    }
    assert_eq!(signal(&child.wait().await.unwrap()), Some(15));
    let end = state(&processes, JOB).await;
    assert!(matches!(end, Some(JobState::Ended(how)) if how.contains("ended")));
    assert!(!jobs.join(JOB).exists());
}

#[tokio::test]
async fn a_job_that_does_not_pause_is_killed_after_the_grace_period() {
    let folder = tempfile::tempdir().unwrap();
    let processes = processes(folder.path());
    let mut child = sleeper("trap '' TERM; echo; read line", JOB);
    let process = noted(&child, JOB).await;
    // The process writes a line once it ignores SIGTERM.
    let said = child.stdout.take().unwrap();
    // `wait` would close the input, which ends the process.
    let _input = child.stdin.take();
    tokio::io::BufReader::new(said)
        .read_line(&mut String::new())
        .await
        .unwrap();
    let foreign = Job::new(Process::Foreign(process));
    processes.jobs.lock().insert(JOB.to_owned(), foreign);
    tokio::time::pause();
    processes.stop(JOB).await.unwrap();
    assert_eq!(state(&processes, JOB).await, Some(JobState::Running));
    tokio::time::advance(KILLED_AFTER + Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_eq!(signal(&child.wait().await.unwrap()), Some(9));
}

#[tokio::test]
async fn a_worker_does_not_get_the_servers_secrets() {
    let order = WorkOrder {
        name: JOB.into(),
        ..example::order("ft_secret", "run")
    };
    let folder = tempfile::tempdir().unwrap();
    let mut processes = processes(folder.path());
    processes.more_environment = vec!["CARGO_MANIFEST_DIR".into()];
    let command = processes.command(&order).unwrap();
    let names: Vec<String> = command
        .as_std()
        .get_envs()
        .filter(|(_, value)| value.is_some())
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    let has = |name: &str| names.iter().any(|has| has == name);
    assert!(has("PATH") && has(WORKER_TOKEN) && has("CARGO_MANIFEST_DIR"));
    let mut set = command.as_std().get_envs();
    assert!(set.any(|set| set == (WORKER_CA.as_ref(), Some("/etc/ca.pem".as_ref()))));
    assert!(!has("CARGO_PKG_NAME"), "{names:?}");
    let arguments: Vec<_> = command.as_std().get_args().collect();
    assert_eq!(arguments, ["worker", JOB]);
}
