//! Code shared by the launchers of other machines: the variables of a worker,
//! checks of settings, shell quoting, and shortening the engine's messages.

use finetuner_protocol::text::cut;

use super::WorkOrder;
use crate::{
    error::StartError,
    worker::{KEEP_MEMORY, WORKER_CACHE, WORKER_CACHE_MB, WORKER_FOLDER, WORKER_URL},
};

/// Default name of the program that runs workers, found in the `PATH` of the
/// other machine.
pub(super) const PROGRAM: &str = "finetuner-server";

/// Variable for the number of threads that a worker computes with.
pub(super) const THREADS: &str = "RAYON_NUM_THREADS";

/// Longest engine message in a run's log, in bytes.
const MAX_MESSAGE: usize = 400;

/// Variables that the operator sets for workers, each given as `NAME=value`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Variables(Vec<(String, String)>);

impl Variables {
    /// Parses the list in the setting `key`.
    pub(super) fn of(key: &'static str, list: &[String]) -> Result<Self, StartError> {
        let pair = |text: &String| {
            // The value may be a secret, so errors show the name only.
            let shown = text.split('=').next().unwrap_or_default();
            let bad = |reason: &str| StartError::setting(key, format!("`{shown}`: {reason}"));
            let (name, value) = text.split_once('=').ok_or_else(|| bad("give NAME=value"))?;
            let is_name = |name: &str| {
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                    && !name.starts_with(|c: char| c.is_ascii_digit())
                    && !name.is_empty()
            };
            if !is_name(name) {
                return Err(bad(
                    "a name consists of letters, digits and `_`, and does not begin with a digit",
                ));
            }
            if name.starts_with("FINETUNER_WORKER_") && name != WORKER_CACHE_MB {
                return Err(bad(
                    "the server sets the variables that begin with FINETUNER_WORKER_",
                ));
            }
            if value.contains(char::is_control) {
                return Err(bad("a value must not contain control characters"));
            }
            Ok((name.to_owned(), value.to_owned()))
        };
        list.iter().map(pair).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the variables of a worker with `cores` cores. The variables that
    /// name its files are not among them.
    pub(super) fn of_worker(
        &self,
        order: &WorkOrder,
        cores: Option<u32>,
        cache: Option<&str>,
    ) -> Vec<(String, String)> {
        let mut all = vec![(KEEP_MEMORY.0.to_owned(), KEEP_MEMORY.1.to_owned())];
        // If a name occurs twice, the last value is used, so the operator's
        // values replace these. More threads than the job has cores would slow
        // down other jobs of the machine.
        if let Some(cores) = cores {
            all.push((THREADS.to_owned(), cores.to_string()));
        }
        let has_hub = |(name, _): &(String, String)| name == "HF_HOME" || name == "HF_HUB_CACHE";
        if let Some(cache) = cache
            && !self.0.iter().any(has_hub)
        {
            all.push(("HF_HUB_CACHE".to_owned(), format!("{cache}/hub")));
        }
        all.extend(self.0.iter().cloned());
        all.push((WORKER_URL.to_owned(), order.url.clone()));
        all.push((WORKER_FOLDER.to_owned(), order.folder.clone()));
        if let Some(cache) = cache {
            all.push((WORKER_CACHE.to_owned(), cache.to_owned()));
        }
        all
    }
}

/// Refuses a text that the shell or the engine would not take as one argument:
/// empty, starting with `-`, or with control characters.
pub(super) fn check_word(key: &'static str, text: &str) -> Result<(), StartError> {
    match text.is_empty() || text.starts_with('-') || text.contains(char::is_control) {
        true => Err(StartError::setting(
            key,
            format!(
                "`{text}`: give a name or a path that is not empty, does not begin with `-` and has \
                 no control characters"
            ),
        )),
        false => Ok(()),
    }
}

/// Refuses a relative path, which would mean a different folder for each job.
pub(super) fn check_absolute_path(key: &'static str, path: &str) -> Result<(), StartError> {
    check_word(key, path)?;
    match path.starts_with('/') {
        true => Ok(()),
        false => Err(StartError::setting(
            key,
            format!("`{path}`: give an absolute path, which begins with `/`"),
        )),
    }
}

/// Quotes a text as one word for a POSIX shell.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Shortens a message to its first and last lines: what happened, and the end
/// of the program's output or traceback.
pub(super) fn shorten(message: &str) -> String {
    let mut lines = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let half = MAX_MESSAGE / 2;
    match lines.next_back() {
        Some(last) => format!(
            "{}: {}",
            cut(first.trim_end_matches([':', '.']), half),
            cut(last, half)
        ),
        None => cut(first, MAX_MESSAGE).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_variables_in_the_settings_are_checked() {
        let list = |text: &str| Variables::of("launcher.x.environment", &[text.to_owned()]);
        assert_eq!(
            list("HF_HOME=/a=b").unwrap(),
            Variables(vec![("HF_HOME".to_owned(), "/a=b".to_owned())])
        );
        for (text, told) in [
            ("HF_HOME", "NAME=value"),
            ("=x", "a name consists of letters"),
            ("1A=x", "a name consists of letters"),
            ("A B=x", "a name consists of letters"),
            ("FINETUNER_WORKER_URL=x", "the server sets"),
            ("A=x\ny", "must not contain control characters"),
        ] {
            let error = list(text).unwrap_err().to_string();
            assert!(error.starts_with("`launcher.x.environment`: "), "{error}");
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_quoted_text_is_one_word_of_a_shell() {
        for text in ["", "a b", "it's", "$(id)`id`\\", "-----BEGIN\nEND"] {
            let script = format!("printf %s {}", quote(text));
            let said = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(said.unwrap().stdout, text.as_bytes());
        }
    }

    #[test]
    fn a_traceback_is_shortened_to_its_first_and_last_line() {
        assert_eq!(
            shorten("Failed.\n  at x\n\nOSError: none\n"),
            "Failed: OSError: none"
        );
        assert_eq!(shorten("Failed."), "Failed.");
        assert_eq!(shorten(""), "");
        assert!(shorten(&"ä\n".repeat(9)).len() < 10);
        assert!(shorten(&"ä".repeat(900)).len() <= MAX_MESSAGE);
    }
}
