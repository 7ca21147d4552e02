//! The client of the chosen backend, and the backend inside the program.

use std::{sync::Mutex, time::Duration};

use finetuner::{Builder, Finetuner};

use crate::{failure::Result, global::Global};

#[cfg(feature = "embedded")]
mod embedded;

/// What a command needs beside its own options. The backend is reached when a
/// command asks for it.
pub(crate) struct Session {
    global: Global,
    /// How to go on after Ctrl-C.
    hint: Mutex<Option<String>>,
    #[cfg(feature = "embedded")]
    server: tokio::sync::OnceCell<embedded::Embedded>,
}

impl Session {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            global,
            hint: Mutex::new(None),
            #[cfg(feature = "embedded")]
            server: tokio::sync::OnceCell::new(),
        }
    }

    /// A client with the token that is found; the backend is not asked whether
    /// it is good.
    pub(crate) async fn connect(&self) -> Result<Finetuner> {
        #[cfg(feature = "embedded")]
        if self.is_embedded() {
            let start = || embedded::Embedded::start(self.global.data.as_deref());
            let server = self.server.get_or_try_init(start).await?;
            let builder = self.builder().registry(server.url()).token(server.token());
            return Ok(builder.connect().await?);
        }
        Ok(self.builder().connect().await?)
    }

    /// Settings of the client, without those of a backend inside the program.
    pub(crate) fn builder(&self) -> Builder {
        let mut builder =
            Finetuner::builder().user_agent(concat!("finetuner-cli/", env!("CARGO_PKG_VERSION")));
        if let Some(url) = &self.global.url {
            builder = builder.registry(url.as_str());
        }
        if let Some(project) = &self.global.project {
            builder = builder.project(project.as_str());
        }
        if let Some(seconds) = self.global.timeout {
            builder = builder.timeout(Duration::from_secs(seconds));
        }
        builder
    }

    /// Whether the backend is inside the program.
    pub(crate) fn is_embedded(&self) -> bool {
        #[cfg(feature = "embedded")]
        {
            self.global.embedded
        }
        #[cfg(not(feature = "embedded"))]
        {
            false
        }
    }

    /// The options that name the backend, for a command line that is shown.
    pub(crate) fn backend_options(&self) -> String {
        let mut options = String::new();
        if let Some(url) = &self.global.url {
            // An address may hold a password.
            match url.contains('@') {
                true => options.push_str(" --url ..."),
                false => options.push_str(&format!(" --url {url}")),
            }
        }
        if let Some(project) = &self.global.project {
            options.push_str(&format!(" --project {project}"));
        }
        #[cfg(feature = "embedded")]
        if self.global.embedded {
            options.push_str(" --embedded");
            if let Some(folder) = &self.global.data {
                options.push_str(&format!(" --data {}", folder.display()));
            }
        }
        options
    }

    /// Says how to go on, should Ctrl-C be pressed from now on.
    pub(crate) fn set_hint(&self, hint: String) {
        if let Ok(mut place) = self.hint.lock() {
            *place = Some(hint);
        }
    }

    /// How to go on after Ctrl-C.
    pub(crate) fn hint(&self) -> Option<String> {
        self.hint.lock().ok()?.clone()
    }

    /// Stops the backend inside the program, if there is one. Its runs make a
    /// checkpoint and pause.
    pub(crate) async fn close(self) {
        #[cfg(feature = "embedded")]
        if let Some(server) = self.server.into_inner() {
            server.stop().await;
        }
    }
}
