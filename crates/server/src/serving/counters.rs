//! Prometheus metrics of finished models in use.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Bucket bounds of a batch's number of inputs.
const SIZES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Bucket bounds of a batch's duration, in seconds.
const SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.05, 0.2, 1.0, 5.0, 30.0];

/// Metrics of models in use. Clones share them.
#[derive(Clone)]
pub(crate) struct ServingCounters {
    embedded: Family<KindLabels, Counter>,
    batch_size: Histogram,
    batch_seconds: Histogram,
    loads: Counter,
    pub(crate) models: CacheCounters,
    pub(crate) indexes: CacheCounters,
}

/// Metrics of a cache.
#[derive(Clone, Default)]
pub(crate) struct CacheCounters {
    pub(crate) count: Gauge<u64, AtomicU64>,
    pub(crate) bytes: Gauge<u64, AtomicU64>,
    pub(crate) dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    /// `text` or `picture`.
    kind: &'static str,
}

impl ServingCounters {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let new = Self {
            embedded: Family::default(),
            batch_size: Histogram::new(SIZES),
            batch_seconds: Histogram::new(SECONDS),
            loads: Counter::default(),
            models: CacheCounters::default(),
            indexes: CacheCounters::default(),
        };
        registry.register(
            "embedded",
            "Texts and images embedded by finished models",
            new.embedded.clone(),
        );
        registry.register(
            "embedding_batch_size",
            "Number of texts or images in a batch",
            new.batch_size.clone(),
        );
        registry.register(
            "embedding_batch_seconds",
            "Duration of embedding a batch, in seconds",
            new.batch_seconds.clone(),
        );
        registry.register("model_loads", "Models loaded for use", new.loads.clone());
        for (name, of, counters) in [
            ("loaded_models", "models in memory", &new.models),
            (
                "loaded_indexes",
                "embedded data sets in memory",
                &new.indexes,
            ),
        ] {
            registry.register(name, format!("Number of {of}"), counters.count.clone());
            registry.register(
                format!("{name}_bytes"),
                format!("Memory of {of}, in bytes"),
                counters.bytes.clone(),
            );
            registry.register(
                format!("{name}_dropped"),
                format!("Number of {of} that were evicted"),
                counters.dropped.clone(),
            );
        }
        new
    }

    pub(super) fn loaded(&self) {
        self.loads.inc();
    }

    pub(super) fn batch(&self, images: bool, size: usize, seconds: f64) {
        let kind = match images {
            true => "picture",
            false => "text",
        };
        let labels = KindLabels { kind };
        self.embedded.get_or_create(&labels).inc_by(size as u64);
        self.batch_size.observe(size as f64);
        self.batch_seconds.observe(seconds);
    }
}

#[cfg(test)]
impl Default for ServingCounters {
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}
