//! The launcher's calls to the Kubernetes API.

use std::{
    collections::{HashMap, HashSet},
    error::Error as _,
    sync::PoisonError,
    time::Duration,
};

use futures_util::future::BoxFuture;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, Client, Config, Error,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{KubernetesSettings, manifest, states};
use crate::{
    error::StartError,
    launcher::{JobState, LaunchError, Launcher, WorkOrder},
};

/// Time limits for connecting and for a whole call. The queue gives up a call
/// after 30 seconds without a reason, so the launcher gives up earlier with
/// one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(25);

/// Starts workers as Jobs.
pub(crate) struct Kubernetes {
    settings: KubernetesSettings,
    /// Value of the server's label.
    server: String,
    /// Created at the first call, and again after the cluster answered 401, because
    /// the kubeconfig may have been replaced.
    cluster: Mutex<Option<Cluster>>,
    /// Jobs whose creation had no clear result. If such a Job does not exist, its
    /// Secret must be deleted.
    uncertain: std::sync::Mutex<HashSet<String>>,
}

/// Clients for the objects of the configured namespace.
#[derive(Clone)]
struct Cluster {
    jobs: Api<Job>,
    pods: Api<Pod>,
    secrets: Api<Secret>,
}

/// Reason why a call failed.
enum Failure {
    /// The cluster answered with an error.
    Answer {
        code: u16,
        words: String,
        /// The invalid fields, as named by the cluster.
        fields: Vec<String>,
    },
    /// The cluster did not answer, or the call could not be made.
    Unreachable(String),
}

impl Failure {
    fn words(self) -> String {
        match self {
            Self::Answer {
                code: code @ (401 | 403),
                words,
                ..
            } => format!(
                "Kubernetes refused the call ({code}): {words}; check the role of the server's \
                 account"
            ),
            Self::Answer { code, words, .. } => format!("Kubernetes answered {code}: {words}"),
            Self::Unreachable(words) => format!("Kubernetes can't be reached: {words}"),
        }
    }

    /// Whether the cluster rejects only the resources that the run requests, so
    /// that no retry can succeed. The operator can correct every other field.
    fn is_fault_of_the_run(&self) -> bool {
        match self {
            Self::Answer {
                code: 422, fields, ..
            } => {
                !fields.is_empty()
                    && fields
                        .iter()
                        .all(|field| field.contains(".containers[0].resources"))
            }
            _ => false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let Error::Api(status) = error {
            let causes = status.details.map(|details| details.causes);
            let causes = causes.unwrap_or_default().into_iter();
            return Self::Answer {
                code: status.code,
                words: status.message,
                fields: causes.map(|cause| cause.field).collect(),
            };
        }
        let (mut words, mut cause) = (error.to_string(), error.source());
        while let Some(error) = cause {
            let more = error.to_string();
            if !words.contains(&more) {
                words = format!("{words}: {more}");
            }
            cause = error.source();
        }
        Self::Unreachable(words)
    }
}

impl Kubernetes {
    /// Creates a launcher. Job names of its server begin with `prefix`.
    pub(crate) fn new(settings: KubernetesSettings, prefix: &str) -> Result<Self, StartError> {
        settings.check()?;
        Ok(Self {
            settings,
            server: prefix.trim_end_matches('-').to_owned(),
            cluster: Mutex::new(None),
            uncertain: std::sync::Mutex::default(),
        })
    }

    fn uncertain(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.uncertain
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn cluster(&self) -> Result<Cluster, Failure> {
        let mut cluster = self.cluster.lock().await;
        if let Some(cluster) = &*cluster {
            return Ok(cluster.clone());
        }
        // kube uses the process's default TLS provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |e: &dyn std::fmt::Display| Failure::Unreachable(e.to_string());
        let mut config = match &self.settings.kubeconfig {
            None => Config::incluster().map_err(|e| {
                failed(&format!(
                    "{e}; a server outside a cluster needs `kubeconfig` in the settings"
                ))
            })?,
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|e| failed(&e))?;
                let options = KubeConfigOptions {
                    context: self.settings.context.clone(),
                    ..KubeConfigOptions::default()
                };
                let config = Config::from_custom_kubeconfig(file, &options).await;
                config.map_err(|e| failed(&e))?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let namespace = self.settings.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)?;
        let made = Cluster {
            jobs: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client, &namespace),
        };
        *cluster = Some(made.clone());
        Ok(made)
    }

    /// Runs calls to the cluster within the time limit.
    async fn call<T>(
        &self,
        work: impl AsyncFnOnce(Cluster) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let called = async { work(self.cluster().await?).await };
        let done = tokio::time::timeout(TIMEOUT, called).await;
        let done = done.unwrap_or_else(|_| {
            let seconds = TIMEOUT.as_secs();
            let words = format!("it did not answer within {seconds} seconds");
            Err(Failure::Unreachable(words))
        });
        if matches!(done, Err(Failure::Answer { code: 401, .. })) {
            *self.cluster.lock().await = None;
        }
        done
    }

    async fn create(&self, cluster: Cluster, order: &WorkOrder) -> Result<(), Failure> {
        let (name, post) = (order.name.as_str(), PostParams::default());
        let patch = PatchParams::default();
        // Recorded first, in case the future is dropped half-way.
        self.uncertain().insert(name.to_owned());
        // Created before the Job, whose pod would have to wait for it.
        let secret = typed(manifest::secret(order, &self.server))?;
        match cluster.secrets.create(&post, &secret).await {
            Err(Error::Api(status)) if status.code == 409 => {
                let data = Patch::Merge(json!({"stringData": manifest::secret_data(order)}));
                cluster.secrets.patch(name, &patch, &data).await?;
            }
            created => drop(created?),
        }
        let job = typed(manifest::job(order, &self.server, &self.settings))?;
        let job = match cluster.jobs.create(&post, &job).await {
            Err(Error::Api(status)) if status.code == 409 => cluster.jobs.get(name).await?,
            Ok(job) => job,
            Err(error) => {
                let failure = Failure::from(error);
                // Without a clear answer the Job may exist, and it needs the Secret.
                if matches!(
                    failure,
                    Failure::Answer {
                        code: 400..=499,
                        ..
                    }
                ) {
                    self.remove_secret(&cluster, name).await;
                }
                return Err(failure);
            }
        };
        self.hand_over_secret(&cluster, name, &job).await;
        Ok(())
    }

    /// Makes a Job the owner of its Secret, so that Kubernetes deletes both
    /// together.
    async fn hand_over_secret(&self, cluster: &Cluster, name: &str, job: &Job) {
        let owner = Patch::Merge(json!({"metadata": {"ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.metadata.uid,
        }]}}));
        let patch = PatchParams::default();
        match cluster.secrets.patch(name, &patch, &owner).await {
            Ok(_) => drop(self.uncertain().remove(name)),
            Err(error) => {
                let words = Failure::from(error).words();
                tracing::warn!("The Job {name} does not own its Secret yet: {words}");
            }
        }
    }

    /// Deletes the Secret of a Job that does not exist. Nothing else would delete
    /// it.
    async fn remove_secret(&self, cluster: &Cluster, name: &str) {
        match cluster.secrets.delete(name, &DeleteParams::default()).await {
            Ok(_) => drop(self.uncertain().remove(name)),
            Err(Error::Api(status)) if status.code == 404 => drop(self.uncertain().remove(name)),
            Err(error) => {
                let words = Failure::from(error).words();
                tracing::warn!("The Secret {name} can't be removed yet: {words}");
            }
        }
    }

    /// Gives the Secrets of uncertain Jobs an owner, or deletes them.
    async fn reconcile_secrets(&self, cluster: &Cluster, jobs: &[Job]) {
        let uncertain = self.uncertain().clone();
        for name in uncertain {
            let job = jobs
                .iter()
                .find(|job| job.metadata.name.as_ref() == Some(&name));
            match job {
                Some(job) => self.hand_over_secret(cluster, &name, job).await,
                None => self.remove_secret(cluster, &name).await,
            }
        }
    }

    /// Lists all Jobs of this server with their states.
    async fn states(&self, cluster: Cluster) -> Result<HashMap<String, JobState>, Failure> {
        let ours = format!("{}={}", manifest::SERVER_LABEL, self.server);
        let ours = ListParams::default().labels(&ours);
        // The Jobs are listed before the pods. A Job that is created in between
        // therefore does not appear without its pod.
        let jobs = cluster.jobs.list(&ours).await?;
        self.reconcile_secrets(&cluster, &jobs.items).await;
        let pods = cluster.pods.list(&ours).await?;
        let mut by_job: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &pods.items {
            let labels = pod.metadata.labels.as_ref();
            if let Some(job) = labels.and_then(|labels| labels.get(manifest::JOB_LABEL)) {
                by_job.entry(job).or_default().push(pod);
            }
        }
        let named = jobs.items.iter().filter_map(|job| {
            let name = job.metadata.name.as_ref()?;
            let pods = by_job.get(name.as_str()).map(Vec::as_slice);
            let state = states::state(job, pods.unwrap_or_default());
            Some((name.clone(), state))
        });
        Ok(named.collect())
    }
}

/// Converts a manifest to the client's type.
fn typed<T: DeserializeOwned>(manifest: Value) -> Result<T, Failure> {
    // A test converts a manifest with every possible field.
    serde_json::from_value(manifest).map_err(|e| Failure::Unreachable(e.to_string()))
}

impl Launcher for Kubernetes {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(async move {
            let started = self.call(async |cluster| self.create(cluster, order).await);
            started.await.map_err(|failure| match failure {
                failure if failure.is_fault_of_the_run() => LaunchError::Refused(failure.words()),
                Failure::Answer {
                    code: 400 | 413 | 422,
                    ..
                } => LaunchError::Retry(format!(
                    "{}; correct `launcher.kubernetes` in the server's settings",
                    failure.words()
                )),
                // A quota, a role or a namespace may change.
                _ => LaunchError::Retry(failure.words()),
            })
        })
    }

    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let stopped = self.call(async |cluster| {
                // The Job stays until its pod has ended, within the pod's grace period.
                let how = DeleteParams::foreground();
                match cluster.jobs.delete(name, &how).await {
                    Err(Error::Api(status)) if status.code == 404 => {
                        // An earlier server may have left the Secret of a Job that it
                        // could not create.
                        self.remove_secret(&cluster, name).await;
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            });
            stopped.await.map_err(Failure::words)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        Box::pin(async move {
            let listed = self.call(async |cluster| self.states(cluster).await);
            listed.await.map_err(Failure::words)
        })
    }

    fn engine(&self) -> &'static str {
        "Kubernetes"
    }

    fn is_remote(&self) -> bool {
        true
    }
}
