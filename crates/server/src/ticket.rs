//! Signed keys that authorise by themselves, such as the address of a download.
//! A key contains what it permits and until when. The server does not store it,
//! so it remains valid after a restart.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::database::{ArtifactRow, Identity, now_ms};

/// Validity of a download address, in milliseconds.
const LIFE: i64 = 3600 * 1000;

/// Key for signatures.
#[derive(Clone)]
pub(crate) struct Signer([u8; 32]);

/// A permitted download, as a download key encodes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Download {
    pub(crate) content: String,
    pub(crate) size: u64,
    /// Name of the file.
    pub(crate) name: String,
    /// Ids of the project and the user that the key is restricted to. It is valid while
    /// the user is a member. `None` permits everybody who has the key.
    pub(crate) member: Option<(String, String)>,
}

impl Download {
    pub(crate) fn of(artifact: &ArtifactRow) -> Self {
        let ending = match artifact.kind.as_str() {
            "documentArray" => "da",
            _ => "zip",
        };
        let name = artifact.name.as_ref().unwrap_or(&artifact.id);
        Self {
            content: artifact.content.clone(),
            size: artifact.size,
            name: format!("{name}.{ending}"),
            member: None,
        }
    }

    /// Restricts the key to a member of the project, unless the artifact is public.
    pub(crate) fn for_member(self, artifact: &ArtifactRow, user: &Identity) -> Self {
        let member = (user.namespace.clone(), user.person.clone());
        Self {
            member: (!artifact.public).then_some(member),
            ..self
        }
    }
}

impl Signer {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Signs `text` for one purpose. Returns the signature as hex digits.
    pub(crate) fn sign(&self, purpose: &str, text: &str) -> String {
        hex::encode(self.mac(purpose, text).finalize().into_bytes())
    }

    /// Whether `signature` is the signature of `text` for this purpose.
    pub(crate) fn verify(&self, purpose: &str, text: &str, signature: &str) -> bool {
        // `verify_slice` compares in constant time.
        hex::decode(signature)
            .is_ok_and(|bytes| self.mac(purpose, text).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        // Padded with zeros to the block size, as HMAC does itself.
        let mut key = [0; 64];
        key[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&key.into());
        // A line feed separates the parts, because a purpose never contains one.
        for part in [purpose, "\n", text] {
            mac.update(part.as_bytes());
        }
        mac
    }

    /// Returns a key for a download.
    pub(crate) fn download(&self, download: Download) -> String {
        let Download {
            content,
            size,
            name,
            member,
        } = download;
        let (until, name) = (now_ms().saturating_add(LIFE), hex::encode(name));
        let member = member.map_or(String::new(), |(project, person)| {
            format!("-{project}-{person}")
        });
        let text = format!("{content}-{size}-{until}-{name}{member}");
        let signature = self.sign("download", &text);
        format!("{text}-{signature}")
    }

    /// Returns what a download key permits. `None` if it has expired or its
    /// signature is wrong.
    pub(crate) fn redeem(&self, key: &str) -> Option<Download> {
        let (text, signature) = key.rsplit_once('-')?;
        if !self.verify("download", text, signature) {
            return None;
        }
        let mut parts = text.split('-');
        let (content, size, until) = (parts.next()?, parts.next()?, parts.next()?);
        let until: i64 = until.parse().ok()?;
        let name = String::from_utf8(hex::decode(parts.next()?).ok()?).ok()?;
        let owned = |part: Option<&str>| part.map(str::to_owned);
        let member = owned(parts.next()).zip(owned(parts.next()));
        (until > now_ms()).then_some(Download {
            content: content.to_owned(),
            size: size.parse().ok()?,
            name,
            member,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_keys_are_valid_and_they_expire() {
        let signer = Signer::new([1; 32]);
        let good = Download {
            content: "abcdef".to_owned(),
            size: 7,
            name: "a-b ä.zip".to_owned(),
            member: None,
        };
        let key = signer.download(good.clone());
        assert_eq!(signer.redeem(&key), Some(good.clone()));
        let members = Download {
            member: Some(("p1".to_owned(), "u1".to_owned())),
            ..good
        };
        let own = signer.download(members.clone());
        assert_eq!(signer.redeem(&own.replace("-u1-", "-u2-")), None);
        assert_eq!(signer.redeem(&own), Some(members));
        assert_eq!(Signer::new([2; 32]).redeem(&key), None);
        for bad in [
            key.replace("abcdef", "abcdee"),
            key.replace("-7-", "-8-"),
            key[..key.len() - 2].to_owned(),
            String::new(),
            "-".to_owned(),
            "ä-ä".to_owned(),
        ] {
            assert_eq!(signer.redeem(&bad), None, "{bad}");
        }
        let ended = format!("abcdef-7-{}-61", now_ms() - 1);
        let signature = signer.sign("download", &ended);
        assert_eq!(signer.redeem(&format!("{ended}-{signature}")), None);
        // A signature is valid for one purpose only.
        let session = signer.sign("session", "x");
        assert!(signer.verify("session", "x", &session));
        assert!(!signer.verify("download", "x", &session));
    }
}
