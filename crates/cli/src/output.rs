//! Output: tables and texts for people, or only JSON, on standard output; notes on
//! standard error.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{
    failure::{Failure, Result},
    global::Global,
};

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Format of the output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

/// Whether standard error has colours: it is a terminal, without `NO_COLOR` and
/// `--no-color`.
pub(crate) fn colours_on_standard_error() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
        }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether bars are drawn.
    pub(crate) fn has_bars(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Writes a JSON value as one line.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result {
        let text = serde_json::to_string(value)
            .map_err(|e| Failure::failed(format!("the result can't be written as JSON: {e}")))?;
        self.line(&text)
    }

    /// Writes the value with `--json`, and the text otherwise.
    pub(crate) fn either(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result {
        match self.json {
            true => self.value(value),
            false => self.line(&text()),
        }
    }

    /// Writes one or more lines, without colours if they are disabled.
    pub(crate) fn line(&self, text: &str) -> Result {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Writes a note to standard error, unless `--quiet` is set.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            // If standard error is closed, the note is lost.
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        }
    }

    /// Writes why the command failed, and returns its exit code.
    pub(crate) fn report(&self, failure: &Failure) -> ExitCode {
        if !failure.is_silent() {
            let _ = writeln!(
                anstream::stderr().lock(),
                "{RED}error:{RED:#} {}",
                without_controls(&failure.to_string())
            );
        }
        failure.code()
    }
}

/// Writes a request to the user to standard error, also with `--quiet`.
pub(crate) fn ask(text: &str) {
    // `eprint!` would panic if standard error is closed.
    let mut out = anstream::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Removes control characters from text of a server or a file, because a terminal
/// would execute them. Line feeds and tabs stay.
pub(crate) fn without_controls(text: &str) -> String {
    let is_kept = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().filter(is_kept).collect()
}

/// Formats a table with column names in the first line.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if std::io::stdout().is_terminal()
        && let Some((width, _)) = terminal_size::terminal_size()
    {
        table.set_width(width.0);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| without_controls(cell)));
    }
    // No space at the ends of a line.
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let mut lines = text.lines().map(str::trim_end);
    let first = lines.next().unwrap_or_default();
    let mut text = format!("{BOLD}{first}{BOLD:#}");
    for line in lines {
        text.push('\n');
        text.push_str(line);
    }
    text
}

/// Formats a status in its colour.
pub(crate) fn status(status: &str) -> String {
    let style = match status {
        "FINISHED" => GREEN,
        "FAILED" => RED,
        "STARTED" => YELLOW,
        _ => Style::new(),
    };
    // A backend may return any text.
    format!("{style}{}{style:#}", without_controls(status))
}

/// Formats text in bold.
pub(crate) fn bold(text: &str) -> String {
    format!("{BOLD}{text}{BOLD:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_the_backend_can_not_control_the_terminal() {
        assert_eq!(status("PA\u{1b}[2JUSED\r"), "PA[2JUSED");
        let finished = status("FINISHED");
        assert!(finished.contains("FINISHED") && finished.starts_with("\u{1b}["));
    }
}
