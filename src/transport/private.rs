//! Calls whose answers hold a secret.

use serde::de::DeserializeOwned;

use super::{
    call::Call,
    send::{Envelope, Transport},
};
use crate::error::{Error, Result};

/// Like [`Transport::rpc`], for an answer with a token or an address that authorizes a
/// download: no error shows a part of the answer.
pub(crate) async fn private_rpc<T: DeserializeOwned>(
    transport: &Transport,
    call: Call,
) -> Result<T> {
    let url = transport.addresses().rpc(call.route());
    let answer = transport.text(call).await?;
    let answer: Envelope<T> = serde_json::from_str(&answer).map_err(|error| {
        // serde_json's message may quote a part of the answer.
        let (line, column) = (error.line(), error.column());
        let reason = format!("not what was asked for (line {line}, column {column})");
        Error::decode(reason, b"").at(&url)
    })?;
    Ok(answer.data)
}
