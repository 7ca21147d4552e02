//! Users' e-mail addresses for messages about runs. An address gets only a
//! confirmation code until its user has entered that code.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::{
    Database, RunEvent,
    messages::{self, CONFIRM, MESSAGE, MessageRow, message},
    sql::now_ms,
};
use crate::secret;

/// Validity of a code, in milliseconds.
const CODE_LIFE: i64 = 24 * 3600 * 1000;
/// Maximum number of codes per user and hour.
const CODES_AN_HOUR: u64 = 5;

/// E-mail address of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MailAddress {
    pub(crate) address: String,
    pub(crate) events: Vec<RunEvent>,
    pub(crate) is_confirmed: bool,
}

/// Result of storing an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutMail {
    /// The address was already confirmed.
    Kept,
    /// A code will be sent to the address.
    CodeSent,
    /// The user has requested too many codes.
    TooMany,
}

impl Database {
    /// Returns a user's e-mail address.
    pub(crate) async fn mail_address(
        &self,
        user_id: String,
    ) -> rusqlite::Result<Option<MailAddress>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT address, events, code IS NULL FROM mail_addresses WHERE user_id = ?1",
            )?
            .query_row([user_id], |row| {
                Ok(MailAddress {
                    address: row.get(0)?,
                    events: RunEvent::of_column(row, 1)?,
                    is_confirmed: row.get(2)?,
                })
            })
            .optional()
        })
        .await
    }

    /// Stores a user's address. For a new address, the same transaction inserts
    /// the message with its code.
    pub(crate) async fn put_mail_address(
        &self,
        user_id: String,
        address: String,
        events: Vec<RunEvent>,
    ) -> rusqlite::Result<PutMail> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let events = RunEvent::stored(&events);
            let kept = transaction.execute(
                "UPDATE mail_addresses SET events = ?3
                 WHERE user_id = ?1 AND address = ?2 AND code IS NULL",
                params![user_id, address, events],
            )?;
            if kept == 1 {
                transaction.commit()?;
                return Ok(PutMail::Kept);
            }
            let recent: u64 = transaction.query_row(
                "SELECT count(*) FROM messages WHERE user_id = ?1 AND event = ?2
                     AND created_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour')",
                [&user_id, CONFIRM],
                |row| row.get(0),
            )?;
            if recent >= CODES_AN_HOUR {
                return Ok(PutMail::TooMany);
            }
            // The new address must not get messages for the old one.
            messages::withdraw(&transaction, &user_id, "the address was changed")?;
            let code = secret::new_id();
            transaction.execute(
                "INSERT OR REPLACE INTO mail_addresses (user_id, address, events, code, code_until)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    user_id,
                    address,
                    events,
                    secret::hash(&code),
                    now_ms() + CODE_LIFE
                ],
            )?;
            let body = json!({"code": code}).to_string();
            messages::write(&transaction, (None, Some(&user_id)), CONFIRM, &body)?;
            transaction.commit()?;
            Ok(PutMail::CodeSent)
        })
        .await
    }

    /// Confirms a user's address with the code that was sent to it. Returns
    /// whether the code was correct.
    pub(crate) async fn confirm_mail_address(
        &self,
        user_id: String,
        code: &str,
    ) -> rusqlite::Result<bool> {
        let code = secret::hash(code);
        self.write(move |db| {
            let confirmed = db.execute(
                "UPDATE mail_addresses SET code = NULL, code_until = NULL
                 WHERE user_id = ?1 AND code = ?2 AND code_until > ?3",
                params![user_id, code, now_ms()],
            )?;
            Ok(confirmed == 1)
        })
        .await
    }

    /// Deletes a user's address and the messages that were not sent to it yet.
    pub(crate) async fn delete_mail_address(&self, user_id: String) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            transaction.execute("DELETE FROM mail_addresses WHERE user_id = ?1", [&user_id])?;
            messages::withdraw(&transaction, &user_id, "e-mail was turned off")?;
            transaction.commit()
        })
        .await
    }

    /// Returns the messages to a user, newest first.
    pub(crate) async fn mail(
        &self,
        user_id: String,
        most: u64,
    ) -> rusqlite::Result<Vec<MessageRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {MESSAGE} FROM messages WHERE user_id = ?1
                 ORDER BY id DESC LIMIT ?2"
            ))?
            .query_map(params![user_id, most], message)?
            .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::database::{Receiver, in_memory, with_run};

    /// Returns recipient and code of the message that is due.
    async fn code(db: &Database) -> Option<(String, String)> {
        let due = db.due_messages(Vec::new(), 10).await.unwrap().pop()?;
        let Receiver::Mail { address } = due.receiver else {
            panic!("it is e-mail");
        };
        let body: Value = serde_json::from_str(&due.body).unwrap();
        Some((address?, body["code"].as_str()?.to_owned()))
    }

    #[tokio::test]
    async fn an_unconfirmed_address_gets_no_mail() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let user = db.identity_of("u").await.person;
        let put = async |address: &str| {
            let events = vec![RunEvent::Failed];
            db.put_mail_address(user.clone(), address.into(), events)
                .await
                .unwrap()
        };
        let confirm = async |code: &str| db.confirm_mail_address(user.clone(), code).await.unwrap();
        assert_eq!(put("a@example.org").await, PutMail::CodeSent);
        let (_, first) = code(&db).await.unwrap();
        assert_eq!(put("b@example.org").await, PutMail::CodeSent);
        let (to, second) = code(&db).await.unwrap();
        assert_eq!(to, "b@example.org");
        assert!(!confirm(&first).await, "the code is for another address");
        assert!(!confirm("").await);
        let fail = crate::database::End {
            status: finetuner_protocol::Status::Failed,
            details: "x".into(),
            lines: Vec::new(),
        };
        db.end_run(run, None, fail).await.unwrap().unwrap();
        assert_eq!(
            db.mail(user.clone(), 10).await.unwrap().len(),
            2,
            "only the two codes"
        );
        assert!(confirm(&second).await);
        assert!(!confirm(&second).await, "a code is valid once");
        assert_eq!(put("b@example.org").await, PutMail::Kept);
        for n in 0..3 {
            assert_eq!(put(&format!("{n}@example.org")).await, PutMail::CodeSent);
        }
        assert_eq!(put("z@example.org").await, PutMail::TooMany);
        db.delete_mail_address(user.clone()).await.unwrap();
        assert_eq!(db.mail_address(user).await.unwrap(), None);
        assert_eq!(db.next_due(Vec::new()).await.unwrap(), None);
    }
}
