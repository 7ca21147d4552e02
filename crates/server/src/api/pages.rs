//! Lists, whole or in pages. Clients up to 0.6 ask for a list and get an
//! array; later ones say which page they want.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use finetuner_protocol::Page;
use serde::{Deserialize, Serialize};

/// The most items of a page.
const MAX_SIZE: u64 = 100;

/// The requested part of a list.
#[derive(Deserialize)]
pub(crate) struct PageQuery {
    page: Option<u64>,
    size: Option<u64>,
}

impl PageQuery {
    /// Offset and limit of a page, where one is wanted in any case.
    pub(crate) fn of(page: Option<u64>, size: Option<u64>) -> (u64, u64) {
        let query = Self {
            page: page.or(Some(1)),
            size,
        };
        query.bounds().unwrap_or((0, MAX_SIZE))
    }

    fn page_and_size(&self) -> Option<(u64, u64)> {
        if self.page.is_none() && self.size.is_none() {
            return None;
        }
        let page = self.page.unwrap_or(1).max(1);
        Some((page, self.size.unwrap_or(50).clamp(1, MAX_SIZE)))
    }

    /// Offset and limit, where a page is wanted.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let (page, size) = self.page_and_size()?;
        Some(((page - 1).saturating_mul(size), size))
    }

    /// The answer: a page, or a plain list. A page past the end is empty.
    pub(crate) fn answer<T: Serialize>(&self, items: Vec<T>, total: u64) -> Response {
        match self.page_and_size() {
            Some((page, size)) => Json(Page::new(items, total, page, size)).into_response(),
            None => Json(items).into_response(),
        }
    }
}
