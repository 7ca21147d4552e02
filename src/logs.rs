//! A run's log as it is written.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use finetuner_protocol::{Status, text::cut};
use futures_util::{Stream, StreamExt, stream};

use reqwest::Method;
use tokio::time::Instant;

use crate::{Error, Result, Run, transport::Outage};

/// A connection that brought something for this long was a good one, even if
/// that was no line.
const GOOD_WHILE: Duration = Duration::from_secs(10);

/// The most bytes of a line; the rest is cut, and the line says so.
const MAX_LINE: usize = 1 << 20;
/// The end of a line that was cut.
const CUT: &str = " [cut: the line has more than 1 MiB]";

/// Lines of a run's log, from [`Run::stream_logs`].
///
/// A connection that breaks is made again, and the stream goes on behind the
/// last line that came. A backend that does not answer is waited for, up to
/// [`Builder::outage_limit`](crate::Builder::outage_limit). The stream ends when
/// the run has finished; if the run has failed, the last item is an error with
/// [`Error::is_run_failed`]. A line above 1 MiB is cut, and ends with `[cut: ...]`.
///
/// It is a [`Stream`]; [`LogStream::next`] saves importing anything for that.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// let lines = run.stream_logs();
/// # drop(lines);
/// # Ok(())
/// # }
/// ```
pub struct LogStream(Pin<Box<dyn Stream<Item = Result<String>> + Send>>);

impl LogStream {
    pub(crate) fn new(run: Run) -> Self {
        // Connections are repeated by the rules of an outage.
        let run = run.with_calls_made_once();
        let reader = Reader {
            outage: run.transport.outage(),
            run,
            connection: None,
            parser: Parser::default(),
            lines: VecDeque::new(),
            last_id: None,
            seen_before: None,
            opened: Instant::now(),
            ended: false,
        };
        let lines = stream::unfold(reader, |mut reader| async {
            let line = reader.next().await?;
            // After an error nothing comes any more.
            reader.ended |= line.is_err();
            Some((line, reader))
        });
        Self(Box::pin(lines))
    }

    /// The next line; none after the last.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let first = run.stream_logs().next().await.transpose()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<String>> {
        self.0.next().await
    }
}

impl Stream for LogStream {
    type Item = Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

type Connection = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

struct Reader {
    run: Run,
    connection: Option<Connection>,
    parser: Parser,
    /// Lines of the last event.
    lines: VecDeque<String>,
    last_id: Option<u64>,
    /// The last id of the connections before this one.
    seen_before: Option<u64>,
    opened: Instant,
    outage: Outage,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<String>> {
        while !self.ended {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            while let Some((id, text)) = self.parser.ready.pop_front() {
                // A server that can't resume sends all from the start again.
                if let Some(id) = id {
                    if self.seen_before.is_some_and(|last| id <= last) {
                        continue;
                    }
                    self.last_id = Some(id);
                }
                self.outage.over();
                self.lines.extend(text.split('\n').map(str::to_owned));
                if let Some(line) = self.lines.pop_front() {
                    return Some(Ok(line));
                }
            }
            match self.read_more().await {
                Ok(true) => {}
                Ok(false) => match self.end().await {
                    Ok(()) => {}
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => {
                    if let Err(error) = self.pause(error).await {
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }

    /// Takes what the connection brings; false at its end.
    async fn read_more(&mut self) -> Result<bool> {
        let idle = self.run.transport.idle_timeout();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let route = "experiments/{experiment}/runs/{run}/logstream";
                let mut call = self
                    .run
                    .call(Method::GET, route)
                    .header("accept", "text/event-stream")
                    .streaming();
                if let Some(id) = self.last_id {
                    call = call.header("last-event-id", &id.to_string());
                }
                let answer = self.run.transport.open(call).await?;
                self.parser = Parser::default();
                self.seen_before = self.last_id;
                self.opened = Instant::now();
                self.connection.insert(Box::pin(answer.bytes_stream()))
            }
        };
        let next = tokio::time::timeout(idle, connection.next()).await;
        match next.map_err(|_| Error::timeout(idle))? {
            Some(bytes) => {
                let bytes = bytes.map_err(|e| Error::transport(e, idle))?;
                self.parser.feed(&bytes);
                if self.opened.elapsed() > GOOD_WHILE {
                    // A comment is a sign of life too.
                    self.outage.over();
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The server has closed the stream: has the run ended, or only the
    /// connection?
    async fn end(&mut self) -> Result<()> {
        let status = match self.run.status().await {
            Ok(status) => status,
            Err(error) => return self.pause(error).await,
        };
        match status.status {
            Status::Finished => self.ended = true,
            Status::Failed => return Err(Error::run_failed(self.run.name(), &status.details)),
            _ => self.pause(early_end()).await?,
        }
        Ok(())
    }

    /// Waits before the next connection, or gives the error back if there is
    /// none.
    async fn pause(&mut self, error: Error) -> Result<()> {
        let was_open = self.connection.take().is_some();
        // Silence alone is not an outage: a run may wait for hours.
        if was_open && error.is_timeout() && self.run.status().await.is_ok() {
            self.outage.over();
        }
        self.outage.wait(error).await
    }
}

fn early_end() -> Error {
    Error::broken_off("the log stream ended before the run did")
}

/// Reads server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    /// Whether the line in the buffer has more bytes than are kept.
    is_cut: bool,
    id: Option<u64>,
    data: Option<Data>,
    ready: VecDeque<(Option<u64>, String)>,
}

/// The data of an event, of which no more than [`MAX_LINE`] bytes are kept.
#[derive(Default)]
struct Data {
    text: String,
    is_cut: bool,
}

impl Data {
    fn add(&mut self, line: &str, is_cut: bool) {
        if !self.text.is_empty() && self.text.len() < MAX_LINE {
            self.text.push('\n');
        }
        let room = MAX_LINE.saturating_sub(self.text.len());
        let kept = cut(line, room);
        self.text.push_str(kept);
        self.is_cut |= is_cut || kept.len() < line.len();
    }
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        // What follows the last line feed is the start of a line.
        let rest = lines.next_back().unwrap_or_default();
        for line in lines {
            self.append(line);
            self.end_line();
        }
        self.append(rest);
    }

    fn append(&mut self, bytes: &[u8]) {
        // Room for the name of the field.
        let room = (MAX_LINE + 64).saturating_sub(self.buffer.len());
        self.is_cut |= bytes.len() > room;
        self.buffer
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let is_cut = std::mem::take(&mut self.is_cut);
        let line = String::from_utf8_lossy(&buffer);
        self.line(line.trim_end_matches('\r'), is_cut);
    }

    fn line(&mut self, line: &str, is_cut: bool) {
        if line.is_empty() {
            if let Some(mut data) = self.data.take() {
                if data.is_cut {
                    tracing::warn!("a line of the log was cut: it has more than 1 MiB");
                    data.text.push_str(CUT);
                }
                self.ready.push_back((self.id, data.text));
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.data.get_or_insert_default().add(value, is_cut),
            "id" => self.id = value.parse().ok(),
            // Comments keep the connection alive; other fields say nothing here.
            _ => {}
        }
    }
}

/// All that is read out of a stream that comes in these parts.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_all<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<(Option<u64>, String)> {
    let mut parser = Parser::default();
    parts.for_each(|part| parser.feed(part));
    parser.ready.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = ": ping\n\nid: 3\ndata: one\n\nid: 4\r\ndata: [1] two: 2 ✨\r\n\r\ndata:a\ndata: b\n\ndata: half";
        for size in [1, 2, 3, 7, 100] {
            let ready = parse_all(text.as_bytes().chunks(size));
            assert_eq!(
                ready,
                [
                    (Some(3), "one".to_owned()),
                    (Some(4), "[1] two: 2 ✨".to_owned()),
                    (Some(4), "a\nb".to_owned()),
                ],
                "in parts of {size}"
            );
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_says_so() {
        let long = "x".repeat(MAX_LINE + 100);
        let text = format!("id: 1\ndata: {long}\n\nid: 2\ndata: short\n\n");
        for size in [1000, 1 << 16, text.len()] {
            let ready = parse_all(text.as_bytes().chunks(size));
            assert_eq!(ready.len(), 2, "in parts of {size}");
            let (id, line) = &ready[0];
            assert_eq!(*id, Some(1));
            assert!(line.starts_with("xxx") && line.ends_with(CUT));
            assert_eq!(line.len(), MAX_LINE + CUT.len());
            assert_eq!(ready[1], (Some(2), "short".to_owned()));
        }
        // As many lines of one event.
        let lines = format!("data: {}\n", "ä".repeat(1000)).repeat(1000) + "\n";
        let ready = parse_all(lines.as_bytes().chunks(1 << 16));
        let (_, line) = &ready[0];
        assert!(line.ends_with(CUT) && line.len() <= MAX_LINE + 1000 + CUT.len());
        // A comment without an end needs no memory.
        let mut parser = Parser::default();
        for _ in 0..40 {
            parser.feed(&vec![b':'; 1 << 16]);
        }
        assert!(parser.buffer.len() <= MAX_LINE + 64);
    }

    #[test]
    fn lines_of_one_event_are_all_given_out() {
        let text = "id: 7\ndata: one\n\nid: 7\ndata: two\n\n";
        assert_eq!(parse_all([text.as_bytes()].into_iter()).len(), 2);
    }
}
