//! The way in: a backend, and a token that it accepts.

use finetuner_protocol::{DocumentArray, ExperimentInfo, Page};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Error, Experiment, Fit, Result, RetryPolicy, Run, Secret, TrainingData,
    address::Addresses,
    auth, data,
    transport::{Body, Call, Transport},
};

/// The experiment of runs that were given none.
pub(crate) const DEFAULT_EXPERIMENT: &str = "default";

/// A logged-in client. Clones share connections and are cheap.
#[derive(Clone)]
pub struct Finetuner {
    pub(crate) transport: Transport,
    user: User,
}

/// Somebody with an account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The account's id.
    #[serde(rename = "_id")]
    pub id: String,
    /// The account's name.
    pub name: String,
    /// What the user wants to be called.
    #[serde(default)]
    pub nickname: Option<String>,
}

/// Settings of a client. Everything that isn't set here comes from the
/// environment, as for the Python client: the address from
/// `JINA_FINETUNER_REGISTRY` and `JINA_HUBBLE_REGISTRY`, the token from
/// `JINA_AUTH_TOKEN` or from `~/.jina/config.json`.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> finetuner::Result<()> {
/// let finetuner = finetuner::Finetuner::builder()
///     .registry("http://gpu-box:8642")
///     .token(std::fs::read_to_string("token").unwrap().trim())
///     .login()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "settings do nothing until `login`"]
pub struct Builder {
    registry: Option<String>,
    hubble_registry: Option<String>,
    token: Option<Secret>,
    retry: RetryPolicy,
}

impl Builder {
    /// The address of the backend.
    pub fn registry(mut self, address: impl Into<String>) -> Self {
        self.registry = Some(address.into());
        self
    }

    /// The address of accounts and artifacts, where it isn't the same.
    pub fn hubble_registry(mut self, address: impl Into<String>) -> Self {
        self.hubble_registry = Some(address.into());
        self
    }

    /// The token.
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How hard calls try before they fail.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Asks the backend whom the token belongs to.
    ///
    /// # Errors
    /// [`Error::is_unauthorized`] where there is no token or it is not
    /// accepted, [`Error::is_connect`] where nobody answers.
    pub async fn login(self) -> Result<Finetuner> {
        let environment = |name: &str| std::env::var(name).ok();
        let addresses = Addresses::choose(self.registry, self.hubble_registry, environment)?;
        let token = match self.token {
            Some(token) => token,
            None => {
                let found = tokio::task::spawn_blocking(move || auth::find(environment));
                found
                    .await
                    .map_err(Error::setup)?
                    .ok_or_else(Error::not_logged_in)?
            }
        };
        let transport = Transport::new(addresses, token, self.retry)?;
        let call = Call::post(
            transport.addresses().rpc("user.identity.whoami"),
            Body::Empty,
        );
        let user = transport.rpc(call.repeatable()).await?;
        Ok(Finetuner { transport, user })
    }
}

impl Finetuner {
    /// Logs in with what the environment says; see [`Builder`].
    ///
    /// # Errors
    /// As for [`Builder::login`].
    pub async fn login() -> Result<Self> {
        Self::builder().login().await
    }

    /// Settings to log in with.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Who is logged in.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Describes a fine-tuning job; awaiting it submits the job and gives a
    /// [`Run`].
    ///
    /// `model` is a name of [`list_models`](crate::list_models), the name of a
    /// CLIP model on the Hugging Face hub, or, where the backend allows it, a
    /// folder of its machine. `train_data` is the name of data that was pushed,
    /// or documents, which are pushed first.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::Loss;
    ///
    /// let run = finetuner.fit("openai/clip-vit-base-patch32", "clip-fashion-train-data")
    ///     .run_name("clip-fashion-1").epochs(5).learning_rate(1e-5).loss(Loss::Clip).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fit(&self, model: impl Into<String>, train_data: impl Into<TrainingData>) -> Fit {
        Fit::new(self.clone(), model.into(), train_data.into())
    }

    /// A run of the default experiment, by its name.
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there is none.
    pub async fn get_run(&self, name: &str) -> Result<Run> {
        self.experiment(DEFAULT_EXPERIMENT).get_run(name).await
    }

    /// All runs of all experiments, oldest first in each.
    ///
    /// # Errors
    /// Where a call fails.
    pub async fn list_runs(&self) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for experiment in self.list_experiments().await? {
            runs.extend(experiment.list_runs().await?);
        }
        Ok(runs)
    }

    /// Creates an experiment.
    ///
    /// # Errors
    /// [`Error::is_conflict`] where there is one of that name,
    /// [`Error::is_invalid`] where it can't be a name.
    pub async fn create_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let url = self.transport.addresses().api(&["experiments", ""]);
        let body = Body::Json(json!({"name": name, "description": ""}));
        let info = self.transport.json(Call::post(url, body)).await?;
        Ok(Experiment::new(self.transport.clone(), info))
    }

    /// An experiment, by its name.
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there is none.
    pub async fn get_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let url = self.transport.addresses().api(&["experiments", name]);
        let info = self.transport.json(Call::get(url)).await?;
        Ok(Experiment::new(self.transport.clone(), info))
    }

    /// All experiments, oldest first.
    ///
    /// # Errors
    /// Where a call fails.
    pub async fn list_experiments(&self) -> Result<Vec<Experiment>> {
        let url = self.transport.addresses().api(&["experiments", ""]);
        let infos: Vec<ExperimentInfo> = all_pages(&self.transport, &url).await?;
        let transport = &self.transport;
        let experiment = |info| Experiment::new(transport.clone(), info);
        Ok(infos.into_iter().map(experiment).collect())
    }

    /// The experiment of that name, created where it is not there.
    pub(crate) async fn find_or_create_experiment(&self, name: &str) -> Result<Experiment> {
        match self.get_experiment(name).await {
            Err(error) if error.is_not_found() => {}
            found => return found,
        }
        match self.create_experiment(name).await {
            // Somebody else was faster.
            Err(error) if error.is_conflict() => self.get_experiment(name).await,
            created => created,
        }
    }

    /// A handle without looking whether the experiment is there.
    fn experiment(&self, name: &str) -> Experiment {
        Experiment::named(self.transport.clone(), name)
    }

    /// Stores documents under a name, for `fit` or for
    /// [`Finetuner::pull`]. What had that name before is overwritten.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::{Document, DocumentArray};
    ///
    /// let mut train_data = DocumentArray::new();
    /// let picture = std::fs::read("sneakers.png").unwrap();
    /// train_data.push(
    ///     Document::new()
    ///         .with_chunk(Document::blob(picture).with_modality("image"))
    ///         .with_chunk(Document::text("red sneakers").with_modality("text")),
    /// );
    /// finetuner.push("clip-fashion-train-data", &train_data).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_invalid`] where it can't be a name.
    pub async fn push(&self, name: &str, documents: &DocumentArray) -> Result<()> {
        data::push(&self.transport, name, documents).await
    }

    /// Fetches documents by their name: your own, or `owner/name` for somebody
    /// else's that are public.
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there are none.
    pub async fn pull(&self, name: &str) -> Result<DocumentArray> {
        data::pull(&self.transport, name).await
    }
}

impl std::fmt::Debug for Finetuner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finetuner")
            .field("user", &self.user.name)
            .finish_non_exhaustive()
    }
}

/// Reads a list to its last page.
pub(crate) async fn all_pages<T: serde::de::DeserializeOwned>(
    transport: &Transport,
    url: &url::Url,
) -> Result<Vec<T>> {
    const SIZE: u64 = 100;
    let mut items = Vec::new();
    for page in 1.. {
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("page", &page.to_string())
            .append_pair("size", &SIZE.to_string());
        let page: Page<T> = transport.json(Call::get(url)).await?;
        let is_last = page.items.is_empty();
        items.extend(page.items);
        if is_last || items.len() as u64 >= page.total {
            break;
        }
    }
    Ok(items)
}
