//! Events that wait: at what pace each asks, and who is told that what it waits for has changed.
//!
//! Owns the only memory of this controller that grows: one entry per event that
//! waits. Once a second it looks at hubs and Orchestrations, in memory, without a
//! request. Invariant: what is lost with the process is the pace alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::time::{Instant, MissedTickBehavior};

use super::decide::{Hub, next_interval};
use crate::api::Envelope;
use crate::api::v1alpha1::{Orchestration, TaskHub};
use crate::hubs::{Dependent, HubKey, HubView, Hubs, PollingLimits};

/// How often waiting events look at what is in memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What of the world can be looked at without a request.
#[derive(Clone)]
pub struct Surroundings {
    /// The hubs and their clients.
    pub hubs: Hubs,
    /// All TaskHubs that are watched.
    pub task_hubs: Store<Envelope<TaskHub>>,
    /// All Orchestrations that are watched.
    pub orchestrations: Store<Envelope<Orchestration>>,
}

impl Surroundings {
    /// The hub, and its client if it answers.
    pub fn hub(&self, key: &HubKey) -> (Hub, HubView) {
        let view = self.hubs.view(key);
        let hub = match &view {
            HubView::Ready(_) => Hub::Ready,
            HubView::NotReady(why) => Hub::NotReady(why.clone()),
            HubView::Absent => Hub::NotFound,
            HubView::Unknown if is_listed(&self.task_hubs) && self.task_hub(key).is_none() => Hub::NotFound,
            HubView::Unknown => Hub::Unknown,
        };
        (hub, view)
    }

    /// The TaskHub itself.
    pub fn task_hub(&self, key: &HubKey) -> Option<Arc<Envelope<TaskHub>>> {
        self.task_hubs.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    /// The Orchestration; none if they were not listed yet.
    pub fn orchestration(&self, namespace: &str, name: &str) -> Option<Option<Arc<Envelope<Orchestration>>>> {
        is_listed(&self.orchestrations).then(|| self.orchestrations.get(&ObjectRef::new(name).within(namespace)))
    }

    fn glimpse(&self, subject: &Subject) -> Glimpse {
        let namespace = &subject.event.namespace;
        let orchestration = subject.orchestration.as_ref().and_then(|name| self.orchestration(namespace, name)).flatten();
        Glimpse {
            hub: subject.hub.as_ref().map(|key| self.hub(key).0),
            orchestration: orchestration.map(|object| object.resource_version()),
        }
    }
}

fn is_listed<K: crate::api::Kind>(store: &Store<Envelope<K>>) -> bool
where
    Envelope<K>: Resource<DynamicType = ()>,
{
    store.wait_until_ready().now_or_never().is_some_and(|ready| ready.is_ok())
}

/// An event that waits, and what it looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The event.
    pub event: Dependent,
    /// The hub that it goes through, if that is known.
    pub hub: Option<HubKey>,
    /// The name of the Orchestration that it is for.
    pub orchestration: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Glimpse {
    hub: Option<Hub>,
    orchestration: Option<u64>,
}

struct Entry {
    subject: Subject,
    glimpse: Glimpse,
    interval: Duration,
    due: Instant,
}

/// The events that wait. Clones share them.
#[derive(Clone)]
pub struct Waiting {
    surroundings: Surroundings,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

impl Waiting {
    /// Nobody waits.
    pub fn new(surroundings: Surroundings) -> Waiting {
        Waiting { surroundings, entries: Arc::default() }
    }

    /// The time until the event of this UID may ask again; none if it may now. `hurry`, and any change of what it looks at,
    /// let it ask at once and often.
    pub fn until_due(&self, uid: &str, subject: &Subject, hurry: bool) -> Option<Duration> {
        let glimpse = self.surroundings.glimpse(subject);
        let mut entries = self.lock();
        let now = Instant::now();
        let fresh = || Entry { subject: subject.clone(), glimpse: glimpse.clone(), interval: Duration::ZERO, due: now };
        let entry = entries.entry(uid.to_owned()).or_insert_with(fresh);
        if hurry || entry.glimpse != glimpse || entry.subject != *subject {
            *entry = fresh();
        }
        entry.due.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// The event has asked, and waits on: the time until it may ask again.
    pub fn asked(&self, uid: &str, limits: PollingLimits) -> Duration {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(uid) else { return limits.min };
        entry.interval = next_interval(entry.interval, limits);
        entry.due = Instant::now() + entry.interval;
        entry.interval
    }

    /// It waits no more.
    pub fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The events that should look again, for ever.
    pub fn changed(&self) -> BoxStream<'static, Dependent> {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        futures::stream::unfold((self.clone(), ticks), async |(waiting, mut ticks)| {
            ticks.tick().await;
            let changed = waiting.look();
            Some((futures::stream::iter(changed), (waiting, ticks)))
        })
        .flatten()
        .boxed()
    }

    /// Those for whom something is another than when they asked.
    fn look(&self) -> Vec<Dependent> {
        let entries = self.lock();
        let changed = entries.values().filter(|entry| self.surroundings.glimpse(&entry.subject) != entry.glimpse);
        changed.map(|entry| entry.subject.event.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
