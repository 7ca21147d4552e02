//! Tags and notes that users attach to runs and artifacts, with their limits.

use serde::{Deserialize, Serialize};

use crate::{InvalidField, text::is_blank};

/// Maximum number of tags of a run or artifact.
pub const MAX_TAGS: usize = 50;
/// Maximum number of tags in one change. It bounds the time to apply the change.
const MAX_NAMED: usize = 1000;
/// Maximum length of a tag in bytes.
pub const MAX_TAG_BYTES: usize = 100;
/// Maximum length of a note in bytes.
pub const MAX_NOTE_BYTES: usize = 16 << 10;

/// The tags and the note of a run or an artifact.
///
/// ```
/// let annotations: finetuner_protocol::Annotations =
///     serde_json::from_str(r#"{"tags": ["baseline"], "note": "Keep this one."}"#)?;
/// assert_eq!(annotations.tags, ["baseline"]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Annotations {
    /// Tags without duplicates, in the order in which they were added.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Free text, which may have several lines.
    #[serde(default)]
    pub note: String,
}

/// A change of tags and note. Omitted fields stay unchanged. Unknown fields are an
/// error, because a misspelt field would otherwise change nothing.
///
/// ```
/// use finetuner_protocol::{AnnotationChange, Annotations};
///
/// let mut annotations = Annotations::default();
/// AnnotationChange::default().add_tags(["baseline"]).apply(&mut annotations)?;
/// AnnotationChange::default().note("Keep this one.").apply(&mut annotations)?;
/// assert_eq!((annotations.tags.len(), annotations.note.len()), (1, 14));
/// # Ok::<(), finetuner_protocol::InvalidField>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AnnotationChange {
    /// Replaces all tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Tags to add. Existing tags keep their position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_tags: Vec<String>,
    /// Tags to remove. Missing tags are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_tags: Vec<String>,
    /// Replaces the note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl AnnotationChange {
    /// Replaces all tags.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Adds tags.
    #[must_use]
    pub fn add_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.add_tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Removes tags.
    #[must_use]
    pub fn remove_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.remove_tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Replaces the note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Applies the change. On an error, `annotations` stays unchanged.
    ///
    /// # Errors
    /// If a tag is empty, longer than [`MAX_TAG_BYTES`] or contains a comma or a control
    /// character, if there would be more than [`MAX_TAGS`] tags, or if the note is
    /// longer than [`MAX_NOTE_BYTES`].
    pub fn apply(&self, annotations: &mut Annotations) -> Result<(), InvalidField> {
        let replaced = self.tags.as_ref();
        let named = replaced.map_or(0, Vec::len) + self.add_tags.len() + self.remove_tags.len();
        if named > MAX_NAMED {
            let limit = format!("a change may name {MAX_NAMED} at most: name fewer");
            return Err(InvalidField::new("tags", format!("{named} tags"), &limit));
        }
        let before = replaced.unwrap_or(&annotations.tags).iter();
        let mut tags: Vec<String> = Vec::new();
        for tag in before.chain(&self.add_tags) {
            let tag = checked(tag)?;
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.to_owned());
            }
        }
        for tag in &self.remove_tags {
            let tag = checked(tag)?;
            tags.retain(|known| known != tag);
        }
        if tags.len() > MAX_TAGS {
            let limit = format!("at most {MAX_TAGS} are allowed: remove some first");
            let count = format!("{} tags", tags.len());
            return Err(InvalidField::new("tags", count, &limit));
        }
        if let Some(note) = &self.note {
            if note.len() > MAX_NOTE_BYTES {
                let limit = format!("at most {MAX_NOTE_BYTES} bytes are allowed: shorten it");
                let length = format!("{} bytes long", note.len());
                return Err(InvalidField::new("note", length, &limit));
            }
            annotations.note.clone_from(note);
        }
        annotations.tags = tags;
        Ok(())
    }
}

/// Splits a text into tags at its commas.
///
/// ```
/// use finetuner_protocol::split_tags;
///
/// assert_eq!(split_tags(" baseline, needs review,"), ["baseline", "needs review"]);
/// ```
#[must_use]
pub fn split_tags(text: &str) -> Vec<String> {
    let tags = text.split(',').map(str::trim);
    let tags = tags.filter(|tag| !tag.is_empty());
    tags.map(str::to_owned).collect()
}

/// Trims a tag and checks it.
fn checked(tag: &str) -> Result<&str, InvalidField> {
    let tag = tag.trim();
    if is_blank(tag) {
        return Err(InvalidField::new("tags", "empty", "give every tag a text"));
    }
    if tag.len() > MAX_TAG_BYTES {
        let limit = format!(
            "a tag of {} bytes: at most {MAX_TAG_BYTES} are allowed",
            tag.len()
        );
        return Err(InvalidField::new("tags", format!("`{tag}`"), &limit));
    }
    if tag.contains(',') || tag.chars().any(char::is_control) {
        return Err(InvalidField::new(
            "tags",
            format!("{tag:?}"),
            "commas and control characters are not allowed in a tag",
        ));
    }
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_affects_only_the_given_fields() {
        let mut own = Annotations::default();
        let change = AnnotationChange::default()
            .tags([" a ", "b", "a"])
            .note("n");
        change.apply(&mut own).unwrap();
        assert_eq!(own.tags, ["a", "b"]);
        let change = AnnotationChange::default()
            .add_tags(["c", "a"])
            .remove_tags(["b", "x"]);
        change.apply(&mut own).unwrap();
        assert_eq!((own.tags.join(" "), own.note.as_str()), ("a c".into(), "n"));
        let change = AnnotationChange::default().tags([""; 0]).note("");
        change.apply(&mut own).unwrap();
        assert_eq!(own, Annotations::default());
    }

    #[test]
    fn a_change_over_a_limit_is_refused_as_a_whole() {
        let mut own = Annotations::default();
        let first = AnnotationChange::default().tags(["a"]).note("n");
        first.apply(&mut own).unwrap();
        let before = own.clone();
        let add = |tag: &str| AnnotationChange::default().note("m").add_tags([tag]);
        for (change, told) in [
            (add(" "), "`tags` is empty"),
            (add("x,y"), "commas"),
            (add("x\ny"), "control characters"),
            (add(&"x".repeat(101)), "101 bytes: at most 100"),
            (
                AnnotationChange::default().add_tags((0..50).map(|n| n.to_string())),
                "51 tags: at most 50",
            ),
            (
                AnnotationChange::default().note("x".repeat(MAX_NOTE_BYTES + 1)),
                "`note` is 16385 bytes long: at most 16384",
            ),
        ] {
            let error = change.apply(&mut own).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            assert_eq!(own, before);
        }
        add(&"x".repeat(100)).apply(&mut own).unwrap();
    }
}
