//! Manifests of the objects that the launcher creates for a job.

use serde_json::{Map, Value, json};

use super::settings::{KubernetesSettings, pair, taint};
use crate::{
    launcher::WorkOrder,
    worker::{
        KEEP_MEMORY, WORKER_CA, WORKER_CACHE, WORKER_CACHE_MB, WORKER_FOLDER, WORKER_START,
        WORKER_URL,
    },
};

/// Label with the server that a Job and its pod belong to.
pub(super) const SERVER_LABEL: &str = "finetuner/server";
/// Label with the job that a pod belongs to.
pub(super) const JOB_LABEL: &str = "finetuner/job";

/// Folder in which the Secret's keys appear as files.
const START_FOLDER: &str = "/run/finetuner";
const START_KEY: &str = "start-token";
const CA_KEY: &str = "ca.pem";
/// The only folders that a worker can write to.
const TEMPORARY: &str = "/tmp";
const CACHE: &str = "/var/cache/finetuner";

/// Returns the Secret with a worker's start token and certificate authority. It
/// gets its owner when the Job exists.
pub(super) fn secret(order: &WorkOrder, server: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": order.name, "labels": labels(order, server)},
        "type": "Opaque",
        "stringData": secret_data(order),
    })
}

/// Returns the contents of the Secret.
pub(super) fn secret_data(order: &WorkOrder) -> Value {
    let mut data = json!({START_KEY: order.start_token});
    if let Some(ca) = &order.ca {
        data[CA_KEY] = ca.as_str().into();
    }
    data
}

fn labels(order: &WorkOrder, server: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "finetuner-worker",
        "app.kubernetes.io/managed-by": "finetuner-server",
        SERVER_LABEL: server,
        JOB_LABEL: order.name,
    })
}

/// Returns the Job of an order. `server` is the value of the server's label.
pub(super) fn job(order: &WorkOrder, server: &str, settings: &KubernetesSettings) -> Value {
    let labels = labels(order, server);
    // Annotations, because user names are not valid label values.
    let annotations: Map<String, Value> = (order.labels.iter())
        .map(|(name, value)| (format!("finetuner/{name}"), value.as_str().into()))
        .collect();
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": order.name, "labels": labels, "annotations": annotations},
        "spec": {
            // The server's queue decides about retries.
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": settings.keep_ended,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": pod(order, settings),
            },
        },
    })
}

fn pod(order: &WorkOrder, settings: &KubernetesSettings) -> Value {
    let mut pod = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.stop_grace,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            // Makes the user's group the owner of the Secret and the volumes.
            "fsGroup": settings.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(order, settings)],
        "volumes": volumes(order, settings),
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            pod[key] = value;
        }
    };
    let secret = settings.image_pull_secret.as_ref();
    set(
        "imagePullSecrets",
        secret.map(|name| json!([{"name": name}])),
    );
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    set("runtimeClassName", text(&settings.runtime_class));
    set("priorityClassName", text(&settings.priority_class));
    let selector: Map<String, Value> = (settings.node_selector.iter())
        .filter_map(|text| pair(text))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    set(
        "nodeSelector",
        (!selector.is_empty()).then(|| selector.into()),
    );
    let tolerations = settings.tolerations.iter().filter_map(|text| taint(text));
    let tolerations: Vec<Value> = tolerations
        .map(|taint| match taint.value {
            Some(value) => json!({
                "key": taint.key, "operator": "Equal", "value": value, "effect": taint.effect,
            }),
            None => json!({"key": taint.key, "operator": "Exists", "effect": taint.effect}),
        })
        .collect();
    set(
        "tolerations",
        (!tolerations.is_empty()).then(|| tolerations.into()),
    );
    pod
}

fn container(order: &WorkOrder, settings: &KubernetesSettings) -> Value {
    let (requests, limits) = resources(order, settings);
    let mut mounts = vec![
        json!({"name": "start", "mountPath": START_FOLDER, "readOnly": true}),
        json!({"name": "temporary", "mountPath": TEMPORARY}),
    ];
    if has_cache(settings) {
        mounts.push(json!({"name": "cache", "mountPath": CACHE}));
    }
    let mut container = json!({
        "name": "worker",
        "image": settings.image,
        "command": ["finetuner-server", "worker"],
        "env": environment(order, settings),
        "resources": {"requests": requests, "limits": limits},
        "volumeMounts": mounts,
        // Shows the last log lines of a worker that could not start.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
    });
    if let Some(name) = &settings.environment_secret {
        container["envFrom"] = json!([{"secretRef": {"name": name}}]);
    }
    container
}

fn environment(order: &WorkOrder, settings: &KubernetesSettings) -> Vec<Value> {
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let hub = match has_cache(settings) {
        true => format!("{CACHE}/hub"),
        false => format!("{TEMPORARY}/hub"),
    };
    let mut all = vec![
        variable("HOME", TEMPORARY),
        variable("TMPDIR", TEMPORARY),
        variable("HF_HUB_CACHE", &hub),
        variable(KEEP_MEMORY.0, KEEP_MEMORY.1),
    ];
    let own = settings.environment.iter().filter_map(|text| pair(text));
    all.extend(own.map(|(name, value)| variable(name, value)));
    // If a name occurs twice, the last value is used.
    all.extend([
        variable(WORKER_URL, &order.url),
        variable(WORKER_START, &format!("{START_FOLDER}/{START_KEY}")),
        variable(WORKER_FOLDER, &order.folder),
    ]);
    if order.ca.is_some() {
        let path = format!("{START_FOLDER}/{CA_KEY}");
        all.push(variable(WORKER_CA, &path));
    }
    if has_cache(settings) {
        all.push(variable(WORKER_CACHE, CACHE));
        let size = settings.cache_size.to_string();
        all.push(variable(WORKER_CACHE_MB, &size));
    }
    all
}

/// Returns the resource requests and limits of a pod.
fn resources(
    order: &WorkOrder,
    settings: &KubernetesSettings,
) -> (Map<String, Value>, Map<String, Value>) {
    let wanted = order.resources;
    let mut requests = Map::new();
    if let Some(cpus) = wanted.cpus {
        requests.insert("cpu".to_owned(), cpus.to_string().into());
    }
    if let Some(gpus) = wanted.gpus.filter(|gpus| *gpus > 0) {
        requests.insert(settings.gpu_resource.clone(), gpus.to_string().into());
    }
    let mut limits = requests.clone();
    if let Some(memory) = wanted.memory {
        requests.insert("memory".to_owned(), memory.to_string().into());
        // The headroom is the same as that of the worker's own process limit. At that
        // limit the worker ends itself with an error message first.
        let most = memory.saturating_add((memory / 4).max(512 << 20));
        limits.insert("memory".to_owned(), most.to_string().into());
    }
    (requests, limits)
}

fn volumes(order: &WorkOrder, settings: &KubernetesSettings) -> Vec<Value> {
    let size = settings.temporary.map(|mib| format!("{mib}Mi"));
    let temporary = match (&settings.temporary_storage_class, size) {
        (Some(class), Some(size)) => json!({
            "name": "temporary",
            "ephemeral": {"volumeClaimTemplate": {"spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": class,
                "resources": {"requests": {"storage": size}},
            }}},
        }),
        (_, Some(size)) => json!({"name": "temporary", "emptyDir": {"sizeLimit": size}}),
        (_, None) => json!({"name": "temporary", "emptyDir": {}}),
    };
    // 0440 makes it readable for the group, which is the pod's.
    let start = json!({"secretName": order.name, "defaultMode": 0o440});
    let mut volumes = vec![json!({"name": "start", "secret": start}), temporary];
    if let Some(path) = &settings.cache_folder {
        let folder = json!({"path": path, "type": "DirectoryOrCreate"});
        volumes.push(json!({"name": "cache", "hostPath": folder}));
    }
    if let Some(claim) = &settings.cache_claim {
        let claim = json!({"claimName": claim});
        volumes.push(json!({"name": "cache", "persistentVolumeClaim": claim}));
    }
    volumes
}

fn has_cache(settings: &KubernetesSettings) -> bool {
    settings.cache_folder.is_some() || settings.cache_claim.is_some()
}
