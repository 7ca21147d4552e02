//! Embedding what many clients send, in batches: what arrives while a batch is
//! computed goes into the next one. Nothing waits for a batch to fill up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use finetuner_engine::{
    Error as EngineError,
    infer::{Embeddings, Encoder},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Semaphore, oneshot};

use super::{cache::Held, counters::ServingCounters};
use crate::error::ApiError;

/// The most inputs of a batch.
const BATCH: usize = 64;
/// Inputs of one request that stay together.
const PIECE: usize = 16;
/// Pieces of one request that wait at a time: a large request fills a batch
/// where it is alone, and holds up others by one batch.
const AHEAD: usize = BATCH / PIECE;

/// Something to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Text(String),
    /// A picture in one of the formats that the engine reads.
    Picture(Bytes),
}

impl Item {
    /// Bytes of the text or the picture.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Picture(bytes) => bytes.len(),
        }
    }
}

/// Why something could not be embedded.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The place of the input at fault, counted from 0, where it is one's.
    pub(crate) place: Option<usize>,
    pub(crate) error: ApiError,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { place: None, error }
    }
}

/// A loaded model, and what waits for it.
pub(crate) struct Model {
    pub(crate) encoder: Encoder,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Piece>,
    /// Whether somebody takes batches out of them.
    is_served: bool,
}

/// A model's encoder with one of its prompts.
#[derive(Clone)]
pub(crate) struct Prompted {
    /// The prompt's name; the model's default where there is none.
    name: Option<String>,
    encoder: Encoder,
}

impl Prompted {
    /// The model with a prompt of this name; with its default where none is given.
    ///
    /// # Errors
    /// The model has no prompt of that name.
    pub(crate) fn new(model: &Model, name: Option<&str>) -> Result<Self, EngineError> {
        Ok(Self {
            name: name.map(str::to_owned),
            encoder: match name {
                Some(name) => model.encoder.prompt(name)?,
                None => model.encoder.clone(),
            },
        })
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

/// Inputs that go into one batch.
struct Piece {
    prompt: Prompted,
    pictures: bool,
    items: Vec<Item>,
    answer: oneshot::Sender<Result<Embeddings, EngineError>>,
}

impl Piece {
    fn fits(&self, other: &Self) -> bool {
        self.pictures == other.pictures && (self.pictures || self.prompt.name == other.prompt.name)
    }
}

impl Model {
    pub(super) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            waiting: Mutex::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch: pieces that fit each other, the oldest first. If there is
    /// none, nobody serves the model any more.
    fn next(&self) -> Option<Vec<Piece>> {
        let mut waiting = self.waiting();
        // Clients that have gone get no answer.
        waiting.pieces.retain(|piece| !piece.answer.is_closed());
        let Some(first) = waiting.pieces.pop_front() else {
            waiting.is_served = false;
            return None;
        };
        let (mut batch, mut left) = (vec![first], VecDeque::new());
        let mut size = batch[0].items.len();
        for piece in waiting.pieces.drain(..) {
            match size + piece.items.len() <= BATCH && piece.fits(&batch[0]) {
                true => {
                    size += piece.items.len();
                    batch.push(piece);
                }
                false => left.push_back(piece),
            }
        }
        waiting.pieces = left;
        Some(batch)
    }
}

/// Computes batches, a few at a time over all models.
#[derive(Clone)]
pub(crate) struct Batches {
    turns: Arc<Semaphore>,
    counters: ServingCounters,
}

impl Batches {
    pub(super) fn new(at_once: usize, counters: ServingCounters) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once)),
            counters,
        }
    }

    /// Embeds inputs, in their order.
    pub(crate) async fn embed(
        &self,
        model: &Held<Model>,
        prompt: &Prompted,
        items: Vec<Item>,
    ) -> Result<Embeddings, Refused> {
        let (count, dim) = (items.len(), model.encoder.dim());
        let mut values = vec![0.0; count * dim];
        let answers = stream::iter(pieces(items)).map(move |(places, items)| async move {
            let answer = self.submit(model, prompt, items);
            match answer.await {
                Ok(Ok(found)) => Ok((places, found)),
                Ok(Err(error)) => Err(refused(&error, &places)),
                Err(_) => Err(ApiError::internal(&"a batch of inputs was dropped").into()),
            }
        });
        let mut answers = answers.buffered(AHEAD);
        while let Some((places, found)) = answers.try_next().await? {
            for (place, row) in places.into_iter().zip(found.iter()) {
                values[place * dim..(place + 1) * dim].copy_from_slice(row);
            }
        }
        Ok(Embeddings { dim, values })
    }

    /// Lets a piece wait for the model. Somebody serves the model from now on.
    fn submit(
        &self,
        model: &Held<Model>,
        prompt: &Prompted,
        items: Vec<Item>,
    ) -> oneshot::Receiver<Result<Embeddings, EngineError>> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = model.waiting();
        waiting.pieces.push_back(Piece {
            prompt: prompt.clone(),
            pictures: matches!(items.first(), Some(Item::Picture(_))),
            items,
            answer,
        });
        if !waiting.is_served {
            waiting.is_served = true;
            tokio::spawn(self.clone().serve(model.clone()));
        }
        answered
    }

    /// Computes batch after batch until nothing waits for the model.
    async fn serve(self, model: Held<Model>) {
        loop {
            // Pieces that arrive before the turn are in the batch.
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let Some(batch) = model.next() else {
                return;
            };
            let counters = self.counters.clone();
            let work = tokio::task::spawn_blocking(move || {
                compute(batch, &counters);
                drop(turn);
            });
            // A panic has dropped the answers, which tells those who wait.
            if let Err(error) = work.await {
                tracing::error!("A batch of embeddings has failed: {error}");
            }
        }
    }
}

/// Parts of a request, each of one kind, with the places of their inputs.
fn pieces(items: Vec<Item>) -> Vec<(Vec<usize>, Vec<Item>)> {
    let mut all: Vec<(Vec<usize>, Vec<Item>)> = Vec::new();
    // The piece of each kind that is not full.
    let mut open = [None; 2];
    for (place, item) in items.into_iter().enumerate() {
        let open = &mut open[usize::from(matches!(item, Item::Picture(_)))];
        let piece = *open.get_or_insert_with(|| {
            all.push((Vec::new(), Vec::new()));
            all.len() - 1
        });
        let (places, items) = &mut all[piece];
        places.push(place);
        items.push(item);
        if places.len() == PIECE {
            *open = None;
        }
    }
    all
}

fn refused(error: &EngineError, places: &[usize]) -> Refused {
    match error {
        EngineError::Item { place, reason } => Refused {
            place: places.get(*place).copied(),
            error: ApiError::unprocessable(reason.clone()),
        },
        error => ApiError::engine(error).into(),
    }
}

/// Embeds a batch, and answers those who wait for it.
fn compute(batch: Vec<Piece>, counters: &ServingCounters) {
    let begun = Instant::now();
    let size: usize = batch.iter().map(|piece| piece.items.len()).sum();
    let pictures = batch.first().is_some_and(|piece| piece.pictures);
    let items = batch.iter().flat_map(|piece| &piece.items);
    let found = batch.first().map(|first| encode(first, items));
    match found {
        None => return,
        Some(Ok(found)) => {
            let mut left = found.values.as_slice();
            for piece in batch {
                let (own, others) = left.split_at(piece.items.len() * found.dim);
                left = others;
                // Nobody may wait any more.
                let _ = piece.answer.send(Ok(Embeddings {
                    dim: found.dim,
                    values: own.to_vec(),
                }));
            }
        }
        // One's bad input is no other's fault.
        Some(Err(_)) if batch.len() > 1 => {
            for piece in batch {
                let found = encode(&piece, piece.items.iter());
                let _ = piece.answer.send(found);
            }
        }
        Some(Err(error)) => {
            if let Some(piece) = batch.into_iter().next() {
                let _ = piece.answer.send(Err(error));
            }
        }
    }
    counters.batch(pictures, size, begun.elapsed().as_secs_f64());
}

/// Embeds inputs of one kind.
fn encode<'a>(
    piece: &Piece,
    items: impl Iterator<Item = &'a Item>,
) -> Result<Embeddings, EngineError> {
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Text(text) => texts.push(text.as_str()),
            Item::Picture(bytes) => pictures.push(&bytes[..]),
        }
    }
    let encoder = &piece.prompt.encoder;
    let found = match piece.pictures {
        true => encoder.encode_images(&pictures)?,
        false => encoder.encode_texts(&texts)?,
    };
    match found.values.iter().all(|value| value.is_finite()) {
        true => Ok(found),
        false => Err(EngineError::Data(
            "the model's embeddings hold values that are not finite numbers: its run has diverged"
                .to_owned(),
        )),
    }
}
