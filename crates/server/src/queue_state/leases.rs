//! Leases: the time for which the server assumes that a silent worker is alive.
//!
//! They are kept in memory and use the process's monotonic clock, so that
//! setting the system time ends none. After a restart of the server, and after
//! a time in which the server stood still, every worker gets one full lease.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// A run, and the launch number of its worker.
pub(crate) type Held = (i64, u64);

/// The leases of all workers.
pub(crate) struct Leases {
    clock: Clock,
    length: Duration,
    held: Mutex<HashMap<Held, Lease>>,
}

#[derive(Clone, Copy)]
struct Lease {
    until: Duration,
    /// Time up to which the work was counted. `None` until the worker fetches its
    /// job.
    counted: Option<Duration>,
}

impl Leases {
    pub(crate) fn new(clock: Clock, length: Duration) -> Self {
        Self {
            clock,
            length,
            held: Mutex::default(),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Held, Lease>, Duration) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut held, self.clock.now())
    }

    /// Gives a worker a full lease at its first call. `at_work` says whether the
    /// worker has already fetched its job. A repeated first call does not change
    /// that.
    pub(crate) fn grant(&self, held: Held, at_work: bool) {
        self.with(|all, now| {
            let counted = all.get(&held).and_then(|lease| lease.counted);
            let lease = Lease {
                until: now + self.length,
                counted: counted.or(at_work.then_some(now)),
            };
            all.insert(held, lease);
        });
    }

    /// Gives every worker a full lease. The time since its last sign of life is not
    /// counted as work.
    pub(crate) fn grant_all(&self) {
        self.with(|all, now| {
            for lease in all.values_mut() {
                lease.until = now + self.length;
                lease.counted = lease.counted.map(|_| now);
            }
        });
    }

    /// Records that a worker has fetched its job. Its time is counted from now on.
    pub(crate) fn begin(&self, held: Held) {
        self.with(|all, now| {
            let until = now + self.length;
            let lease = all.entry(held).or_insert(Lease {
                until,
                counted: None,
            });
            lease.until = until;
            lease.counted.get_or_insert(now);
        });
    }

    /// Renews a worker's lease after a sign of life.
    pub(crate) fn renew(&self, held: Held) {
        self.with(|all, now| {
            let until = now + self.length;
            let lease = all.entry(held).or_insert(Lease {
                until,
                counted: Some(now),
            });
            lease.until = until;
        });
    }

    /// Whether the worker was silent for longer than its lease. A worker without a
    /// lease counts as new, so the answer is `false`.
    pub(crate) fn is_over(&self, held: Held) -> bool {
        self.with(|all, now| all.get(&held).is_some_and(|lease| now > lease.until))
    }

    /// Returns the time until the next valid lease ends.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.with(|all, now| {
            let ends = all.values().map(|lease| lease.until);
            let ends = ends.filter(|end| *end >= now);
            ends.min().map(|end| end.saturating_sub(now))
        })
    }

    /// Whether the worker has fetched its job.
    pub(crate) fn is_at_work(&self, held: Held) -> bool {
        self.with(|all, _| {
            let lease = all.get(&held);
            lease.is_some_and(|lease| lease.counted.is_some())
        })
    }

    /// Returns the worker's time at work since it was last taken.
    pub(crate) fn worked(&self, held: Held) -> Duration {
        self.with(|all, now| {
            let counted = all.get(&held).and_then(|lease| lease.counted);
            counted.map_or(Duration::ZERO, |counted| now.saturating_sub(counted))
        })
    }

    /// Like [`Leases::worked`], and restarts the count.
    pub(crate) fn take_worked(&self, held: Held) -> Duration {
        let worked = self.worked(held);
        self.with(|all, now| {
            if let Some(lease) = all.get_mut(&held) {
                lease.counted = lease.counted.map(|_| now);
            }
        });
        worked
    }

    /// Forgets all leases except the wanted ones.
    pub(crate) fn retain(&self, wanted: &HashSet<Held>) {
        self.with(|all, _| all.retain(|held, _| wanted.contains(held)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);
    const ONE: Held = (1, 1);

    #[test]
    fn heartbeats_extend_a_lease() {
        let clock = Clock::default();
        let leases = Leases::new(clock.clone(), LEASE);
        leases.grant(ONE, false);
        clock.advance(Duration::from_secs(29));
        assert!(!leases.is_over(ONE));
        leases.renew(ONE);
        clock.advance(Duration::from_secs(29));
        assert!(!leases.is_over(ONE));
        let next = leases.next_end().unwrap();
        assert!(next <= Duration::from_secs(1), "{next:?}");
        clock.advance(Duration::from_secs(2));
        assert!(leases.is_over(ONE));
        assert_eq!(leases.next_end(), None);
        leases.grant_all();
        assert!(!leases.is_over(ONE), "one full lease after a jump");
        leases.retain(&HashSet::new());
        assert!(!leases.is_over(ONE), "not known");
    }

    #[test]
    fn only_working_time_is_counted() {
        let clock = Clock::default();
        let leases = Leases::new(clock.clone(), LEASE);
        let seconds = |time: Duration| time.as_secs();
        leases.grant(ONE, false);
        clock.advance(Duration::from_secs(10));
        assert!(!leases.is_at_work(ONE));
        assert_eq!(seconds(leases.worked(ONE)), 0, "it has no job yet");
        leases.begin(ONE);
        leases.grant(ONE, false);
        assert!(leases.is_at_work(ONE), "its first call was repeated");
        clock.advance(Duration::from_secs(7));
        assert_eq!(seconds(leases.worked(ONE)), 7);
        assert_eq!(seconds(leases.take_worked(ONE)), 7);
        clock.advance(Duration::from_secs(2));
        assert_eq!(seconds(leases.take_worked(ONE)), 2);
        clock.advance(Duration::from_secs(500));
        leases.grant_all();
        assert_eq!(seconds(leases.worked(ONE)), 0, "the machine slept");
    }
}
