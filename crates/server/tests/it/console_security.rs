//! Access control of console pages and forms.

use reqwest::{Method, StatusCode};

use crate::{
    logins::sign_in,
    support::{Http, finished_run, start},
};

/// Pages and forms of a run, an artifact and an account.
fn routes(run: &str, artifact: &str) -> Vec<(Method, String)> {
    let r = format!("/console/experiments/default/runs/{run}");
    let a = format!("/console/data/{artifact}");
    let get = |path: String| (Method::GET, path);
    let post = |path: String| (Method::POST, path);
    vec![
        get("/console/experiments/default".into()),
        get(r.clone()),
        get(format!("{r}?part=live")),
        get(format!("{r}/live")),
        get(format!("{r}/cancel")),
        post(format!("{r}/cancel")),
        get(format!("{r}/delete")),
        post(format!("{r}/delete")),
        get(format!("{r}/clone")),
        post(format!("{r}/clone")),
        get(format!("{r}/annotations")),
        post(format!("{r}/annotations")),
        get(format!("{r}/continue")),
        post(format!("{r}/continue")),
        get(format!(
            "/console/compare?run=default%2F{run}&run=default%2Fx"
        )),
        get(a.clone()),
        get(format!("{a}/picture?document=0")),
        get(format!("{a}/download")),
        get(format!("{a}/annotations")),
        post(format!("{a}/annotations")),
        get(format!("/console/runs/csv?run=default%2F{run}")),
        post("/console/runs/selected".into()),
    ]
}

/// Fields of all forms, for this user's personal project. Forms for selected
/// runs select the run of the test.
fn form(user: &'static str) -> [(&'static str, &'static str); 6] {
    [
        ("name", "stolen"),
        ("epochs", "1"),
        ("checkpoint", "1"),
        ("run", "default/mine"),
        ("do", "delete"),
        ("project", user),
    ]
}

async fn ask(
    http: &Http,
    (method, path): &(Method, String),
    (user, cookie): (&'static str, &str),
    site: &'static str,
) -> reqwest::Response {
    let request = http.request(method.clone(), path).header("cookie", cookie);
    let request = request.header("sec-fetch-site", site);
    let request = match *method {
        Method::POST => request.form(&form(user)),
        _ => request,
    };
    request.send().await.unwrap()
}

#[tokio::test]
async fn pages_and_forms_need_their_users_session() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    let own = sign_in(&backend).await;
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let eve = format!("finetuner_session={eve}");
    let http = backend.http.with_token(None);
    for route in routes("mine", &artifact) {
        let place = format!("{} {}", route.0, route.1);
        for cookie in ["", "finetuner_session=ft_wrong"] {
            let answer = ask(&http, &route, ("finetuner", cookie), "same-origin").await;
            assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{place}");
            let to = answer.headers()["location"].to_str().unwrap();
            assert!(to.starts_with("/console/signin"), "{place}: {to}");
        }
        let answer = ask(&http, &route, ("eve", &eve), "same-origin").await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{place}");
        if route.0 == Method::POST {
            for site in ["cross-site", "same-site", "none"] {
                let answer = ask(&http, &route, ("finetuner", &own), site).await;
                assert_eq!(
                    answer.status(),
                    StatusCode::FORBIDDEN,
                    "{place} from {site}"
                );
            }
        }
    }
    let runs = backend.finetuner.list_runs().await.unwrap();
    assert_eq!(runs.len(), 1, "nothing was created or deleted");
}

/// Wrong tokens from the same address don't lock out other users.
#[tokio::test]
async fn a_valid_token_is_accepted_after_wrong_ones_of_others() {
    let backend = start().await;
    let http = backend.http.with_token(None);
    let try_in = async |password: &str| {
        let request = http.post("/console/signin").form(&[("password", password)]);
        let request = request.header("sec-fetch-site", "same-origin");
        request.send().await.unwrap()
    };
    let mut refused = StatusCode::UNAUTHORIZED;
    while refused == StatusCode::UNAUTHORIZED {
        refused = try_in("ft_wrong").await.status();
    }
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    let token = backend.server.first_token().unwrap();
    let answer = try_in(token).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert!(answer.headers().contains_key("set-cookie"));
}
