//! What a saved model is beside its network.

use serde_json::{Value, json};

use super::{EXTRAS_FILE, HEAD_FILE, POOLING_FILE};
use crate::{Error, Result, models::HeadConfig, ops::Pooler};

/// What a saved model is beside its network: how it pools, and whether it has
/// a projection head.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extras {
    pub(crate) pooler: Option<Pooler>,
    pub(crate) head: Option<HeadConfig>,
    /// Longest text in tokens, where a run has set it.
    pub(crate) max_tokens: Option<usize>,
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
        Ok(Self {
            pooler,
            max_tokens,
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

    /// How a model of sentence-transformers pools.
    pub(super) fn from_sentence_transformers(json: &Value) -> Result<Self> {
        let on = |mode: &str| json[format!("pooling_mode_{mode}")].as_bool() == Some(true);
        let pooler = match (on("mean_tokens"), on("max_tokens"), on("cls_token")) {
            (true, false, false) => Pooler::Mean,
            (false, true, false) => Pooler::Max,
            (false, false, true) => Pooler::Cls,
            // Newer versions name the mode.
            (false, false, false) => match json["pooling_mode"].as_str() {
                Some("mean") => Pooler::Mean,
                Some("max") => Pooler::Max,
                Some("cls") => Pooler::Cls,
                _ => return Err(Error::checkpoint(format!("{POOLING_FILE}: no known mode"))),
            },
            _ => {
                return Err(Error::checkpoint(format!(
                    "{POOLING_FILE}: several modes at once are not known"
                )));
            }
        };
        Ok(Self {
            pooler: Some(pooler),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_is_beside_its_network_is_read_back() {
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
        let st = |json: Value| Extras::from_sentence_transformers(&json);
        let mean = st(json!({"pooling_mode_mean_tokens": true})).unwrap();
        assert_eq!(mean.pooler, Some(Pooler::Mean));
        let cls = st(json!({"pooling_mode": "cls"})).unwrap();
        assert_eq!(cls.pooler, Some(Pooler::Cls));
        assert!(st(json!({})).is_err());
    }
}
