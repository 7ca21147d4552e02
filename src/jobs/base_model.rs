//! The base model of a job.

/// The model that a job starts from: a backbone, or the artifact of an earlier run.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::BaseModel;
///
/// let first = finetuner.fit("clip-small", "spring").await?;
/// first.wait().await?;
/// // Continue training with other data.
/// let model = BaseModel::artifact(first.artifact_id().await?);
/// let second = finetuner.fit(model, "summer").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseModel {
    /// A name from [`list_models`](crate::list_models), another model of the Hugging
    /// Face hub (`owner/name`), or, if the backend allows it, a folder on the
    /// backend's machine.
    Name(String),
    /// The id of an artifact.
    Artifact(String),
}

impl BaseModel {
    /// Selects the artifact of an earlier run, by its id.
    #[must_use]
    pub fn artifact(id: impl Into<String>) -> Self {
        Self::Artifact(id.into())
    }
}

impl From<&str> for BaseModel {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for BaseModel {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<&String> for BaseModel {
    fn from(name: &String) -> Self {
        Self::Name(name.clone())
    }
}
