//! A run's log as it is written.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use finetuner_protocol::Status;
use futures_util::{Stream, StreamExt, stream};

use reqwest::Method;

use crate::{Error, Result, Run, transport::may_repeat};

/// A connection that lasted this long was a good one, even if it brought nothing.
const GOOD_WHILE: Duration = Duration::from_secs(10);

/// The most bytes of a line.
const MAX_LINE: usize = 16 << 20;

/// Lines of a run's log, from [`Run::stream_logs`].
///
/// A connection that breaks is made again, and the stream goes on behind the
/// last line that came. It ends when the run has finished; where the run has
/// failed, the last item is an error with [`Error::is_run_failed`].
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
        let reader = Reader {
            run,
            connection: None,
            parser: Parser::default(),
            last_id: None,
            opened: Instant::now(),
            failures: 0,
            failing_since: Instant::now(),
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
    last_id: Option<u64>,
    opened: Instant,
    /// Connections in a row that brought nothing new.
    failures: u32,
    failing_since: Instant,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<String>> {
        while !self.ended {
            while let Some((id, line)) = self.parser.ready.pop_front() {
                // A server that can't resume sends all from the start again.
                if let Some(id) = id {
                    if self.last_id.is_some_and(|last| id <= last) {
                        continue;
                    }
                    self.last_id = Some(id);
                }
                self.failures = 0;
                return Some(Ok(line));
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
                self.opened = Instant::now();
                self.connection.insert(Box::pin(answer.bytes_stream()))
            }
        };
        let next = tokio::time::timeout(idle, connection.next()).await;
        match next.map_err(|_| Error::timeout(idle))? {
            Some(bytes) => {
                let bytes = bytes.map_err(|e| Error::transport(e, idle))?;
                self.parser.feed(&bytes);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The server has closed the stream: has the run ended, or only the
    /// connection?
    async fn end(&mut self) -> Result<()> {
        let status = self.run.status().await?;
        match status.status {
            Status::Finished => self.ended = true,
            Status::Failed => return Err(Error::run_failed(self.run.name(), &status.details)),
            _ => {
                let early = Error::decode("the log stream ended before the run did", b"");
                self.pause(early).await?;
            }
        }
        Ok(())
    }

    /// Waits before the next connection, or gives the error back where there
    /// is to be none.
    async fn pause(&mut self, error: Error) -> Result<()> {
        // A proxy may cut a connection that is silent for as long as a run waits.
        if self.connection.take().is_some() && self.opened.elapsed() > GOOD_WHILE {
            self.failures = 0;
        }
        if self.failures == 0 {
            self.failing_since = Instant::now();
        }
        self.failures += 1;
        let broken = error.status().is_none();
        if !broken && !may_repeat(&error, true) {
            return Err(error);
        }
        let policy = self.run.transport.retry();
        let elapsed = self.failing_since.elapsed();
        match policy.pause(self.failures, elapsed, None) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error.after(self.failures, elapsed)),
        }
    }
}

/// Reads server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    id: Option<u64>,
    data: Option<String>,
    ready: VecDeque<(Option<u64>, String)>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = buffer[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&buffer[start..start + length]);
            self.line(line.trim_end_matches('\r'));
            start += length + 1;
        }
        buffer.drain(..start);
        if buffer.len() > MAX_LINE {
            // Nobody writes such a line; memory must not grow with it.
            buffer.clear();
        }
        self.buffer = buffer;
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            if let Some(data) = self.data.take() {
                self.ready.push_back((self.id, data));
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let data = self.data.get_or_insert_default();
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
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
}
