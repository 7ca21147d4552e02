//! The program under test, its home folder, and its backend.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use finetuner_server::{LocalModels, RunningServer, Server, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Backend of all tests, which lives as long as the test program.
static BACKEND: LazyLock<(Runtime, RunningServer)> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let settings = Settings {
        runs_at_once: 4,
        local_models: LocalModels::Anywhere,
        ..Settings::default()
    };
    let server = Server::embedded().settings(settings).start();
    let server = runtime.block_on(server).unwrap();
    (runtime, server)
});

pub(crate) fn url() -> String {
    BACKEND.1.url()
}

/// A user's machine: a home folder, a working folder, and an account.
pub(crate) struct Machine {
    home: TempDir,
    pub(crate) token: String,
}

/// Result of a program.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Machine {
    /// Creates a new user of the backend.
    pub(crate) fn new(user: &str) -> Self {
        let (runtime, server) = &*BACKEND;
        let token = runtime.block_on(server.create_token(user, "test")).unwrap();
        Self {
            home: tempfile::tempdir().unwrap(),
            token,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file to the working folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Returns the program in a clean environment.
    pub(crate) fn bare(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_finetuner"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.home.path())
            .env("JINA_HUB_ROOT", self.path("jina"))
            .env("JINA_FINETUNER_REGISTRY", url())
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        // Windows needs it for sockets.
        if let Some(root) = std::env::var_os("SystemRoot") {
            command.env("SystemRoot", root);
        }
        command
    }

    /// Returns the program for a logged-in user.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.bare(words);
        command.env("JINA_AUTH_TOKEN", &self.token);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Done {
        finish(self.command(words))
    }

    /// Runs a command that succeeds, and returns its standard output.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert_eq!(done.code, Some(0), "{words:?}: {}{}", done.out, done.err);
        done.out
    }

    /// Runs a command, and returns its JSON value.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.push("--json");
        let text = self.text(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}"))
    }

    /// Runs a command, and returns its JSON values, one per line.
    pub(crate) fn json_lines(&self, words: &[&str]) -> Vec<Value> {
        let mut all = words.to_vec();
        all.push("--json");
        let text = self.text(&all);
        let value = |line: &str| serde_json::from_str(line).unwrap();
        text.lines().map(value).collect()
    }

    /// Runs a command that ends with this code and without standard output, and returns
    /// its standard error.
    pub(crate) fn error(&self, code: i32, words: &[&str]) -> String {
        let done = self.run(words);
        let shown = format!("{words:?}: {}{}", done.out, done.err);
        assert_eq!((done.code, done.out.as_str()), (Some(code), ""), "{shown}");
        assert!(!done.err.contains(&self.token), "a token is shown");
        done.err
    }

    /// Returns the first rows of a list of the fashion data, with absolute paths of
    /// images.
    pub(crate) fn fashion(&self, name: &str, list: &str, count: usize) {
        let folder = emoji();
        let csv = std::fs::read_to_string(folder.join(format!("fashion/{list}.csv"))).unwrap();
        let row = |line: &str| {
            let (image, title) = line.split_once(',').unwrap();
            format!("{},{title}\n", folder.join(image).display())
        };
        self.file(name, csv.lines().take(count).map(row).collect::<String>());
    }
}

/// Time limit of a program, so that a program that hangs fails its test.
const LIMIT: Duration = Duration::from_secs(300);

/// Waits for a program, and kills it at the time limit.
pub(crate) fn finish(command: Command) -> Done {
    let child = start(command);
    let id = child.id().to_string();
    let (done, is_done) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if is_done.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Starts a program whose output is read while it runs.
pub(crate) fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Sends SIGINT, like Ctrl-C.
#[cfg(unix)]
pub(crate) fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(killed.success());
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the folder of the bundled images.
pub(crate) fn emoji() -> PathBuf {
    root().join("datasets/emoji-clip").canonicalize().unwrap()
}
