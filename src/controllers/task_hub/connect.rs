//! Opening a hub, and making one where that is asked for.
//!
//! Owns the clients of TaskHubs. Invariants: a client that works is kept until a
//! better one was probed; a hub is made only with `createIfMissing`, never for a
//! TaskHub that is being deleted, and never over one that is there.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use durable_taskhub::artifacts::EngineLine;
use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Options, Query, Storage, StorageError, StorageErrorKind, TokenError, TokenErrorKind};
use durable_taskhub::{ConnectError, TaskHub as HubClient};

use super::{Object, TaskHubs};
use crate::api::v1alpha1::{TaskHubSpec, WorkloadIdentity};
use crate::connection::{Found, NotReady, Resolved, Way, resolve, way};
use crate::controllers::events::Notice;
use crate::hubs::{Budget, HubKey, Priority};
use crate::workload_identity::{Identity, provider};

/// What the operator was doing when it tells of a hub that it made.
const CREATE: &str = "Create";

/// What is remembered of a TaskHub between its reconciles, and can be lost.
#[derive(Default, Clone)]
pub(super) struct Known {
    /// The client, and what it was made from.
    pub(super) open: Option<(Made, HubClient)>,
    identity: Option<(WorkloadIdentity, Arc<Identity>)>,
    /// How often in a row it failed.
    pub(super) failures: u32,
    /// When it was looked at last, and what was seen.
    pub(super) looked: Option<Looked>,
    /// When its Orchestrations and messages were counted last.
    pub(super) counted: Option<Instant>,
    /// The engine's line; it does not change under an open client.
    pub(super) line: Option<EngineLine>,
}

/// What a client was made from: another one is needed when it differs.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Made {
    hub_name: String,
    partition_count: Option<i32>,
    connection: String,
    credential_version: String,
}

/// A look at who serves a hub.
#[derive(Clone)]
pub(super) struct Looked {
    pub(super) at: Instant,
    /// What asked for it: another generation, or another value of the annotation, asks for a new one.
    pub(super) generation: i64,
    pub(super) requested_at: Option<String>,
    pub(super) served_partitions: usize,
}

impl Looked {
    pub(super) fn is_fresh(&self, object: &Object, requested_at: Option<&str>, interval: Duration) -> bool {
        self.at.elapsed() < interval && self.generation == object.generation() && self.requested_at.as_deref() == requested_at
    }
}

impl TaskHubs {
    /// The connection that the spec asks for; `None` while its Secret was not read yet.
    pub(super) async fn resolve(&self, object: &Object, key: &HubKey, spec: &TaskHubSpec) -> Result<Option<Resolved>, NotReady> {
        let pinned = object.status().account_name;
        match way(&spec.connection)? {
            Way::Secret { name, .. } => {
                let found = Found::Secret(self.secrets.state(key, name));
                resolve(spec, &found, &self.allowed_endpoints, pinned.as_deref())
            }
            Way::Identity(wanted) => {
                self.secrets.forget(key);
                let identity = self.identity(object.uid(), key, wanted);
                // The endpoints are judged before anybody is asked for a token.
                let found = Found::Tokens(provider(&identity));
                let Some(resolved) = resolve(spec, &found, &self.allowed_endpoints, pinned.as_deref())? else { return Ok(None) };
                let credential_version = identity.client_id().await.map_err(|error| token_says(&error))?;
                Ok(Some(Resolved { credential_version, ..resolved }))
            }
        }
    }

    /// The identity of the TaskHub: the same one as long as the spec says the same, since it keeps its token.
    fn identity(&self, uid: &str, key: &HubKey, wanted: &WorkloadIdentity) -> Arc<Identity> {
        let mut known = self.known();
        let known = known.entry(uid.to_owned()).or_default();
        match &known.identity {
            Some((before, identity)) if before == wanted => identity.clone(),
            _ => {
                let identity = Arc::new(self.identities.identity(&key.namespace, wanted));
                known.identity = Some((wanted.clone(), identity.clone()));
                identity
            }
        }
    }

    /// The open client, or a new one if it was made from something else, failed since, or `anew` asks for it; and whether it is new.
    pub(super) async fn connect(
        &self,
        object: &Object,
        spec: &TaskHubSpec,
        resolved: &Resolved,
        anew: bool,
    ) -> Result<(HubClient, bool), NotReady> {
        let made = Made {
            hub_name: spec.hub_name.clone(),
            partition_count: spec.partition_count,
            // References and endpoints; no secret is in a spec.
            connection: serde_json::to_string(&(&spec.connection, &spec.endpoints)).unwrap_or_default(),
            credential_version: resolved.credential_version.clone(),
        };
        let known = self.known().get(object.uid()).cloned().unwrap_or_default();
        if let Some((_, client)) = known.open.filter(|(before, _)| !anew && *before == made && known.failures == 0) {
            return Ok((client, false));
        }
        let (storage, name) = self.storage(object, spec, resolved)?;
        let partitions = spec.partition_count.and_then(|count| PartitionCount::new(u32::try_from(count).ok()?));
        let client = match HubClient::connect(storage.clone(), name.clone(), partitions).await {
            Ok(client) => client,
            Err(error) if spec.create_if_missing && object.deleted_at().is_none() && may_be_made(&error, &storage, &name).await => {
                self.make(object, storage, name, partitions.unwrap_or(PartitionCount::DEFAULT), resolved.method).await?
            }
            Err(error) => return Err(connect_says(&error, resolved.method)),
        };
        self.known().entry(object.uid().to_owned()).or_default().open = Some((made, client.clone()));
        Ok((client, true))
    }

    /// What all requests to the hub spend from.
    pub(super) fn budget(&self, object: &Object, spec: &TaskHubSpec) -> Budget {
        let key = HubKey { namespace: object.namespace().to_owned(), name: object.name().to_owned() };
        self.hubs.budget(&key, u32::try_from(spec.limits.requests_per_second).unwrap_or(1))
    }

    /// The account, and the name of the hub in it. No request. What is asked goes past the users of the hub: it decides for all of them.
    pub(super) fn storage(&self, object: &Object, spec: &TaskHubSpec, resolved: &Resolved) -> Result<(Storage, HubName), NotReady> {
        let name = HubName::new(&spec.hub_name).map_err(|why| NotReady::new("InvalidSpec", format!("spec.hubName: {why}")))?;
        let admission = Some(self.budget(object, spec).admission(Priority::Probe));
        let options = Options { observer: Some(self.storage_metrics.clone()), admission, ..Options::default() };
        let storage = Storage::new(resolved.account.clone(), options).map_err(|error| storage_says(&error, resolved.method))?;
        Ok((storage, name))
    }

    async fn make(
        &self,
        object: &Object,
        storage: Storage,
        name: HubName,
        partitions: PartitionCount,
        method: &'static str,
    ) -> Result<HubClient, NotReady> {
        let client =
            HubClient::create(storage, name.clone(), partitions, EngineLine::Line2).await.map_err(|error| storage_says(&error, method))?;
        tracing::info!(namespace = object.namespace(), name = object.name(), hub = %name, partitions = partitions.get(), "task hub made");
        let account = client.storage().account().name();
        let note = format!("the storage account {account} had no task hub {name}: it was made, with {} partitions", partitions.get());
        self.events.publish(object, Notice { is_warning: false, reason: "HubCreated", action: CREATE, note }).await;
        Ok(client)
    }

    /// How often in a row the hub has failed, this time included. After a refusal the token is asked for anew.
    pub(super) fn count_failure(&self, uid: &str, failed: Option<&NotReady>) -> u32 {
        let mut known = self.known();
        let known = known.entry(uid.to_owned()).or_default();
        match failed {
            Some(why) => {
                known.failures = known.failures.saturating_add(1);
                if why.reason == "AuthenticationFailed" || why.reason == "AccessDenied" {
                    known.identity = None;
                }
            }
            None => known.failures = 0,
        }
        known.failures
    }

    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if there is no hub, or the beginning of one that some client did not finish: making it creates what is missing.
async fn may_be_made(error: &ConnectError, storage: &Storage, name: &HubName) -> bool {
    match error {
        ConnectError::HubNotFound { .. } => true,
        // Queues without tables. With a separate tracking store the lease rows would be there too (task-hub.md 1.1), and are not here.
        ConnectError::SeparateTrackingStore { .. } => {
            let any = Query { top: Some(1), ..Query::default() };
            storage.table(&name.partitions_table()).query(&any).await.is_ok()
        }
        ConnectError::InvalidPartitionCount { .. } | ConnectError::Storage(_) => false,
    }
}

fn connect_says(error: &ConnectError, method: &str) -> NotReady {
    match error {
        ConnectError::HubNotFound { .. } => NotReady::new("HubNotFound", error.to_string()),
        ConnectError::SeparateTrackingStore { .. } | ConnectError::InvalidPartitionCount { .. } => {
            NotReady::new("UnsupportedHub", error.to_string())
        }
        ConnectError::Storage(error) => storage_says(error, method),
    }
}

/// The reason of product.md 2 for what a storage account answered, and what to change.
pub(super) fn storage_says(error: &StorageError, method: &str) -> NotReady {
    let by_identity = ["WorkloadIdentity", "Token"].contains(&method);
    let (reason, advice) = match error.kind() {
        StorageErrorKind::Authentication if by_identity => {
            ("AuthenticationFailed", "check that account and identity are of the same tenant and cloud; another token is asked for")
        }
        StorageErrorKind::Authentication => {
            ("AuthenticationFailed", "check the account key or SAS in the Secret; it may have been rotated")
        }
        StorageErrorKind::AccessDenied if by_identity => (
            "AccessDenied",
            "grant the identity the roles Storage Queue Data Contributor, Storage Table Data Contributor and Storage Blob Data Contributor on the account, and check the account's firewall",
        ),
        StorageErrorKind::AccessDenied => (
            "AccessDenied",
            "grant the credential read and write on the account's queues, tables and blobs, and check the account's firewall",
        ),
        StorageErrorKind::Throttled => ("Throttled", "the storage account is busy; it is tried again"),
        StorageErrorKind::BeingDeleted => ("HubNotFound", "the task hub is being deleted, which takes about a minute; it is tried again"),
        StorageErrorKind::ContainerNotFound => ("HubNotFound", "the task hub, or part of it, was deleted"),
        _ if by_identity => ("Unreachable", "check the endpoints, DNS and network policies; it is tried again"),
        _ => ("Unreachable", "check the endpoints in the Secret, DNS and network policies; it is tried again"),
    };
    NotReady::new(reason, format!("{error}: {advice}"))
}

fn token_says(error: &TokenError) -> NotReady {
    let reason = match error.kind() {
        TokenErrorKind::Refused => "AuthenticationFailed",
        TokenErrorKind::Forbidden => "AccessDenied",
        TokenErrorKind::Unavailable => "Unreachable",
    };
    NotReady::new(reason, error.to_string())
}
