//! Mining of hard negatives with a model on this machine.

use std::fmt;

use finetuner_engine::{
    Result,
    data::Documents,
    hard_negatives::{Mined, Prompts, mine_with},
    infer::Encoder,
};

use crate::{Document, HardNegatives};

/// Finds hard negatives for pairs, with a model on this machine.
///
/// A hard negative is a document that `model` finds similar to a pair's query and
/// that does not belong to it. The result is that of `mine_hard_negatives` of
/// sentence-transformers.
///
/// A pair is a document with two chunks, a query and its match. As for training,
/// documents that share a label also form pairs. A query may occur in several pairs;
/// none of its matches becomes its negative. Candidates are the matches of all
/// pairs, and the documents of [`MineHardNegatives::corpus`].
///
/// The corpus is compared in blocks. Besides the items themselves, memory holds the
/// embeddings of the queries and the best documents of each.
///
/// ```no_run
/// use finetuner::{
///     Document, HardNegatives,
///     local::{get_model, mine_hard_negatives},
/// };
///
/// # fn main() -> finetuner::local::Result<()> {
/// let pair = |query: &str, answer: &str| {
///     Document::new().with_chunk(Document::text(query)).with_chunk(Document::text(answer))
/// };
/// let pairs = vec![pair("a long dress", "maxi dress"), pair("a warm coat", "parka")];
/// let mined = mine_hard_negatives(&get_model("text-model")?, pairs)
///     .options(HardNegatives::new().relative_margin(0.05).num_negatives(1))
///     .run()?;
/// println!("{}", mined.report);
/// let triplets: Vec<Document> = mined.documents().collect::<Result<_, _>>()?;
/// # Ok(())
/// # }
/// ```
pub fn mine_hard_negatives<'a, P>(model: &'a Encoder, pairs: P) -> MineHardNegatives<'a>
where
    P: IntoIterator<Item = Document, IntoIter: 'static>,
{
    MineHardNegatives {
        model,
        pairs: Box::new(pairs.into_iter().map(Ok)),
        corpus: None,
        options: HardNegatives::new(),
        prompts: Prompts::default(),
        progress: Box::new(|_, _| ()),
    }
}

/// Mining of hard negatives, from [`mine_hard_negatives`].
///
/// ```no_run
/// # fn example(model: &finetuner::local::Encoder, pairs: finetuner::DocumentArray) -> finetuner::local::Result<()> {
/// use finetuner::local::mine_hard_negatives;
///
/// let mined = mine_hard_negatives(model, pairs).run()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is mined until `run` is called"]
pub struct MineHardNegatives<'a> {
    model: &'a Encoder,
    pairs: Documents,
    corpus: Option<Documents>,
    options: HardNegatives,
    prompts: Prompts,
    progress: Box<dyn FnMut(usize, usize) + 'a>,
}

impl fmt::Debug for MineHardNegatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MineHardNegatives")
            .field("options", &self.options)
            .field("prompts", &self.prompts)
            .finish_non_exhaustive()
    }
}

impl<'a> MineHardNegatives<'a> {
    /// Adds documents to choose from, besides the matches of all pairs.
    ///
    /// Each document is one item, or each of its chunks is. They are read once.
    pub fn corpus<C>(mut self, documents: C) -> Self
    where
        C: IntoIterator<Item = Document, IntoIter: 'static>,
    {
        self.corpus = Some(Box::new(documents.into_iter().map(Ok)));
        self
    }

    /// Sets the options.
    ///
    /// The option `corpus` names data of a backend and is refused here.
    pub fn options(mut self, options: HardNegatives) -> Self {
        self.options = options;
        self
    }

    /// Sets the model's prompt for queries.
    ///
    /// By default, it is `query` if the model has one, otherwise the model's default
    /// prompt.
    pub fn query_prompt_name(mut self, name: impl Into<String>) -> Self {
        self.prompts.query = Some(name.into());
        self
    }

    /// Sets the model's prompt for documents.
    ///
    /// By default, it is `document`, `passage` or `corpus` if the model has one,
    /// otherwise the model's default prompt.
    pub fn corpus_prompt_name(mut self, name: impl Into<String>) -> Self {
        self.prompts.corpus = Some(name.into());
        self
    }

    /// Calls `each` with the number of documents compared so far, and their total
    /// number.
    pub fn on_progress(mut self, each: impl FnMut(usize, usize) + 'a) -> Self {
        self.progress = Box::new(each);
        self
    }

    /// Mines the negatives. Blocks the thread.
    ///
    /// # Errors
    /// [`Error::Config`](super::Error::Config) names the option that can't be
    /// used, [`Error::Data`](super::Error::Data) the documents.
    pub fn run(mut self) -> Result<Mined> {
        mine_with(
            self.model,
            self.pairs,
            self.corpus,
            &self.options,
            &self.prompts,
            &mut *self.progress,
        )
    }
}
