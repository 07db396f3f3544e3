//! The controller of TaskHubs: probe and report.
//!
//! Owns the judgement on which all other controllers rely ([`Hubs::judge`]).
//! Invariants: the first account is pinned, so that a wrong Secret cannot make
//! instances look deleted; a client that works is kept until a better one was
//! probed; nothing is created in an account.

mod describe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Options, Storage, StorageError, StorageErrorKind};
use durable_taskhub::{ConnectError, TaskHub as HubClient, Time};
use kube::Client;
use kube::runtime::reflector::ObjectRef;

use self::describe::{Connected, Finding, describe, notice};
use super::events::Events;
use super::failure::Failure;
use super::runner::{Newest, Next, Reconciler};
use super::status::{self, STALE_AGAIN_AFTER, Written};
use crate::api::v1alpha1::{ConnectionStatus, TaskHub, TaskHubSpec};
use crate::api::{Envelope, RECONCILE_REQUESTED_AT_ANNOTATION};
use crate::config::AllowedEndpoints;
use crate::connection::{NotReady, Resolved, resolve};
use crate::hubs::{Budget, DEFAULT_REQUESTS_PER_SECOND, HubKey, HubView, Hubs, PollingLimits, Priority, ReadyHub, Secrets};
use crate::metrics::StorageMetrics;

type Object = Envelope<TaskHub>;

/// A hub that answers is looked at again after this: one request, for who serves it.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// A hub that does not answer is tried again after this, doubled each time up to [`MAX_RETRY_INTERVAL`].
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time until something that was mended is seen.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(8);

/// The controller's parts.
pub struct TaskHubs {
    client: Client,
    events: Events,
    hubs: Hubs,
    secrets: Secrets,
    allowed_endpoints: AllowedEndpoints,
    storage_metrics: Arc<StorageMetrics>,
    connections: Mutex<HashMap<String, Connection>>,
}

/// The client of a TaskHub, what it was made from, and how often in a row it failed.
#[derive(Default, Clone)]
struct Connection {
    open: Option<(Made, HubClient)>,
    failures: u32,
}

/// What a client was made from: another one is needed when it differs.
#[derive(Clone, PartialEq, Eq)]
struct Made {
    hub_name: String,
    partition_count: Option<i32>,
    secret: String,
    credential_version: String,
}

impl TaskHubs {
    /// The controller with no connection open.
    pub fn new(
        client: Client,
        events: Events,
        hubs: Hubs,
        secrets: Secrets,
        allowed_endpoints: AllowedEndpoints,
        storage_metrics: Arc<StorageMetrics>,
    ) -> TaskHubs {
        TaskHubs { client, events, hubs, secrets, allowed_endpoints, storage_metrics, connections: Mutex::default() }
    }

    /// What can be said of the hub now; `None` while its Secret was not read yet.
    async fn probe(&self, object: &Object, key: &HubKey) -> Result<Option<(Connected, ReadyHub)>, NotReady> {
        let spec = object.spec().map_err(|error| {
            NotReady::new(
                "InvalidSpec",
                format!("this version of the operator cannot read the spec: {error}. Change the object, or upgrade the operator"),
            )
        })?;
        let secret = &spec.connection.connection_string_secret_ref.name;
        let state = self.secrets.state(key, secret);
        let pinned = object.status().account_name;
        let Some(resolved) = resolve(&spec, &state, &self.allowed_endpoints, pinned.as_deref())? else { return Ok(None) };
        let polling = polling_limits(&spec)?;
        let doubted = self.hubs.take_doubt(key);
        let budget = self.hubs.budget(key, DEFAULT_REQUESTS_PER_SECOND);
        let mut client = self.connect(object.uid(), &spec, &resolved, &budget, doubted).await?;
        let mut served = client.served_partitions().await.map_err(|error| storage_says(&error))?;
        if served.is_none() && !doubted {
            // Nothing says who serves it: the hub may be gone, or another one be there under its name.
            client = self.connect(object.uid(), &spec, &resolved, &budget, true).await?;
            served = client.served_partitions().await.map_err(|error| storage_says(&error))?;
        }
        let served_partitions = served.unwrap_or_default();
        let connected = Connected {
            account_name: resolved.account.name().to_owned(),
            partition_count: i32::try_from(client.partition_count().get()).unwrap_or_default(),
            connection: ConnectionStatus { method: resolved.method.to_owned(), credential_version: resolved.credential_version },
            served_partitions,
        };
        let hub = ReadyHub::new(&client, &budget, served_partitions > 0, polling).map_err(|error| storage_says(&error))?;
        Ok(Some((connected, hub)))
    }

    /// The open client, or a new one if it was made from something else, failed since, or `anew` asks for it.
    async fn connect(
        &self,
        uid: &str,
        spec: &TaskHubSpec,
        resolved: &Resolved,
        budget: &Budget,
        anew: bool,
    ) -> Result<HubClient, NotReady> {
        let made = Made {
            hub_name: spec.hub_name.clone(),
            partition_count: spec.partition_count,
            secret: spec.connection.connection_string_secret_ref.name.clone(),
            credential_version: resolved.credential_version.clone(),
        };
        let known = self.connections().get(uid).cloned().unwrap_or_default();
        if let Some((_, client)) = known.open.filter(|(before, _)| !anew && *before == made && known.failures == 0) {
            return Ok(client);
        }
        let name = HubName::new(&spec.hub_name).map_err(|why| NotReady::new("InvalidSpec", format!("spec.hubName: {why}")))?;
        let partitions = spec.partition_count.and_then(|count| PartitionCount::new(u32::try_from(count).ok()?));
        let admission = Some(budget.admission(Priority::Probe));
        let options = Options { observer: Some(self.storage_metrics.clone()), admission, ..Options::default() };
        let storage = Storage::new(resolved.account.clone(), options).map_err(|error| storage_says(&error))?;
        let client = HubClient::connect(storage, name, partitions).await.map_err(|error| connect_says(&error))?;
        self.connections().entry(uid.to_owned()).or_default().open = Some((made, client.clone()));
        Ok(client)
    }

    /// How often in a row the hub has failed, this time included.
    fn count_failure(&self, uid: &str, failed: bool) -> u32 {
        let mut connections = self.connections();
        let connection = connections.entry(uid.to_owned()).or_default();
        connection.failures = if failed { connection.failures.saturating_add(1) } else { 0 };
        connection.failures
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<String, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reconciler for TaskHubs {
    type Kind = TaskHub;

    const KIND: &'static str = "TaskHub";

    async fn reconcile(&self, object: Arc<Object>, newest: &Newest<TaskHub>) -> Result<Next, Failure> {
        let key = HubKey { namespace: object.namespace().to_owned(), name: object.name().to_owned() };
        let (finding, view, next) = match self.probe(&object, &key).await {
            Ok(None) => return Ok(Next::Change),
            Ok(Some((connected, hub))) => {
                self.count_failure(object.uid(), false);
                (Finding::Connected(connected), HubView::Ready(Arc::new(hub)), PROBE_INTERVAL)
            }
            Err(why) => {
                let failures = self.count_failure(object.uid(), true);
                let pause = RETRY_INTERVAL.saturating_mul(1 << (failures - 1).min(10)).min(MAX_RETRY_INTERVAL);
                (Finding::NotReady(why.clone()), HubView::NotReady(why), pause)
            }
        };
        let before = object.status();
        let requested_at = object.annotation(RECONCILE_REQUESTED_AT_ANNOTATION);
        let after = describe(&before, &finding, object.generation(), requested_at, Time::now());
        if after != before {
            match status::write(&self.client, &object, &after).await? {
                Written::New(copy) => newest.keep(*copy),
                Written::Stale => return Ok(Next::After(STALE_AGAIN_AFTER)),
            }
            if let Some(notice) = notice(&before, &after, &finding) {
                self.events.publish(&object, notice).await;
            }
        }
        // After the write: nobody works with an account that is not pinned yet.
        self.hubs.judge(&key, view);
        Ok(Next::After(next))
    }

    fn forget(&self, object: &ObjectRef<Object>, uid: &str) {
        let key = HubKey { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() };
        self.connections().remove(uid);
        self.secrets.forget(&key);
        self.hubs.remove(&key);
    }
}

fn polling_limits(spec: &TaskHubSpec) -> Result<PollingLimits, NotReady> {
    match (spec.polling.min_interval.get(), spec.polling.max_interval.get()) {
        (Some(min), Some(max)) if min <= max && min >= Duration::from_millis(10) => Ok(PollingLimits { min, max }),
        _ => Err(NotReady::new("InvalidSpec", "spec.polling: minInterval must be a duration such as 1s, and at most maxInterval")),
    }
}

fn connect_says(error: &ConnectError) -> NotReady {
    match error {
        ConnectError::HubNotFound { .. } => NotReady::new("HubNotFound", error.to_string()),
        ConnectError::SeparateTrackingStore { .. } | ConnectError::InvalidPartitionCount { .. } => {
            NotReady::new("UnsupportedHub", error.to_string())
        }
        ConnectError::Storage(error) => storage_says(error),
    }
}

/// The reason of product.md 2 for what a storage account answered, and what to change.
fn storage_says(error: &StorageError) -> NotReady {
    let (reason, advice) = match error.kind() {
        StorageErrorKind::Authentication => {
            ("AuthenticationFailed", "check the account key or SAS in the Secret; it may have been rotated")
        }
        StorageErrorKind::AccessDenied => (
            "AccessDenied",
            "grant the credential read and write on the account's queues, tables and blobs, and check the account's firewall",
        ),
        StorageErrorKind::Throttled => ("Throttled", "the storage account is busy; it is tried again"),
        StorageErrorKind::ContainerNotFound | StorageErrorKind::BeingDeleted => ("HubNotFound", "the task hub, or part of it, was deleted"),
        _ => ("Unreachable", "check the endpoints in the Secret, DNS and network policies; it is tried again"),
    };
    NotReady::new(reason, format!("{error}: {advice}"))
}
