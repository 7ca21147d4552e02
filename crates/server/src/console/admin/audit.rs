//! The audit log with filters, as an HTML table and as a CSV file.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::AdminSession;
use crate::{
    app::App,
    console::{
        failure::Page,
        words::{name, query, time},
    },
    database::{AuditFilter, Entry, csv},
};

/// Number of entries on a page.
const PAGE_ENTRIES: u64 = 100;
/// Maximum number of entries in a CSV file. To get older ones, pass the last `id`
/// as `before`.
const MAX_FILE_ENTRIES: u64 = 100_000;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    person: String,
    project: String,
    action: String,
    /// ID of an entry; only older entries are listed. Empty for the newest.
    before: String,
}

impl Asked {
    fn filter(&self, limit: u64) -> AuditFilter {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        AuditFilter {
            person: given(&self.person),
            project: given(&self.project),
            action: given(&self.action),
            before: self.before.parse().ok(),
            limit,
        }
    }

    /// Returns the URL of another page with the same filter.
    fn address(&self, page: &str, before: &str) -> String {
        let fields = [
            ("person", self.person.as_str()),
            ("project", &self.project),
            ("action", &self.action),
            ("before", before),
        ];
        format!("/console/admin/{page}{}", query(&fields))
    }
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Query(asked): Query<Asked>,
) -> Page {
    let entries = app.database.audit(asked.filter(PAGE_ENTRIES)).await?;
    let older = entries
        .last()
        .filter(|_| entries.len() as u64 == PAGE_ENTRIES);
    let content = html! {
        div .head {
            h1 { "Audit log" }
            div .actions role="group" aria-label="Actions" {
                a .button .quiet href=(asked.address("audit.csv", &asked.before)) download { "Download as CSV" }
            }
        }
        form .row method="get" action="/console/admin/audit" role="search" {
            label { "Person " input #person name="person" value=(asked.person) autocapitalize="none"; }
            label { "Project " input #project name="project" value=(asked.project) autocapitalize="none"; }
            label { "Action begins with " input #action name="action" value=(asked.action) autocapitalize="none"; }
            button type="submit" { "Filter" }
        }
        @if entries.is_empty() { p { "No entries." } } @else {
            div .scroll tabindex="0" role="region" aria-label="Audit log" { table {
                thead { tr {
                    th scope="col" { "Time" } th scope="col" { "Person" } th scope="col" { "Project" }
                    th scope="col" { "Action" } th scope="col" { "Object" } th scope="col" { "Address" }
                } }
                tbody { @for entry in &entries { (row(entry)) } }
            } }
        }
        nav .pager aria-label="Pages" {
            @if !asked.before.is_empty() { a href=(asked.address("audit", "")) { "Newest" } }
            @if let Some(last) = older { a rel="next" href=(asked.address("audit", &last.id.to_string())) { "Older" } }
        }
        p .hint {
            "Entries are kept for " (app.settings.audit_days) " days. A file contains the newest " (MAX_FILE_ENTRIES)
            " entries. To get older ones, set " code { "before" } " in its URL to the last " code { "id" } "."
        }
    };
    Ok(session.framed("Audit log", &content))
}

fn row(entry: &Entry) -> Markup {
    html! { tr {
        td { (time(&entry.at)) }
        td { (entry.person.as_deref().map_or(html! { "command line" }, name)) }
        td { (name(entry.project.as_deref().unwrap_or_default())) }
        td { code { (entry.action) } }
        td .text { (name(&entry.object)) }
        td { (entry.address.as_deref().unwrap_or_default()) }
    } }
}

pub(crate) async fn download(
    State(app): State<Arc<App>>,
    _: AdminSession,
    Query(asked): Query<Asked>,
) -> Page<Response> {
    let entries = app.database.audit(asked.filter(MAX_FILE_ENTRIES)).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"audit.csv\"",
        ),
    ];
    Ok((headers, csv(&entries)?).into_response())
}
