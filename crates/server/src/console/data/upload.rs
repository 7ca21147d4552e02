//! The form that uploads a file as a dataset. It works without JavaScript;
//! `live.js` adds a progress bar.

use std::sync::Arc;

use axum::{
    extract::{State, multipart::Field},
    response::{IntoResponse, Redirect, Response},
};
use finetuner_data::{Columns, Problems};
use finetuner_protocol::{Document, Task, check_name};
use maud::{Markup, html};

use crate::{
    app::App,
    console::{
        document::shown_document,
        failure::Page,
        frame::page as framed,
        session::Session,
        words::{name as shown_name, path},
    },
    error::ApiError,
    imports::{self, FirstRow, NewData, Reading, Refusal, Rows, Spool},
    multipart,
    tasks::to_the_end,
};

/// Size limit of each field except the file, in bytes.
const MAX_FIELD: usize = 4 << 10;

/// Kinds of documents, with their labels.
const ROWS: [(&str, &str); 5] = [
    (
        "text-to-text",
        "Texts: pairs, triplets, or texts with labels",
    ),
    ("text-to-image", "Images with their texts"),
    ("image-to-image", "Images: pairs, or images with labels"),
    ("mesh-to-mesh", "Meshes: pairs, or meshes with labels"),
    ("texts", "Texts only, to generate training data"),
];

/// Delimiters: value of the field, label, byte.
const DELIMITERS: [(&str, &str, u8); 4] = [
    ("comma", "commas", b','),
    ("semicolon", "semicolons", b';'),
    ("tab", "tabs", b'\t'),
    ("bar", "bars", b'|'),
];

/// Interpretations of the first row, with their labels.
const FIRST_ROWS: [(&str, &str); 3] = [
    ("", "column names if they are known, otherwise data"),
    ("names", "column names"),
    ("data", "data"),
];

/// Fields for column names, with their labels.
const COLUMNS: [(&str, &str); 7] = [
    ("anchor", "First item: a query, a question"),
    ("positive", "Its match"),
    ("negatives", "Negatives, with commas between the names"),
    ("text", "Text of an image or with a label"),
    ("image", "Image"),
    ("label", "Label"),
    ("scores", "Scores, with commas between the names"),
];

/// Limits on the fields, which are kept in memory.
const MAX_FIELDS: usize = 64;
const MAX_FIELD_NAME: usize = 100;

/// Submitted values by field name.
#[derive(Default)]
struct Typed(Vec<(String, String)>);

impl Typed {
    fn get(&self, field: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == field);
        found.map_or("", |(_, value)| value.trim())
    }
}

/// An error with the field next to which it is shown.
struct Wrong {
    field: &'static str,
    reason: String,
}

/// Reason why a file was not stored.
enum Answer {
    Nothing,
    Wrong(Wrong),
    Rows(Problems, Vec<Document>),
}

pub(crate) async fn form(session: Session) -> Page {
    session.may_write()?;
    Ok(page(&session, &Typed::default(), &Answer::Nothing))
}

pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    session: Session,
    mut form: multipart::Form,
) -> Page<Response> {
    session.may_write()?;
    // Limits the number of simultaneous uploads, so that one user can't fill the
    // disk.
    let turn = app.gates.spools.enter(&session.user.person).await?;
    let mut typed = Typed::default();
    let mut file = None;
    while let Some(field) = form.next_field().await? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "file" if file.is_some() => {
                return Err(ApiError::bad_request("the form has more than one `file`").into());
            }
            "file" => file = Some(received(&app, field).await?),
            _ if typed.0.len() >= MAX_FIELDS || name.len() > MAX_FIELD_NAME => {
                return Err(ApiError::bad_request("the form has unknown fields").into());
            }
            _ => {
                let text = text_of(&name, field).await?;
                typed.0.push((name, text));
            }
        }
    }
    let project = typed.0.iter().find(|(name, _)| name == "project");
    session.check_project(project.map(|(_, value)| value.as_str()))?;
    let stored = match checked(&app, &session, &typed, file).await {
        Ok((spool, new)) => {
            // A received file is stored even if the client disconnects.
            let stored = async move {
                let stored = imports::store(app, spool, new).await;
                drop(turn);
                Ok(stored)
            };
            to_the_end(stored).await?
        }
        Err(refusal) => Err(refusal),
    };
    let (status, answer) = match stored {
        Ok(id) => return Ok(Redirect::to(&path(&["data", &id])).into_response()),
        Err(Refusal::Failed(error)) => {
            let reason = error.message().to_owned();
            let field = match error.status() {
                axum::http::StatusCode::CONFLICT => "name",
                _ => "file",
            };
            (error.status(), Answer::Wrong(Wrong { field, reason }))
        }
        Err(Refusal::Field(field, reason)) => {
            let status = match field {
                "replace" => axum::http::StatusCode::CONFLICT,
                _ => axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            };
            (status, Answer::Wrong(Wrong { field, reason }))
        }
        Err(Refusal::Rows(problems, good)) => (
            axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            Answer::Rows(problems, good),
        ),
    };
    Ok((status, page(&session, &typed, &answer)).into_response())
}

/// Receives the file and spools it to disk.
async fn received(app: &App, mut field: Field<'_>) -> Result<Spool, ApiError> {
    let mut spool = Spool::begin(app, field.file_name().unwrap_or_default()).await?;
    while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
        spool.write(bytes).await?;
    }
    Ok(spool)
}

async fn text_of(name: &str, mut field: Field<'_>) -> Result<String, ApiError> {
    let mut text = Vec::new();
    while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
        text.extend_from_slice(&bytes);
        if text.len() > MAX_FIELD {
            let limit = MAX_FIELD >> 10;
            return Err(ApiError::too_large(format!(
                "`{}` has more than {limit} KiB",
                finetuner_protocol::text::start_of(name)
            )));
        }
    }
    String::from_utf8(text).map_err(|_| {
        let name = finetuner_protocol::text::start_of(name);
        ApiError::bad_request(format!("`{name}` is not UTF-8"))
    })
}

fn broken(error: &axum::extract::multipart::MultipartError) -> ApiError {
    ApiError::bad_request(format!(
        "the upload was interrupted: send the form again ({error})"
    ))
}

/// Validates the submitted form.
async fn checked(
    app: &App,
    session: &Session,
    typed: &Typed,
    file: Option<Spool>,
) -> Result<(Spool, NewData), Refusal> {
    let known = |name: &str| {
        [
            "project",
            "name",
            "public",
            "replace",
            "rows",
            "first_row",
            "delimiter",
            "encoding",
            "labeled",
        ]
        .contains(&name)
            || COLUMNS.iter().any(|(field, _)| *field == name)
    };
    if let Some((name, _)) = typed.0.iter().find(|(name, _)| !known(name)) {
        let name = finetuner_protocol::text::start_of(name);
        let reason = format!("`{name}` is not a field of this form: open the page again");
        return Err(ApiError::unprocessable(reason).into());
    }
    let name = typed.get("name");
    check_name("name", name).map_err(|e| Refusal::Field("name", e.to_string()))?;
    let reading = reading(typed)?;
    let file = file.filter(|file| !file.is_empty());
    let file =
        file.ok_or_else(|| Refusal::Field("file", "choose a file that is not empty".to_owned()))?;
    let namespace = session.user.namespace.clone();
    let replaces = !typed.get("replace").is_empty();
    // Saves the reading. Whether the name is taken in the end is checked when the
    // data is stored.
    let existing = app.database.artifact_by_name(namespace, name.to_owned());
    if !replaces && existing.await.map_err(ApiError::from)?.is_some() {
        return Err(imports::taken());
    }
    let new = NewData {
        user: session.user.clone(),
        name: name.to_owned(),
        public: !typed.get("public").is_empty(),
        replaces,
        reading,
    };
    Ok((file, new))
}

/// Parses the options for reading the file.
fn reading(typed: &Typed) -> Result<Reading, Refusal> {
    let bad = |field: &'static str| {
        let value = finetuner_protocol::text::start_of(typed.get(field));
        Refusal::Field(field, format!("`{value}` is not one of the choices"))
    };
    let rows = match typed.get("rows") {
        "texts" => Rows::Texts,
        task if ROWS.iter().any(|(known, _)| *known == task) => Rows::Of(Task::from(task)),
        _ => return Err(bad("rows")),
    };
    let first_row = match typed.get("first_row") {
        "" => FirstRow::Guess,
        "names" => FirstRow::Names,
        "data" => FirstRow::Data,
        _ => return Err(bad("first_row")),
    };
    let delimiter = match typed.get("delimiter") {
        "" => None,
        chosen => {
            let found = DELIMITERS.iter().find(|(known, ..)| *known == chosen);
            Some(found.ok_or_else(|| bad("delimiter"))?.2)
        }
    };
    let encoding = Some(typed.get("encoding")).filter(|encoding| !encoding.is_empty());
    Ok(Reading {
        rows,
        columns: columns(typed),
        first_row,
        delimiter,
        encoding: encoding.map(str::to_owned),
        is_labeled: !typed.get("labeled").is_empty(),
    })
}

fn columns(typed: &Typed) -> Columns {
    let mut columns = Columns::new();
    let named = |field: &str| Some(typed.get(field)).filter(|name| !name.is_empty());
    let list = |field: &str| -> Vec<String> {
        let names = typed.get(field).split(',').map(str::trim);
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    if let Some(name) = named("anchor") {
        columns = columns.anchor(name);
    }
    if let Some(name) = named("positive") {
        columns = columns.positive(name);
    }
    for name in list("negatives") {
        columns = columns.add_negative(name);
    }
    if let Some(name) = named("text") {
        columns = columns.text(name);
    }
    if let Some(name) = named("image") {
        columns = columns.image(name);
    }
    if let Some(name) = named("label") {
        columns = columns.label(name);
    }
    for name in list("scores") {
        columns = columns.add_score(name);
    }
    columns
}

fn page(session: &Session, typed: &Typed, answer: &Answer) -> Markup {
    let said = |field: &str| match answer {
        Answer::Wrong(wrong) if wrong.field == field => Some(wrong.reason.as_str()),
        _ => None,
    };
    let is_conflict = said("replace").is_some() || !typed.get("replace").is_empty();
    // Open the section if one of its fields has an error.
    let is_open = COLUMNS
        .iter()
        .map(|(field, _)| *field)
        .chain(["first_row", "delimiter", "encoding", "labeled"])
        .any(|field| !typed.get(field).is_empty() || said(field).is_some());
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/data" { "Data and models" } }
        h1 { "Upload data" }
        div #answer { (row_problems(answer)) }
        form .stacked method="post" action="/console/data/new" enctype="multipart/form-data" data-upload {
            (session.project_field())
            label for="name" { "Name" }
            input #name name="name" value=(typed.get("name")) required maxlength="255" autocapitalize="none"
                aria-describedby="name-wrong";
            (beside("name", said("name")))
            div #replacing {
                @if is_conflict {
                    label .check { input #replace type="checkbox" name="replace" value="yes"
                        checked[!typed.get("replace").is_empty()] aria-describedby="replace-wrong"; " Replace the dataset with this name" }
                    (beside("replace", said("replace")))
                }
            }
            label for="rows" { "Rows are" }
            select #rows name="rows" aria-describedby="rows-wrong" {
                @for (value, label) in ROWS { option value=(value) selected[typed.get("rows") == value] { (label) } }
            }
            (beside("rows", said("rows")))
            label for="file" { "File" }
            input #file type="file" name="file" required accept=".csv,.tsv,.txt,.jsonl,.ndjson,.parquet,.zip"
                aria-describedby="file-hint file-wrong";
            p #file-hint .hint { "CSV, JSON Lines or Parquet, up to 4 GiB; or a zip with images and one such file whose rows name them." }
            (beside("file", said("file")))
            details open[is_open] {
                summary { "How the file is read" }
                div .stacked { (reading_options(typed, &said)) }
            }
            label .check { input type="checkbox" name="public" value="yes" checked[!typed.get("public").is_empty()];
                " Visible to everybody" }
            div .row {
                button type="submit" { "Upload" }
                a .button .quiet href="/console/data" { "Back" }
            }
            // `live.js` fills these.
            progress #sent hidden max="1" value="0" aria-label="Upload" {}
            p #sending role="status" {}
        }
    };
    framed(session, "Data and models", "Upload data", &content)
}

/// Renders the settings that most files don't need.
fn reading_options<'a>(typed: &Typed, said: &impl Fn(&str) -> Option<&'a str>) -> Markup {
    html! {
        label for="first_row" { "The first row of a CSV file contains" }
        select #first_row name="first_row" aria-describedby="first_row-wrong" {
            @for (value, label) in FIRST_ROWS { option value=(value) selected[typed.get("first_row") == value] { (label) } }
        }
        (beside("first_row", said("first_row")))
        label for="delimiter" { "Columns are separated by" }
        select #delimiter name="delimiter" aria-describedby="delimiter-wrong" {
            option value="" { "detected from the first rows" }
            @for (value, label, _) in DELIMITERS { option value=(value) selected[typed.get("delimiter") == value] { (label) } }
        }
        (beside("delimiter", said("delimiter")))
        label for="encoding" { "Encoding" }
        input #encoding name="encoding" value=(typed.get("encoding")) placeholder="utf-8" autocapitalize="none"
            aria-describedby="encoding-wrong";
        (beside("encoding", said("encoding")))
        label .check { input type="checkbox" name="labeled" value="yes" checked[!typed.get("labeled").is_empty()]
            aria-describedby="labeled-wrong"; " The second column of a CSV file without names is a label" }
        (beside("labeled", said("labeled")))
        fieldset .stacked {
            legend { "Columns" }
            p .hint { "Names of the columns to train on. If they are empty, columns are recognised by common names and by content." }
            @for (field, label) in COLUMNS {
                label for=(field) { (label) }
                input id=(field) name=(field) value=(typed.get(field)) autocapitalize="none" spellcheck="false";
            }
        }
    }
}

/// Renders the error of a field.
fn beside(field: &str, reason: Option<&str>) -> Markup {
    html! {
        p id={ (field) "-wrong" } .problem .message hidden[reason.is_none()]
            role=[reason.map(|_| "alert")] { (reason.unwrap_or_default()) }
    }
}

/// Renders the errors of rows.
fn row_problems(answer: &Answer) -> Markup {
    let Answer::Rows(problems, good) = answer else {
        return html! {};
    };
    let more = problems.total - problems.problems.len() as u64;
    html! {
        div .problem role="alert" {
            p { "The file was not stored: " (super::count(problems.total, "problem")) " in it." }
            div .scroll tabindex="0" role="region" aria-label="Table of problems" { table {
                thead { tr { th scope="col" .number { "Row" } th scope="col" { "Problem" } } }
                tbody { @for problem in &problems.problems { tr {
                    td .number { @if problem.number > 0 { (problem.number) } @else { "–" } }
                    td .text { span .message { (shown_name(&problem.reason)) } }
                } } }
            } }
            @if more > 0 { p { "And " (more) " more." } }
        }
        @if !good.is_empty() {
            h2 { "How the first rows are read" }
            ol .documents {
                // Images have no URL before they are stored.
                @for (i, document) in good.iter().enumerate() {
                    li { (shown_document(&without_bytes(document), "", i as u64, &mut Vec::new())) }
                }
            }
        }
    }
}

/// Replaces the images in a document by their sizes.
fn without_bytes(document: &Document) -> Document {
    let mut shown = document.clone();
    if let Some(bytes) = document.as_blob() {
        let size = super::bytes(bytes.len() as u64);
        shown.content = Some(finetuner_protocol::Content::Text(format!(
            "an image, {size}"
        )));
    }
    shown.chunks = document.chunks.iter().map(without_bytes).collect();
    shown
}
