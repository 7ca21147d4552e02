//! Passwords, and codes that sign in once.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};

use crate::{
    app::App,
    database::now_ms,
    error::{ApiError, Result},
};

/// The fewest characters of a password.
pub(crate) const MIN_PASSWORD: usize = 8;
/// The most: more would only take time.
const MAX_PASSWORD: usize = 1024;
/// How long a code signs in, in milliseconds.
const CODE_LIFE: i64 = 3600 * 1000;

/// What is stored of a password: argon2id with the parameters of OWASP's advice,
/// which are the library's defaults. Takes a while, and blocks.
pub(crate) fn hash_password(password: &str) -> Result<String, String> {
    let length = password.chars().count();
    if length < MIN_PASSWORD || password.len() > MAX_PASSWORD {
        return Err(format!(
            "the password has {length} characters: {MIN_PASSWORD} to {MAX_PASSWORD} are wanted"
        ));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|e| e.to_string())
}

fn is_right(password: &str, hash: &str) -> bool {
    let parsed = PasswordHash::new(hash);
    parsed.is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

/// The id of the user with this name and password. Who has no password can't
/// sign in with one; that takes as long as a wrong one.
pub(crate) async fn check_password(
    app: &App,
    name: String,
    password: String,
) -> Result<Option<String>> {
    if password.len() > MAX_PASSWORD {
        return Ok(None);
    }
    let found = app.database.password(name).await?;
    let (id, hash) = match found {
        Some((id, Some(hash))) => (Some(id), hash),
        // Of a password that nobody has.
        _ => (None, DUMMY.to_owned()),
    };
    let check = tokio::task::spawn_blocking(move || is_right(&password, &hash));
    let right = check.await.map_err(|e| ApiError::internal(&e))?;
    Ok(id.filter(|_| right))
}

/// Of random bytes, with the parameters of ours.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRvZm91cnM$\
                     Wc1KQlvoWK2nMvGnXCqjJ4UJoyFKvxZPcqPzK1sq9yE";

/// A code that signs the user in at the console, once; none where there is no
/// such user. It is void once the user has signed in with any.
pub(crate) async fn sign_in_code(app: &App, name: &str) -> rusqlite::Result<Option<String>> {
    let Some((id, _)) = app.database.password(name.to_owned()).await? else {
        return Ok(None);
    };
    let text = format!("{id}-{}", now_ms().saturating_add(CODE_LIFE));
    let signature = app.signer.sign(&purpose(app), &text);
    Ok(Some(format!("{text}-{signature}")))
}

/// A code is good only at the server that made it, until that ends: which ones
/// were used is not remembered longer.
fn purpose(app: &App) -> String {
    format!("sign in {}", app.boot)
}

/// Whom a code signs in.
pub(crate) fn redeem_code(app: &App, code: &str) -> Option<String> {
    let (text, signature) = code.rsplit_once('-')?;
    let (id, until) = text.split_once('-')?;
    let good = app.signer.verify(&purpose(app), text, signature)
        && until.parse::<i64>().is_ok_and(|until| until > now_ms())
        && app.spent_codes.spend(signature);
    good.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hashed_and_known_again() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$") && !hash.contains("horse"));
        assert_ne!(hash, hash_password("correct horse").unwrap(), "salted");
        assert!(is_right("correct horse", &hash));
        assert!(!is_right("correct mouse", &hash));
        assert!(!is_right("", "no hash"));
        assert!(PasswordHash::new(DUMMY).is_ok(), "it takes its time");
        assert!(hash_password("short").unwrap_err().contains("8 to 1024"));
    }
}
