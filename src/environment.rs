//! Environment variables. A blank variable counts as unset.

/// Reads an environment variable; logs a warning if it is not UTF-8.
pub(crate) fn process(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string();
    if value.is_err() {
        tracing::warn!("ignoring the environment variable {name}: its value is not UTF-8");
    }
    value.ok()
}

/// Returns a variable's trimmed value, or `None` if it is unset or blank.
pub(crate) fn variable(environment: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let value = environment(name)?.trim().to_owned();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_variable_counts_as_unset() {
        let value = |text: &'static str| variable(move |_| Some(text.to_owned()), "X");
        assert_eq!(value(" a b\r\n"), Some("a b".to_owned()));
        assert_eq!(value(" \t\n"), None);
        assert_eq!(variable(|_| None, "X"), None);
    }
}
