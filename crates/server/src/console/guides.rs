//! The guides at `/docs/`: pages of the crate `finetuner-docs` in a layout like
//! the console's. They need no sign-in, because they contain no user data.

use std::sync::Arc;

use axum::{Router, extract::Path, response::Redirect, routing::get};
use finetuner_docs::{contents, page};
use maud::{Markup, PreEscaped, html};

use super::{
    assets::asset,
    failure::{Failure, Page},
    frame::document,
};
use crate::{app::App, error::ApiError};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/docs", get(async || Redirect::to("/docs/")))
        .route("/docs/", get(async || show("index")))
        .route("/docs/{file}", get(file))
        .route(
            "/docs/book.css",
            asset("text/css", include_str!("guides.css")),
        )
}

async fn file(Path(file): Path<String>) -> Page {
    show(file.strip_suffix(".html").unwrap_or(&file))
}

fn show(name: &str) -> Page {
    let here = page(name).ok_or_else(|| {
        Failure::from(ApiError::not_found(
            "there is no such guide; /docs/ lists them all",
        ))
    })?;
    let body = html! {
        link rel="stylesheet" href="/docs/book.css";
        a .skip href="#content" { "Skip to content" }
        header {
            nav aria-label="Parts" {
                a .brand href="/console/" { "finetuner" }
                a href="/docs/" aria-current="true" { "Guides" }
                a href="/console/" { "Console" }
            }
        }
        div .book {
            nav .contents aria-label="Guides" {
                @for part in contents() {
                    @if !part.title.is_empty() { p { (part.title) } }
                    ul {
                        @for page in &part.pages {
                            li { (link(page, here)) }
                        }
                    }
                }
            }
            main id="content" { (PreEscaped(here.html())) }
        }
    };
    Ok(document(here.title(), &body))
}

/// Renders an entry of the table of contents. The current page's entry lists its
/// sections.
fn link(page: &finetuner_docs::Page, here: &finetuner_docs::Page) -> Markup {
    let current = page.name == here.name;
    let address = match page.name {
        "index" => "/docs/".to_owned(),
        name => format!("/docs/{name}.html"),
    };
    html! {
        a href=(address) aria-current=[current.then_some("page")] { (page.title()) }
        @let sections = page.sections();
        @if current && sections.len() > 1 {
            ul {
                @for (id, text) in sections {
                    li { a href={ "#" (id) } { (text) } }
                }
            }
        }
    }
}
