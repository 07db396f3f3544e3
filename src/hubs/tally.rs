//! How many Orchestrations a hub has, by where they stand.
//!
//! Kept up to date by whoever reconciles them, so that a TaskHub's counts cost
//! nothing to read. Invariant: an object counts once, by its UID, under the hub
//! that it refers to.

use std::collections::HashMap;

use super::HubKey;

/// Where an Orchestration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Not started yet.
    Pending,
    /// Started.
    Running,
    /// Held.
    Suspended,
    /// Ended with an output.
    Completed,
    /// Ended with a failure, or refused for good.
    Failed,
    /// Ended on request.
    Terminated,
}

/// Numbers of Orchestrations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not started yet.
    pub pending: i64,
    /// Started.
    pub running: i64,
    /// Held.
    pub suspended: i64,
    /// Ended with an output.
    pub completed: i64,
    /// Ended with a failure, or refused for good.
    pub failed: i64,
    /// Ended on request.
    pub terminated: i64,
}

impl Counts {
    /// How many are not at their end.
    pub fn unfinished(&self) -> i64 {
        self.pending + self.running + self.suspended
    }

    fn of(&mut self, standing: Standing) -> &mut i64 {
        match standing {
            Standing::Pending => &mut self.pending,
            Standing::Running => &mut self.running,
            Standing::Suspended => &mut self.suspended,
            Standing::Completed => &mut self.completed,
            Standing::Failed => &mut self.failed,
            Standing::Terminated => &mut self.terminated,
        }
    }
}

/// The Orchestrations of all hubs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    hubs: HashMap<HubKey, OfHub>,
    objects: usize,
}

#[derive(Debug, Default)]
struct OfHub {
    counts: Counts,
    standings: HashMap<Box<str>, Standing>,
}

impl Tally {
    /// The object stands there now, or is gone; true if that changes a count.
    pub(super) fn record(&mut self, key: &HubKey, uid: &str, standing: Option<Standing>) -> bool {
        let before = self.hubs.get(key).and_then(|hub| hub.standings.get(uid)).copied();
        if before == standing {
            return false;
        }
        let hub = self.hubs.entry(key.clone()).or_default();
        if let Some(before) = before {
            *hub.counts.of(before) -= 1;
        }
        match standing {
            Some(standing) => {
                *hub.counts.of(standing) += 1;
                if hub.standings.insert(uid.into(), standing).is_none() {
                    self.objects += 1;
                }
            }
            None => {
                hub.standings.remove(uid);
                self.objects -= 1;
            }
        }
        if hub.standings.is_empty() {
            self.hubs.remove(key);
        }
        true
    }

    /// The object is gone, whatever hub it was of; the hub whose counts that changes.
    pub(super) fn forget(&mut self, uid: &str) -> Option<HubKey> {
        let key = self.hubs.iter().find(|(_, hub)| hub.standings.contains_key(uid)).map(|(key, _)| key.clone())?;
        self.record(&key, uid, None);
        Some(key)
    }

    /// The counts of a hub.
    pub(super) fn counts(&self, key: &HubKey) -> Counts {
        self.hubs.get(key).map(|hub| hub.counts).unwrap_or_default()
    }

    /// How many objects are counted, of all hubs.
    pub(super) fn objects(&self) -> usize {
        self.objects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_counts_once_wherever_it_stands() {
        let key = |name: &str| HubKey { namespace: "shop".to_owned(), name: name.to_owned() };
        let (orders, billing) = (key("orders"), key("billing"));
        let mut tally = Tally::default();
        assert!(tally.record(&orders, "a", Some(Standing::Pending)));
        assert!(!tally.record(&orders, "a", Some(Standing::Pending)), "nothing has changed");
        assert!(tally.record(&orders, "b", Some(Standing::Suspended)));
        assert!(tally.record(&billing, "c", Some(Standing::Failed)));
        assert_eq!(tally.counts(&orders), Counts { pending: 1, suspended: 1, ..Counts::default() });
        assert_eq!(tally.counts(&orders).unfinished(), 2);
        for standing in [Standing::Running, Standing::Suspended, Standing::Completed, Standing::Terminated] {
            assert!(tally.record(&orders, "a", Some(standing)));
        }
        assert_eq!(tally.counts(&orders), Counts { suspended: 1, terminated: 1, ..Counts::default() });
        assert_eq!(tally.objects(), 3);
        assert!(tally.record(&orders, "a", None));
        assert!(!tally.record(&orders, "a", None), "it is gone already");
        assert!(tally.record(&orders, "b", None) && tally.record(&billing, "c", None));
        assert_eq!((tally.counts(&orders), tally.objects()), (Counts::default(), 0));
        assert!(tally.hubs.is_empty(), "nothing stays of a hub without objects");
    }
}
