//! Tags and notes of runs and artifacts: their display, and the form that edits
//! both.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::{AnnotationChange, Annotations, MAX_TAGS, split_tags};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    artifacts::title_of,
    failure::Page,
    frame::{page as framed, problem},
    links::{crumbs, run_path},
    project_form::ProjectForm,
    session::Session,
    words::{name, path, query, visible},
};
use crate::{
    app::App,
    database::{Annotated, ArtifactChange},
    error::ApiError,
    runs::{annotate, find_run, invalid_annotation},
};

/// Field values of the form.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Typed {
    tags: String,
    note: String,
}

impl From<&Annotations> for Typed {
    fn from(own: &Annotations) -> Self {
        Self {
            tags: own.tags.join(", "),
            note: own.note.clone(),
        }
    }
}

impl Typed {
    fn change(&self) -> AnnotationChange {
        // Browsers send line breaks of a text area as CRLF.
        let note = self.note.replace("\r\n", "\n");
        AnnotationChange::default()
            .tags(split_tags(&self.tags))
            .note(note.trim_end())
    }
}

/// Renders tags as links to the list at this address, filtered by the tag.
pub(super) fn tags(list: &str, tags: &[String]) -> Markup {
    html! { @if !tags.is_empty() { span .tags { @for tag in tags {
        a .tag href={ (list) (query(&[("tag", tag)])) } { (name(tag)) } " "
    } } } }
}

/// Renders the tag selection of a filter form; nothing if there are no tags.
pub(super) fn choice(chosen: &str, tags: &[String]) -> Markup {
    let is_known = chosen.is_empty() || tags.iter().any(|tag| tag == chosen);
    html! { @if !tags.is_empty() || !is_known {
        label { "Tag " select #tag name="tag" {
            option value="" { "any" }
            @for tag in tags { option value=(tag) selected[tag == chosen] { (visible(tag)) } }
            @if !is_known { option value=(chosen) selected { (visible(chosen)) } }
        } }
    } }
}

/// Renders the tags and note of a run or an artifact on its page. `list` is the address
/// of the list that the tags link to.
pub(super) fn shown(list: &str, own: &Annotations) -> Markup {
    html! {
        @if !own.tags.is_empty() { p aria-label="Tags" { (tags(list, &own.tags)) } }
        @if !own.note.is_empty() { p .note aria-label="Note" { (name(&own.note)) } }
    }
}

/// Renders the form inside the page of a run or an artifact. Empty if the user
/// may not change it.
pub(super) fn editor(
    session: &Session,
    here: &str,
    creator: Option<&str>,
    own: &Annotations,
) -> Markup {
    let is_empty = *own == Annotations::default();
    html! { @if session.changes(creator) {
        details #edit-annotations {
            summary { @if is_empty { "Add tags and a note" } @else { "Change tags and note" } }
            (form(session, here, &own.into()))
        }
    } }
}

fn form(session: &Session, here: &str, typed: &Typed) -> Markup {
    html! {
        form .stacked method="post" action={ (here) "/annotations" } {
            (session.project_field())
            label for="tags" { "Tags, separated by commas" }
            input #tags name="tags" value=(typed.tags) autocapitalize="none"
                aria-describedby="tags-hint";
            span .hint #tags-hint { "Up to " (MAX_TAGS) ", such as " code { "baseline, needs review" } }
            label for="note" { "Note" }
            // HTML ignores the first line feed in a text area.
            textarea #note name="note" rows="4" { "\n" (typed.note) }
            div .row { button type="submit" { "Save tags and note" } }
        }
    }
}

/// Renders the form on a page of its own, with the submitted values and the error
/// if they were refused.
fn page(session: &Session, place: &Place, typed: &Typed, wrong: Option<&str>) -> Markup {
    let content = html! {
        (place.crumbs)
        h1 { "Tags and note of " (name(&place.title)) }
        (problem(wrong))
        (form(session, &place.address, typed))
        p { a href=(place.address) { "Back" } }
    };
    framed(session, place.part, "Tags and note", &content)
}

/// The run or artifact whose tags and note are edited.
struct Place {
    crumbs: Markup,
    title: String,
    address: String,
    /// The navigation entry.
    part: &'static str,
}

fn answer(
    session: &Session,
    place: &Place,
    typed: &Typed,
    saved: Result<(), ApiError>,
) -> Response {
    match saved {
        Ok(()) => Redirect::to(&place.address).into_response(),
        Err(error) => {
            let page = page(session, place, typed, Some(error.message()));
            (error.status(), page).into_response()
        }
    }
}

pub(crate) async fn run_form(
    State(app): State<Arc<App>>,
    session: Session,
    Path(names): Path<(String, String)>,
) -> Page {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), names).await?;
    let place = place_of_run(&run);
    Ok(page(&session, &place, &(&run.annotations).into(), None))
}

fn place_of_run(run: &crate::database::RunRow) -> Place {
    Place {
        crumbs: crumbs(run),
        title: run.name.clone(),
        address: run_path(run),
        part: "Experiments",
    }
}

pub(crate) async fn save_run(
    State(app): State<Arc<App>>,
    session: Session,
    Path(names): Path<(String, String)>,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), names).await?;
    let place = place_of_run(&run);
    let saved = annotate(&app, session.user.clone(), vec![run.id], typed.change()).await;
    Ok(answer(&session, &place, &typed, saved.map(drop)))
}

/// Finds an artifact with its tags and note.
async fn find_artifact(
    app: &App,
    session: &Session,
    id: String,
) -> Result<(Place, Annotations), ApiError> {
    let project = &session.user.namespace;
    let found = app.database.artifact(project.clone(), id.clone()).await?;
    let missing = || ApiError::not_found(format!("there is no dataset or model `{id}`"));
    let artifact = found.ok_or_else(missing)?;
    let makers = app.database.makers(project.clone(), vec![id.clone()]);
    let makers = makers.await?;
    let place = Place {
        crumbs: html! { nav .crumbs aria-label="Path" {
            a href="/console/data" { "Data and models" }
        } },
        title: title_of(&artifact, makers.get(&id)),
        address: path(&["data", &id]),
        part: "Data and models",
    };
    Ok((place, artifact.annotations))
}

pub(crate) async fn artifact_form(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
) -> Page {
    session.may_write()?;
    let (place, own) = find_artifact(&app, &session, id).await?;
    Ok(page(&session, &place, &(&own).into(), None))
}

pub(crate) async fn save_artifact(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let (place, _) = find_artifact(&app, &session, id.clone()).await?;
    let change = ArtifactChange {
        annotations: typed.change(),
        ..ArtifactChange::default()
    };
    let by = session.user.clone();
    let saved = match app.database.update_artifact(by, id, change).await? {
        Annotated::Done(_) => Ok(()),
        Annotated::Missing => Err(ApiError::forbidden(
            "this belongs to another user: you can read it but not change it",
        )),
        Annotated::Invalid(error) => Err(invalid_annotation(&error)),
    };
    Ok(answer(&session, &place, &typed, saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_sets_tags_and_note() {
        let typed = Typed {
            tags: "a, b ,".into(),
            note: "one\r\ntwo\r\n".into(),
        };
        let mut own = Annotations::default();
        typed.change().apply(&mut own).unwrap();
        assert_eq!(
            (own.tags.join("|"), own.note.as_str()),
            ("a|b".into(), "one\ntwo")
        );
        assert_eq!(Typed::from(&own).tags, "a, b");
        Typed::default().change().apply(&mut own).unwrap();
        assert_eq!(own, Annotations::default());
    }
}
