//! URLs in messages.

use url::Url;

/// Returns the URL of a run's page.
pub(super) fn run_address(base: &Url, experiment: &str, run: &str) -> String {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        let parts = ["console", "experiments", experiment, "runs", run];
        segments.pop_if_empty().extend(parts);
    }
    url.into()
}
