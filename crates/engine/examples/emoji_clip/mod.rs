//! Reading `datasets/emoji-clip`.

use std::path::Path;

/// An example gives up with whatever went wrong.
pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A picture and its text.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) image: Vec<u8>,
    pub(crate) text: String,
}

/// Rows of `picture,text`, the pictures read.
pub(crate) fn read_pairs(root: &Path, list: &Path) -> Fallible<Vec<Pair>> {
    read_rows(list)?
        .into_iter()
        .map(|(image, text)| {
            Ok(Pair {
                image: std::fs::read(root.join(image))?,
                text,
            })
        })
        .collect()
}

/// Rows of two fields.
pub(crate) fn read_rows(path: &Path) -> Fallible<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(parse_csv(&text)
        .into_iter()
        .filter(|row| row.len() == 2)
        .map(|mut row| (row.swap_remove(0), row.swap_remove(0)))
        .collect())
}

/// Fields of a CSV file; the data set quotes with `"` and has no line breaks
/// inside fields.
pub(crate) fn parse_csv(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .map(|line| {
            let mut row = vec![String::new()];
            let mut quoted = false;
            for c in line.chars() {
                match c {
                    '"' => quoted = !quoted,
                    ',' if !quoted => row.push(String::new()),
                    c => row
                        .iter_mut()
                        .last()
                        .into_iter()
                        .for_each(|field| field.push(c)),
                }
            }
            row
        })
        .collect()
}
