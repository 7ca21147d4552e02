//! What an operator says about the cluster.

use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// Jobs of Kubernetes. Needs a build with the feature `kubernetes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KubernetesSettings {
    /// The image of workers, which has `finetuner-server` on its `PATH`, in the
    /// server's version. Needed.
    pub(crate) image: String,
    /// The Secret of type `kubernetes.io/dockerconfigjson` by which the image is
    /// pulled.
    pub(crate) image_pull_secret: Option<String>,
    /// The namespace of jobs; by default the one that the account belongs to.
    pub(crate) namespace: Option<String>,
    /// A kubeconfig file. By default the server runs in the cluster, and uses the
    /// account of its pod.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, if not its current one.
    pub(crate) context: Option<String>,
    /// The user and group as whom workers run. Not 0: pods may not run as root.
    pub(crate) user: u32,
    /// What graphics processors are called in the cluster.
    pub(crate) gpu_resource: String,
    /// Labels of nodes that jobs may run on, such as "pool=training".
    pub(crate) node_selector: Vec<String>,
    /// Taints of nodes that jobs tolerate, as `kubectl taint` writes them, such as
    /// "nvidia.com/gpu=present:NoSchedule" or "nvidia.com/gpu:NoSchedule".
    pub(crate) tolerations: Vec<String>,
    /// The runtime class of pods, such as "nvidia".
    pub(crate) runtime_class: Option<String>,
    /// The priority class of pods.
    pub(crate) priority_class: Option<String>,
    /// Variables of workers, such as "HF_ENDPOINT=https://models.example.org".
    pub(crate) environment: Vec<String>,
    /// A Secret whose keys become variables of workers, for the keys of trackers.
    pub(crate) environment_secret: Option<String>,
    /// MiB of temporary files of a job; by default as much as the node has.
    pub(crate) temporary: Option<u64>,
    /// The storage class of a volume for temporary files, of the size that
    /// `temporary` says; by default they lie on the node's disk.
    pub(crate) temporary_storage_class: Option<String>,
    /// A folder of each node that keeps data and models for the next job. `user` must
    /// be able to write it.
    pub(crate) cache_folder: Option<String>,
    /// A PersistentVolumeClaim that keeps data and models for the next job.
    pub(crate) cache_claim: Option<String>,
    /// MiB that data and models of users may take in the cache.
    pub(crate) cache_size: u64,
    /// Seconds that a stopped job has for its checkpoint before it is killed.
    pub(crate) stop_grace: u32,
    /// Seconds for which the cluster remembers an ended job. The server must see it
    /// within them.
    pub(crate) keep_ended: u32,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            image: String::new(),
            image_pull_secret: None,
            namespace: None,
            kubeconfig: None,
            context: None,
            user: 10001,
            gpu_resource: "nvidia.com/gpu".to_owned(),
            node_selector: Vec::new(),
            tolerations: Vec::new(),
            runtime_class: None,
            priority_class: None,
            environment: Vec::new(),
            environment_secret: None,
            temporary: None,
            temporary_storage_class: None,
            cache_folder: None,
            cache_claim: None,
            cache_size: 20 << 10,
            stop_grace: 60,
            keep_ended: 3600,
        }
    }
}

#[cfg(feature = "kubernetes")]
impl KubernetesSettings {
    /// Checks what a type can't say. An error begins with the key.
    pub(super) fn check(&self) -> Result<(), String> {
        let has = |text: &Option<String>| text.is_some();
        if self.image.trim().is_empty() {
            return Err("`image`: name the image of workers".to_owned());
        }
        if self.user == 0 {
            return Err("`user`: 0 is root, which pods may not run as; 10001 is good".to_owned());
        }
        if has(&self.cache_folder) && has(&self.cache_claim) {
            return Err("`cache_claim`: there is a `cache_folder` already; name one".to_owned());
        }
        if let Some(folder) = self.cache_folder.as_ref().filter(|f| !f.starts_with('/')) {
            return Err(format!(
                "`cache_folder`: `{folder}` must begin with a slash"
            ));
        }
        if has(&self.temporary_storage_class) && self.temporary.is_none() {
            return Err("`temporary_storage_class`: it needs a size, `temporary`".to_owned());
        }
        if let Some(path) = self.kubeconfig.as_ref().filter(|path| !path.is_file()) {
            return Err(format!("`kubeconfig`: {} is no file", path.display()));
        }
        for (key, list) in [
            ("node_selector", &self.node_selector),
            ("environment", &self.environment),
        ] {
            if let Some(bad) = list.iter().find(|text| pair(text).is_none()) {
                return Err(format!("`{key}`: `{bad}` must be NAME=VALUE"));
            }
        }
        match self.tolerations.iter().find(|text| taint(text).is_none()) {
            Some(bad) => Err(format!(
                "`tolerations`: `{bad}` must be KEY=VALUE:EFFECT or KEY:EFFECT, with the effect \
                 NoSchedule, PreferNoSchedule or NoExecute"
            )),
            None => Ok(()),
        }
    }
}

/// The parts of `NAME=VALUE`.
#[cfg(feature = "kubernetes")]
pub(super) fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| !name.is_empty())
}

/// A taint, as `kubectl taint` writes it.
#[cfg(feature = "kubernetes")]
pub(super) struct Taint<'a> {
    pub(super) key: &'a str,
    pub(super) value: Option<&'a str>,
    pub(super) effect: &'a str,
}

#[cfg(feature = "kubernetes")]
pub(super) fn taint(text: &str) -> Option<Taint<'_>> {
    let (taint, effect) = text.rsplit_once(':')?;
    let (key, value) = match taint.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (taint, None),
    };
    let is_known = matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute");
    (is_known && !key.is_empty()).then_some(Taint { key, value, effect })
}
