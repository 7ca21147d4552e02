//! The trackers of a run, and the addresses and keys that they may use.
//!
//! An address that a run names must belong to the public network, unless the
//! operator allows others. The address in the server's environment is the
//! operator's: runs may name it, wherever it is. The operator's keys are sent to
//! that address only, scheme, host, port and path included.

use finetuner_protocol::{
    Callback, Level, RunConfig,
    callback::{MLFlowLogger, WandBLogger},
};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::runtime::Handle;
use url::Url;

use super::{
    mlflow::{self, Login, MlFlow},
    tasks::{Log, Trackers},
    tracker::Tracker,
    wandb::{self, WandB},
};
use crate::outside;

/// The service of Weights & Biases.
const WANDB: &str = "https://api.wandb.ai";
/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A redirect would turn a POST into a GET, and might lead to another host.
const REDIRECTS: usize = 0;

/// The operator's settings for trackers, under the names that MLflow and Weights &
/// Biases use.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    pub(super) mlflow_uri: Option<String>,
    mlflow_token: Option<String>,
    mlflow_login: Option<(String, String)>,
    pub(super) wandb_url: Option<String>,
    wandb_key: Option<String>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn of_this_process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let user = given("MLFLOW_TRACKING_USERNAME");
        Self {
            mlflow_uri: given("MLFLOW_TRACKING_URI"),
            mlflow_token: given("MLFLOW_TRACKING_TOKEN"),
            mlflow_login: user.zip(given("MLFLOW_TRACKING_PASSWORD")),
            wandb_url: given("WANDB_BASE_URL"),
            wandb_key: given("WANDB_API_KEY"),
        }
    }
}

/// A run that trackers follow.
pub(crate) struct Tracked<'a> {
    pub(crate) config: &'a RunConfig,
    /// The run's unique id.
    pub(crate) run: &'a str,
    /// Whether addresses of this machine and of private networks are allowed.
    pub(crate) private: bool,
}

impl Trackers {
    /// Starts the trackers that a run asks for. `log` returns a writer of the run's
    /// log.
    pub(crate) fn of_run(
        tracked: &Tracked<'_>,
        environment: &Environment,
        runtime: &Handle,
        log: impl Fn() -> Log,
    ) -> Self {
        let mut trackers = Vec::new();
        for callback in &tracked.config.callbacks {
            let found = match callback {
                Callback::MLFlowLogger(options) => mlflow_of(tracked, options, environment),
                Callback::WandBLogger(options) => wandb_of(tracked, options, environment),
                _ => continue,
            };
            match found {
                Ok(found) => trackers.extend(found),
                Err(reason) => log()(Level::Warning, reason),
            }
        }
        Self::start(trackers, runtime, log)
    }
}

/// An address and a client for it.
struct Target {
    client: Client,
    address: Url,
    /// Whether the address is the operator's.
    own: bool,
}

/// Returns the target at `given`, or `None` if that is not an http or https
/// address.
fn target(
    name: &str,
    given: &str,
    own: Option<&str>,
    private: bool,
) -> Result<Option<Target>, String> {
    let address = Url::parse(given.trim()).ok();
    let address = address.filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(mut address) = address else {
        return Ok(None);
    };
    // A query would swallow the API paths that are appended.
    address.set_query(None);
    address.set_fragment(None);
    let own = own.and_then(|own| Url::parse(own.trim()).ok());
    let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
    let own =
        own.is_some_and(|own| own.origin() == address.origin() && path(&own) == path(&address));
    let allowed = private || own;
    let host = address.host_str().unwrap_or_default().to_owned();
    let client = outside::check(&address, allowed)
        .and_then(|()| outside::client(allowed, TIMEOUT, REDIRECTS))
        .map_err(|reason| {
            format!(
                "{name} at {host} is not used: {reason}. The artifact holds the measurements under \
                 logs"
            )
        })?;
    Ok(Some(Target {
        client,
        address,
        own,
    }))
}

fn mlflow_of(
    tracked: &Tracked<'_>,
    options: &MLFlowLogger,
    environment: &Environment,
) -> Result<Option<Tracker>, String> {
    let own = environment.mlflow_uri.as_deref();
    let given = match options.tracking_uri.trim() {
        "" => own.unwrap_or_default(),
        given => given,
    };
    let Some(mut target) = target("MLflow", given, own, tracked.private)? else {
        return Ok(None);
    };
    let decoded = |text: &str| {
        let text = format!("x={}", text.replace('+', "%2B"));
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs
            .map(|(_, value)| value.into_owned())
            .next()
            .unwrap_or_default()
    };
    let user = decoded(target.address.username());
    let login = match target.address.password() {
        Some(password) => Login::Password(user, decoded(password)),
        None if target.own => match (&environment.mlflow_token, &environment.mlflow_login) {
            (Some(token), _) => Login::Token(token.clone()),
            (None, Some((user, password))) => Login::Password(user.clone(), password.clone()),
            (None, None) => Login::None,
        },
        None => Login::None,
    };
    // The login goes into a header, never into an address.
    let _ = (
        target.address.set_username(""),
        target.address.set_password(None),
    );
    let config = tracked.config;
    let about = mlflow::About {
        experiment: match options.experiment.as_str() {
            "" => config.experiment_name.clone(),
            name => name.to_owned(),
        },
        run_name: config.run_name.clone(),
        run: tracked.run.to_owned(),
        params: settings(config)
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => (name, text),
                value => (name, value.to_string()),
            })
            .collect(),
        tags: vec![
            ("mlflow.source.name".to_owned(), "finetuner".to_owned()),
            ("mlflow.source.type".to_owned(), "JOB".to_owned()),
            (
                "finetuner.experiment".to_owned(),
                config.experiment_name.clone(),
            ),
        ],
    };
    let mlflow = MlFlow::new(target.client, target.address, login, about);
    Ok(Some(Tracker::MlFlow(mlflow)))
}

fn wandb_of(
    tracked: &Tracked<'_>,
    options: &WandBLogger,
    environment: &Environment,
) -> Result<Option<Tracker>, String> {
    let argument = |name: &str| options.wandb_args.as_ref()?.get(name).cloned();
    let text = |name: &str| argument(name)?.as_str().map(str::to_owned);
    if text("mode").is_some_and(|mode| mode != "online") {
        return Ok(None);
    }
    let extra = |name: &str| options.extra.get(name)?.as_str().map(str::to_owned);
    let keys = [
        options.api_key.clone(),
        extra("wandb_api_key"),
        text("api_key"),
        environment.wandb_key.clone(),
    ];
    let key = keys
        .into_iter()
        .flatten()
        .find(|key| !key.trim().is_empty());
    let Some(key) = key else {
        return Ok(None);
    };
    let own = environment.wandb_url.as_deref();
    let given = own.unwrap_or(WANDB);
    let Some(target) = target("Weights & Biases", given, own, tracked.private)? else {
        return Ok(None);
    };
    let config = tracked.config;
    let experiment = match options.experiment.as_str() {
        "" => config.experiment_name.clone(),
        name => name.to_owned(),
    };
    let digest = Sha256::digest(tracked.run.as_bytes());
    let tags = argument("tags");
    let tags = tags
        .as_ref()
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let about = wandb::About {
        project: text("project").unwrap_or(experiment),
        entity: text("entity"),
        id: hex::encode(&digest[..4]),
        name: text("name").unwrap_or_else(|| config.run_name.clone()),
        notes: text("notes"),
        tags: tags.filter_map(Value::as_str).map(str::to_owned).collect(),
        config: settings(config),
        steps: options.metrics_logger_step == "batch",
        start: options.log_zero_shot,
    };
    let wandb = WandB::new(target.client, target.address, key.trim().to_owned(), about);
    Ok(Some(Tracker::WandB(wandb)))
}

/// Returns the settings of a run that trackers show. Options of callbacks are left
/// out, since they may hold keys.
fn settings(config: &RunConfig) -> Vec<(String, Value)> {
    let (model, hyper, data) = (&config.model, &config.hyper_parameters, &config.data);
    let all = json!({
        "model": model.name.clone().or(model.artifact.clone()),
        "model_options": model.options,
        "freeze": model.freeze,
        "output_dim": model.output_dim,
        "train_data": data.train_data,
        "eval_data": data.eval_data,
        "loss": hyper.loss,
        "loss_options": hyper.loss_options,
        "miner": hyper.miner,
        "optimizer": hyper.optimizer,
        "optimizer_options": hyper.optimizer_options,
        "scheduler": hyper.scheduler,
        "learning_rate": hyper.learning_rate,
        "batch_size": hyper.batch_size,
        "epochs": hyper.epochs,
    });
    let Value::Object(all) = all else {
        return Vec::new();
    };
    all.into_iter()
        .filter(|(_, value)| !value.is_null())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(callback: impl Into<Callback>) -> RunConfig {
        let mut config = RunConfig::default();
        config.run_name = "shoes".to_owned();
        config.experiment_name = "fashion".to_owned();
        config.callbacks = vec![callback.into()];
        config
    }

    fn tracked(config: &RunConfig, private: bool) -> Tracked<'_> {
        Tracked {
            config,
            run: "0123",
            private,
        }
    }

    fn environment(of: &[(&str, &str)]) -> Environment {
        Environment::of(|name| {
            let found = of.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn mlflow(uri: &str, private: bool, own: &[(&str, &str)]) -> Result<Option<MlFlow>, String> {
        let options = MLFlowLogger::new("", uri);
        let config = config(options.clone());
        let found = mlflow_of(&tracked(&config, private), &options, &environment(own))?;
        Ok(found.map(|tracker| match tracker {
            Tracker::MlFlow(mlflow) => mlflow,
            Tracker::WandB(_) => panic!("another tracker"),
        }))
    }

    #[test]
    fn private_tracker_addresses_need_permission() {
        for private in [
            "http://127.0.0.1:5000",
            "http://169.254.169.254/latest",
            "http://10.0.0.7",
            "http://[::1]:5000",
        ] {
            let reason = mlflow(private, false, &[]).err().unwrap();
            assert!(reason.contains("private network"), "{reason}");
            assert!(mlflow(private, true, &[]).unwrap().is_some());
            // The operator's own address is allowed, but no other port or path there.
            let own = [("MLFLOW_TRACKING_URI", private)];
            assert!(mlflow(private, false, &own).unwrap().is_some());
        }
        let own = [("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")];
        for other in [
            "http://127.0.0.1:5001",
            "http://127.0.0.1:5000/admin",
            "http://127.0.0.1:5000/admin?x=",
        ] {
            assert!(mlflow(other, false, &own).is_err(), "{other}");
        }
        for same in ["http://127.0.0.1:5000/?x=1", "http://127.0.0.1:5000#x"] {
            let address = mlflow(same, false, &own).unwrap().unwrap().address();
            assert_eq!(address.as_str(), "http://127.0.0.1:5000/", "{same}");
        }
        assert!(mlflow("http://example.org", false, &[]).unwrap().is_some());
    }

    #[test]
    fn trackers_without_an_http_address_get_only_files() {
        for uri in ["./mlruns", "file:///tmp/mlruns", "sqlite:///x.db", ""] {
            assert!(mlflow(uri, false, &[]).unwrap().is_none(), "{uri}");
        }
        let own = [("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")];
        assert!(mlflow("", false, &own).unwrap().is_some());
    }

    #[test]
    fn the_operators_keys_are_sent_only_to_the_operators_address() {
        let own = [
            ("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000"),
            ("MLFLOW_TRACKING_TOKEN", "secret"),
        ];
        let login = |uri: &str| mlflow(uri, true, &own).unwrap().unwrap().login();
        assert!(
            matches!(login("http://127.0.0.1:5000/"), Login::Token(token) if token == "secret")
        );
        for other in ["http://127.0.0.1:5001/", "http://127.0.0.1:5000/mine"] {
            assert!(matches!(login(other), Login::None), "{other}");
        }
        let of_run = login("http://ann:p%40ss@127.0.0.1:5001/");
        assert!(
            matches!(of_run, Login::Password(user, password) if user == "ann" && password == "p@ss")
        );
    }

    #[test]
    fn weights_and_biases_is_used_if_a_key_is_set() {
        let found = |options: WandBLogger, own: &[(&str, &str)]| {
            let config = config(options.clone());
            wandb_of(&tracked(&config, false), &options, &environment(own))
                .unwrap()
                .is_some()
        };
        assert!(!found(WandBLogger::new(), &[]));
        assert!(found(WandBLogger::new().api_key("k"), &[]));
        assert!(found(WandBLogger::new(), &[("WANDB_API_KEY", "k")]));
        let offline = WandBLogger::new().api_key("k").wandb_arg("mode", "offline");
        assert!(!found(offline, &[]));
    }
}
