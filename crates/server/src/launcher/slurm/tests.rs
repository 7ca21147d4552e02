//! Tests against shell scripts in place of Slurm's commands. Their answers were
//! recorded from Slurm 22.05, which `scripts/check_slurm.py` starts.

#![cfg(unix)]

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::*;
use crate::launcher::example::{self, JOB};

const TOKEN: &str = "ft_it's secret";
/// Output of `squeue --noheader --me --states=all --format='%i|%j|%T|%r'`.
const LISTED: &str = "\
8|wrap|COMPLETED|None
9|ft-0123abcd-9-1|COMPLETED|None
10|ft-0123abcd-10-1|FAILED|NonZeroExitCode
11|ft-0123abcd-11-1|PENDING|PartitionConfig
12|ft-0123abcd-12-1|PENDING|Resources
13|ft-0123abcd-13-1|FAILED|BadConstraints
15|ft-0123abcd-15-1|COMPLETING|None
16|ft-0123abcd-16-1|CONFIGURING|None
17|ft-0123abcd-17-1|RUNNING|None
18|ft-0123abcd-18-1|PREEMPTED|None
19|ft-0123abcd-19-1|NODE_FAIL|Nodes required for job are DOWN, DRAINED | reserved
20|ft-0123abcd-20-1|A_NEW_STATE|None
21|ft-0123abcd-21-1|CANCELLED|None
22|ft-0123abcd-21-1|RUNNING|None
23|ft-4567cdef-1-1|RUNNING|None
24|ft-0123abcd-24-1|SUSPENDED|None
25|ft-0123abcd-25-1|OUT_OF_MEMORY|OutOfMemory
";

/// Commands in a folder that record how they were called.
struct Commands {
    folder: TempDir,
}

impl Commands {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let commands = Self { folder };
        for name in ["sbatch", "squeue", "scancel"] {
            commands.answers(name, "", "", 0);
        }
        commands
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Sets the answer of a command from now on.
    fn answers(&self, name: &str, output: &str, error: &str, status: i32) {
        std::fs::write(self.path(&format!("{name}.out")), output).unwrap();
        std::fs::write(self.path(&format!("{name}.err")), error).unwrap();
        self.does(
            name,
            &format!(
                "printf '%s\\n' \"$@\" >'{0}.arguments'; env >'{0}.env'; cat >'{0}.in'
                 cat '{0}.out'; cat '{0}.err' >&2; exit {status}",
                self.path(name)
            ),
        );
    }

    fn does(&self, name: &str, script: &str) {
        let path = self.path(name);
        // Written under another name first: a file that is open for writing
        // can't be executed.
        let new = format!("{path}.new");
        std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn was_given(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn settings(&self) -> SlurmSettings {
        SlurmSettings {
            sbatch: self.path("sbatch"),
            squeue: self.path("squeue"),
            scancel: self.path("scancel"),
            ..SlurmSettings::default()
        }
    }

    fn slurm(&self) -> Slurm {
        slurm(&self.settings())
    }
}

fn slurm(settings: &SlurmSettings) -> Slurm {
    Slurm::new(settings, &example::home()).unwrap()
}

fn order() -> WorkOrder {
    let mut order = example::order(TOKEN, "a\nrun");
    // Not a whole number of MiB, so it is rounded up.
    order.resources.memory = Some((3 << 30) + 1);
    order
}

#[tokio::test]
async fn the_token_is_only_in_the_script() {
    let commands = Commands::new();
    let launcher = slurm(&SlurmSettings {
        partition: Some("low".to_owned()),
        time: Some("1:00:00".to_owned()),
        gres: "gpu:a100".to_owned(),
        arguments: vec!["--qos=long".to_owned()],
        logs: Some("/shared/logs/".to_owned()),
        ..commands.settings()
    });
    launcher.start(&order()).await.unwrap();
    let arguments = commands.was_given("sbatch.arguments");
    let arguments: Vec<_> = arguments.lines().collect();
    let expected = [
        "--parsable",
        "--job-name=ft-0123abcd-1-1",
        "--comment=run=a run",
        "--output=/shared/logs/%x.log",
        "--no-requeue",
        "--signal=B:TERM@60",
        "--export=NONE",
        "--chdir=/",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=3073M",
        "--gres=gpu:a100:1",
        "--partition=low",
        "--time=1:00:00",
        "--qos=long",
    ];
    assert_eq!(arguments, expected);
    let environment = commands.was_given("sbatch.env");
    assert!(environment.contains("PATH="), "{environment}");
    // Cargo sets this variable for tests. It represents the server's secrets.
    assert!(!environment.contains("CARGO_MANIFEST_DIR"), "{environment}");
    let script = commands.was_given("sbatch.in");
    assert!(script.contains(r"'ft_it'\''s secret'"), "{script}");
}

#[tokio::test]
async fn a_listed_job_is_not_submitted_again() {
    let commands = Commands::new();
    commands.answers("squeue", &format!("812|{JOB}|PENDING|Priority\n"), "", 0);
    commands.slurm().start(&order()).await.unwrap();
    assert_eq!(commands.was_given("sbatch.arguments"), "");
}

#[tokio::test]
async fn impossible_requests_are_refused_and_other_errors_retried() {
    let commands = Commands::new();
    let retry = |error: &str| LaunchError::Retry(error.to_owned());
    let refused = |error: &str| LaunchError::Refused(error.to_owned());
    let failed = "sbatch: error: Batch job submission failed: ";
    for (said, expected) in [
        (
            format!(
                "sbatch: error: Memory specification can not be satisfied\n{failed}Requested node configuration is not available\n"
            ),
            refused(&format!(
                "sbatch: error: Memory specification can not be satisfied: {failed}Requested node configuration is not available"
            )),
        ),
        (
            "sbatch: error: Invalid generic resource (gres) specification\n".to_owned(),
            refused("sbatch: error: Invalid generic resource (gres) specification"),
        ),
        (
            format!("{failed}Unable to contact slurm controller (connect failure)\n"),
            retry(&format!(
                "{failed}Unable to contact slurm controller (connect failure)"
            )),
        ),
        (
            format!(
                "sbatch: error: invalid partition specified: nope\n{failed}Invalid partition name specified\n"
            ),
            retry(&format!(
                "sbatch: error: invalid partition specified: nope: {failed}Invalid partition name specified"
            )),
        ),
    ] {
        commands.answers("sbatch", "", &said, 1);
        assert_eq!(commands.slurm().start(&order()).await, Err(expected));
    }
    let launcher = slurm(&SlurmSettings {
        sbatch: "/none/sbatch".to_owned(),
        ..commands.settings()
    });
    let error = launcher.start(&order()).await.unwrap_err();
    assert!(
        matches!(&error, LaunchError::Retry(reason) if reason.contains("/none/sbatch")),
        "{error:?}"
    );
}

#[tokio::test]
async fn every_state_of_slurm_maps_to_a_job_state() {
    let commands = Commands::new();
    commands.answers("squeue", LISTED, "", 0);
    let jobs = commands.slurm().list().await.unwrap();
    assert_eq!(jobs.len(), 14);
    let pending = |words: &str| JobState::Pending(words.to_owned());
    let ended = |words: &str| JobState::Ended(words.to_owned());
    for (n, state) in [
        (9, ended("Slurm's job 9 is COMPLETED")),
        (10, ended("Slurm's job 10 is FAILED (NonZeroExitCode)")),
        (11, pending("job 11 (PartitionConfig)")),
        (12, pending("job 12 (Resources)")),
        (13, ended("Slurm's job 13 is FAILED (BadConstraints)")),
        (15, JobState::Running),
        (16, pending("job 16 (its node is being prepared)")),
        (17, JobState::Running),
        (18, ended("Slurm's job 18 is PREEMPTED")),
        (
            19,
            ended(
                "Slurm's job 19 is NODE_FAIL (Nodes required for job are DOWN, DRAINED | reserved)",
            ),
        ),
        (20, JobState::Running),
        // Submitted twice; one of the two jobs runs.
        (21, JobState::Running),
        (24, pending("job 24 (SUSPENDED)")),
        (
            25,
            ended(
                "Slurm's job 25 is OUT_OF_MEMORY (OutOfMemory): it used more memory than it had requested; a smaller `batch_size` needs less",
            ),
        ),
    ] {
        assert_eq!(jobs[&format!("ft-0123abcd-{n}-1")], state);
    }
    let arguments = commands.was_given("squeue.arguments");
    assert!(arguments.contains("--states=all"), "{arguments}");
}

#[tokio::test]
async fn an_unreachable_controller_is_an_error() {
    let commands = Commands::new();
    let said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)";
    commands.answers("squeue", "", said, 1);
    commands.answers("scancel", "", said, 1);
    let launcher = commands.slurm();
    assert_eq!(launcher.list().await, Err(said.to_owned()));
    assert_eq!(launcher.stop(JOB).await, Err(said.to_owned()));
    let error = launcher.start(&order()).await;
    assert_eq!(error, Err(LaunchError::Retry(said.to_owned())));
    assert_eq!(commands.was_given("sbatch.arguments"), "");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_hangs_is_an_error() {
    let commands = Commands::new();
    commands.does("squeue", "exec sleep 1000");
    let launcher = commands.slurm();
    let error = launcher.list().await.unwrap_err();
    assert!(
        error.ends_with("did not answer within 12 seconds"),
        "{error}"
    );
}

#[tokio::test]
async fn a_job_is_stopped_by_its_name() {
    let commands = Commands::new();
    commands.slurm().stop(JOB).await.unwrap();
    assert_eq!(
        commands.was_given("scancel.arguments"),
        format!("--name={JOB}\n")
    );
}

/// Runs the script of an order with a shell script in place of the worker.
fn in_a_job(order: &WorkOrder, worker: &str) -> (TempDir, std::process::Child) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("scratch")).unwrap();
    std::fs::write(path("worker"), worker).unwrap();
    std::fs::set_permissions(path("worker"), PermissionsExt::from_mode(0o755)).unwrap();
    let settings = SlurmSettings {
        program: path("worker"),
        folder: Some(path("scratch")),
        cache: Some("/a cache".to_owned()),
        ..SlurmSettings::default()
    };
    let variables = Variables::of("", &["HF_HOME=/it's".to_owned()]).unwrap();
    let script = script::of(order, &settings, &variables);
    std::fs::write(path("script"), script).unwrap();
    let child = Command::new("sh")
        .arg(path("script"))
        .env("OUT", path("out"))
        .env("SLURM_CPUS_ON_NODE", "3")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    (folder, child)
}

fn is_clean(folder: &TempDir) -> bool {
    let mut left = std::fs::read_dir(folder.path().join("scratch")).unwrap();
    left.next().is_none()
}

#[test]
fn the_script_passes_the_worker_its_files_and_removes_them() {
    let (folder, mut job) = in_a_job(
        &order(),
        "#!/bin/sh
        { echo \"$@\"; cat \"$FINETUNER_WORKER_START\"; echo; cat \"$FINETUNER_WORKER_CA\"
        stat -c %a \"$FINETUNER_WORKER_START\" \"$TMPDIR\"
        echo \"$FINETUNER_WORKER_URL $FINETUNER_WORKER_FOLDER $FINETUNER_WORKER_CACHE\"
        echo \"$HF_HOME $RAYON_NUM_THREADS\"; } >\"$OUT\"
        touch \"$TMPDIR/left\"; exit 7",
    );
    assert_eq!(job.wait().unwrap().code(), Some(7));
    let said = std::fs::read_to_string(folder.path().join("out")).unwrap();
    let expected = format!(
        "worker {JOB}\n{TOKEN}\n-----BEGIN CERTIFICATE-----\n600\n700\n\
         https://head-node:8642 finetuner-run-1-1- /a cache\n/it's 2\n"
    );
    assert_eq!(said, expected);
    assert!(is_clean(&folder));
}

#[test]
fn a_worker_without_a_core_count_uses_the_cores_that_slurm_grants() {
    let mut order = order();
    order.resources.cpus = None;
    let (folder, mut job) = in_a_job(&order, "#!/bin/sh\necho \"$RAYON_NUM_THREADS\" >\"$OUT\"");
    assert_eq!(job.wait().unwrap().code(), Some(0));
    let said = std::fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(said, "3\n");
}

#[test]
fn the_script_passes_on_sigterm_and_waits_for_the_checkpoint() {
    let (folder, mut job) = in_a_job(
        &order(),
        "#!/bin/sh
        trap 'echo told >>\"$OUT\"; sleep 0.3; echo saved >>\"$OUT\"; exit 0' TERM
        echo ready
        while :; do sleep 0.05; done",
    );
    let mut ready = String::new();
    // There is no line if the job has ended.
    let mut output = BufReader::new(job.stdout.take().unwrap());
    output.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let pid = rustix::process::Pid::from_child(&job);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(job.wait().unwrap().code(), Some(0));
    let said = std::fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(said, "told\nsaved\n");
    assert!(is_clean(&folder));
}

#[test]
fn unusable_settings_are_refused_by_name() {
    let check = |change: fn(&mut SlurmSettings)| {
        let mut settings = SlurmSettings::default();
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    };
    for (error, key) in [
        (check(|s| s.sbatch = String::new()), "sbatch"),
        (check(|s| s.folder = Some("a\nb".to_owned())), "folder"),
        (check(|s| s.partition = Some("-x".to_owned())), "partition"),
        (
            check(|s| s.arguments = vec!["long".to_owned()]),
            "arguments",
        ),
    ] {
        assert!(
            error.starts_with(&format!("`launcher.slurm.{key}`: ")),
            "{error}"
        );
    }
    SlurmSettings::default().check().unwrap();
}
