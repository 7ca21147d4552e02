//! Splitting of evaluation examples into events of limited size.

use std::collections::BTreeMap;

use finetuner_protocol::{Event, FoundDocuments, Level, Stage};
use serde_json::Value;

/// Maximum size of one event, in bytes.
pub(super) const EVENT_BYTES: usize = 256 << 10;
/// Maximum size of a text in examples that exceed an event, in bytes.
const EXAMPLE_BYTES: usize = 2 << 10;

/// Returns the results of queries as one or more events.
pub(super) fn split_examples(
    stage: Stage,
    examples: BTreeMap<String, Vec<Value>>,
    found: Option<FoundDocuments>,
) -> Vec<Event> {
    let data = found.as_ref().map(|found| found.data.clone());
    Parts::of(stage, data).fill(examples, found.unwrap_or_default())
}

/// Cuts a text and says how many bytes are left out.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "{} … ({} bytes are left out)",
        &text[..end],
        text.len() - end
    )
}

/// Accumulates examples into several events.
struct Parts {
    stage: Stage,
    /// Name of the searched data.
    data: Option<String>,
    done: Vec<Event>,
    examples: BTreeMap<String, Vec<Value>>,
    found: FoundDocuments,
    size: usize,
    /// Number of queries whose matches were cut.
    were_cut: usize,
}

impl Parts {
    fn of(stage: Stage, data: Option<String>) -> Self {
        Self {
            stage,
            data,
            done: Vec::new(),
            examples: BTreeMap::new(),
            found: FoundDocuments::default(),
            size: 0,
            were_cut: 0,
        }
    }

    fn fill(
        mut self,
        examples: BTreeMap<String, Vec<Value>>,
        mut found: FoundDocuments,
    ) -> Vec<Event> {
        for (query, mut matches) in examples {
            let mut own = Details::take(&mut found, &query);
            let mut query = query;
            let mut size = size_of(&query, &matches, &own);
            if size > EVENT_BYTES {
                self.were_cut += 1;
                if query.len() > EXAMPLE_BYTES {
                    query = cut(&query, EXAMPLE_BYTES);
                }
                for text in &mut matches {
                    if let Value::String(text) = text
                        && text.len() > EXAMPLE_BYTES
                    {
                        *text = cut(text, EXAMPLE_BYTES);
                    }
                }
                size = size_of(&query, &matches, &own);
                while size > EVENT_BYTES && !matches.is_empty() {
                    matches.truncate(matches.len() / 2);
                    own.truncate(matches.len());
                    size = size_of(&query, &matches, &own);
                }
            }
            if self.size + size > EVENT_BYTES {
                self.end_part();
            }
            self.size += size;
            own.put(&mut self.found, &query);
            self.examples.insert(query, matches);
        }
        self.found.places.append(&mut found.places);
        if self.size > 0 || !self.found.places.is_empty() || self.done.is_empty() {
            self.end_part();
        }
        if self.were_cut > 0 {
            let message = format!(
                "The examples of {} queries are too long and were cut",
                self.were_cut
            );
            self.done.push(Event::Log {
                level: Level::Warning,
                message,
            });
        }
        self.done
    }

    fn end_part(&mut self) {
        let mut found = std::mem::take(&mut self.found);
        let found = self.data.clone().map(|data| {
            found.data = data;
            found
        });
        self.done.push(Event::Examples {
            stage: self.stage,
            examples: std::mem::take(&mut self.examples),
            found,
        });
        self.size = 0;
    }
}

/// Details of one query's matches.
struct Details {
    places: Vec<u64>,
    hits: Vec<bool>,
    distances: Vec<f32>,
}

impl Details {
    fn take(from: &mut FoundDocuments, query: &str) -> Self {
        Self {
            places: from.places.remove(query).unwrap_or_default(),
            hits: from.hits.remove(query).unwrap_or_default(),
            distances: from.distances.remove(query).unwrap_or_default(),
        }
    }

    fn truncate(&mut self, length: usize) {
        self.places.truncate(length);
        self.hits.truncate(length);
        self.distances.truncate(length);
    }

    fn put(self, into: &mut FoundDocuments, query: &str) {
        if !self.places.is_empty() {
            into.places.insert(query.to_owned(), self.places);
        }
        if !self.hits.is_empty() {
            into.hits.insert(query.to_owned(), self.hits);
        }
        if !self.distances.is_empty() {
            into.distances.insert(query.to_owned(), self.distances);
        }
    }
}

fn size_of(query: &str, matches: &[Value], own: &Details) -> usize {
    let size = |value: serde_json::Result<Vec<u8>>| value.map_or(0, |bytes| bytes.len());
    // The query is repeated for its matches and for each list of details.
    4 * size(serde_json::to_vec(query))
        + size(serde_json::to_vec(matches))
        + size(serde_json::to_vec(&own.places))
        + size(serde_json::to_vec(&own.hits))
        + size(serde_json::to_vec(&own.distances))
}
