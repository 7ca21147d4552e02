//! Pages of lists.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use finetuner_protocol::Page;
use serde::{Deserialize, Serialize};

/// Requested page of a list; `None` requests everything.
#[derive(Deserialize)]
pub(super) struct PageQuery {
    page: Option<u64>,
    size: Option<u64>,
}

impl PageQuery {
    pub(super) fn answer<T: Serialize>(&self, items: Vec<T>) -> Response {
        if self.page.is_none() && self.size.is_none() {
            return Json(items).into_response();
        }
        let page = self.page.unwrap_or(1).max(1);
        let size = self.size.unwrap_or(50).clamp(1, 100);
        let total = items.len() as u64;
        let items = part(items, page, size);
        Json(Page::new(items, total, page, size)).into_response()
    }
}

/// Returns the items of a page, counted from 1.
pub(super) fn part<T>(items: Vec<T>, page: u64, size: u64) -> Vec<T> {
    let before = page.saturating_sub(1).saturating_mul(size);
    let before = usize::try_from(before).unwrap_or(usize::MAX);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    items.into_iter().skip(before).take(size).collect()
}
