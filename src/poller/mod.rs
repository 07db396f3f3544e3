//! Reads unfinished instances until they settle, and tells whose owner should decide again.
//!
//! One task per hub with something to read. Point reads, each instance at its
//! own pace. Knows hubs and instances, no controller and no status. Invariants:
//! a hub that fails delays no other hub; what was read is kept until the next
//! read, so that deciding costs no request; a 404 is not yet a conclusion; inputs,
//! which never change, are not read again and again.

mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durable_taskhub::Instance;
use futures::{StreamExt, stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::changes::Changes;
use crate::crash_points::scaled;
use crate::hubs::{Dependent, HubKey, Hubs, ReadyHub};
use crate::metrics::PollerMetrics;

/// Reads under way per hub.
const READS_AT_ONCE: usize = 8;

/// When an instance whose read failed is read again, at the latest.
const FAILED_READ_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How long the poller of a hub sleeps when nothing wakes it.
const IDLE: Duration = Duration::from_secs(3600);

/// What was seen of an instance.
#[derive(Debug, Clone)]
pub enum Seen {
    /// Nothing was read yet.
    Nothing,
    /// Its row.
    Row(Arc<Instance>),
    /// No row, once or for too short a time to conclude anything.
    Absent,
    /// No row, in two reads at least 30 s apart.
    Missing,
}

/// What to read, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// UID of the owner.
    pub uid: String,
    /// The owner.
    pub owner: Dependent,
    /// Where the instance is.
    pub hub: HubKey,
    /// The instance's ID.
    pub instance_id: String,
}

/// The poller. Clones share it.
#[derive(Clone)]
pub struct Poller {
    inner: Arc<Inner>,
}

struct Inner {
    hubs: Hubs,
    columns: &'static [&'static str],
    metrics: PollerMetrics,
    changed: Changes<Dependent>,
    state: Mutex<HashMap<HubKey, Pool>>,
}

/// The instances of one hub.
#[derive(Default)]
struct Pool {
    entries: HashMap<String, Entry>,
    woken: Arc<Notify>,
    running: bool,
}

struct Entry {
    subscription: Subscription,
    seen: Seen,
    first_absent: Option<Instant>,
    interval: Duration,
    reads: u64,
    due: Instant,
}

impl Poller {
    /// A poller with nothing to read.
    ///
    /// `columns` are those of the Instances table that the task hub does not know and that owners want to see.
    pub fn new(hubs: Hubs, columns: &'static [&'static str], metrics: PollerMetrics) -> Poller {
        Poller { inner: Arc::new(Inner { hubs, columns, metrics, changed: Changes::new(), state: Mutex::default() }) }
    }

    /// Reads the instance from now on: first after `delay`, then at its own pace. Without effect if it is read already.
    pub fn subscribe(&self, subscription: Subscription, delay: Duration) {
        let mut state = self.lock();
        let pool = state.entry(subscription.hub.clone()).or_default();
        let known = pool.entries.get(&subscription.uid).is_some_and(|entry| entry.subscription == subscription);
        if known {
            return;
        }
        let due = Instant::now() + delay;
        let entry =
            Entry { seen: Seen::Nothing, first_absent: None, interval: Duration::ZERO, reads: 0, due, subscription: subscription.clone() };
        if pool.entries.insert(subscription.uid, entry).is_none() {
            self.inner.metrics.tracked.inc();
        }
        if pool.running {
            pool.woken.notify_one();
        } else {
            pool.running = true;
            tokio::spawn(self.clone().read_for_ever(subscription.hub, pool.woken.clone()));
        }
    }

    /// Reads the instance at once, whatever its pace.
    pub fn hurry(&self, hub: &HubKey, uid: &str) {
        if let Some(pool) = self.lock().get_mut(hub)
            && let Some(entry) = pool.entries.get_mut(uid)
        {
            entry.due = Instant::now();
            pool.woken.notify_one();
        }
    }

    /// Reads it no more.
    pub fn unsubscribe(&self, hub: &HubKey, uid: &str) {
        if let Some(pool) = self.lock().get_mut(hub)
            && pool.entries.remove(uid).is_some()
        {
            self.inner.metrics.tracked.dec();
        }
    }

    /// What was seen last.
    pub fn seen(&self, hub: &HubKey, uid: &str) -> Seen {
        self.lock().get(hub).and_then(|pool| pool.entries.get(uid)).map_or(Seen::Nothing, |entry| entry.seen.clone())
    }

    /// The owners whose instance changed. For one consumer.
    pub fn changed(&self) -> &Changes<Dependent> {
        &self.inner.changed
    }

    async fn read_for_ever(self, key: HubKey, woken: Arc<Notify>) {
        let mut failures = 0_u32;
        loop {
            let Some(next) = self.next_due(&key) else { return };
            if next > Instant::now() {
                tokio::select! { () = tokio::time::sleep_until(next) => {}, () = woken.notified() => {} }
                continue;
            }
            let view = self.inner.hubs.view(&key);
            let Some(hub) = view.ready() else {
                // The TaskHub controller heals the hub; nothing is read before.
                tokio::time::sleep(schedule::pause_after(1)).await;
                continue;
            };
            let due = self.take_due(&key);
            let failed = stream::iter(due)
                .map(|subscription| self.read(hub.clone(), subscription))
                .buffer_unordered(READS_AT_ONCE)
                .fold(false, async |any, failed| any || failed)
                .await;
            if failed {
                failures += 1;
                self.inner.hubs.doubt(&key);
                tokio::time::sleep(schedule::pause_after(failures)).await;
            } else {
                failures = 0;
            }
        }
    }

    /// When the next read is due; `None` if there is nothing to read any more, and then this task is over.
    fn next_due(&self, key: &HubKey) -> Option<Instant> {
        let mut state = self.lock();
        let pool = state.get_mut(key)?;
        if pool.entries.is_empty() {
            state.remove(key);
            return None;
        }
        pool.entries.values().map(|entry| entry.due).min().or_else(|| Some(Instant::now() + IDLE))
    }

    /// What is due, at most as much as a few rounds of reads take, so that new work is not kept waiting.
    fn take_due(&self, key: &HubKey) -> Vec<Subscription> {
        let now = Instant::now();
        let state = self.lock();
        let due = state.get(key).into_iter().flat_map(|pool| pool.entries.values()).filter(|entry| entry.due <= now);
        due.take(READS_AT_ONCE * 4).map(|entry| entry.subscription.clone()).collect()
    }

    /// Reads one instance; true if the hub did not answer.
    async fn read(&self, hub: Arc<ReadyHub>, subscription: Subscription) -> bool {
        self.inner.metrics.reads.inc();
        let result = hub.client.get_without_input(&subscription.instance_id, self.inner.columns).await;
        let failed = result.is_err();
        let changed = match result {
            Ok(found) => self.learn(&subscription, &hub, found),
            Err(error) => {
                tracing::debug!(namespace = subscription.owner.namespace, name = subscription.owner.name, %error, "instance could not be read");
                self.postpone(&subscription, hub.polling.max.min(FAILED_READ_AGAIN_AFTER));
                false
            }
        };
        if changed {
            self.inner.changed.add([subscription.owner]);
        }
        failed
    }

    /// Keeps what was found, and says whether the owner should know.
    fn learn(&self, subscription: &Subscription, hub: &ReadyHub, found: Option<Instance>) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(entry) = state.get_mut(&subscription.hub).and_then(|pool| pool.entries.get_mut(&subscription.uid)) else { return false };
        entry.reads += 1;
        let (seen, changed, next) = match found {
            Some(instance) => {
                let changed = !matches!(&entry.seen, Seen::Row(before) if before.etag.is_some() && before.etag == instance.etag);
                entry.first_absent = None;
                (Seen::Row(Arc::new(instance)), changed, schedule::next_interval(entry.interval, changed, hub.polling))
            }
            None => {
                let first = *entry.first_absent.get_or_insert(now);
                let proven = now.duration_since(first) >= scaled(schedule::MISSING_AFTER);
                let changed = proven && !matches!(entry.seen, Seen::Missing);
                (if proven { Seen::Missing } else { Seen::Absent }, changed, scaled(schedule::MISSING_AFTER))
            }
        };
        entry.seen = seen;
        entry.interval = next;
        entry.due = now + schedule::spread(next, &subscription.uid, entry.reads);
        if matches!(entry.seen, Seen::Absent) {
            // Not spread: a read a moment too early would prove nothing.
            entry.due = now + next;
        }
        changed
    }

    /// A read that fails for itself alone must not be tried before all others, again and again.
    fn postpone(&self, subscription: &Subscription, delay: Duration) {
        let mut state = self.lock();
        if let Some(entry) = state.get_mut(&subscription.hub).and_then(|pool| pool.entries.get_mut(&subscription.uid)) {
            entry.due = Instant::now() + delay;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HubKey, Pool>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
