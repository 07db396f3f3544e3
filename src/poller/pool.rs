//! The instances of one hub that are followed: what was seen of each, and when it is read next.
//!
//! Pure: the time comes in. Invariants: whatever is not being read at the moment has
//! one place in the order of due times, so that the next one is found without looking
//! at all; what was seen is replaced only by what was read later, which holds because
//! reads and pages of a hub follow one another.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::Instance;
use durable_taskhub::changes::{InstanceKey, KeyRange};
use tokio::time::Instant;

use super::schedule::{next_interval, scatter, spread};
use super::{Seen, Subscription};
use crate::hubs::{Dependent, PollingLimits};

/// How fast instances are read again that a scan no longer covers: so many a second, if the longest interval allows it.
const CAUGHT_UP_PER_SECOND: u32 = 50;

/// The rhythm of a hub.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Shortest and longest time between two reads of an instance.
    pub limits: PollingLimits,
    /// Scans show what changes: reads are only for what they cannot show.
    pub covered: bool,
    /// The time between two reads of an instance that scans cover.
    pub check_every: Duration,
    /// The time from the first 404 to the one that proves that the instance is gone.
    pub missing_after: Duration,
}

/// The instances of one hub.
#[derive(Default)]
pub struct Pool {
    entries: HashMap<Arc<str>, Entry>,
    due: BTreeSet<(Instant, Arc<str>)>,
    keys: BTreeMap<InstanceKey, Vec<Arc<str>>>,
    hurried: HashSet<Arc<str>>,
}

struct Entry {
    subscription: Arc<Subscription>,
    seen: Seen,
    first_absent: Option<Instant>,
    interval: Duration,
    reads: u64,
    /// A scan has shown it, or it was read while scans show what changes.
    covered: bool,
    /// None while it is being read.
    due: Option<Instant>,
}

/// A read that is to be made.
pub struct DueRead {
    /// Of what.
    pub subscription: Arc<Subscription>,
    /// Since when.
    pub due: Instant,
}

impl Pool {
    /// How many instances are followed.
    pub fn active(&self) -> usize {
        self.entries.len()
    }

    /// How many reads are due of instances of which nothing is known yet, counted up to `most`.
    pub fn unseen_due(&self, now: Instant, most: usize) -> usize {
        let due = self.due.iter().take_while(|(due, _)| *due <= now).take(most).map(|(_, uid)| self.entries.get(uid));
        due.filter(|entry| entry.is_some_and(|entry| matches!(entry.seen, Seen::Nothing))).count()
    }

    /// Follows the instance, first read at `due`; false if it is followed already.
    pub fn subscribe(&mut self, subscription: &Subscription, due: Instant) -> bool {
        if self.entries.get(subscription.uid.as_str()).is_some_and(|entry| *entry.subscription == *subscription) {
            return false;
        }
        self.unsubscribe(&subscription.uid);
        let uid: Arc<str> = subscription.uid.as_str().into();
        self.keys.entry(InstanceKey::of(&subscription.instance_id)).or_default().push(uid.clone());
        let entry = Entry {
            subscription: Arc::new(subscription.clone()),
            seen: Seen::Nothing,
            first_absent: None,
            interval: Duration::ZERO,
            reads: 0,
            covered: false,
            due: Some(due),
        };
        self.entries.insert(uid.clone(), entry);
        self.due.insert((due, uid));
        true
    }

    /// Follows it no more; false if it was not followed.
    pub fn unsubscribe(&mut self, uid: &str) -> bool {
        let Some((uid, entry)) = self.entries.remove_entry(uid) else { return false };
        if let Some(due) = entry.due {
            self.due.remove(&(due, uid.clone()));
        }
        self.hurried.remove(&uid);
        let key = InstanceKey::of(&entry.subscription.instance_id);
        if let Some(uids) = self.keys.get_mut(&key) {
            uids.retain(|other| *other != uid);
            if uids.is_empty() {
                self.keys.remove(&key);
            }
        }
        true
    }

    /// What was seen last.
    pub fn seen(&self, uid: &str) -> Seen {
        self.entries.get(uid).map_or(Seen::Nothing, |entry| entry.seen.clone())
    }

    /// Somebody waits for the next read; false if it is not followed, or is being read at the moment.
    pub fn hurry(&mut self, uid: &str) -> bool {
        match self.entries.get_key_value(uid) {
            Some((uid, entry)) if entry.due.is_some() => self.hurried.insert(uid.clone()),
            _ => false,
        }
    }

    /// True if somebody waits for a read.
    pub fn is_hurried(&self) -> bool {
        !self.hurried.is_empty()
    }

    /// When the next read is due, apart from those that somebody waits for.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Reads that somebody waits for, at most so many.
    pub fn take_hurried(&mut self, most: usize, now: Instant) -> Vec<DueRead> {
        let uids: Vec<Arc<str>> = self.hurried.iter().take(most).cloned().collect();
        for uid in &uids {
            self.hurried.remove(uid);
        }
        uids.into_iter().filter_map(|uid| self.take(&uid)).map(|read| DueRead { due: now, ..read }).collect()
    }

    /// Reads that are due, the oldest first, at most so many.
    pub fn take_due(&mut self, most: usize, now: Instant) -> Vec<DueRead> {
        let uids: Vec<Arc<str>> = self.due.iter().take_while(|(due, _)| *due <= now).take(most).map(|(_, uid)| uid.clone()).collect();
        uids.into_iter().filter_map(|uid| self.take(&uid)).collect()
    }

    fn take(&mut self, uid: &Arc<str>) -> Option<DueRead> {
        let entry = self.entries.get_mut(uid)?;
        let due = entry.due.take()?;
        self.due.remove(&(due, uid.clone()));
        Some(DueRead { subscription: entry.subscription.clone(), due })
    }

    /// Reads it at `due`, whatever was planned.
    fn schedule(due_times: &mut BTreeSet<(Instant, Arc<str>)>, uid: &Arc<str>, entry: &mut Entry, due: Instant) {
        if let Some(before) = entry.due.replace(due) {
            due_times.remove(&(before, uid.clone()));
        }
        due_times.insert((due, uid.clone()));
    }

    /// A read failed: it is made again at `due`.
    pub fn postpone(&mut self, subscription: &Arc<Subscription>, due: Instant) {
        if let Some((uid, entry)) = Self::entry(&mut self.entries, subscription) {
            Self::schedule(&mut self.due, &uid, entry, due);
        }
    }

    /// The entry that a read was made for; none if it was replaced or removed meanwhile.
    fn entry<'a>(entries: &'a mut HashMap<Arc<str>, Entry>, subscription: &Arc<Subscription>) -> Option<(Arc<str>, &'a mut Entry)> {
        let uid = entries.get_key_value(subscription.uid.as_str())?.0.clone();
        let entry = entries.get_mut(&uid)?;
        Arc::ptr_eq(&entry.subscription, subscription).then_some((uid, entry))
    }

    /// Keeps what a read found; true if the owner should know.
    pub fn learn(&mut self, subscription: &Arc<Subscription>, found: Option<Instance>, pace: &Pace, now: Instant) -> bool {
        let Some((uid, entry)) = Self::entry(&mut self.entries, subscription) else { return false };
        entry.reads += 1;
        let (changed, due) = match found {
            Some(instance) => {
                let changed = !is_known(&entry.seen, &instance);
                entry.first_absent = None;
                entry.seen = Seen::Row(Arc::new(instance));
                entry.interval = next_interval(entry.interval, changed, pace.limits);
                let first = !std::mem::replace(&mut entry.covered, pace.covered);
                let wait = match (pace.covered, first) {
                    (false, _) => spread(entry.interval, &uid, entry.reads),
                    (true, true) => scatter(pace.check_every, &uid),
                    (true, false) => spread(pace.check_every, &uid, entry.reads),
                };
                (changed, now + wait)
            }
            None => {
                let first = *entry.first_absent.get_or_insert(now);
                let proven = now.duration_since(first) >= pace.missing_after;
                let changed = proven && !matches!(entry.seen, Seen::Missing);
                entry.seen = if proven { Seen::Missing } else { Seen::Absent };
                entry.interval = pace.missing_after;
                // Not spread before the proof: a read a moment too early would prove nothing.
                let wait = if proven { spread(pace.missing_after, &uid, entry.reads) } else { pace.missing_after };
                (changed, now + wait)
            }
        };
        Self::schedule(&mut self.due, &uid, entry, due);
        changed
    }

    /// Keeps what a scan showed; the owners who should know. Rows of others are passed over.
    pub fn learn_rows(&mut self, rows: impl IntoIterator<Item = Instance>, pace: &Pace, now: Instant) -> Vec<Dependent> {
        let mut owners = Vec::new();
        for instance in rows {
            let Some(uids) = self.keys.get(&InstanceKey::of(&instance.id)) else { continue };
            let instance = Arc::new(instance);
            for uid in uids {
                let Some(entry) = self.entries.get_mut(uid) else { continue };
                if !std::mem::replace(&mut entry.covered, true) {
                    let due = now + scatter(pace.check_every, uid);
                    Self::schedule(&mut self.due, uid, entry, due);
                }
                if is_known(&entry.seen, &instance) {
                    continue;
                }
                if entry.first_absent.take().is_some() {
                    let due = now + scatter(pace.check_every, uid);
                    Self::schedule(&mut self.due, uid, entry, due);
                }
                entry.seen = Seen::Row(instance.clone());
                entry.interval = pace.limits.min;
                owners.push(entry.subscription.owner.clone());
            }
        }
        owners
    }

    /// Scans show nothing from now on: what they covered is read soon, at its own pace.
    pub fn uncover(&mut self, limits: PollingLimits, now: Instant) {
        let active = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let within = (Duration::from_secs(1) * active / CAUGHT_UP_PER_SECOND).clamp(limits.min, limits.max);
        for (uid, entry) in &mut self.entries {
            if !std::mem::replace(&mut entry.covered, false) {
                continue;
            }
            entry.interval = limits.min;
            let soon = now + scatter(within, uid);
            if entry.due.is_some_and(|due| due > soon) {
                Self::schedule(&mut self.due, uid, entry, soon);
            }
        }
    }

    /// The ranges of keys that hold all that is followed, without the keys of entities.
    pub fn ranges(&self) -> Vec<KeyRange> {
        // Entities sort between `@` and `A`, which is between digits and letters: a range over them would find each that changes.
        let (entities, letters) = (InstanceKey::of("@"), InstanceKey::of("A"));
        let below = self.keys.keys().next().zip(self.keys.range(..&entities).next_back()).map(|(first, (last, _))| (first, last));
        let above = self.keys.range(&letters..).next().zip(self.keys.keys().next_back()).map(|((first, _), last)| (first, last));
        [below, above].into_iter().flatten().map(|(first, last)| KeyRange::spanning(first.clone(), last)).collect()
    }
}

fn is_known(seen: &Seen, instance: &Instance) -> bool {
    matches!(seen, Seen::Row(before) if before.etag.is_some() && before.etag == instance.etag)
}

#[cfg(test)]
mod tests {
    use durable_taskhub::storage::{ETag, Entity};

    use super::*;
    use crate::hubs::HubKey;

    const PACE: Pace = Pace {
        limits: PollingLimits { min: Duration::from_secs(1), max: Duration::from_secs(60) },
        covered: false,
        check_every: Duration::from_secs(300),
        missing_after: Duration::from_secs(30),
    };
    const SCANNED: Pace = Pace { covered: true, ..PACE };

    fn subscription(id: &str) -> Subscription {
        Subscription {
            uid: format!("uid-of-{id}"),
            owner: Dependent { namespace: "shop".to_owned(), name: id.to_owned() },
            hub: HubKey { namespace: "shop".to_owned(), name: "orders".to_owned() },
            instance_id: id.to_owned(),
        }
    }

    fn row(id: &str, version: &str) -> Instance {
        let entity = Entity { etag: Some(ETag(version.to_owned())), ..Entity::new(id, "") };
        Instance::from_row(entity.with("RuntimeStatus", "Running"), "")
    }

    fn pool(ids: &[&str], due: Instant) -> Pool {
        let mut pool = Pool::default();
        for id in ids {
            assert!(pool.subscribe(&subscription(id), due));
        }
        pool
    }

    fn names(owners: &[Dependent]) -> Vec<&str> {
        owners.iter().map(|owner| owner.name.as_str()).collect()
    }

    fn taken(pool: &mut Pool, now: Instant) -> Vec<Arc<Subscription>> {
        pool.take_due(100, now).into_iter().map(|read| read.subscription).collect()
    }

    #[test]
    fn reads_are_due_in_their_order_and_once() {
        let start = Instant::now();
        let mut pool = pool(&["a", "b"], start + Duration::from_secs(1));
        assert!(pool.subscribe(&subscription("c"), start) && !pool.subscribe(&subscription("c"), start + Duration::from_secs(9)));
        assert_eq!((pool.active(), pool.unseen_due(start, 9), pool.next_due()), (3, 1, Some(start)));
        assert_eq!(pool.unseen_due(start + Duration::from_secs(1), 2), 2);
        let read = taken(&mut pool, start);
        assert_eq!(read.len(), 1);
        // While it is being read it is not due.
        assert_eq!(pool.next_due(), Some(start + Duration::from_secs(1)));
        assert!(pool.learn(&read[0], Some(row("c", "1")), &PACE, start));
        assert!(!pool.learn(&read[0], Some(row("c", "1")), &PACE, start));
        assert_eq!(pool.unseen_due(start + Duration::from_secs(5), 9), 2);
        assert_eq!(pool.take_due(1, start + Duration::from_secs(5)).len(), 1);
        assert!(pool.unsubscribe("uid-of-a") && pool.unsubscribe("uid-of-b") && !pool.unsubscribe("uid-of-b"));
        // Who was not read any more has no place in the order either.
        assert!(pool.next_due().is_some_and(|due| due > start));
        pool.unsubscribe("uid-of-c");
        assert_eq!((pool.active(), pool.next_due(), pool.ranges()), (0, None, vec![]));
    }

    #[test]
    fn a_read_of_a_replaced_subscription_teaches_nothing() {
        let start = Instant::now();
        let mut pool = pool(&["a"], start);
        let read = taken(&mut pool, start);
        let other = Subscription { instance_id: "b".to_owned(), ..subscription("a") };
        assert!(pool.subscribe(&other, start));
        assert!(!pool.learn(&read[0], Some(row("a", "1")), &PACE, start));
        pool.postpone(&read[0], start + Duration::from_secs(100));
        assert!(matches!(pool.seen("uid-of-a"), Seen::Nothing));
        assert_eq!(pool.next_due(), Some(start));
    }

    #[test]
    fn what_somebody_waits_for_is_taken_whatever_its_pace() {
        let start = Instant::now();
        let mut pool = pool(&["a", "b"], start + Duration::from_secs(60));
        assert!(pool.hurry("uid-of-b") && !pool.hurry("uid-of-x"));
        let read = pool.take_hurried(8, start);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].subscription.instance_id, "b");
        assert!(!pool.is_hurried());
        pool.learn(&read[0].subscription, Some(row("b", "1")), &PACE, start);
        assert!(pool.next_due().is_some_and(|due| due <= start + Duration::from_secs(1)));
    }

    #[test]
    fn a_scan_tells_owners_of_changes_alone_and_spares_reads() {
        let start = Instant::now();
        let mut pool = pool(&["a", "b", "c"], start + Duration::from_secs(1));
        let shared = Subscription { uid: "other".to_owned(), ..subscription("b") };
        pool.subscribe(&shared, start + Duration::from_secs(1));
        let shown = [row("a", "1"), row("b", "1"), row("foreign", "1")];
        assert_eq!(names(&pool.learn_rows(shown.clone(), &SCANNED, start)), ["a", "b", "b"]);
        assert!(pool.learn_rows(shown, &SCANNED, start).is_empty());
        assert_eq!(names(&pool.learn_rows([row("b", "2")], &SCANNED, start)), ["b", "b"]);
        // What was not shown is read; what was shown is checked within five minutes.
        assert_eq!(pool.unseen_due(start + Duration::from_secs(1), 9), 1);
        let soon = taken(&mut pool, start + Duration::from_secs(1));
        assert_eq!((soon.len(), soon[0].instance_id.as_str()), (1, "c"));
        pool.learn(&soon[0], Some(row("c", "1")), &SCANNED, start);
        assert!(pool.next_due().is_some_and(|due| due >= start + Duration::from_secs(75)));
        assert_eq!(pool.take_due(100, start + Duration::from_secs(300)).len(), 4);
    }

    #[test]
    fn two_reads_apart_prove_that_an_instance_is_gone_and_a_scan_that_it_is_not() {
        let start = Instant::now();
        let mut pool = pool(&["a"], start);
        let read = taken(&mut pool, start);
        assert!(!pool.learn(&read[0], None, &SCANNED, start));
        assert!(!pool.learn(&read[0], None, &SCANNED, start + Duration::from_secs(29)));
        assert!(matches!(pool.seen("uid-of-a"), Seen::Absent));
        assert!(pool.learn(&read[0], None, &SCANNED, start + Duration::from_secs(30)));
        assert!(matches!(pool.seen("uid-of-a"), Seen::Missing));
        assert!(!pool.learn(&read[0], None, &SCANNED, start + Duration::from_secs(60)));
        assert_eq!(names(&pool.learn_rows([row("a", "9")], &SCANNED, start)), ["a"]);
        assert!(!pool.learn(&read[0], None, &SCANNED, start + Duration::from_secs(70)), "one 404 after it was there proves nothing");
    }

    #[test]
    fn without_scans_everything_is_read_again_soon_but_not_at_once() {
        let start = Instant::now();
        let ids: Vec<String> = (0..1000).map(|number| format!("run-{number}")).collect();
        let mut pool = pool(&ids.iter().map(String::as_str).collect::<Vec<_>>(), start);
        pool.learn_rows(ids.iter().map(|id| row(id, "1")), &SCANNED, start);
        assert!(taken(&mut pool, start + Duration::from_secs(60)).is_empty());
        pool.uncover(PACE.limits, start);
        let first = pool.take_due(10_000, start + Duration::from_secs(10)).len();
        assert!((200..700).contains(&first), "{first}");
        assert_eq!(first + pool.take_due(10_000, start + Duration::from_secs(20)).len(), 1000);
    }

    #[test]
    fn ranges_leave_entities_out() {
        let spanned = |ids: &[&str]| -> Vec<(String, String)> {
            let of = |key: &InstanceKey| key.as_str().to_owned();
            pool(ids, Instant::now()).ranges().iter().map(|range| (of(&range.from), of(&range.to))).collect()
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(spanned(&["b", "a", "c/1"]), [pair("a", "c^01 ")]);
        assert_eq!(spanned(&["7", "3"]), [pair("3", "7 ")]);
        assert_eq!(spanned(&["7", "3", "a", "z"]), [pair("3", "7 "), pair("a", "z ")]);
    }
}
