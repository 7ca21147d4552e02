//! Maps tensor names of a checkpoint to those of an architecture.

use std::collections::HashMap;

use super::Architecture;
use crate::{Error, Result, params::RawTensor};

/// Prefixes that wrappers of PyTorch, Lightning and sentence-transformers put
/// before the names of any network.
const WRAPPERS: [&str; 6] = [
    "module.",
    "model.",
    "_orig_mod.",
    "0.auto_model.",
    "auto_model.",
    "0.model.",
];

/// Names of layer norm parameters in old checkpoints, with the current ones.
const OLD_ENDINGS: [(&str, &str); 2] = [(".gamma", ".weight"), (".beta", ".bias")];

/// Renames tensors to the architecture's names. Other tensors, such as position
/// buffers and heads of other tasks, are dropped. If several tensors map to one
/// name, the one with the fewest prefixes wins.
///
/// # Errors
/// [`Error::Checkpoint`] lists the tensors that are missing, and those of
/// another shape.
pub(super) fn canonical(
    architecture: &dyn Architecture,
    tensors: HashMap<String, RawTensor>,
) -> Result<HashMap<String, RawTensor>> {
    let wanted = architecture.tensors();
    let names: HashMap<&str, &Vec<usize>> = wanted
        .iter()
        .map(|(name, shape)| (name.as_str(), shape))
        .collect();
    let is_known = |name: &str| names.contains_key(name) || architecture.keeps(name);
    let mut found: HashMap<String, (usize, RawTensor)> = HashMap::new();
    // Sorted, so that a choice between two tensors is always the same.
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, tensor) in tensors {
        let found_name = rename(
            &name,
            architecture.prefixes(),
            architecture.aliases(),
            is_known,
        );
        let Some((canonical, steps)) = found_name else {
            continue;
        };
        let better = found
            .get(&canonical)
            .is_none_or(|(known, _)| steps < *known);
        if better {
            found.insert(canonical, (steps, tensor));
        }
    }
    let mut found: HashMap<String, RawTensor> = found
        .into_iter()
        .map(|(name, (_, tensor))| (name, tensor))
        .collect();
    // Some checkpoints store a scalar as a list of one element.
    for (name, shape) in &wanted {
        if let Some((given, values)) = found.get_mut(name)
            && values.len() == 1
            && shape.iter().product::<usize>() == 1
        {
            given.clone_from(shape);
        }
    }
    let missing = wanted
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !found.contains_key(*name));
    let missing: Vec<String> = missing.cloned().collect();
    if !missing.is_empty() {
        return Err(Error::checkpoint(format!(
            "{} of the {} tensors of the model are missing: {}",
            missing.len(),
            wanted.len(),
            shown(&missing)
        )));
    }
    let other = wanted.iter().filter_map(|(name, shape)| {
        let given = &found.get(name)?.0;
        (given != shape).then(|| format!("{name} {given:?}, not {shape:?}"))
    });
    let other: Vec<String> = other.collect();
    match other.is_empty() {
        true => Ok(found),
        false => Err(Error::checkpoint(format!(
            "{} tensors have another shape than config.json asks for: {}",
            other.len(),
            shown(&other)
        ))),
    }
}

/// Returns the known name of a tensor, with prefixes removed.
pub(super) fn known_name<T>(
    architecture: &dyn Architecture,
    name: &str,
    known: &HashMap<String, T>,
) -> Option<String> {
    let is_known = |name: &str| known.contains_key(name);
    let found = rename(
        name,
        architecture.prefixes(),
        architecture.aliases(),
        is_known,
    )?;
    Some(found.0)
}

/// Formats the first ten names and the number of the others.
fn shown(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let listed: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    let listed = listed.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// Returns the known name of a tensor, and a cost: two per removed prefix, one
/// for an old suffix or an alias.
fn rename(
    name: &str,
    prefixes: &[&str],
    aliases: &[(&str, &str)],
    is_known: impl Fn(&str) -> bool,
) -> Option<(String, usize)> {
    let mut rest = name;
    for steps in 0..6 {
        if is_known(rest) {
            return Some((rest.to_owned(), 2 * steps));
        }
        for (old, new) in OLD_ENDINGS {
            let renamed = rest.strip_suffix(old).map(|layer| format!("{layer}{new}"));
            if let Some(renamed) = renamed.filter(|name| is_known(name)) {
                return Some((renamed, 2 * steps + 1));
            }
        }
        if let Some((_, name)) = aliases.iter().find(|(other, _)| *other == rest) {
            return Some(((*name).to_owned(), 2 * steps + 1));
        }
        rest = prefixes
            .iter()
            .chain(&WRAPPERS)
            .find_map(|prefix| rest.strip_prefix(prefix))?;
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_lose_their_prefixes_and_old_endings() {
        let known = ["a.weight", "norm.weight", "norm.bias", "model.inner"];
        let rename = |name: &str| {
            let aliases = [("tied", "a.weight")];
            super::rename(name, &["bert."], &aliases, |name| known.contains(&name))
        };
        for (name, expected, steps) in [
            ("a.weight", "a.weight", 0),
            ("bert.a.weight", "a.weight", 2),
            ("module.bert.norm.gamma", "norm.weight", 5),
            ("norm.beta", "norm.bias", 1),
            ("0.auto_model.a.weight", "a.weight", 2),
            ("model.inner", "model.inner", 0),
            ("bert.tied", "a.weight", 3),
            ("_orig_mod.module.model.bert.a.weight", "a.weight", 8),
        ] {
            assert_eq!(rename(name), Some((expected.to_owned(), steps)), "{name}");
        }
        for name in ["cls.a.weight", "bert.position_ids", "bert.", ""] {
            assert_eq!(rename(name), None, "{name}");
        }
    }
}
