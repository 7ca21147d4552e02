//! `/api/v1/projects`: shared projects, their members and their roles.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Person, PersonWriter};
use crate::{
    app::App,
    checks::{check_project_name, role},
    database::{MemberRow, ProjectRow, Role},
    error::{ApiError, Result},
    json::JsonObject,
};

#[derive(Deserialize)]
pub(crate) struct ListQuery {
    /// Whether an admin requests all projects of the server.
    #[serde(default)]
    all: bool,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Person(user): Person,
    Query(ListQuery { all }): Query<ListQuery>,
) -> Result<Json<Vec<Value>>> {
    if all && !user.is_admin {
        let reason = "`all` is for admins of the server: leave it out to list your own projects";
        return Err(ApiError::forbidden(reason));
    }
    let projects = app.database.projects(&user, all).await?;
    Ok(Json(projects.iter().map(about).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProject {
    name: String,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    PersonWriter(user): PersonWriter,
    JsonObject(NewProject { name }): JsonObject<NewProject>,
) -> Result<(StatusCode, Json<Value>)> {
    check_project_name(&name)?;
    let most = app.settings.max_projects;
    let created = app
        .database
        .create_project(user.clone(), name.clone(), most);
    created.await?;
    let (project, members) = app.database.project(&user, name).await?;
    Ok((
        StatusCode::CREATED,
        Json(project_with_members_json(&project, &members)),
    ))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Person(user): Person,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    let (project, members) = app.database.project(&user, name).await?;
    Ok(Json(project_with_members_json(&project, &members)))
}

/// Deletes an empty project. Answers with the deleted project.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    PersonWriter(user): PersonWriter,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    let (project, members) = app.database.project(&user, name.clone()).await?;
    app.database.delete_project(user, name).await?;
    Ok(Json(project_with_members_json(&project, &members)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRole {
    role: String,
}

pub(crate) async fn set_member(
    State(app): State<Arc<App>>,
    PersonWriter(user): PersonWriter,
    Path((project, name)): Path<(String, String)>,
    JsonObject(new): JsonObject<NewRole>,
) -> Result<Json<Value>> {
    let role = role(&new.role)?;
    let most = app.settings.max_projects;
    let set = app
        .database
        .set_member(user, project, name.clone(), role, most);
    set.await?;
    Ok(Json(json!({"name": name, "role": role.as_str()})))
}

/// Removes a member, and ends the streams that the member follows.
pub(crate) async fn remove_member(
    State(app): State<Arc<App>>,
    PersonWriter(user): PersonWriter,
    Path((project, name)): Path<(String, String)>,
) -> Result<Json<Value>> {
    app.remove_member(user, project, name.clone()).await?;
    Ok(Json(json!({"name": name})))
}

fn about(project: &ProjectRow) -> Value {
    json!({
        "name": project.name,
        "personal": project.is_personal,
        "role": project.role.map(Role::as_str),
        "created_at": project.created_at,
        "member_count": project.members,
    })
}

fn project_with_members_json(project: &ProjectRow, members: &[MemberRow]) -> Value {
    let member = |member: &MemberRow| json!({"name": member.name, "role": member.role.as_str()});
    let mut about = about(project);
    about["members"] = members.iter().map(member).collect();
    about
}
