//! The hubs that can be worked with now: one client per TaskHub, and who waits for which.
//!
//! The TaskHub controller says here what it found; controllers of the other
//! kinds and the poller read it. Knows no controller. Invariant: as long as a
//! TaskHub was not judged since the operator started, its hub is `Unknown`, and
//! nothing is concluded from that.

mod limiter;
mod secrets;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durable_taskhub::TaskHub;
use durable_taskhub::storage::StorageError;

use crate::changes::Changes;
use crate::connection::NotReady;
use crate::metrics::LimiterMetrics;

pub use limiter::{Budget, DEFAULT_REQUESTS_PER_SECOND, Priority};
pub use secrets::Secrets;

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
}

impl ReadyHub {
    /// A hub that answers `client`, whose requests all spend from `budget` from now on.
    ///
    /// # Errors
    /// Those of [`TaskHub::with_admission`].
    pub fn new(client: &TaskHub, budget: &Budget, workers_active: bool, polling: PollingLimits) -> Result<ReadyHub, StorageError> {
        Ok(ReadyHub {
            polls: client.with_admission(Some(budget.admission(Priority::Poll)))?,
            client: client.with_admission(Some(budget.admission(Priority::User)))?,
            workers_active,
            polling,
        })
    }
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
            (HubView::Ready(a), HubView::Ready(b)) => a.workers_active != b.workers_active,
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
    changed: Changes<Dependent>,
    doubted: Changes<HubKey>,
    limiter: LimiterMetrics,
}

#[derive(Default)]
struct State {
    views: HashMap<HubKey, HubView>,
    dependents: HashMap<HubKey, HashSet<Dependent>>,
    doubts: HashSet<HubKey>,
    budgets: HashMap<HubKey, (u32, Budget)>,
}

impl Hubs {
    /// An empty registry.
    pub fn new() -> Hubs {
        Hubs::default()
    }

    /// An empty registry whose budgets count here.
    pub fn with_metrics(limiter: LimiterMetrics) -> Hubs {
        Hubs { inner: Arc::new(Inner { limiter, ..Inner::default() }) }
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
