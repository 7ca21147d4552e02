//! Login, access tokens for programs, logout.
//!
//! ```sh
//! cargo run --example login
//! ```

use finetuner::{Finetuner, TokenStorage};

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;
    let user = finetuner.whoami().await?;
    println!("Logged in as {} ({})", user.name, user.id);

    // A token for a program on another machine, valid for a week.
    let name = format!("example-{}", std::process::id());
    let token = finetuner.create_token(&name).expires_in_days(7).await?;
    for token in finetuner.list_tokens().await? {
        let end = token.expires_at;
        let end = end.map_or_else(|| "never".to_owned(), |end| end.to_string());
        println!("  token {:<20} expires {end}", token.name);
    }

    // The code of that program. `TokenStorage::Auto` would store a pasted token in the
    // keyring or in ~/.jina/config.json.
    if let Some(backend) = &backend {
        let other = Finetuner::builder()
            .registry(backend.url())
            .token_storage(TokenStorage::Memory)
            .login()
            .paste(token)
            .await?;
        println!("{other:?} prints without its token");
        finetuner.delete_token(&name).await?;
        let refused = other.whoami().await.map(drop).err();
        println!(
            "A deleted token is refused: {}",
            refused.map_or(String::new(), |e| e.to_string())
        );
    } else {
        finetuner.delete_token(&name).await?;
    }

    // `finetuner.logout()` would end the session and delete the token from every store.
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
