//! Tags and notes of runs.

use finetuner_protocol::{AnnotationChange, Annotations};
use reqwest::Method;

use super::run::Run;
use crate::error::{Error, Result};

const ROUTE: &str = "experiments/{experiment}/runs/{run}/annotations";

impl Run {
    /// Returns the tags as of this handle's creation. [`Run::annotations`] fetches the
    /// current ones.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        &self.info().annotations.tags
    }

    /// Returns the note as of this handle's creation. [`Run::annotations`] fetches the
    /// current one.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.info().annotations.note
    }

    /// Fetches the current tags and note.
    ///
    /// # Errors
    /// [`Error::is_unsupported`] if the backend has no tags and notes.
    pub async fn annotations(&self) -> Result<Annotations> {
        let answer = self.transport.json(self.call(Method::GET, ROUTE)).await;
        self.optional(answer, "keep tags and notes").await
    }

    /// Changes tags and note atomically. Returns the new ones.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// use finetuner::AnnotationChange;
    ///
    /// let change = AnnotationChange::default()
    ///     .add_tags(["reviewed"])
    ///     .remove_tags(["to review"])
    ///     .note("Better on long queries.");
    /// println!("{:?}", run.annotate(change).await?.tags);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_invalid`] if a tag or the note is not allowed,
    /// [`Error::is_unsupported`] if the backend has no tags and notes.
    pub async fn annotate(&self, change: AnnotationChange) -> Result<Annotations> {
        // Refuse invalid tags and notes before anything is sent.
        change.apply(&mut Annotations::default())?;
        let body = serde_json::to_value(change).map_err(Error::setup)?;
        let call = self.call(Method::PUT, ROUTE).json(body);
        let answer = self.transport.json(call).await;
        self.optional(answer, "keep tags and notes").await
    }

    /// Replaces all tags.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// run.set_tags(["baseline", "long queries"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Run::annotate`].
    pub async fn set_tags<T: Into<String>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<Annotations> {
        self.annotate(AnnotationChange::default().tags(tags)).await
    }

    /// Adds tags. Existing tags keep their position.
    ///
    /// # Errors
    /// As for [`Run::annotate`].
    pub async fn add_tags<T: Into<String>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<Annotations> {
        let change = AnnotationChange::default().add_tags(tags);
        self.annotate(change).await
    }

    /// Replaces the note. An empty text removes it.
    ///
    /// # Errors
    /// As for [`Run::annotate`].
    pub async fn set_note(&self, note: impl Into<String>) -> Result<Annotations> {
        self.annotate(AnnotationChange::default().note(note)).await
    }
}
