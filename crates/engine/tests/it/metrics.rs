//! Search and its metrics against docarray's, over the same embeddings.

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
fn finds_and_measures_what_docarray_does() {
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
