//! Texts for users without the paths of the machine that they come from.

use std::path::{Path, PathBuf};

/// Folders of this machine whose paths users don't see.
#[derive(Clone, Debug)]
pub(crate) struct LocalPaths(Vec<String>);

impl LocalPaths {
    pub(crate) fn of(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut all: Vec<String> = Vec::new();
        for folder in folders {
            // A text may contain either form.
            let real = folder.canonicalize().ok();
            for path in [Some(folder), real].into_iter().flatten() {
                let text = path.display().to_string();
                if path.file_name().is_some() && !all.contains(&text) {
                    all.push(text);
                }
            }
        }
        // A folder within another one is found first.
        all.sort_by_key(|path| std::cmp::Reverse(path.len()));
        Self(all)
    }

    /// Replaces the path of what is in one of the folders by its path within it, and the
    /// path of a folder itself by its name.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for folder in &self.0 {
            if text.contains(folder) {
                text = without(&text, folder);
            }
        }
        text
    }
}

fn without(text: &str, folder: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || "/\\_-".contains(c);
    let (mut shown, mut rest) = (String::new(), text);
    while let Some(place) = rest.find(folder) {
        shown.push_str(&rest[..place]);
        rest = &rest[place + folder.len()..];
        let is_start = !shown.ends_with(|c| is_name(c) || c == '.');
        match rest.strip_prefix(['/', '\\']) {
            Some(within) if is_start => rest = within,
            None if is_start && !rest.starts_with(is_name) => shown.push_str(&last_part(folder)),
            // It is a part of another path.
            _ => shown.push_str(folder),
        }
    }
    shown.push_str(rest);
    shown
}

/// Returns the last part of a path.
fn last_part(path: &str) -> String {
    let last = Path::new(path).file_name();
    last.map_or(String::new(), |last| last.to_string_lossy().into_owned())
}

/// Returns a model's name without the folders above it, if it is the path of a folder.
pub(crate) fn plain_model(name: &str) -> &str {
    let is_path = name.starts_with(['/', '.', '~']) || name.contains('\\');
    match is_path {
        true => {
            let mut parts = name.rsplit(['/', '\\']);
            parts.find(|part| !part.is_empty()).unwrap_or_default()
        }
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_machine_are_left_out_of_texts() {
        let paths = LocalPaths::of(["/", "/none/run", "/none/run/cache"].map(PathBuf::from));
        for (text, shown) in [
            ("/none/run/begin.zip: no space", "begin.zip: no space"),
            ("in `/none/run/cache/a/b`", "in `a/b`"),
            ("the folder /none/run.", "the folder run."),
            ("/none/runner/x", "/none/runner/x"),
            ("/srv/none/run/x", "/srv/none/run/x"),
            ("/none/run/x, /none/run/y", "x, y"),
            ("no path: 1/2", "no path: 1/2"),
        ] {
            assert_eq!(paths.hide(text), shown);
        }
    }

    #[test]
    fn a_model_in_a_folder_is_called_by_its_last_part() {
        for (name, shown) in [
            (
                "openai/clip-vit-base-patch32",
                "openai/clip-vit-base-patch32",
            ),
            ("clip-small", "clip-small"),
            ("/srv/models/mine", "mine"),
            ("/srv/models/mine/", "mine"),
            ("./mine", "mine"),
            ("../other/mine", "mine"),
            ("C:\\models\\mine", "mine"),
            ("/", ""),
        ] {
            assert_eq!(plain_model(name), shown);
        }
    }
}
