//! Members, owners and names of projects.

use super::*;
use crate::database::{AccountChange, Manager, in_memory};

fn reason(result: rusqlite::Result<()>) -> Refusal {
    Refusal::of(&result.unwrap_err()).unwrap().clone()
}

#[tokio::test]
async fn a_project_always_has_an_owner() {
    let db = in_memory();
    let (ada, bob) = (db.identity_of("ada").await, db.identity_of("bob").await);
    db.create_project(ada.clone(), "team".into(), None)
        .await
        .unwrap();
    let set = |by: &Identity, name: &str, role| {
        db.set_member(by.clone(), "team".into(), name.into(), role, None)
    };
    let remove =
        |by: &Identity, name: &str| db.remove_member(by.clone(), "team".into(), name.into());
    for refused in [
        set(&ada, "ada", Role::Member).await,
        remove(&ada, "ada").await,
    ] {
        assert!(matches!(reason(refused), Refusal::Conflict(_)));
    }
    assert!(matches!(
        reason(set(&bob, "bob", Role::Owner).await),
        Refusal::NotMember { .. }
    ));
    set(&ada, "bob", Role::Member).await.unwrap();
    assert!(matches!(
        reason(set(&bob, "bob", Role::Owner).await),
        Refusal::Role { .. }
    ));
    set(&ada, "bob", Role::Owner).await.unwrap();
    remove(&ada, "ada").await.unwrap();
    let (project, members) = db.project(&bob, "team".into()).await.unwrap();
    assert_eq!((project.members, project.role), (1, Some(Role::Owner)));
    assert_eq!(members[0].name, "bob");
    // The only owner can't be deleted.
    assert!(db.delete_user("bob".into()).await.is_err());
    db.delete_project(bob, "team".into()).await.unwrap();
    assert!(db.delete_user("bob".into()).await.unwrap());
}

#[tokio::test]
async fn disabled_members_can_be_removed_and_do_not_count_as_owners() {
    let db = in_memory();
    let (root, ada) = (db.identity_of("root").await, db.identity_of("ada").await);
    let bob = db.identity_of("bob").await;
    db.create_project(ada.clone(), "team".into(), None)
        .await
        .unwrap();
    let set = |by: &Identity, name: &str, role| {
        db.set_member(by.clone(), "team".into(), name.into(), role, None)
    };
    let remove =
        |by: &Identity, name: &str| db.remove_member(by.clone(), "team".into(), name.into());
    let disable = |name: &str, on| {
        let change = AccountChange {
            is_disabled: Some(on),
            ..AccountChange::default()
        };
        db.change_account(Manager::Operator, name.into(), change)
    };
    set(&ada, "bob", Role::Owner).await.unwrap();
    disable("bob", true).await.unwrap();
    // Ada is the last owner who can act.
    assert!(matches!(
        reason(remove(&ada, "ada").await),
        Refusal::Conflict(_)
    ));
    assert!(db.delete_user("ada".into()).await.is_err());
    remove(&ada, "bob").await.unwrap();
    disable("bob", false).await.unwrap();
    let gone = db.is_member(ada.namespace.clone(), bob.person).await;
    assert!(!gone.unwrap());
    disable("ada", true).await.unwrap();
    assert!(matches!(
        reason(set(&root, "ada", Role::Viewer).await),
        Refusal::Conflict(_)
    ));
}

#[tokio::test]
async fn the_limit_of_owned_projects_applies_to_every_way_of_becoming_owner() {
    let db = in_memory();
    // The first user is an admin.
    db.identity_of("root").await;
    let (ada, bob) = (db.identity_of("ada").await, db.identity_of("bob").await);
    let create = |by: &Identity, name: &str| db.create_project(by.clone(), name.into(), Some(2));
    create(&ada, "a1").await.unwrap();
    create(&ada, "a2").await.unwrap();
    assert!(matches!(
        reason(create(&ada, "a3").await),
        Refusal::Limit(_)
    ));
    create(&bob, "b1").await.unwrap();
    let made = db.set_member(bob, "b1".into(), "ada".into(), Role::Owner, Some(2));
    assert!(matches!(reason(made.await), Refusal::Limit(_)));
    // Giving up ownership of a project frees no slot, and regaining it needs none.
    let set = |by: &Identity, name: &str, role| {
        db.set_member(by.clone(), "a1".into(), name.into(), role, Some(2))
    };
    set(&ada, "root", Role::Owner).await.unwrap();
    set(&ada, "ada", Role::Member).await.unwrap();
    assert!(matches!(
        reason(create(&ada, "a3").await),
        Refusal::Limit(_)
    ));
    let root = db.identity_of("root").await;
    set(&root, "ada", Role::Owner).await.unwrap();
    assert_eq!(db.projects(&ada, true).await.unwrap().len(), 3);
}

#[tokio::test]
async fn users_and_projects_share_one_namespace() {
    let db = in_memory();
    let ada = db.identity_of("ada").await;
    db.create_project(ada.clone(), "team".into(), None)
        .await
        .unwrap();
    for name in ["team", "ada"] {
        let again = db.create_project(ada.clone(), name.into(), None).await;
        assert!(matches!(reason(again), Refusal::Conflict(_)), "{name}");
    }
    let error = db
        .add_user(Manager::Operator, "team".into())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("name of a project"), "{error}");
    let personal = db.set_member(ada.clone(), "ada".into(), "ada".into(), Role::Viewer, None);
    assert!(matches!(reason(personal.await), Refusal::Conflict(_)));
}
