//! Limits on wrong passwords. They slow down guessing without locking out users
//! because of other people's guesses.
//!
//! An attempt counts as wrong from its start and is undone after a correct
//! password, so that parallel guesses can't pass the check together. Attempts
//! are counted for a user on a network, for a network, and for a user. The
//! limits of a network and of a user do not apply to devices on which the user
//! has signed in before. These devices present a signed cookie and have their
//! own count.
//!
//! The counts are not those of a rate limiter such as `governor`, because rate
//! limiters can't undo an attempt or forgive earlier ones.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::error::{ApiError, Result};

/// Time to wait after too many wrong passwords.
const PAUSE: Duration = Duration::from_secs(300);
/// Maximum number of stored counts.
const MAX_COUNTS: usize = 65_536;

/// Attempts that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group {
    /// A device on which the user has signed in before.
    Device(String),
    /// One user from one network.
    UserFrom(String, Option<IpAddr>),
    /// Anybody from one network.
    Network(Option<IpAddr>),
    /// One user from anywhere.
    User(String),
}

impl Group {
    /// Number of wrong passwords that leads to a pause.
    fn allowed(&self) -> u32 {
        match self {
            Self::Device(_) | Self::UserFrom(..) => 8,
            Self::Network(_) | Self::User(_) => 100,
        }
    }

    /// Whether a correct password shows that the earlier wrong ones were typing
    /// errors. That does not hold for a whole network, since a guesser may have an
    /// account.
    fn is_forgiven(&self) -> bool {
        matches!(self, Self::Device(_) | Self::UserFrom(..))
    }
}

/// Facts about an attempt before its password is checked.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    /// The given user name; empty for a token.
    pub(crate) user: &'a str,
    pub(crate) address: Option<IpAddr>,
    /// Id of a device on which this user has signed in before.
    pub(crate) device: Option<&'a str>,
}

impl Candidate<'_> {
    fn groups(&self) -> Vec<Group> {
        if let Some(device) = self.device {
            return vec![Group::Device(device.to_owned())];
        }
        let place = self.address.map(network);
        let of_network = Group::Network(place);
        // Tokens are too long to guess, so a token's attempt has no user.
        if self.user.is_empty() {
            return vec![of_network];
        }
        let user = self.user.to_lowercase();
        let from = Group::UserFrom(user.clone(), place);
        vec![from, of_network, Group::User(user)]
    }
}

/// Returns the part of an address that a client can't choose. A client usually
/// has 64 bits of an IPv6 address to itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
        v4 => v4,
    }
}

/// Counts of recent wrong passwords.
#[derive(Default)]
pub(crate) struct LoginAttempts(Mutex<HashMap<Group, Count>>);

struct Count {
    wrong: u32,
    last: Instant,
}

/// An attempt in progress. If it is dropped, it stays counted as wrong.
#[must_use]
pub(crate) struct Attempt<'a> {
    attempts: &'a LoginAttempts,
    groups: Vec<Group>,
}

impl LoginAttempts {
    fn counts(&self) -> MutexGuard<'_, HashMap<Group, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt, or refuses it.
    pub(crate) fn begin(&self, candidate: &Candidate<'_>) -> Result<Attempt<'_>> {
        self.begin_at(candidate, Instant::now())
    }

    fn begin_at(&self, candidate: &Candidate<'_>, now: Instant) -> Result<Attempt<'_>> {
        let groups = candidate.groups();
        let mut counts = self.counts();
        let age = |count: &Count| now.saturating_duration_since(count.last);
        for group in &groups {
            let count = counts.get(group).filter(|count| age(count) < PAUSE);
            if let Some(count) = count.filter(|count| count.wrong >= group.allowed()) {
                let left = (PAUSE - age(count)).as_secs().max(1);
                let message = format!("too many wrong passwords: try again in {left} seconds");
                return Err(ApiError::too_many(message, left));
            }
        }
        if counts.len() + groups.len() > MAX_COUNTS {
            counts.retain(|_, count| age(count) < PAUSE);
        }
        if counts.len() + groups.len() > MAX_COUNTS {
            // Memory is limited, so the older half is dropped, whatever it counted.
            let mut times: Vec<Instant> = counts.values().map(|count| count.last).collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_COUNTS / 2);
            let middle = *middle;
            counts.retain(|_, count| count.last > middle);
        }
        for group in &groups {
            let count = counts.entry(group.clone()).or_insert(Count {
                wrong: 0,
                last: now,
            });
            if age(count) >= PAUSE {
                count.wrong = 0;
            }
            count.wrong += 1;
            count.last = now;
        }
        drop(counts);
        Ok(Attempt {
            attempts: self,
            groups,
        })
    }
}

impl Attempt<'_> {
    /// Records a correct password.
    pub(crate) fn right(self) {
        self.take_back(Group::is_forgiven);
    }

    /// Records that the password could not be checked.
    pub(crate) fn undecided(self) {
        self.take_back(|_| false);
    }

    /// Removes this attempt from the counts. In groups that are `forgiven`, removes
    /// the earlier attempts as well.
    fn take_back(self, forgiven: impl Fn(&Group) -> bool) {
        let mut counts = self.attempts.counts();
        for group in &self.groups {
            let Some(count) = counts.get_mut(group) else {
                continue;
            };
            count.wrong = match forgiven(group) {
                true => 0,
                false => count.wrong.saturating_sub(1),
            };
            if count.wrong == 0 {
                counts.remove(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_could_not_be_checked_does_not_count() {
        let attempts = LoginAttempts::default();
        let ada = from("ada", "192.0.2.1");
        for _ in 0..200 {
            attempts.begin(&ada).unwrap().undecided();
        }
        drop(attempts.begin(&ada).unwrap());
        attempts.begin(&ada).unwrap().undecided();
        let now = Instant::now();
        assert_eq!(guesses(&attempts, &ada, now), 7, "one was wrong before");
    }

    fn from<'a>(user: &'a str, address: &str) -> Candidate<'a> {
        Candidate {
            user,
            address: Some(address.parse().unwrap()),
            device: None,
        }
    }

    /// Makes wrong attempts until one is refused. Returns their number.
    fn guesses(attempts: &LoginAttempts, candidate: &Candidate<'_>, now: Instant) -> u32 {
        let mut count = 0;
        while attempts.begin_at(candidate, now).is_ok() {
            count += 1;
        }
        count
    }

    #[test]
    fn an_attempt_counts_before_its_password_was_checked() {
        let attempts = LoginAttempts::default();
        let ada = from("ada", "192.0.2.1");
        let open: Vec<_> = (0..8).map(|_| attempts.begin(&ada).unwrap()).collect();
        assert!(attempts.begin(&ada).is_err(), "eight are being checked");
        for attempt in open {
            attempt.right();
        }
        assert!(attempts.0.lock().unwrap().is_empty(), "all were right");
        for _ in 0..8 {
            // Dropped: the client disconnected before its password was checked.
            drop(attempts.begin(&ada).unwrap());
        }
        assert!(attempts.begin(&ada).is_err());
    }

    #[test]
    fn wrong_guesses_lock_out_no_other_user() {
        let (attempts, now) = (LoginAttempts::default(), Instant::now());
        assert_eq!(guesses(&attempts, &from("Ada", "192.0.2.1"), now), 8);
        assert!(attempts.begin_at(&from("ada", "192.0.2.1"), now).is_err());
        assert!(attempts.begin_at(&from("ada", "192.0.2.2"), now).is_ok());
        assert!(attempts.begin_at(&from("bob", "192.0.2.1"), now).is_ok());
        assert!(attempts.begin_at(&from("", "192.0.2.1"), now).is_ok());
        let later = now + PAUSE;
        assert!(attempts.begin_at(&from("ada", "192.0.2.1"), later).is_ok());
    }

    #[test]
    fn guesses_from_many_addresses_are_limited_and_known_devices_still_sign_in() {
        let (attempts, now) = (LoginAttempts::default(), Instant::now());
        let addresses = (1..=20).map(|n| format!("192.0.2.{n}"));
        let all: u32 = addresses
            .map(|address| guesses(&attempts, &from("ada", &address), now))
            .sum();
        assert_eq!(all, 100);
        assert!(
            attempts
                .begin_at(&from("ada", "198.51.100.1"), now)
                .is_err()
        );
        let known = Candidate {
            device: Some("laptop"),
            ..from("ada", "192.0.2.1")
        };
        attempts.begin_at(&known, now).unwrap().right();
        assert_eq!(guesses(&attempts, &known, now), 8);
    }

    #[test]
    fn guesses_from_one_network_are_limited_over_all_users() {
        let (attempts, now) = (LoginAttempts::default(), Instant::now());
        let all: u32 = (0..200)
            .map(|n| {
                let (user, address) = (format!("user{n}"), format!("2001:db8::{n:x}"));
                let attempt = attempts.begin_at(&from(&user, &address), now);
                u32::from(attempt.is_ok())
            })
            .sum();
        assert_eq!(all, 100);
        // Signing in between guesses does not reset the count.
        let own = from("eve", "192.0.2.1");
        for n in 0..100 {
            let user = format!("user{n}");
            drop(attempts.begin_at(&from(&user, "192.0.2.1"), now));
            if let Ok(attempt) = attempts.begin_at(&own, now) {
                attempt.right();
            }
        }
        assert!(attempts.begin_at(&own, now).is_err());
    }

    #[test]
    fn the_number_of_counters_is_limited() {
        let (attempts, now) = (LoginAttempts::default(), Instant::now());
        for n in 0..40_000_u32 {
            let user = format!("user{n}");
            let address = std::net::Ipv4Addr::from_bits(n).to_string();
            let now = now + Duration::from_millis(n.into());
            drop(attempts.begin_at(&from(&user, &address), now));
        }
        assert!(attempts.0.lock().unwrap().len() <= MAX_COUNTS);
    }
}
