//! Converts documents to training examples and evaluation data.

mod corpus;
mod each;
mod example;
mod images;
mod item;
mod key;
mod label;
mod layout;
mod name;
mod numbers;
mod read;
mod scores;
mod search;
mod stored;
mod texts;
mod training_set;

pub use corpus::read_corpus;
pub use each::Documents;
pub use images::Images;
pub use item::Item;
pub(crate) use label::label_meaning;
pub use layout::{Layout, Modalities};
pub(crate) use name::CORPUS;
pub use name::DataName;
pub use read::read;
pub use search::{Named, SearchKinds, SearchSet, Searched, read_search_set};
pub use stored::{ImageFile, Stored};
pub(crate) use texts::{read_text, texts};
pub use training_set::{Classes, Example, Mixing, Part, TrainingSet, split};
