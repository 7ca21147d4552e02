//! Compares quantised and truncated embeddings with sentence-transformers, and
//! checks refused inputs.

use finetuner_engine::{
    infer::Embeddings,
    quantize::{BinaryEmbeddings, Found, Int8Embeddings, Ranges},
};
use serde::Deserialize;

/// Written by `fixtures/make_quantized.py`.
#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    limit: usize,
    corpus: Vec<f32>,
    queries: Vec<f32>,
    lows: Vec<f32>,
    highs: Vec<f32>,
    uint8: Vec<u8>,
    uint8_queries: Vec<u8>,
    int8: Vec<i8>,
    binary: Vec<i8>,
    ubinary: Vec<u8>,
    truncated: Vec<f32>,
    found_int8: Vec<Vec<(usize, f32)>>,
    found_binary: Vec<Vec<(usize, f32)>>,
}

fn fixture() -> (Fixture, Embeddings, Embeddings) {
    let fixture: Fixture =
        serde_json::from_str(include_str!("../fixtures/quantized.json")).unwrap();
    let embeddings = |values: &[f32]| Embeddings {
        dim: fixture.dim,
        values: values.to_vec(),
    };
    let (corpus, queries) = (embeddings(&fixture.corpus), embeddings(&fixture.queries));
    (fixture, corpus, queries)
}

fn same(found: &[Vec<Found>], expected: &[Vec<(usize, f32)>]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len());
        for (found, (index, score)) in found.iter().zip(expected) {
            assert_eq!(found.index, *index);
            assert!((found.score - score).abs() < 1e-4 * score.abs().max(1.0));
        }
    }
}

#[test]
fn embeddings_of_8_bits_equal_those_of_sentence_transformers() {
    let (fixture, corpus, queries) = fixture();
    let ranges = Ranges::calibrate(&corpus).unwrap();
    let known = Ranges::new(fixture.lows, fixture.highs).unwrap();
    assert_eq!(ranges, known);
    assert_eq!(ranges.to_uint8(&corpus).unwrap(), fixture.uint8);
    // Values outside the ranges are clipped.
    assert_eq!(ranges.to_uint8(&queries).unwrap(), fixture.uint8_queries);
    let int8 = ranges.to_int8(&corpus).unwrap();
    assert_eq!(int8.values(), fixture.int8);
    assert_eq!(Int8Embeddings::new(ranges, fixture.int8).unwrap(), int8);
    let found = int8.search(&queries, fixture.limit, int8.len()).unwrap();
    same(&found, &fixture.found_int8);
}

#[test]
fn values_of_one_sign_and_very_different_ranges_are_searched() {
    const DIM: usize = 24;
    let value = |i: usize| {
        let noise = (i * 7919 + i / DIM * 104_729) % 1009;
        let size = [0.01, 1.0, 5.0][i % 3];
        noise as f32 / 1009.0 * size + size
    };
    let embeddings = |from: usize, count: usize| Embeddings {
        dim: DIM,
        values: (from..from + count * DIM).map(value).collect(),
    };
    let (corpus, queries) = (embeddings(0, 300), embeddings(50_000, 20));
    let int8 = Ranges::calibrate(&corpus)
        .unwrap()
        .to_int8(&corpus)
        .unwrap();
    let of_all = int8.search(&queries, 1, int8.len()).unwrap();
    assert_eq!(int8.search(&queries, 1, 4).unwrap(), of_all);
}

#[test]
fn embeddings_of_one_bit_equal_those_of_sentence_transformers() {
    let (fixture, corpus, queries) = fixture();
    let binary = corpus.to_binary();
    assert_eq!(binary.bytes(), fixture.ubinary);
    assert_eq!(binary.signed(), fixture.binary);
    let again = BinaryEmbeddings::new(fixture.dim, fixture.ubinary).unwrap();
    assert_eq!(again, binary);
    let found = binary
        .search(&queries, fixture.limit, binary.len())
        .unwrap();
    same(&found, &fixture.found_binary);
}

#[test]
fn truncated_embeddings_equal_those_of_sentence_transformers() {
    let (fixture, corpus, _) = fixture();
    let cut = corpus.truncated(8).unwrap();
    assert_eq!((cut.dim, cut.len()), (8, corpus.len()));
    for (found, expected) in cut.values.iter().zip(&fixture.truncated) {
        assert!((found - expected).abs() < 1e-6);
    }
}

#[test]
fn hamming_distances_work_for_any_number_of_bytes() {
    for dim in [1, 8, 63, 64, 65, 200] {
        let row = |step: usize| (0..dim).map(move |i| if i % step == 0 { 1.0 } else { -1.0 });
        let embeddings = Embeddings {
            dim,
            values: row(1).chain(row(2)).chain(row(3)).collect(),
        };
        let binary = embeddings.to_binary();
        let rankings = binary.nearest(&binary, 3).unwrap();
        for (query, ranking) in rankings.iter().enumerate() {
            let found = |index: usize| ranking.iter().find(|m| m.index == index).unwrap();
            for index in 0..3 {
                let (a, b) = (embeddings.get(query), embeddings.get(index));
                let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
                assert_eq!(found(index).distance, differing as f32);
            }
            assert!(ranking.is_sorted_by(|a, b| a.distance <= b.distance));
        }
    }
}

#[test]
fn wrong_dimensions_and_lengths_are_refused_with_their_numbers() {
    let (_, corpus, _) = fixture();
    let ranges = Ranges::calibrate(&corpus).unwrap();
    let other = Embeddings {
        dim: 5,
        values: vec![0.0; 10],
    };
    let one = Embeddings {
        dim: 5,
        values: vec![0.0; 5],
    };
    let infinite = Embeddings {
        dim: 1,
        values: vec![0.0, f32::INFINITY],
    };
    let binary = corpus.to_binary();
    for (error, part) in [
        (ranges.to_int8(&other).unwrap_err(), "5 dimensions"),
        (binary.search(&other, 1, 1).unwrap_err(), "5 dimensions"),
        (Ranges::calibrate(&one).unwrap_err(), "from 1 embeddings"),
        (
            Ranges::calibrate(&infinite).unwrap_err(),
            "embedding 1 has the value inf",
        ),
        (
            Ranges::new(vec![1.0], vec![0.0]).unwrap_err(),
            "from 1 to 0",
        ),
        (
            Ranges::new(vec![1.0], vec![]).unwrap_err(),
            "1 low values for 0",
        ),
        (corpus.truncated(0).unwrap_err(), "truncated to 0"),
        (corpus.truncated(14).unwrap_err(), "give 1 to 13"),
        (
            BinaryEmbeddings::new(9, vec![0; 3]).unwrap_err(),
            "multiple of the 2",
        ),
        (
            Int8Embeddings::new(ranges, vec![0; 3]).unwrap_err(),
            "multiple of the 13",
        ),
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(
        binary
            .nearest(&binary, 0)
            .unwrap()
            .iter()
            .all(Vec::is_empty)
    );
}
