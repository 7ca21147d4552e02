//! Variables of the environment. A blank one counts as unset.

/// Reads a variable of this process.
pub(crate) fn process(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string();
    if value.is_err() {
        tracing::warn!("the variable {name} is not UTF-8 and is not used");
    }
    value.ok()
}

/// Returns a variable's value without the white space around it, or none where
/// it is unset or blank.
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
