//! The controller of TaskHubs: probe and report.
//!
//! Owns the judgement on which all other controllers rely ([`Hubs::judge`]).
//! Invariants: the first account is pinned, so that a wrong Secret cannot make
//! instances look deleted; a client that works is kept until a better one was
//! probed; nothing is created in or deleted from an account unless the spec asks for it.

mod connect;
mod deletion;
mod describe;
mod figures;
mod look;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durable_taskhub::Time;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};

use self::connect::Known;
use self::describe::{Finding, describe, notice};
use self::look::Depth;
use super::events::Events;
use super::failure::Failure;
use super::runner::{Newest, Next, Reconciler};
use super::status::{self, STALE_AGAIN_AFTER, Written};
use crate::api::v1alpha1::{Orchestration, TaskHub, TaskHubStatus};
use crate::api::{Envelope, RECONCILE_REQUESTED_AT_ANNOTATION};
use crate::config::AllowedEndpoints;
use crate::connection::NotReady;
use crate::hubs::{HubKey, HubView, Hubs, Secrets};
use crate::metrics::{StorageMetrics, TaskHubMetrics};
use crate::workload_identity::WorkloadIdentities;

type Object = Envelope<TaskHub>;

/// A hub that does not answer is tried again after this, doubled each time up to [`MAX_RETRY_INTERVAL`].
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time until something that was mended is seen.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(8);

/// What the controller works with.
pub struct Parts {
    /// Writes statuses and finalizers.
    pub client: Client,
    /// Publishes Events.
    pub events: Events,
    /// Where it says what it found.
    pub hubs: Hubs,
    /// The Secrets that TaskHubs refer to.
    pub secrets: Secrets,
    /// The identities that TaskHubs refer to.
    pub identities: WorkloadIdentities,
    /// Which hosts credentials may be sent to.
    pub allowed_endpoints: AllowedEndpoints,
    /// Counts requests to storage accounts.
    pub storage_metrics: Arc<StorageMetrics>,
    /// What each TaskHub is known to be.
    pub metrics: TaskHubMetrics,
    /// All TaskHubs that are watched: one hub may have several.
    pub task_hubs: Store<Object>,
    /// All Orchestrations that are watched: what is unfinished holds the deletion of its hub.
    pub orchestrations: Store<Envelope<Orchestration>>,
}

/// The controller.
pub struct TaskHubs {
    client: Client,
    events: Events,
    hubs: Hubs,
    secrets: Secrets,
    identities: WorkloadIdentities,
    allowed_endpoints: AllowedEndpoints,
    storage_metrics: Arc<StorageMetrics>,
    metrics: TaskHubMetrics,
    task_hubs: Store<Object>,
    orchestrations: Store<Envelope<Orchestration>>,
    started: Instant,
    all_recorded: AtomicBool,
    known: Mutex<HashMap<String, Known>>,
}

impl TaskHubs {
    /// The controller with no connection open.
    pub fn new(parts: Parts) -> TaskHubs {
        let Parts { client, events, hubs, secrets, identities, allowed_endpoints, storage_metrics, metrics, task_hubs, orchestrations } =
            parts;
        TaskHubs {
            client,
            events,
            hubs,
            secrets,
            identities,
            allowed_endpoints,
            storage_metrics,
            metrics,
            task_hubs,
            orchestrations,
            started: Instant::now(),
            all_recorded: AtomicBool::new(false),
            known: Mutex::default(),
        }
    }

    /// Writes the status if it says something new, and tells a person what she would want to know. `None` if the copy was stale.
    async fn report(&self, object: &Object, finding: &Finding, newest: &Newest<TaskHub>) -> Result<Option<TaskHubStatus>, Failure> {
        self.show(object, finding);
        let before = object.status();
        let requested_at = object.annotation(RECONCILE_REQUESTED_AT_ANNOTATION);
        let after = describe(&before, finding, object.generation(), requested_at, Time::now());
        if after != before {
            match status::write(&self.client, object, &after).await? {
                Written::New(copy) => drop(newest.keep(*copy)),
                Written::Stale => return Ok(None),
            }
            if let Some(notice) = notice(&before, &after, finding) {
                self.events.publish(object, notice).await;
            }
        }
        Ok(Some(after))
    }
}

impl Reconciler for TaskHubs {
    type Kind = TaskHub;

    const KIND: &'static str = "TaskHub";

    async fn reconcile(&self, object: Arc<Object>, newest: &Newest<TaskHub>) -> Result<Next, Failure> {
        let key = HubKey { namespace: object.namespace().to_owned(), name: object.name().to_owned() };
        let is_leaving = object.deleted_at().is_some();
        if is_leaving && object.has_finalizer() {
            return self.delete(&object, &key, newest).await;
        }
        let object = if is_leaving { Some(object) } else { self.keep_finalizer(object, newest).await? };
        let Some(object) = object else { return Ok(Next::After(STALE_AGAIN_AFTER)) };
        let probed = match object.spec() {
            Ok(spec) => self.probe(&object, &key, &spec, Depth::Due).await,
            Err(error) => Err(NotReady::new(
                "InvalidSpec",
                format!("this version of the operator cannot read the spec: {error}. Change the object, or upgrade the operator"),
            )),
        };
        let (finding, view, retry) = match probed {
            Ok(None) => return Ok(Next::Change),
            Ok(Some((connected, hub))) => {
                self.count_failure(object.uid(), None);
                (Finding::Connected(connected), HubView::Ready(Arc::new(hub)), None)
            }
            Err(why) => {
                let failures = self.count_failure(object.uid(), Some(&why));
                let pause = RETRY_INTERVAL.saturating_mul(1 << (failures - 1).min(10)).min(MAX_RETRY_INTERVAL);
                (Finding::NotReady(why.clone()), HubView::NotReady(why), Some(pause))
            }
        };
        let Some(after) = self.report(&object, &finding, newest).await? else { return Ok(Next::After(STALE_AGAIN_AFTER)) };
        // After the write: nobody works with an account that is not pinned yet.
        self.hubs.judge(&key, view);
        Ok(retry.map_or_else(|| self.next_look(&object, &key, &after), Next::After))
    }

    fn forget(&self, object: &ObjectRef<Object>, uid: &str) {
        let key = HubKey { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() };
        self.known().remove(uid);
        self.secrets.forget(&key);
        self.metrics.remove(&key.namespace, &key.name);
        self.hubs.remove(&key);
    }
}
