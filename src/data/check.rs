//! What is wrong with data, before anything of it is sent: not just the first
//! fault, but all of them up to a limit.

use std::fmt;

use finetuner_protocol::{Content, Document};

/// The most problems that are reported at once.
///
/// ```no_run
/// println!("the first {} problems are named", finetuner::MAX_PROBLEMS);
/// ```
pub const MAX_PROBLEMS: usize = 20;

/// Everything that is wrong with some data.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::Csv;
///
/// if let Err(error) = finetuner.push("train", Csv::path("train.csv")).await
///     && let Some(problems) = error.problems()
/// {
///     for problem in &problems.problems {
///         eprintln!("row {}: {}", problem.number, problem.reason);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problems {
    /// What the data was given as: an argument, a name or a file.
    pub data: String,
    /// The first of them, [`MAX_PROBLEMS`] at most.
    pub problems: Vec<Problem>,
    /// How many there are in all.
    pub total: u64,
}

/// What is wrong with one row or document.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::Csv;
///
/// let pushed = finetuner.push("train", Csv::path("train.csv")).await;
/// let first = pushed.err().and_then(|error| error.problems()?.problems.first().cloned());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The row of a CSV file or the document of an array, counted from 1.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl Problems {
    pub(crate) fn new(data: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            problems: Vec::new(),
            total: 0,
        }
    }

    pub(crate) fn add(&mut self, number: u64, reason: impl Into<String>) {
        self.total += 1;
        if self.problems.len() < MAX_PROBLEMS {
            let reason = reason.into();
            self.problems.push(Problem { number, reason });
        }
    }

    /// Nothing, where nothing is wrong.
    pub(crate) fn into_result(self) -> Result<(), Self> {
        if self.total == 0 { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` can't be used: ", self.data)?;
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            if problem.number > 0 {
                write!(f, "{}: ", problem.number)?;
            }
            f.write_str(&problem.reason)?;
        }
        match self.total - self.problems.len() as u64 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// What no backend can use, in a document or one of its parts.
pub(crate) fn check_document(document: &Document) -> Result<(), String> {
    let has_parts = !document.chunks.is_empty() || !document.matches.is_empty();
    let is_empty = match &document.content {
        None => document.uri.is_empty() && document.embedding.is_none(),
        Some(Content::Text(_) | Content::Tensor(_)) => false,
        Some(Content::Blob(bytes)) => bytes.is_empty(),
    };
    if is_empty && !has_parts {
        return Err(format!(
            "document `{}` is empty: give it a text, a blob, a tensor, a uri or chunks",
            document.id
        ));
    }
    for chunk in &document.chunks {
        check_document(chunk)?;
    }
    Ok(())
}

/// Returns the path of a uri that names a local file; none for an address.
pub(crate) fn local_path(uri: &str) -> Option<std::path::PathBuf> {
    if uri.is_empty() || uri.starts_with("data:") {
        return None;
    }
    // A text may hold an address further behind, and a drive letter reads as a
    // scheme of one letter.
    let is_scheme = |scheme: &str| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    match uri.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => match url::Url::parse(uri) {
            // A file of another machine is no file here.
            Ok(url) if url.scheme() == "file" => {
                Some(url.to_file_path().unwrap_or_else(|()| uri.into()))
            }
            _ => None,
        },
        // `file:/a/b.png` has no host.
        _ if uri.starts_with("file:/") => {
            let path = url::Url::parse(uri)
                .ok()
                .and_then(|url| url.to_file_path().ok());
            Some(path.unwrap_or_else(|| uri.into()))
        }
        _ => Some(uri.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_counted_and_the_first_are_named() {
        let mut problems = Problems::new("train_data");
        for number in 1..=50 {
            problems.add(number, "it is empty");
        }
        let problems = problems.into_result().unwrap_err();
        let text = problems.to_string();
        assert!(
            text.starts_with("`train_data` can't be used: 1: it is empty; 2:"),
            "{text}"
        );
        assert!(text.ends_with("20: it is empty; and 30 more"), "{text}");
        assert_eq!(Problems::new("x").into_result(), Ok(()));
    }

    #[test]
    fn files_are_told_from_addresses() {
        for uri in [
            "https://a/b.png",
            "data:image/png;base64,AA",
            "",
            "s3://x/y",
        ] {
            assert_eq!(local_path(uri), None, "{uri}");
        }
        assert_eq!(local_path("a/b.png"), Some("a/b.png".into()));
        assert_eq!(local_path("file:///a/b.png"), Some("/a/b.png".into()));
        assert_eq!(local_path("file:/a/b.png"), Some("/a/b.png".into()));
        for text in [
            "Note: a red dress (see http://shop.example/1)",
            "see http://shop.example/1",
            "C:/pictures/a.png",
            "file://another/a.png",
        ] {
            assert_eq!(local_path(text), Some(text.into()), "{text}");
        }
    }

    #[test]
    fn empty_documents_are_found_wherever_they_are() {
        let empty = Document::with_id("e");
        assert!(check_document(&empty).is_err());
        let parent = Document::new()
            .with_chunk(Document::text("a"))
            .with_chunk(empty);
        assert!(check_document(&parent).unwrap_err().contains("`e`"));
        assert_eq!(check_document(&Document::uri("a.png")), Ok(()));
    }
}
