//! Pages for projects: list, creation, switching, members and deletion.

use std::sync::Arc;

use axum::{
    Form,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    cookies::{COOKIE, cookie},
    failure::{Failure, Page},
    frame::{page as framed, problem},
    project_form::{Nothing, ProjectForm},
    session::Session,
    words::{count, name, query, time, visible},
};
use crate::{
    app::App,
    checks::{check_project_name, role},
    database::{MemberRow, ProjectRow, Role},
    error::ApiError,
    secret,
};

/// The navigation entry that these pages belong to.
const HERE: &str = "Projects";

/// Describes the permissions of a role.
fn allows(role: Role) -> &'static str {
    match role {
        Role::Viewer => "reads everything",
        Role::Member => "also adds data and runs; changes and deletes their own",
        Role::Owner => "everything, and manages the members",
    }
}

pub(crate) async fn list(State(app): State<Arc<App>>, session: Session) -> Page {
    show(&app, &session, "", None).await
}

async fn show(app: &App, session: &Session, typed: &str, wrong: Option<&str>) -> Page {
    let projects = app.database.projects(&session.user, false).await?;
    let content = html! {
        h1 { "Projects" }
        p { "The members of a project share its experiments, runs, data and models. Your \
            personal project is for you alone." }
        (problem(wrong))
        @if session.is_full() {
            form .row method="post" action="/console/projects" {
                label { "Name " input #name name="name" value=(typed) required maxlength="64"
                    pattern="[A-Za-z0-9_\\-][A-Za-z0-9_.\\-]*" autocapitalize="none" spellcheck="false"; }
                button type="submit" { "Create project" }
            }
        }
        div .scroll tabindex="0" role="region" aria-label="Table of projects" { table {
            caption { (count(projects.len() as u64, "project")) }
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Your role" }
                th scope="col" .number { "Members" } th scope="col" { "Created" }
                th scope="col" { span .hidden { "Actions" } }
            } }
            tbody { @for project in &projects { (row(session, project)) } }
        } }
    };
    Ok(framed(session, HERE, "Projects", &content))
}

fn row(session: &Session, project: &ProjectRow) -> Markup {
    let is_shown = project.name == session.user.project;
    html! { tr {
        th scope="row" {
            (name(&project.name)) @if project.is_personal { " " span .tag { "personal" } }
        }
        td { (project.role.map_or("none", Role::as_str)) }
        td .number { (project.members) }
        td { (time(&project.created_at)) }
        td {
            @if is_shown {
                a href="/console/project" { "Shown now" }
            } @else {
                form method="post" action="/console/projects/switch" {
                    input type="hidden" name="name" value=(project.name);
                    button .quiet type="submit" aria-label={ "Switch to " (visible(&project.name)) } { "Switch" }
                }
            }
        }
    } }
}

#[derive(Deserialize)]
pub(crate) struct Named {
    name: String,
}

/// Creates a project and switches the session to it.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    session: Session,
    headers: HeaderMap,
    Form(Named { name }): Form<Named>,
) -> Page<Response> {
    session.must_be_full()?;
    let name = name.trim().to_owned();
    let most = app.settings.max_projects;
    let created = match check_project_name(&name) {
        Ok(()) => {
            let created = app
                .database
                .create_project(session.user.clone(), name.clone(), most);
            created.await.map_err(ApiError::from)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = created {
        let page = show(&app, &session, &name, Some(error.message())).await?;
        return Ok((error.status(), page).into_response());
    }
    show_in_session(&app, &headers, name).await?;
    Ok(Redirect::to("/console/project").into_response())
}

/// Switches the session to another project.
pub(crate) async fn switch(
    State(app): State<Arc<App>>,
    _: Session,
    headers: HeaderMap,
    Form(Named { name }): Form<Named>,
) -> Page<Redirect> {
    show_in_session(&app, &headers, name).await?;
    Ok(Redirect::to("/console/"))
}

async fn show_in_session(app: &App, headers: &HeaderMap, project: String) -> Result<(), Failure> {
    let token = cookie(headers, COOKIE).unwrap_or_default();
    let hash = secret::hash(token);
    match app.database.show_project(hash, project.clone()).await? {
        true => Ok(()),
        false => Err(ApiError::not_found(format!(
            "there is no project `{}`, or you are not a member of it",
            visible(&project)
        ))
        .into()),
    }
}

/// Renders the current project with its members.
pub(crate) async fn page(State(app): State<Arc<App>>, session: Session) -> Page {
    members_page(&app, &session, "", None).await
}

async fn members_page(app: &App, session: &Session, typed: &str, wrong: Option<&str>) -> Page {
    let shown = session.user.project.clone();
    let (project, members) = app.database.project(&session.user, shown).await?;
    let manages = session.is_full() && !project.is_personal && session.user.role == Role::Owner;
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/projects" { "Projects" } }
        div .head {
            h1 { "Project " (name(&project.name)) }
            @if manages {
                div .actions role="group" aria-label="Actions" {
                    a .button .quiet .danger href="/console/project/delete" { "Delete" }
                }
            }
        }
        (problem(wrong))
        @if project.is_personal {
            p { "This is your personal project. Create another one to share runs and data." }
        }
        @if manages {
            form .row method="post" action="/console/project/members" {
                (session.project_field())
                label { "User " input #user name="user" value=(typed) required maxlength="255"
                    autocapitalize="none" spellcheck="false"; }
                label { "Role " select #role name="role" { (options(Role::Member)) } }
                button type="submit" { "Add member" }
            }
        }
        div .scroll tabindex="0" role="region" aria-label="Table of members" { table {
            caption { (count(members.len() as u64, "member")) }
            thead { tr {
                th scope="col" { "User" } th scope="col" { "Role" }
                th scope="col" { span .hidden { "Actions" } }
            } }
            tbody { @for member in &members { (member_row(session, manages, &project, member)) } }
        } }
        dl .facts { @for role in Role::ALL { dt { (role.as_str()) } dd { (allows(role)) } } }
    };
    Ok(framed(session, HERE, &project.name, &content))
}

fn options(chosen: Role) -> Markup {
    html! { @for role in Role::ALL {
        option value=(role.as_str()) selected[role == chosen] { (role.as_str()) }
    } }
}

fn member_row(
    session: &Session,
    manages: bool,
    project: &ProjectRow,
    member: &MemberRow,
) -> Markup {
    let is_self = member.name == session.user.name;
    let leaves = is_self && session.is_full() && !project.is_personal;
    html! { tr {
        th scope="row" { (name(&member.name)) @if is_self { " " span .tag { "you" } } }
        td {
            @if manages {
                form .row method="post" action="/console/project/members" {
                    (session.project_field())
                    input type="hidden" name="user" value=(member.name);
                    select name="role" aria-label={ "Role of " (visible(&member.name)) } { (options(member.role)) }
                    button .quiet type="submit" aria-label={ "Change the role of " (visible(&member.name)) } { "Change" }
                }
            } @else { (member.role.as_str()) }
        }
        td {
            @if manages || leaves {
                a .button .quiet .danger
                    href={ "/console/project/members/remove" (query(&[("user", &member.name)])) }
                    aria-label={ @if is_self { "Leave the project" } @else { "Remove " (visible(&member.name)) } } {
                    @if is_self { "Leave" } @else { "Remove" }
                }
            }
        }
    } }
}

#[derive(Deserialize)]
pub(crate) struct NewMember {
    user: String,
    role: String,
}

/// Adds a member or changes a member's role.
pub(crate) async fn set_member(
    State(app): State<Arc<App>>,
    session: Session,
    ProjectForm(new): ProjectForm<NewMember>,
) -> Page<Response> {
    session.must_be_full()?;
    let role = role(&new.role)?;
    let user = new.user.trim().to_owned();
    let (by, project) = (session.user.clone(), session.user.project.clone());
    let most = app.settings.max_projects;
    let set = app
        .database
        .set_member(by, project, user.clone(), role, most);
    if let Err(error) = set.await.map_err(ApiError::from) {
        let page = members_page(&app, &session, &user, Some(error.message())).await?;
        return Ok((error.status(), page).into_response());
    }
    Ok(Redirect::to("/console/project").into_response())
}

#[derive(Deserialize)]
pub(crate) struct Member {
    user: String,
}

pub(crate) async fn ask_to_remove(session: Session, Query(Member { user }): Query<Member>) -> Page {
    session.must_be_full()?;
    let is_self = user == session.user.name;
    let title = if is_self {
        "Leave this project?"
    } else {
        "Remove this member?"
    };
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/project" { "Project " (name(&session.user.project)) } }
        h1 { (title) }
        p {
            @if is_self { "You lose" } @else { "User " strong { (name(&user)) } " loses" }
            " access to project " strong { (name(&session.user.project)) } " at once. Runs and data that "
            @if is_self { "you" } @else { "the user" } " added stay in the project, and open runs continue."
        }
        form .row method="post" action="/console/project/members/remove" {
            (session.project_field())
            input type="hidden" name="user" value=(user);
            button .danger type="submit" { @if is_self { "Leave the project" } @else { "Remove the member" } }
            a .button .quiet href="/console/project" { "Back" }
        }
    };
    Ok(framed(&session, HERE, title, &content))
}

pub(crate) async fn remove_member(
    State(app): State<Arc<App>>,
    session: Session,
    ProjectForm(Member { user }): ProjectForm<Member>,
) -> Page<Redirect> {
    session.must_be_full()?;
    let is_self = user == session.user.name;
    let project = session.user.project.clone();
    app.remove_member(session.user, project, user).await?;
    Ok(Redirect::to(match is_self {
        true => "/console/projects",
        false => "/console/project",
    }))
}

pub(crate) async fn ask_to_delete(session: Session) -> Page {
    session.must_be_full()?;
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/project" { "Project " (name(&session.user.project)) } }
        h1 { "Delete this project?" }
        p { "Project " strong { (name(&session.user.project)) } " is deleted with its members. It must be \
            empty: delete its experiments, data and models first." }
        form .row method="post" action="/console/project/delete" {
            (session.project_field())
            button .danger type="submit" { "Delete the project" }
            a .button .quiet href="/console/project" { "Back" }
        }
    };
    Ok(framed(&session, HERE, "Delete this project?", &content))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    session: Session,
    ProjectForm(Nothing {}): ProjectForm<Nothing>,
) -> Page<Response> {
    session.must_be_full()?;
    let (by, project) = (session.user.clone(), session.user.project.clone());
    if let Err(error) = app
        .database
        .delete_project(by, project)
        .await
        .map_err(ApiError::from)
    {
        let page = members_page(&app, &session, "", Some(error.message())).await?;
        return Ok((error.status(), page).into_response());
    }
    Ok((StatusCode::SEE_OTHER, [("location", "/console/projects")]).into_response())
}
