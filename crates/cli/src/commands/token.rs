//! `token`: personal access tokens.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    output::{self, Output},
    session::Session,
};

/// `token`.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// List the tokens, without the tokens themselves
    List,
    /// Create a token and print it; it is not shown again
    Create {
        /// Name of the token
        name: String,
        /// Days until it expires [default: the backend decides]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// Revoke a token
    Revoke {
        /// Name of the token
        name: String,
    },
}

impl Token {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let finetuner = session.connect().await?;
        match self {
            Self::List => {
                let tokens = finetuner.list_tokens().await?;
                if output.is_json() {
                    let tokens: Vec<Value> = tokens
                        .iter()
                        .map(|token| {
                            json!({
                                "name": token.name, "type": token.kind,
                                "created_at": token.created_at, "expires_at": token.expires_at,
                            })
                        })
                        .collect();
                    return output.value(&tokens);
                }
                let rows = tokens.into_iter().map(|token| {
                    vec![
                        token.name,
                        token.kind.unwrap_or_default(),
                        token
                            .created_at
                            .map_or_else(String::new, |at| at.to_string()),
                        token
                            .expires_at
                            .map_or_else(|| "never".to_owned(), |at| at.to_string()),
                    ]
                });
                output.line(&output::table(
                    &["name", "type", "created", "expires"],
                    rows,
                ))
            }
            Self::Create { name, days } => {
                let mut create = finetuner.create_token(&name);
                if let Some(days) = days {
                    create = create.expires_in_days(days);
                }
                let token = create.await?;
                output.note("The token is not shown again:");
                let value = json!({"name": name, "token": token.expose()});
                output.either(&value, || token.expose().to_owned())
            }
            Self::Revoke { name } => {
                finetuner.delete_token(&name).await.map_err(|error| {
                    match error.is_not_found() {
                        true => Failure::not_found(format!(
                            "token `{name}` does not exist; `finetuner token list` shows all tokens"
                        )),
                        false => error.into(),
                    }
                })?;
                output.either(&json!({"revoked": name}), || format!("Revoked {name}"))
            }
        }
    }
}
