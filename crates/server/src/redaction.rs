//! Run configurations as the API and the console show them: without keys and
//! passwords of trackers. The stored configuration keeps them for the workers.

use serde_json::Value;
use url::Url;

use crate::outside::without_secrets;

/// Replacement for a secret.
const REDACTED: &str = "[redacted]";

/// Returns a stored configuration without secrets, or `null` if it is not JSON.
pub(crate) fn shown_config(stored: &str) -> Value {
    let mut config: Value = serde_json::from_str(stored).unwrap_or_default();
    if let Some(callbacks) = config.get_mut("callbacks") {
        redact(callbacks);
    }
    config
}

/// Returns whether a stored configuration contains secrets.
pub(crate) fn has_secrets(stored: &str) -> bool {
    let config: Value = serde_json::from_str(stored).unwrap_or_default();
    shown_config(stored) != config
}

fn redact(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if is_secret(name) && !text.is_empty() => {
                        REDACTED.clone_into(text);
                    }
                    Value::String(text) => redact_address(text),
                    value => redact(value),
                }
            }
        }
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "token", "password", "secret"]
        .iter()
        .any(|word| name.contains(word))
}

/// Removes user name, password and query from an address. Leaves other texts
/// unchanged.
fn redact_address(text: &mut String) {
    let Ok(url) = Url::parse(text.trim()) else {
        return;
    };
    let has_login = !url.username().is_empty() || url.password().is_some();
    if url.has_host() && (has_login || url.query().is_some()) {
        *text = without_secrets(&url).into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_passwords_of_trackers_are_redacted() {
        let config = json!({
            "model": {"name": "m", "options": {"token": "kept"}},
            "callbacks": [
                {"name": "WandBLogger", "options": {
                    "api_key": "secret", "wandb_api_key": "secret", "experiment": "e",
                    "wandb_args": {"api_key": "secret", "project": "p"},
                }},
                {"name": "MLFlowLogger", "options": {
                    "tracking_uri": "https://ann:secret@example.org/mlflow?token=secret",
                }},
                {"name": "MLFlowLogger", "options": {"tracking_uri": "http://example.org:5000"}},
                {"name": "WandBLogger", "options": {"api_key": null}},
            ],
        });
        assert!(has_secrets(&config.to_string()));
        let shown = shown_config(&config.to_string());
        assert!(!has_secrets(
            &json!({"callbacks": [{"name": "WandBLogger"}]}).to_string()
        ));
        assert!(!shown.to_string().contains("secret"), "{shown}");
        assert_eq!(shown["model"], config["model"]);
        let options = |i: usize| &shown["callbacks"][i]["options"];
        assert_eq!(options(0)["api_key"], REDACTED);
        assert_eq!(options(0)["wandb_args"]["project"], "p");
        assert_eq!(options(1)["tracking_uri"], "https://example.org/mlflow");
        assert_eq!(options(2)["tracking_uri"], "http://example.org:5000");
        assert_eq!(options(3), &config["callbacks"][3]["options"]);
        assert_eq!(shown_config("no JSON"), Value::Null);
    }
}
