//! Batches of inputs from many clients. Inputs that arrive while a batch is
//! computed go into the next one. No input waits for a batch to fill up.

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

/// Maximum number of inputs in a batch.
const MAX_BATCH: usize = 64;
/// Maximum number of inputs in a piece of a request. A piece is not divided.
const MAX_PIECE: usize = 16;
/// Number of pieces of one request that wait at the same time. A large request
/// fills a batch if it is alone, and delays other requests by one batch.
const MAX_WAITING_PIECES: usize = MAX_BATCH / MAX_PIECE;

/// An input to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Text(String),
    /// An image in one of the formats that the engine reads.
    Image(Bytes),
}

impl Item {
    /// Returns the size of the text or the image in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Image(bytes) => bytes.len(),
        }
    }
}

/// Reason why inputs could not be embedded.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Index of the invalid input, from 0, if one input is at fault.
    pub(crate) place: Option<usize>,
    pub(crate) error: ApiError,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { place: None, error }
    }
}

/// A loaded model and the queue of its pieces.
pub(crate) struct Model {
    pub(crate) encoder: Encoder,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Piece>,
    /// Whether a task is computing batches.
    is_served: bool,
}

/// A model's encoder with one of its prompts.
#[derive(Clone)]
pub(crate) struct Prompted {
    /// Name of the prompt; `None` for the model's default.
    name: Option<String>,
    encoder: Encoder,
}

impl Prompted {
    /// Selects a prompt of the model, or its default.
    ///
    /// # Errors
    /// The model has no prompt with this name.
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

/// Inputs of one request that go into one batch.
struct Piece {
    prompt: Prompted,
    images: bool,
    items: Vec<Item>,
    answer: oneshot::Sender<Result<Embeddings, EngineError>>,
}

impl Piece {
    fn fits(&self, other: &Self) -> bool {
        self.images == other.images && (self.images || self.prompt.name == other.prompt.name)
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

    /// Takes the next batch: the oldest piece and others that fit it. If there is
    /// no piece, marks the model as not being served.
    fn next(&self) -> Option<Vec<Piece>> {
        let mut waiting = self.waiting();
        // Pieces of disconnected clients are dropped.
        waiting.pieces.retain(|piece| !piece.answer.is_closed());
        let Some(first) = waiting.pieces.pop_front() else {
            waiting.is_served = false;
            return None;
        };
        let (mut batch, mut left) = (vec![first], VecDeque::new());
        let mut size = batch[0].items.len();
        for piece in waiting.pieces.drain(..) {
            match size + piece.items.len() <= MAX_BATCH && piece.fits(&batch[0]) {
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

/// Computes batches, a limited number at a time over all models.
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

    /// Embeds inputs. Keeps their order.
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
                Err(_) => Err(ApiError::internal(&"the computation of a batch failed").into()),
            }
        });
        let mut answers = answers.buffered(MAX_WAITING_PIECES);
        while let Some((places, found)) = answers.try_next().await? {
            for (place, row) in places.into_iter().zip(found.iter()) {
                values[place * dim..(place + 1) * dim].copy_from_slice(row);
            }
        }
        Ok(Embeddings { dim, values })
    }

    /// Queues a piece, and starts a task for the model if there is none.
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
            images: matches!(items.first(), Some(Item::Image(_))),
            items,
            answer,
        });
        if !waiting.is_served {
            waiting.is_served = true;
            tokio::spawn(self.clone().serve(model.clone()));
        }
        answered
    }

    /// Computes batches until the queue is empty.
    async fn serve(self, model: Held<Model>) {
        loop {
            // Pieces that arrive before the turn join the batch.
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let Some(batch) = model.next() else {
                return;
            };
            let counters = self.counters.clone();
            let work = tokio::task::spawn_blocking(move || {
                compute(batch, &counters);
                drop(turn);
            });
            // A panic drops the senders, which informs the waiting requests.
            if let Err(error) = work.await {
                tracing::error!("The computation of a batch of embeddings failed: {error}");
            }
        }
    }
}

/// Divides the inputs of a request into pieces of one kind, each with the
/// indices of its inputs.
fn pieces(items: Vec<Item>) -> Vec<(Vec<usize>, Vec<Item>)> {
    let mut all: Vec<(Vec<usize>, Vec<Item>)> = Vec::new();
    // The unfinished piece of each kind.
    let mut open = [None; 2];
    for (place, item) in items.into_iter().enumerate() {
        let open = &mut open[usize::from(matches!(item, Item::Image(_)))];
        let piece = *open.get_or_insert_with(|| {
            all.push((Vec::new(), Vec::new()));
            all.len() - 1
        });
        let (places, items) = &mut all[piece];
        places.push(place);
        items.push(item);
        if places.len() == MAX_PIECE {
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

/// Embeds a batch and sends the results.
fn compute(batch: Vec<Piece>, counters: &ServingCounters) {
    let begun = Instant::now();
    let size: usize = batch.iter().map(|piece| piece.items.len()).sum();
    let images = batch.first().is_some_and(|piece| piece.images);
    let items = batch.iter().flat_map(|piece| &piece.items);
    let found = batch.first().map(|first| encode(first, items));
    match found {
        None => return,
        Some(Ok(found)) => {
            let mut left = found.values.as_slice();
            for piece in batch {
                let (own, others) = left.split_at(piece.items.len() * found.dim);
                left = others;
                // The client may have disconnected.
                let _ = piece.answer.send(Ok(Embeddings {
                    dim: found.dim,
                    values: own.to_vec(),
                }));
            }
        }
        // The batch is repeated piece by piece, so that a bad input fails only its own
        // request.
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
    counters.batch(images, size, begun.elapsed().as_secs_f64());
}

/// Embeds inputs of one kind.
fn encode<'a>(
    piece: &Piece,
    items: impl Iterator<Item = &'a Item>,
) -> Result<Embeddings, EngineError> {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Text(text) => texts.push(text.as_str()),
            Item::Image(bytes) => images.push(&bytes[..]),
        }
    }
    let encoder = &piece.prompt.encoder;
    let found = match piece.images {
        true => encoder.encode_images(&images)?,
        false => encoder.encode_texts(&texts)?,
    };
    match found.values.iter().all(|value| value.is_finite()) {
        true => Ok(found),
        false => Err(EngineError::Data(
            "the model's embeddings contain values that are not finite numbers: its training \
             diverged"
                .to_owned(),
        )),
    }
}
