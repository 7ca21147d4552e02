//! Page layout: head, navigation, pagination and error pages.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use maud::{DOCTYPE, Markup, html};

use super::{
    session::Session,
    words::{name, visible},
};
use crate::database::Role;

/// Maximum size of an error message on a page, in bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// Returns whether an answer is an error that is not an HTML page yet.
pub(super) fn is_refusal(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_page = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let status = answer.status();
    (status.is_client_error() || status.is_server_error()) && !is_page
}

/// Converts an error into a page. With a session, the page has the user's
/// navigation.
pub(super) async fn refusal(session: Option<&Session>, answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let text = to_bytes(body, MAX_REFUSAL).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let title = title_of(head.status);
    let content = html! {
        h1 { (title) }
        p .message { (visible(&text)) }
        p { a href="/console/" { "Back to the experiments" } }
    };
    let shown = match session {
        Some(session) => page(session, "", title, &content),
        None => document(title, &html! { main .narrow { (content) } }),
    };
    head.headers.remove(header::CONTENT_LENGTH);
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    head.headers.insert(header::CONTENT_TYPE, kind);
    Response::from_parts(head, Body::from(shown.into_string()))
}

/// Returns the heading of an error page.
fn title_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests",
        StatusCode::METHOD_NOT_ALLOWED => "Method not allowed",
        status if status.is_client_error() => "Request refused",
        _ => "The server has a problem",
    }
}

/// Renders a complete page for a signed-in user. `here` is the navigation entry
/// to highlight; empty for none.
pub(super) fn page(session: &Session, here: &str, title: &str, content: &Markup) -> Markup {
    let part = |name: &str, href: &str| {
        html! {
            a href=(href) aria-current=[(name == here).then_some("page")] { (name) }
        }
    };
    let body = html! {
        a .skip href="#content" { "Skip to content" }
        header {
            nav aria-label="Main" {
                a .brand href="/console/" { "finetuner" }
                (part("Experiments", "/console/"))
                (part("Runs", "/console/runs"))
                (part("Data and models", "/console/data"))
                (part("Queue", "/console/queue"))
                (part("Projects", "/console/projects"))
                (part("Tokens", "/console/tokens"))
                (part("Guides", "/docs/"))
                @if session.user.is_admin { (part("Admin", "/console/admin")) }
            }
            form method="post" action="/console/signout" {
                @if !session.is_full() { span .tag { "read-only" } }
                @if !session.user.is_personal {
                    a .tag href="/console/project" { "project " (name(&session.user.project)) }
                    @if session.user.role == Role::Viewer { span .tag { "viewer" } }
                }
                span .who { a href="/console/account" { (name(&session.user.name)) } }
                button .quiet type="submit" { "Sign out" }
            }
        }
        // `live.js` reports a lost connection here.
        p #connection role="status" {}
        main id="content" { (content) }
    };
    document(title, &body)
}

/// Renders a complete HTML document without navigation.
pub(super) fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (visible(title)) " · finetuner" }
                link rel="stylesheet" href="/console/style.css";
                link rel="icon" href="/console/icon.svg";
                script type="module" src="/console/live.js" {}
            }
            body { (body) }
        }
    }
}

/// Returns the number of pages of a list, at least 1.
pub(super) fn pages(total: u64, size: u64) -> u64 {
    total.div_ceil(size).max(1)
}

/// Renders an error above a form.
pub(super) fn problem(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { p .problem .message role="alert" { (text) } } }
}

/// Renders links to the previous and next page of a list; nothing for a single
/// page.
pub(super) fn pager(total: u64, number: u64, size: u64, link: impl Fn(u64) -> String) -> Markup {
    let pages = pages(total, size);
    html! {
        @if pages > 1 {
            nav .pager aria-label="Pages" {
                @if number > 1 { a rel="prev" href=(link(number - 1)) { "Previous" } }
                span { "Page " (number) " of " (pages) }
                @if number < pages { a rel="next" href=(link(number + 1)) { "Next" } }
            }
        }
    }
}
