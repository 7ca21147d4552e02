//! Settings of the launcher for Kubernetes.

use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

#[cfg(feature = "kubernetes")]
use super::names;
#[cfg(feature = "kubernetes")]
use crate::{error::StartError, launcher::remote::Variables};

/// Largest value of a user id, and of `keep_ended`, that Kubernetes accepts.
#[cfg(feature = "kubernetes")]
const MAX_INT32: u32 = i32::MAX as u32;
/// The rule for labels and taints, in words.
#[cfg(feature = "kubernetes")]
const LABELS: &str = "names and values consist of letters, digits, `-`, `_` and `.`, begin and end \
                      with a letter or a digit, and have at most 63 characters; a name may have a \
                      domain and a slash before it";

/// Settings for Jobs of Kubernetes. They need a build with the feature
/// `kubernetes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KubernetesSettings {
    /// The image of workers. It must have `finetuner-server` of the server's
    /// version on its `PATH`. Required.
    pub(crate) image: String,
    /// The Secret of type `kubernetes.io/dockerconfigjson` for pulling the image.
    pub(crate) image_pull_secret: Option<String>,
    /// The namespace of jobs. By default the namespace of the account.
    pub(crate) namespace: Option<String>,
    /// A kubeconfig file. By default the server runs in the cluster and uses the
    /// account of its pod.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. By default its current context.
    pub(crate) context: Option<String>,
    /// The user and group id that workers run as. Not 0: pods must not run as root.
    pub(crate) user: u32,
    /// The cluster's resource name for graphics processors.
    pub(crate) gpu_resource: String,
    /// Labels that nodes must have to run jobs, such as "pool=training".
    pub(crate) node_selector: Vec<String>,
    /// Taints of nodes that jobs tolerate, in the form of `kubectl taint`, such as
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
    /// The size limit of a job's temporary files in MiB. By default as much as the
    /// node has.
    pub(crate) temporary: Option<u64>,
    /// The storage class of a volume of the size `temporary` for temporary files.
    /// By default they are on the node's disk.
    pub(crate) temporary_storage_class: Option<String>,
    /// A folder of each node that keeps data and models for the next job. `user`
    /// must be able to write to it.
    pub(crate) cache_folder: Option<String>,
    /// A PersistentVolumeClaim that keeps data and models for the next job.
    pub(crate) cache_claim: Option<String>,
    /// The size limit of users' data and models in the cache, in MiB.
    pub(crate) cache_size: u64,
    /// Seconds that a stopped job has for its checkpoint before it is killed.
    pub(crate) stop_grace: u32,
    /// Seconds for which the cluster remembers an ended job. The server must see
    /// the job within this time.
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
    /// Checks the values beyond their types, so that the cluster refuses no Job
    /// because of a setting.
    pub(super) fn check(&self) -> Result<(), StartError> {
        self.check_image_and_user()?;
        self.check_storage()?;
        self.check_names()?;
        self.check_placement()?;
        // Kubernetes accepts more characters in a variable's name than shells do.
        Variables::of("launcher.kubernetes.environment", &self.environment).map(drop)
    }

    fn check_image_and_user(&self) -> Result<(), StartError> {
        let bad = |key, reason: &str| StartError::setting(key, reason);
        if self.image.trim().is_empty() {
            let remedy = "it is empty; name the image of workers";
            return Err(bad("launcher.kubernetes.image", remedy));
        }
        if self.image.trim() != self.image {
            let reason = format!("`{}` begins or ends with a space", self.image);
            return Err(bad("launcher.kubernetes.image", &reason));
        }
        if self.user == 0 || self.user > MAX_INT32 {
            let user = self.user;
            let reason = match user {
                0 => "0 is root, and pods must not run as root; use for example 10001".to_owned(),
                _ => format!("{user} is more than {MAX_INT32}; use for example 10001"),
            };
            return Err(bad("launcher.kubernetes.user", &reason));
        }
        if self.keep_ended > MAX_INT32 {
            let reason = format!(
                "{} is more than {MAX_INT32} seconds; give a smaller number",
                self.keep_ended
            );
            return Err(bad("launcher.kubernetes.keep_ended", &reason));
        }
        match self.kubeconfig.as_ref().filter(|path| !path.is_file()) {
            Some(path) => {
                let reason = format!("{} is not a file", path.display());
                Err(bad("launcher.kubernetes.kubeconfig", &reason))
            }
            None => Ok(()),
        }
    }

    fn check_storage(&self) -> Result<(), StartError> {
        let bad = |key, reason: &str| StartError::setting(key, reason);
        if self.cache_folder.is_some() && self.cache_claim.is_some() {
            return Err(bad(
                "launcher.kubernetes.cache_claim",
                "`cache_folder` is set as well; set only one of the two",
            ));
        }
        if let Some(folder) = &self.cache_folder
            && (!folder.starts_with('/') || folder.split('/').any(|part| part == ".."))
        {
            return Err(bad(
                "launcher.kubernetes.cache_folder",
                &format!("`{folder}`: give an absolute path without `..`"),
            ));
        }
        match (&self.temporary_storage_class, self.temporary) {
            (Some(_), None) => Err(bad(
                "launcher.kubernetes.temporary_storage_class",
                "it needs a size; set `temporary` as well",
            )),
            (_, Some(0)) => Err(bad(
                "launcher.kubernetes.temporary",
                "0 MiB leaves no space for a run; use for example 20480",
            )),
            _ => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), StartError> {
        if let Some(namespace) = &self.namespace
            && !names::is_dns_label(namespace)
        {
            return Err(StartError::setting(
                "launcher.kubernetes.namespace",
                format!(
                    "`{namespace}` is not a valid namespace: use a-z, 0-9 and `-`, at most 63 \
                     characters"
                ),
            ));
        }
        let objects = [
            (
                "launcher.kubernetes.image_pull_secret",
                &self.image_pull_secret,
            ),
            (
                "launcher.kubernetes.environment_secret",
                &self.environment_secret,
            ),
            ("launcher.kubernetes.runtime_class", &self.runtime_class),
            ("launcher.kubernetes.priority_class", &self.priority_class),
            (
                "launcher.kubernetes.temporary_storage_class",
                &self.temporary_storage_class,
            ),
            ("launcher.kubernetes.cache_claim", &self.cache_claim),
        ];
        for (key, name) in objects {
            if let Some(name) = name
                && !names::is_subdomain(name)
            {
                let reason = format!(
                    "`{name}` is not a valid name: use a-z, 0-9, `-` and `.`, at most 253 \
                     characters"
                );
                return Err(StartError::setting(key, reason));
            }
        }
        match names::is_extended_resource(&self.gpu_resource) {
            true => Ok(()),
            false => Err(StartError::setting(
                "launcher.kubernetes.gpu_resource",
                format!(
                    "`{}` is not a valid resource name; one is nvidia.com/gpu",
                    self.gpu_resource
                ),
            )),
        }
    }

    fn check_placement(&self) -> Result<(), StartError> {
        let is_label = |text: &&String| {
            pair(text).is_some_and(|(name, value)| {
                names::is_qualified(name) && names::is_label_value(value)
            })
        };
        if let Some(bad) = self.node_selector.iter().find(|text| !is_label(text)) {
            let reason = format!("`{bad}`: give NAME=VALUE; {LABELS}");
            return Err(StartError::setting(
                "launcher.kubernetes.node_selector",
                reason,
            ));
        }
        match self.tolerations.iter().find(|text| taint(text).is_none()) {
            Some(bad) => Err(StartError::setting(
                "launcher.kubernetes.tolerations",
                format!(
                    "`{bad}`: give KEY=VALUE:EFFECT or KEY:EFFECT with the effect NoSchedule, \
                     PreferNoSchedule or NoExecute; {LABELS}"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// Splits `NAME=VALUE`. The name must not be empty.
#[cfg(feature = "kubernetes")]
pub(super) fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| !name.is_empty())
}

/// A taint in the form of `kubectl taint`.
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
    let is_label = names::is_qualified(key) && value.is_none_or(names::is_label_value);
    (is_known && is_label).then_some(Taint { key, value, effect })
}
