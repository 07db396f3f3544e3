//! The one place that builds `Controller<K>`, with kube's traps closed (kube-facts.md).
//!
//! - A panic would end the whole controller: it is caught per object, logged
//!   and tried again after a growing time.
//! - kube gives `error_policy` no count of attempts: the back-off is kept here.
//! - The store may be older than our own last write: the newest copy that came
//!   back from the API server is kept per UID, and no older one is decided on.
//! - Own status writes would trigger another reconcile: a predicate passes what
//!   a reconcile reads (generation, finalizers, our annotations) only.
//! - Objects that go away without a finalizer are never reconciled: deletions
//!   are seen in the watch itself, also those that happen while it was down or
//!   while the object is being reconciled.
//! - Nothing in kube times out: the reconcile as a whole does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::predicates;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, WatchStreamExt, watcher};
use kube::{Api, Client, Resource};

use super::failure::Failure;
use super::watch;
use crate::admin::Gate;
use crate::api::{Envelope, Kind, PAUSED_ANNOTATION};
use crate::hubs::Dependent;
use crate::lease::Leading;
use crate::metrics::{Queue, ReconcileMetrics};
use crate::refusal;
use crate::shutdown::Shutdown;
use crate::traces::{self, RECONCILE};

/// The longest pause after failures.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// When the object shall be looked at again, if nothing changes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Only when something changes.
    Change,
    /// After this time.
    After(Duration),
}

/// What a kind's controller does with its objects.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Kind: Kind;

    /// The kind's name, for metrics and logs.
    const KIND: &'static str;

    /// Brings one object and the world closer together. Its object is as new as the last write that came back.
    fn reconcile(
        &self,
        object: Arc<Envelope<Self::Kind>>,
        newest: &Newest<Self::Kind>,
    ) -> impl Future<Output = Result<Next, Failure>> + Send;

    /// The object is gone.
    fn forget(&self, object: &ObjectRef<Envelope<Self::Kind>>, uid: &str);
}

/// The newest copy of objects that our own writes gave back, until the watch has caught up.
pub struct Newest<K> {
    copies: Mutex<HashMap<String, Arc<Envelope<K>>>>,
}

impl<K: Kind> Newest<K> {
    fn new() -> Newest<K> {
        Newest { copies: Mutex::default() }
    }

    /// The API server answered a write with this copy.
    pub fn keep(&self, copy: Envelope<K>) -> Arc<Envelope<K>> {
        let copy = Arc::new(copy);
        lock(&self.copies).insert(copy.uid().to_owned(), copy.clone());
        copy
    }

    /// `object`, or the newer copy that a write gave back.
    fn or_newer(&self, object: Arc<Envelope<K>>) -> Arc<Envelope<K>> {
        match lock(&self.copies).get(object.uid()) {
            Some(copy) if copy.resource_version() > object.resource_version() => copy.clone(),
            _ => object,
        }
    }

    /// The watch has shown this version: older copies are of no use any more.
    fn caught_up(&self, uid: &str, resource_version: u64) {
        let mut copies = lock(&self.copies);
        if copies.get(uid).is_some_and(|copy| copy.resource_version() <= resource_version) {
            copies.remove(uid);
        }
    }

    fn remove(&self, uid: &str) {
        lock(&self.copies).remove(uid);
    }
}

struct Run<R: Reconciler> {
    reconciler: R,
    newest: Newest<R::Kind>,
    failures: Mutex<HashMap<String, u32>>,
    /// Of the watch: which objects exist, by UID.
    existing: Mutex<HashMap<String, ObjectRef<Envelope<R::Kind>>>>,
    metrics: ReconcileMetrics,
    /// Who waits for a reconcile.
    queue: Queue,
    time_out: Duration,
    leading: Leading,
}

/// What a controller runs with.
pub struct Setup<K: Kind> {
    /// How many objects are reconciled at once.
    pub concurrency: u16,
    /// A reconcile that takes longer is given up and tried again.
    pub time_out: Duration,
    /// Objects that shall be looked at although nobody touched them.
    pub triggers: futures::stream::BoxStream<'static, Dependent>,
    /// Opened when all objects were listed.
    pub listed: Gate,
    /// When to stop.
    pub shutdown: Shutdown,
    /// Without it nothing is begun any more.
    pub leading: Leading,
    /// What is counted.
    pub metrics: ReconcileMetrics,
    /// The watches, one for each namespace that is watched, and the store that they fill.
    pub watched: Watched<K>,
}

/// The objects of a kind: where they are watched, and the store that the watches fill.
pub struct Watched<K: Kind> {
    apis: Vec<Api<Envelope<K>>>,
    writer: reflector::store::Writer<Envelope<K>>,
    /// The store, empty until the controller runs.
    pub store: Store<Envelope<K>>,
}

impl<K: Kind> Watched<K> {
    /// Watches `namespaces`, or all if there are none.
    pub fn new(client: &Client, namespaces: &[String]) -> Watched<K> {
        let apis = if namespaces.is_empty() {
            vec![Api::all(client.clone())]
        } else {
            namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
        };
        let (store, writer) = reflector::store();
        Watched { apis, writer, store }
    }
}

/// Runs the controller of `reconciler` until the shutdown begins, and lets reconciles under way finish.
pub async fn run<R: Reconciler>(reconciler: R, setup: Setup<R::Kind>) {
    let Setup { concurrency, time_out, triggers, listed, shutdown, leading, metrics, watched } = setup;
    let queue = metrics.begin(R::KIND);
    let run = Arc::new(Run {
        reconciler,
        newest: Newest::new(),
        failures: Mutex::default(),
        existing: Mutex::default(),
        metrics,
        queue: queue.clone(),
        time_out,
        leading,
    });
    let Watched { apis, writer, store } = watched;
    let events = watch::all(apis).inspect({
        let run = run.clone();
        let mut listing = HashMap::new();
        move |event| run.observe(event, &mut listing, &listed)
    });
    let touched = events
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::finalizers).combine(our_annotations), Default::default())
        .inspect({
            let queue = queue.clone();
            move |touched| {
                if let Ok(object) = touched {
                    queue.add(object.namespace(), object.name());
                }
            }
        });
    let triggers = triggers.map({
        let queue = queue.clone();
        move |object| {
            queue.add(&object.namespace, &object.name);
            ObjectRef::new(&object.name).within(&object.namespace)
        }
    });
    Controller::for_stream(touched, store)
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(triggers)
        .graceful_shutdown_on(shutdown.begun())
        .run(|object, run| async move { Ok::<_, Infallible>(run.reconcile(object).await) }, |_, impossible, _| match *impossible {}, run)
        .for_each(async |result| {
            match result {
                // Its turn came after it went.
                Err(kube::runtime::controller::Error::ObjectNotFound(object)) => {
                    queue.remove(object.namespace.as_deref().unwrap_or_default(), &object.name);
                }
                Err(error) => tracing::warn!(kind = R::KIND, %error, "watch interrupted"),
                Ok(_) => {}
            }
        })
        .await;
}

impl<R: Reconciler> Run<R> {
    /// Sees each event of the watch before the store does.
    fn observe(
        &self,
        event: &Result<watcher::Event<Envelope<R::Kind>>, watcher::Error>,
        listing: &mut HashMap<String, ObjectRef<Envelope<R::Kind>>>,
        listed: &Gate,
    ) {
        match event {
            Ok(watcher::Event::Init) => listing.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                listing.insert(object.uid().to_owned(), ObjectRef::from_obj(object));
                self.newest.caught_up(object.uid(), object.resource_version());
            }
            Ok(watcher::Event::InitDone) => {
                let before = std::mem::replace(&mut *lock(&self.existing), std::mem::take(listing));
                let gone: Vec<_> = {
                    let existing = lock(&self.existing);
                    before.into_iter().filter(|(uid, _)| !existing.contains_key(uid)).collect()
                };
                for (uid, object) in gone {
                    self.forget(&object, &uid);
                }
                listed.open();
            }
            Ok(watcher::Event::Apply(object)) => {
                // A namesake with another UID replaces an object whose deletion was not seen.
                lock(&self.existing).insert(object.uid().to_owned(), ObjectRef::from_obj(object));
                self.newest.caught_up(object.uid(), object.resource_version());
            }
            Ok(watcher::Event::Delete(object)) => {
                lock(&self.existing).remove(object.uid());
                self.forget(&ObjectRef::from_obj(object), object.uid());
            }
            Err(error) => listed.say(refusal::explain_watch(error)),
        }
    }

    fn forget(&self, object: &ObjectRef<Envelope<R::Kind>>, uid: &str) {
        self.newest.remove(uid);
        lock(&self.failures).remove(uid);
        self.reconciler.forget(object, uid);
    }

    /// Reconciles, and knows from when on the object waits again.
    async fn reconcile(&self, object: Arc<Envelope<R::Kind>>) -> Action {
        if !self.leading.is_held() {
            // A process that was stopped and goes on may come here before it hears that it has to end.
            return Action::await_change();
        }
        let object = self.newest.or_newer(object);
        let reference = ObjectRef::from_obj(&*object);
        self.queue.remove(object.namespace(), object.name());
        let next = self.reconcile_now(object, &reference).await;
        let Next::After(pause) = next else { return Action::await_change() };
        self.queue.add_after(reference.namespace.as_deref().unwrap_or_default(), &reference.name, pause);
        Action::requeue(pause)
    }

    async fn reconcile_now(&self, object: Arc<Envelope<R::Kind>>, reference: &ObjectRef<Envelope<R::Kind>>) -> Next {
        if object.annotation(PAUSED_ANNOTATION) == Some("true") && object.meta().deletion_timestamp.is_none() {
            return Next::Change;
        }
        let uid = object.uid().to_owned();
        let span = tracing::info_span!(RECONCILE, kind = R::KIND, namespace = object.namespace(), name = object.name());
        let begun = Instant::now();
        let work = AssertUnwindSafe(Box::pin(self.reconciler.reconcile(object, &self.newest))).catch_unwind();
        let result = match tokio::time::timeout(self.time_out, tracing::Instrument::instrument(work, span.clone())).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::new("panic", Panicked(panic_text(panic.as_ref())))),
            Err(_) => Err(Failure::of("timeout")),
        };
        self.metrics.observe(R::KIND, result.as_ref().err().map(Failure::category), begun.elapsed());
        if !lock(&self.existing).contains_key(&uid) {
            // It went meanwhile: what this reconcile remembered after the deletion was seen would stay for ever.
            self.forget(reference, &uid);
            return Next::Change;
        }
        match result {
            Ok(next) => {
                lock(&self.failures).remove(&uid);
                next
            }
            Err(failure) => {
                traces::failed(&span, failure.category());
                let attempt = {
                    let mut failures = lock(&self.failures);
                    let count = failures.entry(uid).or_insert(0);
                    *count = count.saturating_add(1);
                    *count
                };
                let pause = back_off(attempt);
                span.in_scope(|| tracing::warn!(%failure, attempt, ?pause, "reconcile failed"));
                Next::After(pause)
            }
        }
    }
}

/// 0.25 s, doubled with each failure in a row.
fn back_off(attempt: u32) -> Duration {
    Duration::from_millis(125).saturating_mul(1 << attempt.min(10)).min(MAX_BACK_OFF)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Panicked(String);

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn our_annotations<K: Kind>(object: &Envelope<K>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    object.meta().annotations.hash(&mut hasher);
    object.meta().deletion_timestamp.is_some().hash(&mut hasher);
    Some(hasher.finish())
}
