//! A list of runs as a CSV file: the selected runs, or the whole list.

use std::{collections::BTreeSet, io, sync::Arc};

use axum::{
    body::Body,
    extract::{Query, RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;

use super::{
    columns::Columns,
    find::{CHUNK, search},
    listed::{ListQuery, Listed},
    search::{Conditions, Searched},
    selected::find_all,
};
use crate::{
    app::App,
    console::{failure::Page, session::Session, state::State as RunState},
    error::ApiError,
    runs::find_experiment,
    spreadsheet::{plain, to_csv},
};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// Name of the experiment; empty for the list of all experiments' runs.
    experiment: String,
}

pub(crate) async fn download(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<ListQuery>,
    Query(Asked { experiment }): Query<Asked>,
    RawQuery(raw): RawQuery,
) -> Page<Response> {
    let raw = raw.unwrap_or_default();
    let fields = url::form_urlencoded::parse(raw.as_bytes());
    let chosen: Vec<String> = fields
        .filter(|(field, _)| field == "run")
        .map(|(_, id)| id.into_owned())
        .collect();
    let (ids, columns) = match chosen.is_empty() {
        true => {
            let of = match experiment.is_empty() {
                true => None,
                false => {
                    let project = session.user.namespace.clone();
                    Some(find_experiment(&app, project, experiment).await?)
                }
            };
            let conditions = Conditions::read(&asked.filter).map_err(ApiError::bad_request)?;
            let listed = Listed::new(of, asked, Columns::default());
            search(
                &app,
                &session.user,
                &listed,
                conditions,
                true,
                FileColumns::see,
            )
            .await?
        }
        false => {
            let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
            let runs = find_all(&app, &session, &chosen).await?;
            let ids: Vec<i64> = runs.iter().map(|run| run.id).collect();
            let mut columns = FileColumns::default();
            for ids in ids.chunks(CHUNK) {
                for outline in app.database.outlines(ids.to_vec(), true).await? {
                    columns.see(&Searched::of(&outline));
                }
            }
            (ids, columns)
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"runs.csv\"",
        ),
    ];
    let lines = Body::from_stream(lines(app, ids, columns));
    Ok((headers, lines).into_response())
}

/// Returns the file as a stream of chunks, each of a few runs. An error aborts the
/// download.
fn lines(
    app: Arc<App>,
    ids: Vec<i64>,
    columns: FileColumns,
) -> impl Stream<Item = io::Result<Vec<u8>>> {
    let head = to_csv([columns.head()]);
    let columns = Arc::new(columns);
    let chunks: Vec<Vec<i64>> = ids.chunks(CHUNK).map(<[i64]>::to_vec).collect();
    let rows = stream::iter(chunks).then(move |ids| {
        let (app, columns) = (Arc::clone(&app), Arc::clone(&columns));
        async move {
            let outlines = app.database.outlines(ids, true).await;
            let outlines = outlines.map_err(io::Error::other)?;
            let made = tokio::task::spawn_blocking(move || {
                let rows = outlines.iter().map(|own| columns.row(&Searched::of(own)));
                to_csv(rows)
            });
            made.await.map_err(io::Error::other)?
        }
    });
    stream::once(async { head }).chain(rows)
}

/// Columns of every file.
const KNOWN: [&str; 12] = [
    "experiment",
    "name",
    "state",
    "created",
    "started",
    "duration_seconds",
    "model",
    "train_data",
    "tags",
    "note",
    "description",
    "details",
];

/// Columns of a file in addition to [`KNOWN`].
#[derive(Default)]
struct FileColumns {
    settings: BTreeSet<String>,
    metrics: BTreeSet<String>,
}

impl FileColumns {
    /// Adds the columns of a run.
    fn see(&mut self, run: &Searched<'_>) {
        let add = |all: &mut BTreeSet<String>, name: &String| {
            if !all.contains(name) {
                all.insert(name.clone());
            }
        };
        for (name, _) in run.hyper_parameters() {
            add(&mut self.settings, name);
        }
        for name in run.metrics.before.keys().chain(run.metrics.after.keys()) {
            add(&mut self.metrics, name);
        }
    }

    fn head(&self) -> Vec<String> {
        let mut head: Vec<String> = KNOWN.iter().map(|&name| name.to_owned()).collect();
        head.extend(self.settings.iter().map(|name| plain(name)));
        for metric in &self.metrics {
            let metric = plain(metric);
            head.extend([format!("{metric} before"), format!("{metric} after")]);
        }
        head
    }

    fn row(&self, run: &Searched<'_>) -> Vec<String> {
        let mut cells = known(run);
        let own = &run.config["hyper_parameters"];
        cells.extend(self.settings.iter().map(|name| cell(&own[name])));
        for metric in &self.metrics {
            let value = |value: Option<&f64>| value.map_or_else(String::new, f64::to_string);
            cells.push(value(run.metrics.before.get(metric)));
            cells.push(value(run.metrics.after.get(metric)));
        }
        cells
    }
}

fn known(run: &Searched<'_>) -> Vec<String> {
    let own = run.outline;
    let time = |at: Option<i64>| {
        let at = at.and_then(|at| finetuner_protocol::time::Timestamp::from_millisecond(at).ok());
        at.map_or_else(String::new, |at| at.to_string())
    };
    let took = own.started_at.zip(own.ended_at);
    let took = took.map(|(started, ended)| ((ended - started) as f64 / 1000.0).to_string());
    vec![
        plain(&own.experiment),
        plain(&own.name),
        RunState::of_outline(own).word().to_owned(),
        own.created_at.clone(),
        time(own.started_at),
        took.unwrap_or_default(),
        cell(&run.config["model"]["name"]),
        cell(&run.config["data"]["train_data"]),
        plain(&run.tags().join(", ")),
        plain(&own.note),
        plain(&own.description),
        plain(&own.noted),
    ]
}

/// Formats a value of a configuration.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Outline;

    #[test]
    fn a_file_has_the_settings_and_metrics_of_all_runs() {
        let outline = |name: &str, config: &str, metrics: &str| Outline {
            name: name.to_owned(),
            config: config.to_owned(),
            metrics: metrics.to_owned(),
            tags: r#"["a", "b"]"#.to_owned(),
            started_at: Some(0),
            ended_at: Some(1500),
            ..Outline::default()
        };
        let all = [
            outline(
                "x, \"y\"",
                r#"{"hyper_parameters": {"learning_rate": 1e-5}}"#,
                r#"{"before": {"mrr": 0.5}, "after": {"mrr": 0.75}}"#,
            ),
            outline("=z()", r#"{"hyper_parameters": {"epochs": 3}}"#, "{}"),
        ];
        let runs: Vec<Searched<'_>> = all.iter().map(Searched::of).collect();
        let mut columns = FileColumns::default();
        runs.iter().for_each(|run| columns.see(run));
        let rows = runs.iter().map(|run| columns.row(run));
        let text = to_csv([columns.head()].into_iter().chain(rows)).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("details,epochs,learning_rate,mrr before,mrr after"));
        assert!(lines[1].starts_with(",\"x, \"\"y\"\"\",waiting,,1970-01-01T00:00:00Z,1.5,"));
        assert!(
            lines[1].ends_with("\"a, b\",,,,,0.00001,0.5,0.75"),
            "{}",
            lines[1]
        );
        assert!(lines[2].ends_with(",3,,,"), "{}", lines[2]);
        assert!(lines[2].starts_with(",'=z(),"), "{}", lines[2]);
    }
}
