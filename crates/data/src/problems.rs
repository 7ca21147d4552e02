//! Everything that is wrong with some data.

use std::fmt;

/// The most problems that are reported at once.
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The row of a CSV file or the document of an array, counted from 1.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl Problems {
    /// Returns the problem of data that can't be used as a whole.
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
