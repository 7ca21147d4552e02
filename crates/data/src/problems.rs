//! Problems of training data, which are collected and reported together.

use std::fmt;

/// Maximum number of problems in one error.
pub const MAX_PROBLEMS: usize = 20;

/// The problems of one file or set of documents.
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Problems {
    /// The argument, name or file of the data.
    pub data: String,
    /// The first problems, at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// Number of all problems, including those that are not listed.
    pub total: u64,
}

/// The problem of one row or document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Line of a text file, or position of a row or document, counted from 1. 0 if the
    /// problem concerns all of the data.
    pub number: u64,
    /// Reason why the row or document can't be used.
    pub reason: String,
}

impl Problems {
    /// Creates the problem of data that can't be used as a whole.
    pub fn whole(data: impl Into<String>, reason: impl Into<String>) -> Self {
        let mut problems = Self::new(data);
        problems.add(0, reason);
        problems
    }

    pub(crate) fn new(data: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            problems: Vec::new(),
            total: 0,
        }
    }

    /// Adds a problem. Only the first [`MAX_PROBLEMS`] are kept.
    pub(crate) fn add(&mut self, number: u64, reason: impl Into<String>) {
        self.total += 1;
        if self.problems.len() < MAX_PROBLEMS {
            let reason = reason.into();
            self.problems.push(Problem { number, reason });
        }
    }

    /// Returns an error if there are any problems.
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
}
