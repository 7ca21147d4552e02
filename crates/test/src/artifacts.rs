//! Stores, finds, changes and removes artifacts.

use bytes::Bytes;
use finetuner_protocol::AnnotationChange;

use crate::{
    answer::{Refusal, Result},
    artifact::{Artifact, Asked, UploadFields, sha256},
    state::State,
};

impl State {
    /// Stores content and returns its id. Content with a name replaces earlier content
    /// of that name and keeps the id.
    pub(crate) fn put_artifact(
        &mut self,
        id: Option<String>,
        fields: UploadFields,
        bytes: Bytes,
    ) -> String {
        let name = fields.name.filter(|name| !name.is_empty());
        let same = |artifact: &Artifact| name.is_some() && artifact.name == name;
        let replaced = self.artifacts.iter().position(same);
        let replaced = replaced.map(|at| self.artifacts.remove(at));
        let (replaced, annotations) =
            replaced.map_or_else(Default::default, |a| (Some(a.id), a.annotations));
        let id = id.or(replaced).unwrap_or_else(|| self.new_id());
        self.artifacts.push(Artifact {
            id: id.clone(),
            name,
            kind: fields.kind.unwrap_or_default(),
            public: fields.public.eq_ignore_ascii_case("true"),
            meta_data: serde_json::from_str(&fields.meta_data).unwrap_or_default(),
            sha256: sha256(&bytes),
            annotations,
            bytes,
        });
        id
    }

    fn place(&self, asked: &Asked) -> Result<usize> {
        let place = match (&asked.id, &asked.name) {
            (Some(id), _) => self.artifacts.iter().position(|a| a.id == *id),
            (None, Some(_)) => self.artifacts.iter().position(|a| a.name == asked.name),
            (None, None) => return Err(Refusal::bad_request("`id` or `name` is needed")),
        };
        place.ok_or_else(|| {
            let asked = asked.id.as_ref().or(asked.name.as_ref());
            let asked = asked.map(String::as_str).unwrap_or_default();
            Refusal::not_found(format!("there is no artifact `{asked}`"))
        })
    }

    pub(crate) fn artifact(&self, asked: &Asked) -> Result<&Artifact> {
        self.place(asked).map(|at| &self.artifacts[at])
    }

    pub(crate) fn annotate_artifact(
        &mut self,
        asked: &Asked,
        change: &AnnotationChange,
    ) -> Result<()> {
        let at = self.place(asked)?;
        let changed = change.apply(&mut self.artifacts[at].annotations);
        changed.map_err(|e| Refusal::unprocessable(e.to_string()))
    }

    pub(crate) fn remove_artifact(&mut self, asked: &Asked) -> Result<()> {
        let at = self.place(asked)?;
        self.artifacts.remove(at);
        Ok(())
    }

    /// Whether data with this name exists.
    pub(crate) fn has_data(&self, name: &str) -> bool {
        self.artifacts
            .iter()
            .any(|a| a.name.as_deref() == Some(name))
    }
}
