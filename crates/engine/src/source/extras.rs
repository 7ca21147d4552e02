//! Settings of a saved model that no standard file holds.

use serde_json::{Value, json};

use crate::{Error, Result, models::HeadConfig, ops::Pooler};

/// File with a saved model's [`Extras`].
pub(crate) const EXTRAS_FILE: &str = "finetuner.json";
/// File with the weights of a projection head.
pub(crate) const HEAD_FILE: &str = "projection_head.safetensors";

/// Settings of a saved model that no standard file holds: pooling and
/// projection head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Extras {
    pub(crate) pooler: Option<Pooler>,
    pub(crate) head: Option<HeadConfig>,
    /// Positions of the head's layers in the module list, where
    /// sentence-transformers reads them.
    pub(crate) head_modules: Vec<usize>,
    /// Longest text in tokens, if no other file has it.
    pub(crate) max_tokens: Option<usize>,
    /// The module list of a model that sentence-transformers can't load.
    pub(crate) modules: Option<Value>,
    /// Whether pooling includes a prompt's tokens, if no other file says so.
    pub(crate) include_prompt: bool,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            pooler: None,
            head: None,
            head_modules: Vec::new(),
            max_tokens: None,
            modules: None,
            include_prompt: true,
        }
    }
}

impl Extras {
    pub(crate) fn to_json(&self) -> Value {
        let pooler = self.pooler.map(|pooler| match (pooler, pooler.names()) {
            (Pooler::GeM { p, eps }, _) => json!({"name": "GeM", "p": p, "eps": eps}),
            (_, names) => match names.as_deref() {
                Some([name]) => json!({"name": name}),
                names => json!({"names": names}),
            },
        });
        let head = self.head.map(
            |head| json!({"inputs": head.inputs, "outputs": head.outputs, "weights": HEAD_FILE}),
        );
        let mut all = json!({"pooler": pooler, "projection_head": head});
        if let Some(longest) = self.max_tokens {
            all["max_length"] = longest.into();
        }
        if !self.head_modules.is_empty() {
            all["projection_head"]["modules"] = self.head_modules.clone().into();
        }
        if let Some(modules) = &self.modules {
            all["modules"] = modules.clone();
        }
        if !self.include_prompt {
            all["include_prompt"] = false.into();
        }
        all
    }

    pub(super) fn parse(json: &Value) -> Result<Self> {
        let bad = |what: &str| Error::checkpoint(format!("{EXTRAS_FILE}: bad `{what}`"));
        let pooler = match (&json["pooler"]["name"], &json["pooler"]["names"]) {
            (Value::Null, Value::Null) => None,
            (Value::String(name), _) if name == "GeM" => {
                let number = |name: &str, default: f64| {
                    json["pooler"]
                        .get(name)
                        .map_or(Some(default), Value::as_f64)
                };
                let (p, eps) = (number("p", 3.0), number("eps", 1e-6));
                match (p, eps) {
                    (Some(p), Some(eps)) if p > 0.0 && eps > 0.0 => Some(Pooler::GeM {
                        p: p as f32,
                        eps: eps as f32,
                    }),
                    _ => return Err(bad("pooler")),
                }
            }
            (Value::String(name), _) => Some(Pooler::named(&[name]).map_err(|_| bad("pooler"))?),
            (_, Value::Array(names)) => {
                let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
                let pooler = names.and_then(|names| Pooler::named(&names).ok());
                Some(pooler.ok_or_else(|| bad("pooler"))?)
            }
            _ => return Err(bad("pooler")),
        };
        let head = &json["projection_head"];
        let length = |name: &str| {
            let length = head[name].as_u64().filter(|n| (1..1 << 20).contains(n));
            length
                .map(|n| n as usize)
                .ok_or_else(|| bad("projection_head"))
        };
        let max_tokens = match &json["max_length"] {
            Value::Null => None,
            longest => {
                let longest = longest.as_u64().filter(|n| (1..1 << 32).contains(n));
                Some(longest.ok_or_else(|| bad("max_length"))? as usize)
            }
        };
        let head_modules = match &head["modules"] {
            Value::Null => Some(Vec::new()),
            Value::Array(indices) => {
                let indices = indices.iter().map(|index| Some(index.as_u64()? as usize));
                indices.collect()
            }
            _ => None,
        };
        Ok(Self {
            pooler,
            max_tokens,
            head_modules: head_modules.ok_or_else(|| bad("projection_head"))?,
            modules: Some(json["modules"].clone()).filter(Value::is_array),
            include_prompt: json["include_prompt"].as_bool().unwrap_or(true),
            head: if head.is_null() {
                None
            } else {
                Some(HeadConfig {
                    inputs: length("inputs")?,
                    outputs: length("outputs")?,
                })
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_and_parsed() {
        let head = Some(HeadConfig {
            inputs: 8,
            outputs: 3,
        });
        let gem = Pooler::GeM { p: 2.0, eps: 0.5 };
        for (pooler, head) in [
            (None, None),
            (Some(Pooler::Cls), head),
            (Some(gem), None),
            (Some(Pooler::Max), None),
            (Pooler::named(&["cls", "mean"]).ok(), None),
        ] {
            let max_tokens = head.map(|head| head.outputs);
            let extras = Extras {
                pooler,
                head,
                max_tokens,
                head_modules: head.map_or(Vec::new(), |_| vec![2, 3]),
                modules: max_tokens.map(|_| json!([{"path": ""}])),
                include_prompt: head.is_none(),
            };
            assert_eq!(Extras::parse(&extras.to_json()).unwrap(), extras);
        }
        for bad in [
            json!({"pooler": {"name": "best"}}),
            json!({"pooler": {"name": "GeM", "p": 0}}),
            json!({"projection_head": {"inputs": 0, "outputs": 1}}),
        ] {
            assert!(Extras::parse(&bad).is_err(), "{bad}");
        }
    }
}
