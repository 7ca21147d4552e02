//! Runs tests in a separate process with other environment variables.

use std::process::Command;

/// Marks the process that has the variables.
const CHILD: &str = "FINETUNER_TEST_CHILD";

/// Runs the test `module::name` again in a process with these variables and a new
/// folder as `HOME`, and returns `true`. Returns `false` in that process.
pub(crate) fn in_child_process(test: &str, variables: &[(&str, &str)]) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    for name in [
        "JINA_AUTH_TOKEN",
        "JINA_HUB_ROOT",
        "DBUS_SESSION_BUS_ADDRESS",
        "NO_PROXY",
        "no_proxy",
        "ALL_PROXY",
        "all_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "REQUEST_METHOD",
    ] {
        command.env_remove(name);
    }
    command.env(CHILD, "1").env("HOME", home.path());
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let printed = printed.join("\n");
    assert!(output.status.success(), "{printed}");
    assert!(
        printed.contains("1 passed"),
        "{test} was not found: {printed}"
    );
    true
}
