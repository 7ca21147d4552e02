//! Passwords, lookup of tokens, codes for one sign-in to the console, and cookies
//! of known devices.

use std::net::IpAddr;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};

use crate::{
    app::App,
    database::{Identity, Wanted, now_ms},
    error::{ApiError, Result},
    secret,
};

/// Minimum number of characters of a password.
pub(crate) const MIN_PASSWORD: usize = 8;
/// Maximum number of characters. A longer password would only cost hashing time.
const MAX_PASSWORD: usize = 1024;
/// Validity of a sign-in code, in milliseconds.
const CODE_LIFE: i64 = 3600 * 1000;

/// Hashes a password for storage: argon2id with the parameters that OWASP
/// recommends, which are the library's defaults. Slow, and blocks.
pub(crate) fn hash_password(password: &str) -> Result<String, String> {
    let length = password.chars().count();
    if length < MIN_PASSWORD || password.len() > MAX_PASSWORD {
        return Err(format!(
            "the password has {length} characters: {MIN_PASSWORD} to {MAX_PASSWORD} are allowed"
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

/// Returns the id of the user with this name and password. Users without a
/// password are rejected, in the same time as a wrong password takes.
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
        // Without a stored hash, the dummy is verified, so that both cases take
        // the same time.
        _ => (None, DUMMY.to_owned()),
    };
    let check = move || is_right(&password, &hash);
    let right = app.gates.passwords.run("", check).await?;
    Ok(id.filter(|_| right))
}

/// Hash of random bytes, with the parameters of [`hash_password`].
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRvZm91cnM$\
                     Wc1KQlvoWK2nMvGnXCqjJ4UJoyFKvxZPcqPzK1sq9yE";

/// Returns the user of a token, in the wanted project.
pub(crate) async fn by_token(
    app: &App,
    token: &str,
    wanted: Wanted,
    address: Option<IpAddr>,
) -> Result<Identity> {
    let hash = secret::hash(token);
    let user = app.database.identify(hash.clone(), wanted, address).await?;
    let user = user.ok_or_else(ApiError::unauthorized)?;
    app.note_use(hash);
    Ok(user)
}

/// Creates a code that signs the user in to the console once, or `None` if the
/// user does not exist. The code is valid for an hour and for this server process
/// only.
pub(crate) async fn sign_in_code(app: &App, name: &str) -> rusqlite::Result<Option<String>> {
    let Some((id, _)) = app.database.password(name.to_owned()).await? else {
        return Ok(None);
    };
    let text = format!("{id}-{}", now_ms().saturating_add(CODE_LIFE));
    let signature = app.signer.sign(&purpose(app), &text);
    Ok(Some(format!("{text}-{signature}")))
}

/// Creates the cookie value that identifies a device on later sign-ins: a random
/// id and its signature for this user.
pub(crate) fn device_cookie(app: &App, user: &str) -> String {
    let id = secret::new_id();
    let signature = app.signer.sign("device", &format!("{id} {user}"));
    format!("{id}-{signature}")
}

/// Returns the id in a device cookie if it was created for this user.
pub(crate) fn known_device<'a>(app: &App, user: &str, cookie: &'a str) -> Option<&'a str> {
    let (id, signature) = cookie.split_once('-')?;
    let text = format!("{id} {user}");
    app.signer.verify("device", &text, signature).then_some(id)
}

/// Purpose of the signature of sign-in codes. It contains the id of this server
/// process, because the used codes are only kept in its memory.
fn purpose(app: &App) -> String {
    format!("sign in {}", app.boot)
}

/// Returns the id of the user whom a code signs in, and spends the code.
pub(crate) fn redeem_code(app: &App, code: &str) -> Option<String> {
    let (text, signature) = code.rsplit_once('-')?;
    let (id, until) = text.split_once('-')?;
    let until: i64 = until.parse().ok()?;
    let good = app.signer.verify(&purpose(app), text, signature)
        && until > now_ms()
        && app.spent_codes.spend(signature, until);
    good.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hashed_and_verified() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$") && !hash.contains("horse"));
        assert_ne!(hash, hash_password("correct horse").unwrap(), "salted");
        assert!(is_right("correct horse", &hash));
        assert!(!is_right("correct mouse", &hash));
        assert!(!is_right("", "no hash"));
        assert!(
            PasswordHash::new(DUMMY).is_ok(),
            "its verification takes as long"
        );
        assert!(hash_password("short").unwrap_err().contains("8 to 1024"));
    }
}
