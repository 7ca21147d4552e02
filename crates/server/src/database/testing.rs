//! Databases for tests.

use finetuner_protocol::Annotations;
use rusqlite::{Connection, params};

use super::{Database, Identity, NewRunRow, Scope, Wanted, connections::Connections, open};
use crate::secret;

/// Creates an empty database.
pub(crate) fn in_memory() -> Database {
    let mut writer = Connection::open_in_memory().unwrap();
    open::prepare(&writer).unwrap();
    open::migrate(&mut writer, None).unwrap();
    Connections::new(writer, Vec::new()).unwrap().into()
}

/// Creates a run of the user `u` in the experiment `e`, with both if they do not
/// exist. Returns the run's id.
pub(crate) async fn with_run(db: &Database, name: &str) -> i64 {
    let owner = db.identity_of("u").await;
    let found = db.experiment(owner.namespace.clone(), "e".into()).await;
    let experiment = match found.unwrap() {
        Some(experiment) => experiment.id,
        None => {
            let created = db.create_experiment(owner.clone(), "e".into(), String::new(), None);
            created.await.unwrap().id
        }
    };
    db.create_run(
        owner,
        NewRunRow {
            experiment_id: experiment,
            name: name.into(),
            description: String::new(),
            config: "{}".into(),
            device: "cpu".into(),
            cpus: None,
            gpus: None,
            task: "training".into(),
            details: "Run submitted".into(),
            artifact_id: secret::new_id(),
            idempotency_key: None,
            keep_checkpoints: 0,
            first_checkpoint: None,
            data: "{}".into(),
            annotations: Annotations::default(),
        },
        None,
    )
    .await
    .unwrap();
    db.run(experiment, name.into()).await.unwrap().unwrap().id
}

impl Database {
    /// Returns the user with this name in the personal project.
    pub(crate) async fn identity_of(&self, name: &str) -> Identity {
        let token = self.create_token(name.to_owned(), "test".to_owned(), Scope::All);
        let hash = secret::hash(&token.await.unwrap());
        let found = self.identify(hash, Wanted::Personal, None).await;
        found.unwrap().unwrap()
    }

    /// Assigns a run to a job whose worker has this token.
    pub(crate) async fn give_worker(&self, id: i64, token: Vec<u8>) -> rusqlite::Result<()> {
        let statement =
            "UPDATE runs SET job = 'j', worker_token = ?2, status = 'STARTED' WHERE id = ?1";
        let given = self.write(move |db| db.execute(statement, params![id, token]));
        given.await.map(drop)
    }

    /// Executes statements that change or break the database.
    pub(crate) async fn disturb(&self, sql: &'static str) {
        self.write(|db| db.execute_batch(sql)).await.unwrap();
    }
}
