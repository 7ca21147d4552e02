//! Prometheus metrics of the server, in the text format.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::serving::ServingCounters;

/// Bucket bounds of the time until an answer starts, in seconds.
const BOUNDS: [f64; 8] = [0.001, 0.005, 0.02, 0.05, 0.2, 1.0, 5.0, 30.0];

/// The server's metrics.
pub(crate) struct Counters {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    events: Counter,
    workers_lost: Counter,
    runs: Family<StatusLabels, Gauge<u64, AtomicU64>>,
    serving: ServingCounters,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    /// The route and never the address, which contains users' names.
    route: Arc<str>,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: String,
}

impl Default for Counters {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("finetuner");
        let requests = Family::default();
        let seconds: Family<RouteLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BOUNDS));
        let (events, workers_lost, runs) =
            (Counter::default(), Counter::default(), Family::default());
        registry.register("requests", "Requests answered", requests.clone());
        registry.register(
            "request_seconds",
            "Time until an answer started, in seconds",
            seconds.clone(),
        );
        registry.register("events", "Events received from workers", events.clone());
        registry.register(
            "workers_lost",
            "Workers that were lost",
            workers_lost.clone(),
        );
        registry.register("runs", "Runs by their status", runs.clone());
        Self {
            serving: ServingCounters::register(&mut registry),
            registry,
            requests,
            seconds,
            events,
            workers_lost,
            runs,
        }
    }
}

impl Counters {
    pub(crate) fn answer(&self, method: &str, route: &str, status: u16, took: Duration) {
        let route: Arc<str> = Arc::from(route);
        let labels = RouteLabels {
            route: Arc::clone(&route),
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let labels = RequestLabels {
            method: method.to_owned(),
            route,
            status,
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn events(&self, count: u64) {
        self.events.inc_by(count);
    }

    pub(crate) fn worker_lost(&self) {
        self.workers_lost.inc();
    }

    /// Returns the metrics of models in use.
    pub(crate) fn serving(&self) -> ServingCounters {
        self.serving.clone()
    }

    /// Formats all metrics. `runs` is the number of runs with each status.
    pub(crate) fn text(&self, runs: Vec<(String, u64)>) -> String {
        // A status without runs must not keep its last count.
        self.runs.clear();
        for (status, count) in runs {
            self.runs.get_or_create(&StatusLabels { status }).set(count);
        }
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_in_prometheus_format() {
        let counters = Counters::default();
        counters.answer("GET", "/health", 200, Duration::from_millis(3));
        counters.events(5);
        counters.worker_lost();
        let text = counters.text(vec![("FINISHED".to_owned(), 3)]);
        for line in [
            r#"finetuner_requests_total{method="GET",route="/health",status="200"} 1"#,
            r#"finetuner_request_seconds_bucket{le="0.005",route="/health"} 1"#,
            "finetuner_events_total 5",
            "finetuner_workers_lost_total 1",
            r#"finetuner_runs{status="FINISHED"} 3"#,
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "{line} is missing in\n{text}"
            );
        }
        let text = counters.text(vec![("FAILED".to_owned(), 1)]);
        assert!(!text.contains("FINISHED"), "{text}");
    }
}
