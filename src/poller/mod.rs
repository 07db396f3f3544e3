//! Follows unfinished instances until they settle, and tells whose owner should decide again.
//!
//! One task per hub with something to follow. While many instances are active it
//! asks the hub which rows changed (`scan`), else it reads one instance after the
//! other, each at its own pace (`schedule`, `pool`); a scan shows no deletion, so
//! every instance is also read by itself every few minutes. Knows hubs and instances,
//! no controller and no status. Invariants: a hub that fails delays no other hub; what
//! was read is kept until the next read, so that deciding costs no request; a 404 is
//! not yet a conclusion; inputs, which never change, are not read again and again; of
//! one hub, a page and the reads follow one another, so nothing that was seen is
//! replaced by something older.

mod pool;
mod scan;
mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durable_taskhub::changes::{ChangesError, ChangesRequest};
use durable_taskhub::storage::{StorageError, StorageErrorKind};
use durable_taskhub::{Instance, TaskHub};
use futures::{StreamExt, stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::pool::{DueRead, Pace, Pool};
use self::scan::{Progress, Scanner};
use crate::changes::Changes;
use crate::crash_points::scaled;
use crate::hubs::{Dependent, HubKey, Hubs, ReadyHub};
use crate::metrics::PollerMetrics;

/// Reads under way per hub.
const READS_AT_ONCE: usize = 8;

/// Reads of one round: what somebody waits for, and the next scan, come after them.
const READS_OF_A_ROUND: usize = READS_AT_ONCE * 4;

/// When an instance whose read failed is read again, at the latest.
const FAILED_READ_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// An instance that scans cover is read by itself after this, as they do not show that it was deleted.
const CHECK_EVERY: Duration = Duration::from_secs(300);

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
    state: Mutex<HashMap<HubKey, Followed>>,
}

/// The instances of one hub, and the task that follows them.
#[derive(Default)]
struct Followed {
    pool: Pool,
    woken: Arc<Notify>,
    running: bool,
}

/// How a step went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Done,
    /// It was not even sent: the hub's budget is used up, and nothing is wrong with the hub.
    Held,
    Failed,
}

impl Poller {
    /// A poller with nothing to read.
    ///
    /// `columns` are those of the Instances table that the task hub does not know and that owners want to see.
    pub fn new(hubs: Hubs, columns: &'static [&'static str], metrics: PollerMetrics) -> Poller {
        Poller { inner: Arc::new(Inner { hubs, columns, metrics, changed: Changes::new(), state: Mutex::default() }) }
    }

    /// Follows the instance from now on: read first after `delay`, unless a scan shows it before, then at its own pace. Without
    /// effect if it is followed already.
    pub fn subscribe(&self, subscription: Subscription, delay: Duration) {
        let mut state = self.lock();
        let followed = state.entry(subscription.hub.clone()).or_default();
        let before = followed.pool.active();
        if !followed.pool.subscribe(&subscription, Instant::now() + delay) {
            return;
        }
        if followed.pool.active() > before {
            self.inner.metrics.tracked.inc();
        }
        if followed.running {
            followed.woken.notify_one();
        } else {
            followed.running = true;
            tokio::spawn(self.clone().follow_for_ever(subscription.hub, followed.woken.clone()));
        }
    }

    /// Reads the instance at once, whatever its pace, and before polls: somebody waits for it.
    pub fn hurry(&self, hub: &HubKey, uid: &str) {
        if let Some(followed) = self.lock().get_mut(hub)
            && followed.pool.hurry(uid)
        {
            followed.woken.notify_one();
        }
    }

    /// Reads it no more.
    pub fn unsubscribe(&self, hub: &HubKey, uid: &str) {
        if let Some(followed) = self.lock().get_mut(hub)
            && followed.pool.unsubscribe(uid)
        {
            self.inner.metrics.tracked.dec();
            if followed.pool.active() == 0 {
                // Nothing is left to follow: the task ends.
                followed.woken.notify_one();
            }
        }
    }

    /// What was seen last.
    pub fn seen(&self, hub: &HubKey, uid: &str) -> Seen {
        self.lock().get(hub).map_or(Seen::Nothing, |followed| followed.pool.seen(uid))
    }

    /// The owners whose instance changed. For one consumer.
    pub fn changed(&self) -> &Changes<Dependent> {
        &self.inner.changed
    }

    async fn follow_for_ever(self, key: HubKey, woken: Arc<Notify>) {
        let mut scanner = Scanner::new(Instant::now());
        let mut failures = 0_u32;
        while let Some(next) = self.next_due(&key, &scanner) {
            if next > Instant::now() {
                tokio::select! { () = tokio::time::sleep_until(next) => {}, () = woken.notified() => {} }
                continue;
            }
            let view = self.inner.hubs.view(&key);
            let Some(hub) = view.ready() else {
                // The TaskHub controller heals the hub; nothing is read before.
                scanner.break_off();
                tokio::time::sleep(schedule::pause_after(1)).await;
                continue;
            };
            let outcome = self.step(&key, hub, &mut scanner).await;
            if outcome == Outcome::Done {
                failures = 0;
                continue;
            }
            scanner.break_off();
            if outcome == Outcome::Failed {
                failures = failures.saturating_add(1);
                self.inner.hubs.doubt(&key);
            }
            tokio::time::sleep(schedule::pause_after(failures.max(1))).await;
        }
        if scanner.is_scanning() {
            self.inner.metrics.scanning.dec();
        }
    }

    /// When there is something to do next; `None` if there is nothing to follow any more, and then this task is over.
    fn next_due(&self, key: &HubKey, scanner: &Scanner) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.lock();
        let pool = &state.get(key)?.pool;
        if pool.active() == 0 {
            state.remove(key);
            return None;
        }
        if pool.is_hurried() {
            return Some(now);
        }
        let next = [pool.next_due(), scanner.next_due(pool.active(), now)].into_iter().flatten().min();
        next.or_else(|| Some(now + IDLE))
    }

    /// Does what is due: what somebody waits for, or a page of a scan, or some reads.
    async fn step(&self, key: &HubKey, hub: &Arc<ReadyHub>, scanner: &mut Scanner) -> Outcome {
        self.choose(key, hub, scanner);
        let pace = pace(hub, scanner);
        let hurried = self.with_pool(key, |pool| pool.take_hurried(READS_OF_A_ROUND, Instant::now()));
        if !hurried.is_empty() {
            return self.read_all(hurried, &hub.client, pace).await;
        }
        let now = Instant::now();
        let lag = scanner.lag(now);
        let page = self.with_pool(key, |pool| {
            let unseen = pool.unseen_due(now, schedule::MOST_UNSEEN);
            scanner.request(pool.active(), unseen, || pool.ranges(), self.inner.columns, now)
        });
        if let Some(request) = page {
            lag.into_iter().for_each(|lag| self.inner.metrics.late(lag));
            return self.read_page(key, hub, request, scanner, pace).await;
        }
        let due = self.with_pool(key, |pool| pool.take_due(READS_OF_A_ROUND, now));
        self.read_all(due, &hub.polls, pace).await
    }

    /// Scans or points, by what there is to follow now.
    fn choose(&self, key: &HubKey, hub: &ReadyHub, scanner: &mut Scanner) {
        let now = Instant::now();
        let active = self.with_pool(key, |pool| pool.active());
        if !scanner.choose(active, now) {
            return;
        }
        tracing::debug!(namespace = key.namespace, name = key.name, active, scans = scanner.is_scanning(), "the hub is followed otherwise");
        if scanner.is_scanning() {
            self.inner.metrics.scanning.inc();
        } else {
            self.inner.metrics.scanning.dec();
            self.with_pool(key, |pool| pool.uncover(hub.polling, now));
        }
    }

    /// Reads the next page of a scan.
    async fn read_page(&self, key: &HubKey, hub: &ReadyHub, request: ChangesRequest, scanner: &mut Scanner, pace: Pace) -> Outcome {
        let metrics = &self.inner.metrics;
        metrics.pages.inc();
        let mut page = match hub.polls.changes(&request).await {
            Ok(page) => page,
            Err(ChangesError::Storage(error)) if error.kind() != StorageErrorKind::TooLarge => {
                tracing::debug!(namespace = key.namespace, name = key.name, %error, "changed instances could not be read");
                return outcome_of(&error);
            }
            // These pages cannot be had, however often they are asked for.
            Err(error) => {
                tracing::debug!(namespace = key.namespace, name = key.name, %error, "the hub cannot be scanned");
                scanner.give_up(Instant::now());
                return Outcome::Done;
            }
        };
        metrics.rows.inc_by(u64::try_from(page.rows).unwrap_or_default());
        let now = Instant::now();
        let rows = std::mem::take(&mut page.changes).into_iter().map(|change| change.instance);
        let owners = self.with_pool(key, |pool| pool.learn_rows(rows, &pace, now));
        if !owners.is_empty() {
            self.inner.changed.add(owners);
        }
        match scanner.page(&page, hub.polling, now) {
            Progress::Complete => {
                metrics.scans.inc();
            }
            Progress::More => {}
            Progress::GivenUp => tracing::debug!(namespace = key.namespace, name = key.name, "scans of the hub cost too much"),
        }
        Outcome::Done
    }

    async fn read_all(&self, due: Vec<DueRead>, client: &TaskHub, pace: Pace) -> Outcome {
        stream::iter(due)
            .map(|read| self.read(client, read, pace))
            .buffer_unordered(READS_AT_ONCE)
            .fold(Outcome::Done, async |worst, outcome| worst.max(outcome))
            .await
    }

    /// Reads one instance.
    async fn read(&self, client: &TaskHub, read: DueRead, pace: Pace) -> Outcome {
        let DueRead { subscription, due } = read;
        self.inner.metrics.reads.inc();
        self.inner.metrics.late(Instant::now().saturating_duration_since(due));
        match client.get_without_input(&subscription.instance_id, self.inner.columns).await {
            Ok(found) => {
                self.learn(&subscription, found, pace);
                Outcome::Done
            }
            Err(error) => {
                tracing::debug!(namespace = subscription.owner.namespace, name = subscription.owner.name, %error, "instance could not be read");
                // One whose read fails for itself alone must not be tried before all others, again and again.
                let again = Instant::now() + pace.limits.max.min(FAILED_READ_AGAIN_AFTER);
                self.with_pool(&subscription.hub, |pool| pool.postpone(&subscription, again));
                outcome_of(&error)
            }
        }
    }

    /// Keeps what was found, and tells the owner if it should know.
    fn learn(&self, subscription: &Arc<Subscription>, found: Option<Instance>, pace: Pace) {
        let changed = self.with_pool(&subscription.hub, |pool| pool.learn(subscription, found, &pace, Instant::now()));
        if changed {
            self.inner.changed.add([subscription.owner.clone()]);
        }
    }

    /// Works on the hub's pool, if there is one; it was never emptied but by [`Poller::next_due`].
    fn with_pool<T: Default>(&self, key: &HubKey, work: impl FnOnce(&mut Pool) -> T) -> T {
        self.lock().get_mut(key).map(|followed| work(&mut followed.pool)).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HubKey, Followed>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pace(hub: &ReadyHub, scanner: &Scanner) -> Pace {
    Pace {
        limits: hub.polling,
        covered: scanner.is_scanning(),
        check_every: scaled(CHECK_EVERY).max(hub.polling.min),
        missing_after: scaled(schedule::MISSING_AFTER),
    }
}

fn outcome_of(error: &StorageError) -> Outcome {
    if error.is_throttled() && error.status().is_none() { Outcome::Held } else { Outcome::Failed }
}
