//! Roles that [`Columns`] assigns to columns by their names.

use finetuner_protocol::text::start_of;

use super::assigned::{Field, Roles};
use crate::{
    columns::Columns,
    error::{Error, Result},
    layout::{Kind, Kinds},
    table::Table,
};

/// Returns the roles that the options assign.
///
/// `names` are the columns of the file.
pub(super) fn roles_from_options(
    columns: &Columns,
    names: &[String],
    kinds: Kinds,
    table: &dyn Table,
) -> Result<Roles> {
    let file = start_of(table.name());
    let find = |name: &String| {
        let place = names.iter().position(|known| known.trim() == name.trim());
        place.ok_or_else(|| {
            let known: Vec<String> = names.iter().map(|n| format!("`{}`", start_of(n))).collect();
            Error::setup(format!(
                "`columns`: `{file}` has no column `{}`; it has {}",
                start_of(name),
                known.join(", ")
            ))
        })
    };
    let one = |name: &Option<String>| name.as_ref().map(find).transpose();
    let (anchor, positive) = (one(&columns.anchor)?, one(&columns.positive)?);
    let (text, image) = (one(&columns.text)?, one(&columns.image)?);
    let negatives: Vec<usize> = columns.negatives.iter().map(find).collect::<Result<_>>()?;
    let bad = |reason: &str| Err(Error::setup(format!("`columns` of `{file}`: {reason}")));
    let mut items = Vec::new();
    if kinds.0 == kinds.1 {
        let own = if kinds.0 == Kind::Text { text } else { image };
        let other = if kinds.0 == Kind::Text { image } else { text };
        if other.is_some() {
            return bad(
                "the model embeds either texts or images: give only `text` or only `image`, as the \
                 model needs",
            );
        }
        if anchor.is_some() && own.is_some() {
            return bad(
                "`anchor` and `text` or `image` both name the first item: give one of them",
            );
        }
        let first = anchor.or(own);
        if first.is_none() && (positive.is_some() || !negatives.is_empty()) {
            return bad("`positive` and `negative` need an `anchor`");
        }
        if positive.is_none() && !negatives.is_empty() {
            return bad("`negative` needs a `positive`");
        }
        let all = first.into_iter().chain(positive).chain(negatives);
        items.extend(all.map(|column| Field {
            column,
            kind: kinds.0,
        }));
    } else {
        if !negatives.is_empty() {
            return bad("training on texts and images takes no negatives: remove `negative`");
        }
        let (Some(text), Some(image)) = (text.or(anchor).or(positive), image) else {
            return bad(
                "the model needs texts and images: name both columns with `text` and `image`",
            );
        };
        let field = |column, kind| Field { column, kind };
        items = vec![field(text, Kind::Text), field(image, Kind::Image)];
        items.sort_by_key(|item| item.column);
    }
    let label = one(&columns.label)?;
    let scores: Vec<usize> = columns.scores.iter().map(find).collect::<Result<_>>()?;
    let mut used: Vec<usize> = items.iter().map(|item| item.column).collect();
    used.extend(label.iter().chain(&scores));
    used.sort_unstable();
    if let Some(repeated) = used.windows(2).find(|pair| pair[0] == pair[1]) {
        let name = names.get(repeated[0]).map_or("", String::as_str);
        return bad(&format!("`{}` is named twice", start_of(name)));
    }
    if items.len() == 1 && !scores.is_empty() {
        return bad("`score` needs two items to compare: `anchor` and `positive`");
    }
    Roles::of_columns(items, label, scores, names.len(), table)
}
