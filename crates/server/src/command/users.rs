//! `finetuner-server user`: management of users.

use std::io::{BufRead, IsTerminal};

use clap::Subcommand;

use super::data::Data;
use crate::{
    accounts,
    database::{AccountChange, Actor, Database, Manager},
    settings_file::SettingsFile,
};

#[derive(Debug, Subcommand)]
pub(super) enum UserAction {
    /// Create a user, and print the user's first token.
    Add {
        /// The name.
        name: String,
        /// Make the user an admin of the server.
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        data: Data,
    },
    /// Set the password with which a user signs in to the console. It is read
    /// from standard input.
    Password {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Make a user an admin of the server, who manages users and projects.
    Admin {
        /// The name.
        name: String,
        /// Revoke it.
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        data: Data,
    },
    /// Disable a user: all tokens and the password are refused.
    Disable {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Enable a disabled user again.
    Enable {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// List all users.
    List {
        #[command(flatten)]
        data: Data,
    },
    /// Delete a user and the user's personal project: its runs, data and models.
    Delete {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
}

impl UserAction {
    /// Executes the command.
    pub(super) async fn act(self, file: &SettingsFile) -> Result<(), String> {
        let failed = |e: rusqlite::Error| e.to_string();
        match self {
            Self::Add { name, admin, data } => {
                let database = data.open(file)?;
                finetuner_protocol::check_name("name", &name).map_err(|e| e.to_string())?;
                let added = database.add_user(Manager::Operator, name.clone());
                let token = added.await.map_err(failed)?;
                if admin {
                    set_admin(name, true, &database).await?;
                }
                println!("{token}");
                Ok(())
            }
            Self::Admin { name, revoke, data } => set_admin(name, !revoke, &data.open(file)?).await,
            Self::Disable { name, data } => disable(name, true, &data.open(file)?).await,
            Self::Enable { name, data } => disable(name, false, &data.open(file)?).await,
            Self::Password { name, data } => {
                let database = data.open(file)?;
                if std::io::stdin().is_terminal() {
                    eprintln!("The new password of {name}, which is shown as you type it:");
                }
                let mut password = String::new();
                let read = std::io::stdin().lock().read_line(&mut password);
                read.map_err(|e| e.to_string())?;
                let hash = accounts::hash_password(password.trim_end_matches(['\r', '\n']))?;
                let set = database.set_password(Actor::operator(), name.clone(), hash);
                match set.await.map_err(failed)? {
                    true => Ok(()),
                    false => Err(format!("there is no user `{name}`")),
                }
            }
            Self::List { data } => {
                let (users, _) = data
                    .open(file)?
                    .accounts((0, u64::MAX))
                    .await
                    .map_err(failed)?;
                for user in users {
                    let marks = [
                        (user.is_admin, " (admin)"),
                        (user.is_disabled, " (disabled)"),
                        (!user.has_password, " (no password)"),
                    ];
                    let marks: String = marks
                        .iter()
                        .filter(|(is_so, _)| *is_so)
                        .map(|(_, mark)| *mark)
                        .collect();
                    println!("{}{marks}", user.name);
                }
                Ok(())
            }
            Self::Delete { name, data } => {
                let deleted = data.open(file)?.delete_user(name.clone()).await;
                match deleted.map_err(failed)? {
                    true => Ok(()),
                    false => Err(format!("there is no user `{name}`")),
                }
            }
        }
    }
}

async fn set_admin(name: String, is_admin: bool, database: &Database) -> Result<(), String> {
    let change = AccountChange {
        is_admin: Some(is_admin),
        ..AccountChange::default()
    };
    let changed = database.change_account(Manager::Operator, name, change);
    changed.await.map_err(|e| e.to_string())
}

async fn disable(name: String, disabled: bool, database: &Database) -> Result<(), String> {
    let change = AccountChange {
        is_disabled: Some(disabled),
        ..AccountChange::default()
    };
    let changed = database.change_account(Manager::Operator, name, change);
    changed.await.map_err(|e| e.to_string())
}
