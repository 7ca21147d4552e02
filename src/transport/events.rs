//! Server-sent events:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::collections::VecDeque;

use finetuner_protocol::text::cut;

/// Maximum length of a line in bytes. A longer line is cut and marked.
const MAX_LINE: usize = 1 << 20;
/// Mark at the end of a line that was cut.
const CUT: &str = " [cut: the line has more than 1 MiB]";

/// Parser of an event stream that arrives in arbitrary pieces.
#[derive(Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// Whether the line in the buffer was longer than the limit.
    is_cut: bool,
    id: Option<u64>,
    data: Option<Data>,
    pub(crate) ready: VecDeque<(Option<u64>, String)>,
}

/// Data of an event, limited to [`MAX_LINE`] bytes.
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
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        // The rest after the last line feed is the start of the next line.
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
                    tracing::warn!("cut a line of the log that has more than 1 MiB");
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
            // Comments keep the connection alive; other fields have no meaning here.
            _ => {}
        }
    }
}

/// Parses a whole stream that arrives in these pieces.
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
    fn events_are_read_from_chunks_of_any_size() {
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
    fn a_line_over_the_limit_is_truncated_with_a_note() {
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
        // An event with as many lines.
        let lines = format!("data: {}\n", "ä".repeat(1000)).repeat(1000) + "\n";
        let ready = parse_all(lines.as_bytes().chunks(1 << 16));
        let (_, line) = &ready[0];
        assert!(line.ends_with(CUT) && line.len() <= MAX_LINE + 1000 + CUT.len());
        // A comment without an end uses no memory.
        let mut parser = Parser::default();
        for _ in 0..40 {
            parser.feed(&vec![b':'; 1 << 16]);
        }
        assert!(parser.buffer.len() <= MAX_LINE + 64);
    }

    #[test]
    fn all_lines_of_an_event_are_returned() {
        let text = "id: 7\ndata: one\n\nid: 7\ndata: two\n\n";
        assert_eq!(parse_all([text.as_bytes()].into_iter()).len(), 2);
    }
}
