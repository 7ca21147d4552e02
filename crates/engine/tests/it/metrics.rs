//! Compares retrieval and its metrics with docarray, on the same embeddings.

use std::collections::BTreeMap;

use finetuner_engine::evaluation::{Distance, Relevance, rank};
use serde::Deserialize;

/// Written by `fixtures/make_metrics.py`.
#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    queries: Vec<f32>,
    index: Vec<f32>,
    query_labels: Vec<u32>,
    index_labels: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    distance: String,
    limit: usize,
    found: Vec<Vec<usize>>,
    metrics: BTreeMap<String, f64>,
}

#[test]
fn results_and_metrics_equal_those_of_docarray() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/metrics.json")).unwrap();
    assert_eq!(fixture.cases.len(), 12);
    for case in &fixture.cases {
        let name = format!("{} {}", case.distance, case.limit);
        let distance = Distance::parse(&case.distance).unwrap();
        let rankings = rank(
            &fixture.queries,
            &fixture.index,
            fixture.dim,
            case.limit,
            distance,
        );
        let found: Vec<Vec<usize>> = rankings
            .iter()
            .map(|ranking| ranking.iter().map(|m| m.index).collect())
            .collect();
        assert_eq!(found, case.found, "{name}");

        let relevance: Vec<Relevance> = found
            .iter()
            .zip(&fixture.query_labels)
            .map(|(found, label)| Relevance {
                found: found
                    .iter()
                    .map(|i| fixture.index_labels[*i] == *label)
                    .collect(),
                max_relevant: fixture.index_labels.iter().filter(|l| *l == label).count(),
            })
            .collect();
        let metrics = Relevance::mean_metrics(&relevance);
        assert!(metrics.keys().eq(case.metrics.keys()), "{name}");
        for (metric, value) in &case.metrics {
            assert!(
                (metrics[metric] - value).abs() < 1e-9,
                "{name}, {metric}: {} here, {value} there",
                metrics[metric]
            );
        }
    }
}

#[test]
fn metrics_at_a_rank_equal_those_of_sentence_transformers() {
    #[derive(Deserialize)]
    struct Query {
        found: Vec<bool>,
        max_relevant: usize,
    }

    #[derive(Deserialize)]
    struct Rankings {
        queries: Vec<Query>,
        metrics: BTreeMap<String, f64>,
    }

    let fixture = include_str!("../fixtures/retrieval-metrics.json");
    let fixture: Rankings = serde_json::from_str(fixture).unwrap();
    let relevance = |query: &Query| Relevance {
        found: query.found.clone(),
        max_relevant: query.max_relevant,
    };
    let relevance: Vec<Relevance> = fixture.queries.iter().map(relevance).collect();
    assert_eq!(fixture.metrics.len(), 24);
    for (name, value) in &fixture.metrics {
        let found = Relevance::mean_metric(&relevance, name).unwrap();
        assert!(
            (found - value).abs() < 1e-12,
            "{name}: {found}, not {value}"
        );
    }
    for name in ["recall@0", "recall@", "recall@-1", "recall", "f1@3"] {
        assert_eq!(Relevance::mean_metric(&relevance, name), None, "{name}");
    }
}
