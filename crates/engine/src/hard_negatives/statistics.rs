//! Measures the output of a mining for its report.

use super::{
    choose::{Rules, Skipped},
    format::Format,
    mined::Mined,
    report::{Report, Spread, with_commas},
};

/// Builds the report of a mining with `pairs` pairs.
pub(super) fn build_report(
    mined: &Mined,
    rules: &Rules,
    skipped: Vec<Skipped>,
    pairs: usize,
) -> Report {
    let (mut positive, mut negative, mut difference) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = 0;
    for found in &mined.found {
        let counted = match mined.format {
            Format::Tuple if found.negatives.len() < mined.num_negatives => &[],
            _ => &found.negatives[..],
        };
        rows += found.matches.len();
        for matched in &found.matches {
            positive.push(f64::from(matched.score));
            for (_, score) in counted {
                negative.push(f64::from(*score));
                difference.push(f64::from(matched.score - score));
            }
        }
    }
    let most = match mined.format {
        Format::Triplet => rows * rules.num_negatives,
        Format::LabeledPair => rules.queries * rules.num_negatives + pairs,
        Format::Tuple | Format::LabeledList => rows,
    };
    let missing = most.saturating_sub(mined.rows().count());
    let mut remarks: Vec<String> = skipped.iter().map(describe_skipped).collect();
    if missing > 0 {
        remarks.push(too_few(rules, missing, most));
    }
    Report {
        positives: positive.len(),
        negatives: negative.len(),
        spreads: [positive, negative, difference].map(|mut values| Spread::of(&mut values)),
        missing,
        notes: notes(rules),
        remarks,
    }
}

fn notes(rules: &Rules) -> Vec<String> {
    let mut notes = Vec::new();
    if rules.range_is_derived {
        notes.push(format!(
            "Setting range_max to {} based on the provided parameters.",
            rules.range_max
        ));
    }
    if rules.queries != rules.pairs {
        notes.push(format!(
            "Found {} unique queries out of {} total queries.",
            rules.queries, rules.pairs
        ));
    }
    if rules.most_pairs > 1 {
        let mean = rules.pairs as f64 / rules.queries.max(1) as f64;
        notes.push(format!(
            "Found an average of {mean:.3} positives per query."
        ));
    }
    notes
}

fn describe_skipped(skipped: &Skipped) -> String {
    let Skipped {
        option,
        value,
        count,
        share,
    } = skipped;
    format!(
        "Skipped {} potential negatives ({:.2}%) due to the {option} of {value:?}.",
        with_commas(*count),
        share * 100.0
    )
}

fn too_few(rules: &Rules, missing: usize, most: usize) -> String {
    let options = [
        ("range_max", true),
        ("range_min", rules.range_min > 0),
        ("absolute_margin", rules.absolute_margin.is_some()),
        ("relative_margin", rules.relative_margin.is_some()),
        ("max_score", rules.max_score.is_some()),
    ];
    let options: Vec<&str> = options
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect();
    let (named, plural) = match &options[..] {
        [first @ .., last] if !first.is_empty() => {
            (format!("{} and {last}", first.join(", ")), "s")
        }
        alone => (alone.concat(), ""),
    };
    let part = missing as f64 / most as f64 * 100.0;
    format!(
        "Could not find enough negatives for {missing} samples ({part:.2}%). Consider adjusting the \
         {named} parameter{plural} if you'd like to find more valid negatives."
    )
}
