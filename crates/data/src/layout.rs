//! Layouts of training data.

use finetuner_protocol::{Modality, Task};

use crate::error::{Error, Result};

/// The layout of training data: the contents of items, or texts in every cell.
///
/// ```
/// use finetuner_data::Layout;
/// use finetuner_protocol::Task;
///
/// assert_ne!(Layout::of_task(&Task::TextToText)?, Layout::TEXTS);
/// assert!(Layout::of_task(&Task::from("text-to-speech")).is_err());
/// # Ok::<(), finetuner_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `None` if every cell is a text.
    pub(crate) kinds: Option<Kinds>,
}

/// The content of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Image,
    Mesh,
}

impl Kind {
    pub(crate) fn modality(self) -> Modality {
        match self {
            Self::Text => Modality::Text,
            Self::Image => Modality::Image,
            Self::Mesh => Modality::Mesh,
        }
    }
}

impl Layout {
    /// Every cell is a text. `synthesize` reads this layout.
    pub const TEXTS: Self = Self { kinds: None };

    /// Returns the layout of training data for a task.
    ///
    /// # Errors
    /// Returns an error if data for this task can only be given as documents.
    pub fn of_task(task: &Task) -> Result<Self> {
        let kinds = match task {
            Task::TextToText => (Kind::Text, Kind::Text),
            Task::ImageToImage => (Kind::Image, Kind::Image),
            Task::TextToImage => (Kind::Text, Kind::Image),
            Task::MeshToMesh => (Kind::Mesh, Kind::Mesh),
            other => {
                return Err(Error::setup(format!(
                    "a model for `{other}` can't be trained on a CSV, JSON Lines or Parquet file: \
                     give documents"
                )));
            }
        };
        Ok(Self { kinds: Some(kinds) })
    }
}

/// The contents of the two items that a model compares.
pub(crate) type Kinds = (Kind, Kind);
