//! Tests of artifacts.

use super::*;
use crate::database::{in_memory, with_run};

fn new(by: &Identity, name: &str, content: &str) -> NewArtifact {
    NewArtifact {
        id: crate::secret::new_id(),
        project_id: by.namespace.clone(),
        created_by: Some(by.person.clone()),
        name: Some(name.to_owned()),
        kind: "documentArray".to_owned(),
        public: false,
        meta_data: String::new(),
        content: content.to_owned(),
        size: 1,
    }
}

#[tokio::test]
async fn what_is_added_overwrites_nothing() {
    let db = in_memory();
    let ada = db.identity_of("ada").await;
    let add = |content: &str| db.add_artifact(ada.clone(), new(&ada, "data", content), None);
    let added = add("c1").await.unwrap();
    assert!(matches!(added, Some(Put::Artifact { orphan: None, .. })));
    assert_eq!(add("c2").await.unwrap(), None);
    let found = db.artifact_by_name(ada.namespace.clone(), "data".into());
    assert_eq!(found.await.unwrap().unwrap().content, "c1");
    let replaced = db.put_artifact(ada.clone(), new(&ada, "data", "c3"), None);
    let gone = Some("c1".to_owned());
    assert!(matches!(replaced.await.unwrap(), Put::Artifact { orphan, .. } if orphan == gone));
}

#[tokio::test]
async fn the_name_of_the_data_that_an_open_run_makes_is_reserved() {
    let db = in_memory();
    let id = with_run(&db, "r").await;
    let run = db.run_by_id(id).await.unwrap().unwrap();
    let owner = db.identity_of("u").await;
    let name = format!("finetuner-synthesis-e-r-{}", run.artifact_id);
    let put = |name: &str| db.put_artifact(owner.clone(), new(&owner, name, "c"), None);
    let reason = |error: rusqlite::Error| Refusal::of(&error).unwrap().to_string();
    let refused = reason(put(&name).await.unwrap_err());
    assert!(
        refused.contains("the run `e/r` has reserved this name"),
        "{refused}"
    );
    // The other way to the name.
    let Put::Artifact { id: other, .. } = put("other").await.unwrap() else {
        panic!("it was not stored");
    };
    let change = ArtifactChange {
        name: Some(name.clone()),
        ..ArtifactChange::default()
    };
    let renamed = db.update_artifact(owner.clone(), other, change).await;
    assert_eq!(reason(renamed.unwrap_err()), refused);
    db.disturb("UPDATE runs SET status = 'FAILED'").await;
    assert!(matches!(put(&name).await.unwrap(), Put::Artifact { .. }));
}
