//! The client of one task hub: what it is connected to, and where things lie.
//!
//! Owns the discovery of the partition count (task-hub.md 1.6). Invariant: it
//! never creates anything in a hub that it finds or does not find; engines'
//! clients create a hub on a typo.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::names::HubName;
use crate::partition::{PartitionCount, partition_of};
use crate::storage::{Admission, Container, Query, Queue, Storage, StorageError, Table};
use crate::time::Time;

/// A client of one task hub. Cloning it is cheap.
#[derive(Clone)]
pub struct TaskHub {
    inner: Arc<Inner>,
    storage: Storage,
}

/// What all clients that come from one share, whatever holds their requests back.
struct Inner {
    name: HubName,
    partitions: PartitionCount,
    /// Starts count from 1: a control message must sort after the start of the same second (task-hub.md 7.6).
    starts: AtomicI64,
    /// Where leases were found last: spares a request at the next look.
    managed_by_blob: AtomicBool,
}

/// Why a hub cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither tables nor queues of that name are there.
    #[error(
        "the storage account {account} has no task hub {hub}: check the name (with its case) against the app's host.json, or start the app once, which makes the hub"
    )]
    HubNotFound {
        /// The name that was looked for.
        hub: HubName,
        /// The account in which it was looked for.
        account: String,
    },
    /// Control queues are there, but the Instances table is elsewhere.
    #[error("the task hub {hub} keeps its tables in another account (a separate tracking store), which is not supported")]
    SeparateTrackingStore {
        /// The name of the hub.
        hub: HubName,
    },
    /// The hub says that it has a number of partitions that no engine supports.
    #[error("the task hub {hub} claims to have {found} partitions; engines support 1 to 16")]
    InvalidPartitionCount {
        /// The name of the hub.
        hub: HubName,
        /// What was found.
        found: i64,
    },
    /// The storage account did not answer as needed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A control queue and the worker that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name of the control queue.
    pub queue: String,
    /// The worker that holds the lease.
    pub owner: Option<String>,
    /// When the lease ends unless it is renewed; workers renew every 10 s.
    pub expires_at: Option<Time>,
    /// True if some worker ever held it: only then is the row more than some client's opinion (task-hub.md 1.6).
    was_owned: bool,
}

impl Partition {
    /// True if a worker holds the partition at `now`. After a clean stop the times stay and the owner is gone (task-hub.md 1.4).
    pub fn is_served(&self, now: Time) -> bool {
        self.owner.is_some() && self.expires_at.is_some_and(|expires_at| expires_at > now)
    }

    /// True if some worker ever held it.
    pub fn was_owned(&self) -> bool {
        self.was_owned
    }
}

#[derive(serde::Deserialize)]
struct TaskHubInfo {
    #[serde(rename = "PartitionCount", alias = "partitionCount")]
    partition_count: i64,
    #[serde(rename = "CreatedAt", alias = "createdAt")]
    created_at: Option<String>,
}

impl TaskHub {
    /// Finds the hub and reads how many partitions it has, in 2 to 5 requests. `partitions` overrides what the hub says.
    ///
    /// # Errors
    /// [`ConnectError`] names what is missing or what the storage account answered.
    pub async fn connect(storage: Storage, name: HubName, partitions: Option<PartitionCount>) -> Result<TaskHub, ConnectError> {
        let has_instances = exists(&storage.table(&name.instances_table())).await?;
        let found = discover(&storage, &name).await?;
        match (has_instances, found) {
            (false, None) => Err(ConnectError::HubNotFound { account: storage.account().name().to_owned(), hub: name }),
            (false, Some(_)) if has_control_queues(&storage, &name).await? => Err(ConnectError::SeparateTrackingStore { hub: name }),
            (false, Some(_)) => Err(ConnectError::HubNotFound { account: storage.account().name().to_owned(), hub: name }),
            (true, found) => {
                let missing = || ConnectError::HubNotFound { account: storage.account().name().to_owned(), hub: name.clone() };
                let partitions = partitions.or(found).ok_or_else(missing)?;
                Ok(TaskHub::of_known(storage, name, partitions))
            }
        }
    }

    /// A second client of the same hub whose requests `admission` admits. It shares connections and the count of starts.
    ///
    /// # Errors
    /// Those of [`Storage::new`].
    pub fn with_admission(&self, admission: Option<Arc<dyn Admission>>) -> Result<TaskHub, StorageError> {
        Ok(TaskHub { inner: self.inner.clone(), storage: self.storage.with_admission(admission)? })
    }

    /// The hub's name.
    pub fn name(&self) -> &HubName {
        &self.inner.name
    }

    /// The number of control queues.
    pub fn partition_count(&self) -> PartitionCount {
        self.inner.partitions
    }

    /// The storage account that the hub lies in.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Who serves the control queues, of hubs managed by table; one request. Empty if the hub is managed by blob.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed.
    pub async fn partitions(&self) -> Result<Vec<Partition>, StorageError> {
        read_partitions(&self.storage, &self.inner.name).await
    }

    /// When the hub was made, as `taskhub.json` has it; none if there is no such blob. One request.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed.
    pub async fn created_at(&self) -> Result<Option<Time>, StorageError> {
        Ok(read_info(&self.storage, &self.inner.name).await?.and_then(|info| Time::parse(&info.created_at?).ok()))
    }

    pub(crate) fn is_managed_by_blob(&self) -> bool {
        self.inner.managed_by_blob.load(Ordering::Relaxed)
    }

    pub(crate) fn remember_managed_by_blob(&self, by_blob: bool) {
        self.inner.managed_by_blob.store(by_blob, Ordering::Relaxed);
    }

    /// The sequence number of the next start message.
    pub(crate) fn next_start_number(&self) -> i64 {
        self.inner.starts.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn instances(&self) -> Table {
        self.storage.table(&self.inner.name.instances_table())
    }

    pub(crate) fn history_table(&self) -> Table {
        self.storage.table(&self.inner.name.history_table())
    }

    pub(crate) fn control_queue_of(&self, instance_id: &str) -> Queue {
        let partition = partition_of(instance_id, self.inner.partitions);
        self.storage.queue(&self.inner.name.control_queue(partition))
    }

    /// The URL of a blob of large messages as it stands in columns: each segment percent-encoded (task-hub.md 4.5).
    pub(crate) fn large_message_url(&self, blob_name: &str) -> String {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
        let encoded = |byte: u8| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        let path: String = blob_name.bytes().map(encoded).collect();
        let endpoint = self.storage.account().endpoint(crate::storage::Service::Blob);
        format!("{endpoint}/{}/{path}", self.inner.name.large_messages_container())
    }

    /// The client of a hub that is known to be there.
    pub(crate) fn of_known(storage: Storage, name: HubName, partitions: PartitionCount) -> TaskHub {
        let inner = Inner { name, partitions, starts: AtomicI64::new(0), managed_by_blob: AtomicBool::new(false) };
        TaskHub { inner: Arc::new(inner), storage }
    }

    pub(crate) fn large_messages(&self) -> Container {
        self.storage.container(&self.inner.name.large_messages_container())
    }
}

impl std::fmt::Debug for TaskHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskHub").field("name", &self.inner.name).field("account", &self.storage.account().name()).finish()
    }
}

/// The partition count by the order of trust of task-hub.md 1.6.
async fn discover(storage: &Storage, name: &HubName) -> Result<Option<PartitionCount>, ConnectError> {
    let valid = |found: i64| match u32::try_from(found).ok().and_then(PartitionCount::new) {
        Some(count) => Ok(Some(count)),
        None => Err(ConnectError::InvalidPartitionCount { hub: name.clone(), found }),
    };
    let rows = read_partitions(storage, name).await?;
    let count_of = |number: usize| valid(i64::try_from(number).unwrap_or(i64::MAX));
    if rows.iter().any(|row| row.was_owned) {
        return count_of(rows.len());
    }
    if let Some(info) = read_info(storage, name).await? {
        return valid(info.partition_count);
    }
    if !rows.is_empty() {
        return count_of(rows.len());
    }
    let queues = storage.list_queues(&name.control_queue_prefix()).await?;
    let unbroken = (0..16).take_while(|partition| queues.contains(&name.control_queue(*partition))).count();
    if unbroken == 0 { Ok(None) } else { count_of(unbroken) }
}

async fn has_control_queues(storage: &Storage, name: &HubName) -> Result<bool, StorageError> {
    Ok(!storage.list_queues(&name.control_queue_prefix()).await?.is_empty())
}

async fn exists(table: &Table) -> Result<bool, StorageError> {
    let any = Query { select: vec!["PartitionKey".to_owned()], top: Some(1), ..Query::default() };
    match table.query(&any).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_container_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn read_info(storage: &Storage, name: &HubName) -> Result<Option<TaskHubInfo>, StorageError> {
    const LIMIT: u64 = 64 * 1024;
    match storage.container(&name.leases_container()).get("taskhub.json", LIMIT).await {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        Err(error) if error.is_container_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The rows of `{Hub}Partitions` that name a control queue of the hub; none if there is no such table.
async fn read_partitions(storage: &Storage, name: &HubName) -> Result<Vec<Partition>, StorageError> {
    let page = match storage.table(&name.partitions_table()).query(&Query::default()).await {
        Ok(page) => page,
        Err(error) if error.is_container_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let prefix = name.control_queue_prefix();
    let is_number = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let rows = page.entities.into_iter().filter(|row| row.row_key.strip_prefix(&prefix).is_some_and(is_number));
    Ok(rows
        .map(|row| Partition {
            owner: row.text("CurrentOwner").map(str::to_owned),
            expires_at: row.time("ExpiresAt"),
            was_owned: row.time("OwnedSince").is_some() || row.time("LastRenewal").is_some(),
            queue: row.row_key,
        })
        .collect())
}
