//! Static files that pages load: style sheets, scripts and the icon.

use std::sync::Arc;

use axum::{
    http::header,
    routing::{MethodRouter, get},
};

use crate::app::App;

pub(super) fn asset(kind: &'static str, text: &'static str) -> MethodRouter<Arc<App>> {
    get(move || async move {
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "max-age=300"),
        ];
        (headers, text)
    })
}
