//! Reads the tag `finetuner_score`: scores or margins of a document's members.

use finetuner_protocol::{Document, SCORE_TAG, text::start_of};
use serde_json::Value;

/// Returns the score of a pair, or why there is none.
pub(super) fn pair_score(document: &Document) -> Result<Vec<f32>, String> {
    let scores = scores(document)?;
    match scores.len() {
        1 => Ok(scores),
        n => Err(format!("its `{SCORE_TAG}` has {n} values; a pair has one")),
    }
}

/// Returns the margins of a document, one for each negative.
///
/// As for `MarginMSELoss` of sentence-transformers, the tag holds the margins, or else
/// the scores of the positive and of each negative.
pub(super) fn margins(document: &Document, negatives: usize) -> Result<Vec<f32>, String> {
    let mut scores = scores(document)?;
    if scores.len() == negatives + 1 {
        let best = scores.remove(0);
        scores.iter_mut().for_each(|score| *score = best - *score);
    }
    if scores.len() == negatives {
        return Ok(scores);
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    Err(format!(
        "its `{SCORE_TAG}` has {} value{} for {negatives} negative{}: give a margin for each \
         negative, or the scores of the match and of each negative",
        scores.len(),
        plural(scores.len()),
        plural(negatives)
    ))
}

/// Returns the values of the tag: a number or a list.
///
/// In a CSV file, scores are texts.
fn scores(document: &Document) -> Result<Vec<f32>, String> {
    let score = document.tags.get(SCORE_TAG);
    let score = score.ok_or_else(|| format!("it has no tag `{SCORE_TAG}`"))?;
    let number = |value: &Value| {
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        let number = number.map(|n: f64| n as f32);
        number.filter(|n| n.is_finite())
    };
    let numbers = match score {
        Value::Array(list) => list.iter().map(number).collect(),
        one => number(one).map(|number| vec![number]),
    };
    numbers.ok_or_else(|| {
        let score = score.to_string();
        format!(
            "its `{SCORE_TAG}` is {}, not a number of single precision",
            start_of(&score)
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scored(score: Value) -> Document {
        Document::new().with_tag(SCORE_TAG, score)
    }

    #[test]
    fn margins_are_one_for_each_negative_or_the_scores_of_all() {
        let found = |score| margins(&scored(score), 2);
        assert_eq!(found(json!([0.5, "0.25"])), Ok(vec![0.5, 0.25]));
        assert_eq!(found(json!([0.75, 0.25, 1.0])), Ok(vec![0.5, -0.25]));
        assert_eq!(margins(&scored(json!("1.5")), 1), Ok(vec![1.5]));
        for (score, part) in [
            (json!(0.5), "has 1 value for 2 negatives"),
            (json!([1, 2, 3, 4]), "has 4 values for 2 negatives"),
            (json!([]), "has 0 values"),
            (json!([1, "x"]), "not a number"),
            (json!([1, null]), "not a number"),
            (json!([1, 1e39]), "not a number"),
        ] {
            let error = found(score).unwrap_err();
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }

    #[test]
    fn a_pair_has_one_score() {
        assert_eq!(pair_score(&scored(json!([0.5]))), Ok(vec![0.5]));
        let error = pair_score(&scored(json!([0.5, 0.1]))).unwrap_err();
        assert!(error.contains("has 2 values"), "{error}");
    }
}
