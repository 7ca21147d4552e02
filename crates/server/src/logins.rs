//! Browser logins in progress: programs that wait until their user confirms.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use url::Url;

use crate::{
    attempts::network,
    error::{ApiError, Result},
    secret,
};

/// Time that the user has to confirm.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Time for which a confirmed login's code can be exchanged.
const CODE_LIFE: Duration = Duration::from_secs(300);

/// Maximum number of waiting logins.
const MAX_WAITING: usize = 4096;

/// Maximum number of waiting logins per network.
const MAX_OF_NETWORK: usize = 64;

/// Logins in progress, by the id in the address of the login page.
#[derive(Default)]
pub(crate) struct Logins(Mutex<HashMap<String, Waiting>>);

struct Waiting {
    since: Instant,
    state: String,
    /// The program that requested the login.
    program: Program,
    answer: Answer,
    /// Wakes the program's stream.
    changed: watch::Sender<()>,
}

/// A program that requests a login.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Name that the program gives itself.
    pub(crate) name: String,
    /// IP address of the program, if known.
    pub(crate) address: Option<IpAddr>,
    /// Address to which the browser is redirected with the code, if the program listens
    /// there.
    pub(crate) redirect: Option<Url>,
}

/// The user's answer.
#[derive(Clone)]
pub(crate) enum Answer {
    Open,
    Refused,
    Agreed {
        code: String,
        user_id: String,
        at: Instant,
    },
}

/// Code that a program exchanges for a token.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) code: String,
    pub(crate) state: String,
}

impl Logins {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops expired logins.
    pub(crate) fn forget(&self) {
        self.all()
            .retain(|_, login| login.since.elapsed() < PATIENCE + CODE_LIFE);
    }

    pub(crate) fn begin(&self, program: Program) -> Result<String> {
        self.forget();
        let mut all = self.all();
        let from = program.address.map(network);
        let open = |login: &&Waiting| {
            login.since.elapsed() < PATIENCE && matches!(login.answer, Answer::Open)
        };
        let of_network = all
            .values()
            .filter(open)
            .filter(|login| login.program.address.map(network) == from);
        let full = match of_network.count() >= MAX_OF_NETWORK {
            true => Some(format!(
                "{MAX_OF_NETWORK} logins from this network are waiting for their users"
            )),
            false => (all.len() >= MAX_WAITING)
                .then(|| format!("{MAX_WAITING} logins are waiting for their users")),
        };
        if let Some(full) = full {
            let message = format!("{full}: finish one of them, or try again in a minute");
            return Err(ApiError::too_many(message, 60));
        }
        let id = secret::new_id();
        all.insert(
            id.clone(),
            Waiting {
                since: Instant::now(),
                state: secret::new_id(),
                program,
                answer: Answer::Open,
                changed: watch::channel(()).0,
            },
        );
        Ok(id)
    }

    /// Returns the program of an unanswered login.
    pub(crate) fn program(&self, id: &str) -> Option<Program> {
        let all = self.all();
        let login = all.get(id)?;
        let open = matches!(login.answer, Answer::Open) && login.since.elapsed() < PATIENCE;
        open.then(|| login.program.clone())
    }

    /// Records the user's answer; `user_id` is `None` for a refusal. Returns the
    /// code for the program. `None` if the login was refused, is already answered
    /// or has expired.
    pub(crate) fn answer(&self, id: &str, user_id: Option<String>) -> Option<Code> {
        let mut all = self.all();
        let login = all.get_mut(id)?;
        if !matches!(login.answer, Answer::Open) || login.since.elapsed() >= PATIENCE {
            return None;
        }
        let code = user_id.map(|user_id| {
            let code = secret::new_token();
            login.answer = Answer::Agreed {
                code: code.clone(),
                user_id,
                at: Instant::now(),
            };
            Code {
                code,
                state: login.state.clone(),
            }
        });
        if code.is_none() {
            login.answer = Answer::Refused;
        }
        // The program may have disconnected.
        let _ = login.changed.send(());
        code
    }

    /// Returns the user of a code, and ends its validity.
    pub(crate) fn redeem(&self, code: &Code) -> Option<String> {
        let mut all = self.all();
        let found = all.iter().find_map(|(id, login)| match &login.answer {
            Answer::Agreed {
                code: given,
                user_id,
                at,
            } if *given == code.code && login.state == code.state && at.elapsed() < CODE_LIFE => {
                Some((id.clone(), user_id.clone()))
            }
            _ => None,
        });
        let (id, user_id) = found?;
        all.remove(&id);
        Some(user_id)
    }

    pub(crate) fn follow(&self, id: &str) -> Option<(watch::Receiver<()>, Answer, String)> {
        let all = self.all();
        let login = all.get(id)?;
        let (answer, state) = (login.answer.clone(), login.state.clone());
        Some((login.changed.subscribe(), answer, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking() -> Program {
        Program {
            name: "test".to_owned(),
            address: None,
            redirect: None,
        }
    }

    #[test]
    fn a_code_is_valid_once_and_only_with_its_state() {
        let logins = Logins::default();
        let id = logins.begin(asking()).unwrap();
        assert_eq!(logins.program(&id).unwrap().name, "test");
        let code = logins.answer(&id, Some("ada".to_owned())).unwrap();
        assert!(logins.program(&id).is_none(), "the login was answered");
        assert!(logins.answer(&id, Some("eve".to_owned())).is_none());
        let wrong = Code {
            state: "other".to_owned(),
            ..code.clone()
        };
        assert_eq!(logins.redeem(&wrong), None);
        assert_eq!(logins.redeem(&code).as_deref(), Some("ada"));
        assert_eq!(logins.redeem(&code), None);
        let id = logins.begin(asking()).unwrap();
        assert!(logins.answer(&id, None).is_none());
        assert!(logins.answer(&id, Some("ada".to_owned())).is_none());
    }

    fn asking_from(address: &str) -> Program {
        Program {
            address: Some(address.parse().unwrap()),
            ..asking()
        }
    }

    #[test]
    fn one_network_can_not_use_up_all_waiting_logins() {
        let logins = Logins::default();
        let ids: Vec<String> = (0..MAX_OF_NETWORK)
            .map(|_| logins.begin(asking_from("192.0.2.1")).unwrap())
            .collect();
        let error = logins.begin(asking_from("192.0.2.1")).unwrap_err();
        assert!(error.message().contains("from this network"));
        logins.begin(asking_from("192.0.2.2")).unwrap();
        // An answered login no longer counts.
        logins.answer(&ids[0], None);
        logins.begin(asking_from("192.0.2.1")).unwrap();
    }

    #[test]
    fn the_number_of_waiting_logins_is_limited() {
        let logins = Logins::default();
        for n in 0..MAX_WAITING {
            let address = format!("10.0.{}.{}", n / 256, n % 256);
            logins.begin(asking_from(&address)).unwrap();
        }
        assert!(logins.begin(asking_from("192.0.2.1")).is_err());
    }
}
