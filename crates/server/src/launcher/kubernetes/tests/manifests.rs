//! Tests of the manifests and of the settings they are made from.

use super::*;

/// Returns an order and settings that use every field of a manifest.
fn everything() -> (WorkOrder, KubernetesSettings) {
    let text = |text: &str| Some(text.to_owned());
    let labels = [("run", "shoes 1"), ("user", "anna"), ("experiment", "é")];
    let order = WorkOrder {
        ca: text("-----BEGIN CERTIFICATE-----"),
        resources: Resources {
            cpus: Some(8),
            gpus: Some(2),
            memory: Some(64 << 30),
        },
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..order("ft-a1-7-1")
    };
    let settings = KubernetesSettings {
        image: "registry.example/finetuner-server:1".to_owned(),
        image_pull_secret: text("registry"),
        node_selector: vec!["pool=training".to_owned()],
        tolerations: vec![
            "nvidia.com/gpu:NoSchedule".to_owned(),
            "team=ml:NoExecute".to_owned(),
        ],
        runtime_class: text("nvidia"),
        priority_class: text("batch"),
        environment: vec!["HF_ENDPOINT=https://models.example?a=b".to_owned()],
        environment_secret: text("trackers"),
        temporary: Some(10240),
        temporary_storage_class: text("fast"),
        cache_claim: text("cache"),
        ..KubernetesSettings::default()
    };
    (order, settings)
}

/// `scripts/check_deploy.py` compares this file with the schema of Kubernetes.
const MANIFESTS: &str = include_str!("../manifests.json");

#[test]
fn manifests_equal_the_reviewed_snapshots() {
    let (order, settings) = everything();
    settings.check().unwrap();
    let plain = KubernetesSettings {
        cache_claim: None,
        cache_folder: Some("/var/lib/finetuner-cache".to_owned()),
        temporary_storage_class: None,
        ..settings.clone()
    };
    let least = KubernetesSettings {
        image: settings.image.clone(),
        ..KubernetesSettings::default()
    };
    let made = json!([
        manifest::secret(&order, "ft-a1"),
        manifest::job(&order, "ft-a1", &settings),
        manifest::job(&order, "ft-a1", &plain),
        manifest::job(&super::order("ft-a1-7-2"), "ft-a1", &least),
    ]);
    let expected: Value = serde_json::from_str(MANIFESTS).unwrap();
    assert_eq!(
        made,
        expected,
        "the manifests changed; after a review, replace the file with:\n{}",
        serde_json::to_string_pretty(&made).unwrap()
    );
    // The client's types must know every field.
    let secret: Secret = serde_json::from_value(made[0].clone()).unwrap();
    assert_eq!(serde_json::to_value(secret).unwrap(), made[0]);
    for job in &made.as_array().unwrap()[1..] {
        let typed: Job = serde_json::from_value(job.clone()).unwrap();
        assert_eq!(&serde_json::to_value(typed).unwrap(), job);
    }
}

#[test]
fn unusable_settings_are_refused_by_name() {
    let good = || everything().1;
    type Change = fn(&mut KubernetesSettings);
    let changes: [(Change, &str); 22] = [
        (|s| s.image = String::new(), "image`: it is empty"),
        (|s| s.image = "a:1 ".into(), "image`: `a:1 `"),
        (|s| s.user = 0, "user`: 0"),
        (|s| s.user = u32::MAX, "user`: 4294967295"),
        (|s| s.keep_ended = u32::MAX, "keep_ended`: 4294967295"),
        (|s| s.cache_folder = Some("/c".into()), "cache_claim`"),
        (
            |s| (s.cache_claim, s.cache_folder) = (None, Some("c".into())),
            "cache_folder`: `c`",
        ),
        (
            |s| (s.cache_claim, s.cache_folder) = (None, Some("/c/../d".into())),
            "cache_folder`: `/c/../d`",
        ),
        (|s| s.temporary = None, "temporary_storage_class`"),
        (|s| s.temporary = Some(0), "temporary`: 0"),
        (
            |s| s.kubeconfig = Some("/none".into()),
            "kubeconfig`: /none",
        ),
        (
            |s| s.node_selector = vec!["x".into()],
            "node_selector`: `x`",
        ),
        (
            |s| s.node_selector = vec!["pool=the big one".into()],
            "node_selector`: `pool=the big one`",
        ),
        (
            |s| s.node_selector = vec!["po ol=x".into()],
            "node_selector`: `po ol=x`",
        ),
        (
            |s| s.tolerations = vec!["x:Never".into()],
            "tolerations`: `x:Never`",
        ),
        (
            |s| s.tolerations = vec!["x=a b:NoSchedule".into()],
            "tolerations`: `x=a b:NoSchedule`",
        ),
        (|s| s.namespace = Some("a.b".into()), "namespace`: `a.b`"),
        (
            |s| s.environment_secret = Some("Trackers".into()),
            "environment_secret`: `Trackers`",
        ),
        (
            |s| s.priority_class = Some("a_b".into()),
            "priority_class`: `a_b`",
        ),
        (|s| s.gpu_resource = "gpu".into(), "gpu_resource`: `gpu`"),
        (
            |s| s.environment = vec!["A B=s3cret".into()],
            "environment`: `A B`",
        ),
        (
            |s| s.environment = vec!["FINETUNER_WORKER_URL=s3cret".into()],
            "environment`: `FINETUNER_WORKER_URL`",
        ),
    ];
    for (change, told) in changes {
        let mut settings = good();
        change(&mut settings);
        let error = Kubernetes::new(settings, "ft-a1-")
            .err()
            .unwrap()
            .to_string();
        let told = format!("`launcher.kubernetes.{told}");
        assert!(
            error.starts_with(&told) && !error.contains("s3cret"),
            "{error}"
        );
    }
}
