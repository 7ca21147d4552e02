//! Translation of the cluster's description of a Job to a [`JobState`].

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::launcher::{JobState, contract::NO_OUTCOME};

/// Maximum length of the cluster's own words, in characters.
const LONGEST_WORDS: usize = 500;

/// Returns the state of a Job with these pods.
pub(super) fn state(job: &Job, pods: &[&Pod]) -> JobState {
    // There is one pod, unless Kubernetes replaced it.
    let pod = pods.iter().max_by_key(|pod| {
        pod.metadata
            .creation_timestamp
            .clone()
            .map(|Time(time)| time)
    });
    let conditions = job.status.iter().flat_map(|status| &status.conditions);
    let holds = |kind: &str| {
        let mut conditions = conditions.clone().flatten();
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if let Some(failed) = holds("Failed") {
        let words = || joined([failed.reason.as_deref(), failed.message.as_deref()]);
        // The pod has more details, unless the Job itself was ended.
        let is_own = failed.reason.as_deref() == Some("DeadlineExceeded");
        let told = pod.filter(|_| !is_own).and_then(|pod| end(pod));
        return JobState::Ended(told.unwrap_or_else(words));
    }
    if holds("Complete").is_some() {
        return JobState::Ended(NO_OUTCOME.to_owned());
    }
    let Some(pod) = pod else {
        if job.metadata.deletion_timestamp.is_some() {
            return JobState::Ended("it was stopped".to_owned());
        }
        let is_suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
        return JobState::Pending(match is_suspended {
            true => "the Job is suspended".to_owned(),
            false => "the Job has no pod yet; if that lasts, a quota or a policy refuses the pod, \
                      and `kubectl describe job` shows which"
                .to_owned(),
        });
    };
    let status = pod.status.as_ref();
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Running") => JobState::Running,
        // The node is out of reach, so the lease decides.
        Some("Unknown") => JobState::Running,
        Some("Succeeded") => JobState::Ended(NO_OUTCOME.to_owned()),
        Some("Failed") => JobState::Ended(end(pod).unwrap_or_else(|| "its pod failed".to_owned())),
        _ => JobState::Pending(wait(pod)),
    }
}

/// Returns why a pod waits.
fn wait(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waiting = containers(pod).find_map(|container| container.state.as_ref()?.waiting.as_ref());
    if let Some(waiting) = waiting {
        return joined([waiting.reason.as_deref(), waiting.message.as_deref()]);
    }
    let conditions = status.iter().flat_map(|status| &status.conditions);
    let unscheduled = conditions
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    match unscheduled {
        Some(condition) => joined([condition.reason.as_deref(), condition.message.as_deref()]),
        None => "its pod has no node yet".to_owned(),
    }
}

/// Returns how a pod ended, if that is known.
fn end(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let terminated =
        containers(pod).find_map(|container| container.state.as_ref()?.terminated.as_ref());
    if terminated.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled")) {
        return Some(
            "it was killed because it used more memory than its limit (OOMKilled): request more \
             memory, or use a smaller `batch_size`"
                .to_owned(),
        );
    }
    // The kubelet's reason, for example of an eviction.
    if status.reason.is_some() {
        let words = [status.reason.as_deref(), status.message.as_deref()];
        return Some(joined(words));
    }
    let mut conditions = status.conditions.iter().flatten();
    let disrupted = conditions
        .find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True");
    if let Some(disrupted) = disrupted {
        let words = [disrupted.reason.as_deref(), disrupted.message.as_deref()];
        return Some(joined(words));
    }
    terminated.map(exit)
}

fn exit(end: &ContainerStateTerminated) -> String {
    // Codes above 128 are 128 plus the number of the signal that ended the process.
    let code = match end.exit_code {
        code @ 129..=192 => format!("exit code {code}, signal {}", code - 128),
        code => format!("exit code {code}"),
    };
    let last = (end.message.as_deref().unwrap_or_default().lines())
        .map(str::trim)
        .rfind(|line| !line.is_empty());
    joined([
        Some(&format!("it ended with {code}")),
        // The reason `Error` has no information.
        end.reason.as_deref().filter(|reason| *reason != "Error"),
        last,
    ])
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let statuses = pod.status.iter();
    statuses.flat_map(|status| status.container_statuses.iter().flatten())
}

/// Joins the parts that exist to `reason: message`, and cuts a long result.
fn joined<const N: usize>(parts: [Option<&str>; N]) -> String {
    let parts: Vec<&str> = parts
        .into_iter()
        .flatten()
        .filter(|p| !p.is_empty())
        .collect();
    let words = parts.join(": ");
    match words.char_indices().nth(LONGEST_WORDS) {
        Some((end, _)) => format!("{} ...", &words[..end]),
        None => words,
    }
}
