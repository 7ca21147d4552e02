//! Lists as a whole or in pages. Clients up to version 0.6 request neither page
//! nor size and get an array; later ones request a page.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use finetuner_protocol::Page;
use serde::{Deserialize, Serialize};

/// Maximum number of items on a page.
const MAX_SIZE: u64 = 100;

/// Query of a list: the requested page, if any.
#[derive(Deserialize)]
pub(crate) struct PageQuery {
    page: Option<u64>,
    size: Option<u64>,
}

impl PageQuery {
    /// Returns offset and limit, with defaults for a missing page or size.
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

    /// Returns offset and limit if a page was requested.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let (page, size) = self.page_and_size()?;
        Some(((page - 1).saturating_mul(size), size))
    }

    /// Returns a page if one was requested, and an array otherwise. A page after
    /// the last one is empty.
    pub(crate) fn answer<T: Serialize>(&self, items: Vec<T>, total: u64) -> Response {
        match self.page_and_size() {
            Some((page, size)) => Json(Page::new(items, total, page, size)).into_response(),
            None => Json(items).into_response(),
        }
    }
}
