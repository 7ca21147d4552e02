//! A browser for tests: keeps cookies, follows no redirect by itself.

use std::{collections::HashMap, sync::Mutex};

use reqwest::{Response, StatusCode};

use crate::support::Http;

/// An address to which a browser is redirected.
pub(super) struct Address(url::Url);

impl Address {
    pub(super) fn field(&self, name: &str) -> String {
        let found = self.0.query_pairs().find(|(field, _)| field == name);
        found.unwrap().1.into_owned()
    }
}

/// A browser with its cookies.
pub(super) struct Browser {
    pub(super) http: Http,
    cookies: Mutex<HashMap<String, String>>,
}

impl Browser {
    pub(super) fn new(url: &str) -> Self {
        Self {
            http: Http::new(url, None),
            cookies: Mutex::default(),
        }
    }

    pub(super) fn cookies(&self) -> String {
        let cookies = self.cookies.lock().unwrap();
        let pairs: Vec<String> = cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join("; ")
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        let request = request.header("cookie", self.cookies());
        let request = request.header("sec-fetch-site", "same-origin");
        let answer = request.send().await.unwrap();
        for cookie in answer.headers().get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let mut cookies = self.cookies.lock().unwrap();
            cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.send(self.http.get(path)).await
    }

    pub(super) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.send(self.http.post(path).form(form)).await
    }

    /// Begins a sign-in. Returns the provider's address.
    pub(super) async fn begin(&self, query: &str) -> Address {
        let answer = self.get(&format!("/console/oidc/start{query}")).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        Address(location(&answer).parse().unwrap())
    }

    pub(super) async fn follow_callback(&self, address: &Address, code: &str) -> Response {
        let state = address.field("state");
        self.get(&format!("/console/oidc/callback?state={state}&code={code}"))
            .await
    }

    /// Returns the name of the signed-in user as pages show it.
    pub(super) async fn user_name(&self) -> Option<String> {
        let answer = self.get("/console/account").await;
        let page = answer.text().await.unwrap();
        let start = page.find("Signed in as <b><bdi>")? + 21;
        Some(page[start..start + page[start..].find('<')?].to_owned())
    }
}

pub(super) fn location(answer: &Response) -> String {
    answer.headers()["location"].to_str().unwrap().to_owned()
}
