//! An order and a server's [`Home`] for the tests of launchers.

use std::{collections::BTreeMap, path::Path};

use super::{Home, Resources, WorkOrder};

/// The name of the order's job.
pub(super) const JOB: &str = "ft-0123abcd-1-1";

pub(super) fn home() -> Home<'static> {
    Home {
        prefix: "ft-0123abcd-".to_owned(),
        folder: Path::new("/none"),
        ca: None,
    }
}

/// Returns an order in which every field is set.
pub(super) fn order(start_token: &str, label: &str) -> WorkOrder {
    WorkOrder {
        name: JOB.to_owned(),
        url: "https://head-node:8642".to_owned(),
        start_token: start_token.to_owned(),
        folder: "finetuner-run-1-1-".to_owned(),
        ca: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
        resources: Resources {
            cpus: Some(2),
            gpus: Some(1),
            memory: Some(3 << 30),
        },
        labels: BTreeMap::from([("run".to_owned(), label.to_owned())]),
    }
}
