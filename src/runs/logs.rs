//! Streaming of a run's log.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use finetuner_protocol::{Status, StatusInfo};
use futures_util::{Stream, StreamExt, stream};
use reqwest::Method;
use tokio::time::Instant;

use super::run::Run;
use crate::{
    error::{Error, Result},
    transport::{Outage, Parser},
};

/// Time after which a connection counts as working if it received anything, even
/// if no line.
const GOOD_WHILE: Duration = Duration::from_secs(10);

impl Run {
    /// Streams the log line by line until the run has ended.
    ///
    /// If the run has not started, the stream waits for its start.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let mut lines = run.stream_logs();
    /// while let Some(line) = lines.next().await {
    ///     println!("{}", line?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "a stream does nothing until it is read"]
    pub fn stream_logs(&self) -> LogStream {
        LogStream::new(self.clone())
    }
}

/// Lines of a run's log, from [`Run::stream_logs`].
///
/// After a broken connection, the stream reconnects and resumes after the last line
/// that it received. An outage of the backend is tolerated up to
/// [`Builder::outage_limit`](crate::Builder::outage_limit). The stream ends when the
/// run has finished; if the run has failed, the last item is an error with
/// [`Error::is_run_failed`]. Before it ends, it asks a backend with event ids for further
/// lines. A backend without event ids sends the log from its start after a reconnect:
/// as many lines as were received are skipped. A line above 1 MiB is cut and ends with
/// `[cut: ...]`.
///
/// It implements [`Stream`]; [`LogStream::next`] needs no import.
///
/// # Cancel safety
/// [`LogStream::next`] may be dropped before it is ready, as in
/// `tokio::select!`: no line is lost, and the connection stays.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// let mut lines = run.stream_logs();
/// loop {
///     tokio::select! {
///         line = lines.next() => match line {
///             Some(line) => println!("{}", line?),
///             None => break,
///         },
///         _ = tokio::time::sleep(std::time::Duration::from_secs(60)) => println!("..."),
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct LogStream(Pin<Box<dyn Stream<Item = Result<String>> + Send>>);

impl LogStream {
    pub(crate) fn new(run: Run) -> Self {
        // `Outage` decides about retries, not the transport.
        let run = run.with_calls_made_once();
        let reader = Reader {
            outage: run.transport.outage(),
            run,
            connection: None,
            parser: Parser::default(),
            lines: VecDeque::new(),
            last_id: None,
            seen_before: None,
            without_id: 0,
            repeated: 0,
            opened: Instant::now(),
            final_status: None,
            ended: false,
        };
        let lines = stream::unfold(reader, |mut reader| async {
            let line = reader.next().await?;
            // Nothing follows an error.
            reader.ended |= line.is_err();
            Some((line, reader))
        });
        Self(Box::pin(lines.fuse()))
    }

    /// Returns the next line; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<String>> {
        self.0.next().await
    }
}

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStream").finish_non_exhaustive()
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
    /// Lines of the last event that are still to be returned.
    lines: VecDeque<String>,
    last_id: Option<u64>,
    /// Last id of the earlier connections.
    seen_before: Option<u64>,
    /// Number of lines that were received without an id.
    without_id: usize,
    /// Number of lines to skip that this connection repeats without an id.
    repeated: usize,
    opened: Instant,
    outage: Outage,
    /// Final status of the run, if it was known before this connection.
    final_status: Option<StatusInfo>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<String>> {
        while !self.ended {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            while let Some((id, text)) = self.parser.ready.pop_front() {
                // A server that can't resume sends everything again.
                let skipped = match id {
                    Some(id) if self.seen_before.is_some_and(|last| id <= last) => continue,
                    Some(id) => {
                        self.last_id = Some(id);
                        0
                    }
                    None => self.count_without_id(text.split('\n').count()),
                };
                let new = text.split('\n').skip(skipped).map(str::to_owned);
                self.lines.extend(new);
                if let Some(line) = self.lines.pop_front() {
                    self.outage.over();
                    return Some(Ok(line));
                }
            }
            let result = match self.read_more().await {
                Ok(true) => continue,
                Ok(false) => self.end().await,
                // The run was deleted after its end, with all lines received.
                Err(error)
                    if self.final_status.is_some() && matches!(error.status(), Some(404 | 410)) =>
                {
                    self.seen_before = self.last_id;
                    self.end().await
                }
                Err(error) => self.pause(error).await,
            };
            if let Err(error) = result {
                return Some(Err(error));
            }
        }
        None
    }

    /// Counts the lines of an event without an id. Returns how many of them an earlier
    /// connection has received.
    fn count_without_id(&mut self, lines: usize) -> usize {
        let skipped = lines.min(self.repeated);
        self.repeated -= skipped;
        self.without_id += lines - skipped;
        skipped
    }

    /// Reads from the connection; returns `false` at its end.
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
                // A server with ids resumes after the last one.
                self.repeated = match self.last_id {
                    Some(_) => 0,
                    None => self.without_id,
                };
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

    /// Handles the end of a connection: either the run has ended, or only the
    /// connection.
    async fn end(&mut self) -> Result<()> {
        let (status, was_final) = match self.final_status.take() {
            Some(status) => (status, true),
            None => match self.run.status().await {
                Ok(status) => (status, false),
                Err(error) => return self.pause(error).await,
            },
        };
        let is_final = matches!(status.status, Status::Finished | Status::Failed);
        // A server or a proxy that fails may end a stream as if it were complete. Only a
        // connection after the run's end that gives no new line shows that it is.
        let is_complete = was_final && self.last_id == self.seen_before;
        if is_final && self.last_id.is_some() && !is_complete {
            self.connection = None;
            self.final_status = Some(status);
            return Ok(());
        }
        match status.status {
            Status::Finished => self.ended = true,
            Status::Failed => return Err(Error::run_failed(self.run.name(), &status.details)),
            _ => self.pause(early_end()).await?,
        }
        Ok(())
    }

    /// Waits before the next connection, or returns the error if there is none.
    async fn pause(&mut self, error: Error) -> Result<()> {
        let was_open = self.connection.take().is_some();
        // A quiet stream is not an outage: a run may wait for hours.
        if was_open && error.is_timeout() && self.run.status().await.is_ok() {
            self.outage.over();
        }
        self.outage.wait(error).await
    }
}

fn early_end() -> Error {
    Error::broken_off("the log stream ended before the run did")
}
