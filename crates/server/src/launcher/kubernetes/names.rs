//! Kubernetes' rules for names and labels (`k8s.io/apimachinery`,
//! `pkg/util/validation`). A setting that breaks a rule would make the cluster
//! refuse every Job.

/// Maximum length of a label's value, and of a name without a prefix.
const LABEL: usize = 63;
/// Maximum length of a DNS subdomain.
const SUBDOMAIN: usize = 253;

/// Whether the text is a valid name of a label or a taint: `name`, or
/// `prefix.example/name`.
pub(super) fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(text),
    }
}

/// Whether the text is a valid label value.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

/// Whether the text is a DNS subdomain (RFC 1123), the form of most object
/// names.
pub(super) fn is_subdomain(text: &str) -> bool {
    // Unlike in the RFC, the parts between the dots have no limit of their own.
    text.len() <= SUBDOMAIN && text.split('.').all(is_dns)
}

/// Whether the text is a DNS label (RFC 1123), the form of namespace names.
pub(super) fn is_dns_label(text: &str) -> bool {
    text.len() <= LABEL && is_dns(text)
}

/// Whether the text names an extended resource, such as `nvidia.com/gpu`.
pub(super) fn is_extended_resource(text: &str) -> bool {
    // A quota prepends `requests.`, and the result must be a qualified name as
    // well.
    is_qualified(text)
        && is_qualified(&format!("requests.{text}"))
        && text.contains('/')
        && !text.contains("kubernetes.io/")
        && !text.starts_with("requests.")
}

/// `[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?`
fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= LABEL && has_ends(text, u8::is_ascii_alphanumeric) && text.bytes().all(is_allowed)
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_dns(text: &str) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    has_ends(text, is_end) && text.bytes().all(|byte| is_end(&byte) || byte == b'-')
}

fn has_ends(text: &str, is_end: impl Fn(&u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(&is_end) && bytes.last().is_some_and(&is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_kubernetes_accepts_are_accepted() {
        let long = |n: usize| "a".repeat(n);
        type Rule = fn(&str) -> bool;
        let cases: [(Rule, Vec<String>, Vec<String>); 5] = [
            (
                is_qualified,
                vec!["pool".into(), "a.example/Pool_1.x".into(), long(63)],
                vec![
                    String::new(),
                    "-pool".into(),
                    "pool-".into(),
                    "po ol".into(),
                    "A.example/pool".into(),
                    "/pool".into(),
                    "a.example/".into(),
                    "a/b/c".into(),
                    "é".into(),
                    long(64),
                    format!("{}/pool", long(254)),
                ],
            ),
            (
                is_label_value,
                vec![String::new(), "training".into(), "A-1_b.c".into(), long(63)],
                vec![
                    "a b".into(),
                    "a=b".into(),
                    "a/b".into(),
                    ".a".into(),
                    long(64),
                ],
            ),
            (
                is_subdomain,
                vec!["trackers".into(), "a.b-c.0".into(), long(253)],
                vec![
                    "Trackers".into(),
                    "a_b".into(),
                    "a..b".into(),
                    String::new(),
                    long(254),
                ],
            ),
            (
                is_dns_label,
                vec!["ft".into(), long(63)],
                vec!["a.b".into(), "-a".into(), long(64)],
            ),
            (
                is_extended_resource,
                vec!["nvidia.com/gpu".into(), "amd.com/gpu".into()],
                vec![
                    "gpu".into(),
                    "requests.nvidia.com/gpu".into(),
                    "kubernetes.io/gpu".into(),
                    "nvidia.com/g pu".into(),
                ],
            ),
        ];
        for (rule, good, bad) in cases {
            for text in good {
                assert!(rule(&text), "{text}");
            }
            for text in bad {
                assert!(!rule(&text), "{text}");
            }
        }
    }
}
