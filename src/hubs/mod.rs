//! The hubs that can be worked with now: one client per TaskHub, and who waits for which.
//!
//! The TaskHub controller says here what it found; controllers of the other
//! kinds and the poller read it. Knows no controller. Invariant: as long as a
//! TaskHub was not judged since the operator started, its hub is `Unknown`, and
//! nothing is concluded from that.

mod access;
mod limiter;
mod namespaces;
mod secrets;
mod tally;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use durable_taskhub::TaskHub;
use durable_taskhub::storage::StorageError;
use futures::{Stream, StreamExt};
use kube::Client;

use crate::changes::Changes;
use crate::connection::NotReady;
use crate::metrics::LimiterMetrics;

pub use access::{Access, NotAllowed};
pub use limiter::{Budget, Priority};
pub use secrets::Secrets;
pub use tally::{Counts, Standing};

/// How long the client of a TaskHub that is gone is kept when nothing follows it any more: longer than the deadline of
/// deletions, so that what is deleted together with its TaskHub, in whatever order, still reaches the hub.
const KEPT_WHEN_GONE: Duration = Duration::from_secs(600);

/// Orchestrations change by the hundred a second; nobody reads their counts that often.
const COUNTED_EVERY: Duration = Duration::from_secs(1);

/// The TaskHub object that stands for a hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubKey {
    /// Namespace of the TaskHub.
    pub namespace: String,
    /// Name of the TaskHub.
    pub name: String,
}

/// An object that waits for a hub, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dependent {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

/// A hub that answers.
#[derive(Debug, Clone)]
pub struct ReadyHub {
    /// Its client for what a user wants done.
    pub client: TaskHub,
    /// Its client for looking whether something has changed: these requests go after those of [`ReadyHub::client`].
    pub polls: TaskHub,
    /// True if a worker served a partition when the hub was last looked at.
    pub workers_active: bool,
    /// Shortest and longest time between two reads of an instance.
    pub polling: PollingLimits,
    /// Who may use it.
    pub access: Access,
    /// Sizes of what is sent and shown.
    pub limits: PayloadLimits,
}

/// What is known of a hub that answers, besides its clients.
#[derive(Debug, Clone)]
pub struct Known {
    /// True if a worker serves a partition.
    pub workers_active: bool,
    /// Shortest and longest time between two reads of an instance.
    pub polling: PollingLimits,
    /// Who may use it.
    pub access: Access,
    /// Sizes of what is sent and shown.
    pub limits: PayloadLimits,
}

impl ReadyHub {
    /// A hub that answers `client`, whose requests all spend from `budget` from now on.
    ///
    /// # Errors
    /// Those of [`TaskHub::with_admission`].
    pub fn new(client: &TaskHub, budget: &Budget, known: Known) -> Result<ReadyHub, StorageError> {
        let Known { workers_active, polling, access, limits } = known;
        Ok(ReadyHub {
            polls: client.with_admission(Some(budget.admission(Priority::Poll)))?,
            client: client.with_admission(Some(budget.admission(Priority::User)))?,
            workers_active,
            polling,
            access,
            limits,
        })
    }

    /// Whether objects of `namespace`, which has `labels`, may run `function` through the hub; without a function, whether they
    /// may use it at all.
    ///
    /// # Errors
    /// [`NotAllowed`], which says what to change.
    pub fn allows(&self, namespace: &str, labels: &BTreeMap<String, String>, function: Option<&str>) -> Result<(), NotAllowed> {
        self.access.allows(namespace, labels, function)
    }
}

/// Sizes of payloads, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadLimits {
    /// The largest input that is sent.
    pub max_input_bytes: usize,
    /// The largest output that is shown on the object itself.
    pub max_inline_output_bytes: usize,
}

/// Shortest and longest time between two reads of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollingLimits {
    /// After a change.
    pub min: Duration,
    /// While nothing happens.
    pub max: Duration,
}

/// What is known of a hub.
#[derive(Debug, Clone, Default)]
pub enum HubView {
    /// Its TaskHub was not judged yet.
    #[default]
    Unknown,
    /// Its TaskHub was deleted.
    Absent,
    /// Its TaskHub says why it cannot be used.
    NotReady(NotReady),
    /// It answers.
    Ready(Arc<ReadyHub>),
}

impl HubView {
    /// The client, if the hub answers.
    pub fn ready(&self) -> Option<&Arc<ReadyHub>> {
        match self {
            HubView::Ready(hub) => Some(hub),
            HubView::Unknown | HubView::Absent | HubView::NotReady(_) => None,
        }
    }

    /// True if a dependent could decide differently on `other`.
    fn differs(&self, other: &HubView) -> bool {
        match (self, other) {
            (HubView::Unknown, HubView::Unknown) | (HubView::Absent, HubView::Absent) => false,
            (HubView::NotReady(a), HubView::NotReady(b)) => a != b,
            (HubView::Ready(a), HubView::Ready(b)) => {
                a.workers_active != b.workers_active || a.access != b.access || a.limits != b.limits || a.polling != b.polling
            }
            _ => true,
        }
    }
}

/// The registry. Clones share it.
#[derive(Clone, Default)]
pub struct Hubs {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    tally: Mutex<tally::Tally>,
    namespaces: Option<namespaces::Namespaces>,
    changed: Changes<Dependent>,
    doubted: Changes<HubKey>,
    counted: Changes<HubKey>,
    limiter: LimiterMetrics,
}

#[derive(Default)]
struct State {
    views: HashMap<HubKey, HubView>,
    /// The newest client that worked, whatever the view says now.
    last_ready: HashMap<HubKey, Arc<ReadyHub>>,
    /// Since when the TaskHubs are gone whose client is kept.
    gone: HashMap<HubKey, Instant>,
    dependents: HashMap<HubKey, HashSet<Dependent>>,
    doubts: HashSet<HubKey>,
    budgets: HashMap<HubKey, (u32, Budget)>,
}

impl Hubs {
    /// An empty registry that reads no namespaces: where a TaskHub selects by labels, nobody is allowed.
    pub fn new() -> Hubs {
        Hubs::default()
    }

    /// An empty registry that reads the labels of namespaces with `client`, and whose budgets count here.
    pub fn reading_namespaces(client: Client, limiter: LimiterMetrics) -> Hubs {
        let inner = Inner { namespaces: Some(namespaces::Namespaces::new(client)), limiter, ..Inner::default() };
        Hubs { inner: Arc::new(inner) }
    }

    /// Whether objects of `namespace` may use the hub `ready` of `hub`, and run `function` through it. No request unless the
    /// TaskHub selects namespaces by their labels, and then one every ten seconds at most.
    ///
    /// An object that adopts has no function to ask for: its instance has. A refusal for labels is not told when they change:
    /// ask again after a while.
    ///
    /// # Errors
    /// [`NotAllowed`], which says what to change; also if the labels cannot be read.
    pub async fn permission(&self, hub: &HubKey, ready: &ReadyHub, namespace: &str, function: Option<&str>) -> Result<(), NotAllowed> {
        debug_assert!(!ready.access.needs_labels(&hub.namespace), "the access is that of another hub");
        self.allowed(&ready.access, namespace, function).await
    }

    /// [`Hubs::permission`] of a hub that need not answer.
    ///
    /// # Errors
    /// As [`Hubs::permission`].
    pub async fn allowed(&self, access: &Access, namespace: &str, function: Option<&str>) -> Result<(), NotAllowed> {
        let labels = match &self.inner.namespaces {
            _ if !access.needs_labels(namespace) => Ok(Arc::default()),
            Some(namespaces) => namespaces.labels(namespace).await,
            None => Err("no namespaces are read here".to_owned()),
        };
        match labels {
            Ok(labels) => access.allows(namespace, &labels, function),
            Err(why) => Err(access.unknown_labels(namespace, &why)),
        }
    }

    /// The hub's budget: the same one for as long as its TaskHub is there, whatever clients are made.
    pub fn budget(&self, key: &HubKey, requests_per_second: u32) -> Budget {
        let mut state = self.lock();
        let made = || (requests_per_second, Budget::new(requests_per_second, self.inner.limiter.clone()));
        let (rate, budget) = state.budgets.entry(key.clone()).or_insert_with(made);
        if std::mem::replace(rate, requests_per_second) != requests_per_second {
            budget.set_rate(requests_per_second);
        }
        budget.clone()
    }

    /// What is known of the hub.
    pub fn view(&self, key: &HubKey) -> HubView {
        self.lock().views.get(key).cloned().unwrap_or_default()
    }

    /// The TaskHub's judgement. Its dependents are told if it changes anything for them.
    pub fn judge(&self, key: &HubKey, view: HubView) {
        let mut state = self.lock();
        state.remember(key, &view, Instant::now());
        let before = state.views.insert(key.clone(), view.clone()).unwrap_or_default();
        if before.differs(&view) {
            self.inner.changed.add(state.dependents_of(key));
        }
    }

    /// The TaskHub is gone.
    pub fn remove(&self, key: &HubKey) {
        let mut state = self.lock();
        state.doubts.remove(key);
        state.budgets.remove(key);
        drop(state);
        self.judge(key, HubView::Absent);
    }

    /// The newest client that worked, also while the hub is not ready or its TaskHub gone: for deletions, which must not fail for
    /// a Secret that went first. In memory only. Kept as long as there is the TaskHub or something follows it, and ten minutes more.
    pub fn last_ready(&self, key: &HubKey) -> Option<Arc<ReadyHub>> {
        self.lock().last_ready.get(key).cloned()
    }

    /// The Orchestration of this UID refers to the hub and stands there now; `None`: it is gone.
    pub fn record(&self, key: &HubKey, uid: &str, standing: Option<Standing>) {
        let changed = self.inner.tally.lock().unwrap_or_else(PoisonError::into_inner).record(key, uid, standing);
        if changed {
            self.inner.counted.add([key.clone()]);
        }
    }

    /// The Orchestration is gone.
    pub fn forget(&self, uid: &str) {
        let changed = self.inner.tally.lock().unwrap_or_else(PoisonError::into_inner).forget(uid);
        self.inner.counted.add(changed);
    }

    /// How many Orchestrations refer to the hub, by where they stand, of those that were recorded.
    pub fn counts(&self, key: &HubKey) -> Counts {
        self.inner.tally.lock().unwrap_or_else(PoisonError::into_inner).counts(key)
    }

    /// How many Orchestrations were recorded, of all hubs.
    pub fn recorded(&self) -> usize {
        self.inner.tally.lock().unwrap_or_else(PoisonError::into_inner).objects()
    }

    /// The hubs whose counts changed, each once a second at most. For one consumer.
    pub fn counted(&self) -> impl Stream<Item = HubKey> + Send + use<> {
        let changes = self.inner.counted.clone();
        futures::stream::unfold(changes, async |changes| {
            let changed = changes.next().await;
            tokio::time::sleep(COUNTED_EVERY).await;
            Some((futures::stream::iter(changed), changes))
        })
        .flatten()
    }

    /// `dependent` wants to be told when the hub changes.
    pub fn follow(&self, key: &HubKey, dependent: Dependent) {
        self.lock().dependents.entry(key.clone()).or_default().insert(dependent);
    }

    /// `dependent` does not care any more.
    pub fn unfollow(&self, key: &HubKey, dependent: &Dependent) {
        let mut state = self.lock();
        if let Some(dependents) = state.dependents.get_mut(key) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                state.dependents.remove(key);
            }
        }
    }

    /// A request to the hub failed in a way that its TaskHub should look into.
    pub fn doubt(&self, key: &HubKey) {
        self.lock().doubts.insert(key.clone());
        self.inner.doubted.add([key.clone()]);
    }

    /// True if the hub was doubted since this was last asked: what was found out about it earlier may be wrong now.
    pub fn take_doubt(&self, key: &HubKey) -> bool {
        self.lock().doubts.remove(key)
    }

    /// The objects whose hub changed. For one consumer.
    pub fn changed(&self) -> &Changes<Dependent> {
        &self.inner.changed
    }

    /// The hubs that were doubted. For one consumer.
    pub fn doubted(&self) -> &Changes<HubKey> {
        &self.inner.doubted
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps the client of a hub that answers, and drops those that nobody can want any more.
    fn remember(&mut self, key: &HubKey, view: &HubView, now: Instant) {
        match view {
            HubView::Ready(hub) => {
                self.last_ready.insert(key.clone(), hub.clone());
                self.gone.remove(key);
            }
            HubView::Absent if self.last_ready.contains_key(key) => {
                self.gone.entry(key.clone()).or_insert(now);
            }
            HubView::Absent => {}
            HubView::NotReady(_) | HubView::Unknown => {
                self.gone.remove(key);
            }
        }
        let State { last_ready, gone, dependents, .. } = self;
        gone.retain(|key, since| {
            let kept = dependents.contains_key(key) || now.duration_since(*since) < KEPT_WHEN_GONE;
            if !kept {
                last_ready.remove(key);
            }
            kept
        });
    }

    fn dependents_of(&self, key: &HubKey) -> Vec<Dependent> {
        self.dependents.get(key).into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HubKey {
        HubKey { namespace: "shop".to_owned(), name: "orders".to_owned() }
    }

    fn dependent() -> Dependent {
        Dependent { namespace: "shop".to_owned(), name: "order-1".to_owned() }
    }

    #[tokio::test]
    async fn dependents_are_told_of_changes_and_of_nothing_else() {
        let hubs = Hubs::new();
        hubs.follow(&key(), dependent());
        let not_ready = || HubView::NotReady(NotReady::new("SecretNotFound", "create it"));
        hubs.judge(&key(), not_ready());
        assert_eq!(hubs.changed().next().await, [dependent()]);
        hubs.judge(&key(), not_ready());
        let nothing = tokio::time::timeout(Duration::from_millis(50), hubs.changed().next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        hubs.unfollow(&key(), &dependent());
        hubs.remove(&key());
        assert!(tokio::time::timeout(Duration::from_millis(50), hubs.changed().next()).await.is_err());
        assert!(matches!(hubs.view(&key()), HubView::Absent));
    }
}
