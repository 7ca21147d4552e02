//! The page for trying a finished model: searches a dataset with a text or an
//! image, and shows the results beside those of the model before fine-tuning.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use finetuner_engine::models::ModelKind;
use finetuner_protocol::text::start_of;
use maud::{Markup, html};

use super::{
    artifacts::name_of,
    failure::Page,
    frame::page as framed,
    links::run_path,
    session::Session,
    snippets::{Place, snippets},
    words::{name, path, visible},
};
use crate::{
    app::App,
    database::{ArtifactList, ArtifactRow, Identity, RunRow},
    error::{ApiError, Result},
    multipart,
    origin::public_address,
    runs::find_run,
    serving::{Found, Item, MAX_IMAGE, MOST_SEARCHED, check_image},
    trial::{self, Answer, Finished},
};

/// Size limit of a text query in bytes.
const MAX_QUERY: usize = 16 << 10;
/// Size limit of a dataset's id in bytes.
const MAX_ID: usize = 1 << 10;
/// Maximum number of datasets in the form, newest first.
const MAX_DATASETS: u64 = 200;

/// Submitted values of the form.
#[derive(Default)]
struct Form {
    query: String,
    image: Vec<u8>,
    data: String,
}

impl Form {
    async fn read(mut form: multipart::Form) -> Result<Self> {
        let mut read = Self::default();
        while let Some(field) = form.next_field().await? {
            let name = field.name().unwrap_or_default().to_owned();
            let limit = match name.as_str() {
                "query" => MAX_QUERY,
                "data" => MAX_ID,
                "picture" => MAX_IMAGE,
                other => {
                    return Err(ApiError::bad_request(format!(
                        "`{}` is not a field of this form: open the page again",
                        start_of(other)
                    )));
                }
            };
            let bytes = multipart::content(&name, field, limit).await?;
            let text = || String::from_utf8_lossy(&bytes).trim().to_owned();
            match name.as_str() {
                "query" => read.query = text(),
                "data" => read.data = text(),
                _ => read.image = bytes,
            }
        }
        Ok(read)
    }

    /// Returns the query: a text or an image.
    fn item(&self) -> Result<Item> {
        match (self.query.is_empty(), self.image.is_empty()) {
            (true, true) => Err(ApiError::bad_request("type a query, or choose an image")),
            (false, false) => Err(ApiError::bad_request(
                "the form has a query and an image: search with only one of them",
            )),
            (false, true) => Ok(Item::Text(self.query.clone())),
            (true, false) => {
                check_image(&self.image).map_err(ApiError::bad_request)?;
                Ok(Item::Image(self.image.clone().into()))
            }
        }
    }
}

/// Results of both models.
struct Results {
    data: ArtifactRow,
    tuned: Answer,
    /// Name and results of the model before fine-tuning.
    before: (String, Result<Answer>),
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
) -> Page {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let finished = trial::finished(&app, &run).await?;
    let form = Form::default();
    let page = render(&app, &session, &headers, &run, &finished, &form, None);
    Ok(page.await?)
}

pub(crate) async fn search(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
    form: multipart::Form,
) -> Page<Response> {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    // Takes a turn, because the image is in memory during the search.
    let _turn = app.gates.embeddings.enter(&session.user.person).await?;
    let (form, results) = match Form::read(form).await {
        Ok(form) => {
            let results = results(&app, &session.user, &run, &form).await;
            (form, results)
        }
        Err(error) => (Form::default(), Err(error)),
    };
    let status = match &results {
        Ok(_) => StatusCode::OK,
        Err(error) => error.status(),
    };
    let finished = trial::finished(&app, &run).await?;
    let page = render(
        &app,
        &session,
        &headers,
        &run,
        &finished,
        &form,
        Some(results),
    );
    Ok((status, page.await?).into_response())
}

async fn results(app: &Arc<App>, user: &Identity, run: &RunRow, form: &Form) -> Result<Results> {
    let query = form.item()?;
    let data = trial::data(app, user, &form.data).await?;
    let finished = trial::finished(app, run).await?;
    let (tuned, before) = tokio::join!(
        trial::search(app, user, finished.open(app), &data, query.clone()),
        trial::search(app, user, trial::backbone(app, user, run), &data, query),
    );
    Ok(Results {
        data: data.artifact,
        tuned: tuned?,
        before: (trial::backbone_name(run), before),
    })
}

/// Renders the page: form, results, and code to use the model elsewhere.
async fn render(
    app: &App,
    session: &Session,
    headers: &HeaderMap,
    run: &RunRow,
    finished: &Finished,
    form: &Form,
    results: Option<Result<Results>>,
) -> Result<Markup> {
    let kind = finished.kind(app, &session.user).await?;
    let list = ArtifactList {
        kind: Some("documentArray".to_owned()),
        newest_first: true,
        page: (0, MAX_DATASETS),
        ..ArtifactList::default()
    };
    let (data, _) = app
        .database
        .artifacts(session.user.namespace.clone(), list)
        .await?;
    let user = &session.user;
    let place = Place {
        address: &public_address(headers, app.settings.public_url.as_deref())?,
        project: (!user.is_personal).then_some(user.project.as_str()),
    };
    let content = html! {
        nav .crumbs aria-label="Path" {
            a href="/console/" { "Experiments" } " / "
            a href=(path(&["experiments", &run.experiment])) { (name(&run.experiment)) } " / "
            a href=(run_path(run)) { (name(&run.name)) }
        }
        h1 { "Try " (name(&run.name)) }
        @match kind {
            ModelKind::Text | ModelKind::Image | ModelKind::TextImage => {
                (search_form(run, kind, form, &data))
                @match &results {
                    None => {}
                    Some(Err(error)) => { p .problem role="alert" { (error.message()) } }
                    Some(Ok(results)) => { (sides(form, results)) }
                }
            }
            _ => { p { "Only models of texts and images can be tried here. This model embeds other data." } }
        }
        section aria-labelledby="use" {
            h2 id="use" { "Use it" }
            p { a .button href=(path(&["data", &finished.artifact.id, "download"])) download { "Download" } }
            (snippets(run, kind, place))
        }
    };
    let title = format!("Try {}", run.name);
    Ok(framed(session, "Experiments", &title, &content))
}

fn search_form(run: &RunRow, kind: ModelKind, form: &Form, data: &[ArtifactRow]) -> Markup {
    let (texts, images) = (kind != ModelKind::Image, kind != ModelKind::Text);
    let chosen = match form.data.is_empty() {
        false => Some(form.data.as_str()),
        // Suggest the dataset that the run was evaluated on or trained with.
        true => {
            let used: serde_json::Value = serde_json::from_str(&run.data).unwrap_or_default();
            let own = data.iter().find(|data| used.get(name_of(data)).is_some());
            own.map(|data| data.id.as_str())
        }
    };
    html! {
        @if data.is_empty() {
            p { "There is no data to search yet. Push some with " code { "push" } ", then reload this page." }
        } @else {
            form .stacked method="post" enctype="multipart/form-data" action={ (run_path(run)) "/try" } {
                @if texts {
                    label for="query" { "Query" }
                    input id="query" name="query" value=(form.query) maxlength="2000" autocomplete="off";
                }
                @if images {
                    label for="picture" { @if texts { "or an image" } @else { "Image" } }
                    input id="picture" name="picture" type="file" accept="image/png,image/jpeg,image/gif,image/webp,image/bmp";
                }
                label for="data" { "Data" }
                select id="data" name="data" {
                    @for data in data {
                        option value=(data.id) selected[chosen == Some(&data.id)] { (visible(name_of(data))) }
                    }
                }
                button type="submit" { "Search" }
            }
            p .hint {
                "The first " (MOST_SEARCHED) " texts or images of the data are searched. The first \
                 search embeds them; those after it are fast."
            }
        }
    }
}

fn sides(form: &Form, results: &Results) -> Markup {
    let (backbone, before) = &results.before;
    html! {
        section aria-labelledby="found" {
            h2 id="found" {
                @if form.query.is_empty() { "Found for the image" } @else { "Found for “" (form.query) "”" }
            }
            div .sides {
                div { h3 { "This run" } (side(&results.data, Ok(&results.tuned))) }
                div { h3 { "Before: " (name(backbone)) } (side(&results.data, before.as_ref())) }
            }
        }
    }
}

/// Renders the results of one model, or the reason why there are none.
fn side(data: &ArtifactRow, answer: Result<&Answer, &ApiError>) -> Markup {
    html! { @match answer {
        Err(error) => { p .hint { "No results: " (error.message()) } }
        Ok(Answer::Embedding(done)) => {
            p role="status" { "The model is being loaded and the data embedded: " (done) " done so far. Search \
                again to see what is found." }
        }
        Ok(Answer::Found { found, searched, documents }) => {
            p .hint { (searched) " searched of " (documents) " documents" }
            ol .found { @for found in found { li { (one(data, found)) } } }
        }
    } }
}

/// Renders one result.
fn one(data: &ArtifactRow, Found { shown, score }: &Found) -> Markup {
    html! {
        span .hint { (format!("{score:.3}")) } " "
        @if shown.is_image {
            @let caption = match shown.text.is_empty() {
                true => format!("image of document {}", shown.document + 1),
                false => shown.text.clone(),
            };
            img loading="lazy" alt=(caption) title=(caption)
                src={ (path(&["data", &data.id, "picture"])) "?document=" (shown.document) "&part=" (shown.part) };
        } @else {
            (shown.text)
        }
    }
}
