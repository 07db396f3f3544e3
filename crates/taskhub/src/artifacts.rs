//! Creating and deleting a hub: all artifacts of both engine lines (task-hub.md 1.1, 1.7, 6.15).
//!
//! The only module that makes or removes tables, queues and containers of a hub,
//! and only when asked by name. Each step is repeatable: what is there is kept,
//! what is gone is no error, and an interrupted creation or deletion is finished
//! by doing it again. It knows no instances: whoever deletes a hub has decided
//! what becomes of them.

use crate::hub::TaskHub;
use crate::names::HubName;
use crate::partition::PartitionCount;
use crate::storage::{Entity, Storage, StorageError};
use crate::time::Time;

/// The generation of engines that a hub is for, or is run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineLine {
    /// 1.x: Durable Functions extension 2.x. Partitions are managed by blobs.
    Line1,
    /// 2.x: Durable Functions extension 3.x. Partitions are managed by a table.
    Line2,
}

impl std::fmt::Display for EngineLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EngineLine::Line1 => "1.x",
            EngineLine::Line2 => "2.x",
        })
    }
}

/// What a deletion removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletedHub {
    /// The names of tables, queues and containers that were there.
    pub artifacts: Vec<String>,
    /// True if an app held its lease on the hub, which was broken: it probably still runs, and will make artifacts anew.
    pub lease_broken: bool,
}

impl TaskHub {
    /// Creates what is missing of a hub, as the .NET clients of that line do, and connects to it.
    ///
    /// Up to 15 requests and one or two per partition. A hub that is there keeps all that it has: to create it with another number of
    /// partitions does not change it, and must not be tried on a hub in use (task-hub.md 1.6).
    ///
    /// # Errors
    /// [`StorageError`]; `BeingDeleted` for about a minute after a deletion.
    pub async fn create(storage: Storage, name: HubName, partitions: PartitionCount, line: EngineLine) -> Result<TaskHub, StorageError> {
        let app_lease = storage.container(&name.app_lease_container());
        app_lease.create_if_missing().await?;
        app_lease.put(&name.app_lease_blob(), b"{}".to_vec(), false).await?;
        let queues: Vec<String> = (0..partitions.get()).map(|index| name.control_queue(index)).collect();
        match line {
            EngineLine::Line2 => create_lease_rows(&storage, &name, &queues).await?,
            EngineLine::Line1 => create_lease_blobs(&storage, &name, &queues).await?,
        }
        storage.table(&name.history_table()).create_if_missing().await?;
        storage.queue(&name.work_item_queue()).create_if_missing().await?;
        for queue in &queues {
            storage.queue(queue).create_if_missing().await?;
        }
        // Last: a hub without it does not exist for `connect`.
        storage.table(&name.instances_table()).create_if_missing().await?;
        Ok(TaskHub::of_known(storage, name, partitions))
    }

    /// Deletes all artifacts of the hub, of both engine lines, with all instances and messages in them.
    ///
    /// # Errors
    /// As [`TaskHub::delete_artifacts`].
    pub async fn delete(&self) -> Result<DeletedHub, StorageError> {
        TaskHub::delete_artifacts(self.storage(), self.name()).await
    }

    /// Deletes whatever there is of a hub, also what is left of one that cannot be connected to any more: .NET deletes in any order.
    ///
    /// The lease of an app on the hub is broken. Running apps make artifacts anew with their next operation: stop them before.
    /// About ten requests and one per control queue. The Instances table goes last, so that a deletion that was interrupted can be seen.
    ///
    /// # Errors
    /// [`StorageError`] at the first artifact that cannot be deleted; those before it are gone.
    pub async fn delete_artifacts(storage: &Storage, name: &HubName) -> Result<DeletedHub, StorageError> {
        let mut deleted = DeletedHub::default();
        let mut note = |there: bool, artifact: String| {
            if there {
                deleted.artifacts.push(artifact);
            }
        };
        for queue in control_queues(storage, name).await?.into_iter().chain([name.work_item_queue()]) {
            note(storage.queue(&queue).delete_queue().await?, queue);
        }
        let app_lease = storage.container(&name.app_lease_container());
        let lease_broken = app_lease.break_lease().await?;
        for container in [name.app_lease_container(), name.leases_container(), name.large_messages_container()] {
            note(storage.container(&container).delete_container().await?, container);
        }
        for table in [name.history_table(), name.partitions_table(), name.instances_table()] {
            note(storage.table(&table).delete_table().await?, table);
        }
        Ok(DeletedHub { lease_broken, ..deleted })
    }
}

/// The control queues that there are, whatever the hub's partition count says.
async fn control_queues(storage: &Storage, name: &HubName) -> Result<Vec<String>, StorageError> {
    let prefix = name.control_queue_prefix();
    let mut queues = storage.list_queues(&prefix).await?;
    // Nothing but two digits: other queues of the app can continue the prefix.
    queues.retain(|queue| queue.strip_prefix(&prefix).is_some_and(|rest| rest.len() == 2 && rest.bytes().all(|b| b.is_ascii_digit())));
    Ok(queues)
}

async fn create_lease_rows(storage: &Storage, name: &HubName, queues: &[String]) -> Result<(), StorageError> {
    let table = storage.table(&name.partitions_table());
    table.create_if_missing().await?;
    for queue in queues {
        match table.insert(&Entity::new("", queue.as_str()).with("IsDraining", false)).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn create_lease_blobs(storage: &Storage, name: &HubName, queues: &[String]) -> Result<(), StorageError> {
    let container = storage.container(&name.leases_container());
    container.create_if_missing().await?;
    let info = serde_json::json!({ "TaskHubName": name.as_str(), "CreatedAt": Time::now(), "PartitionCount": queues.len() });
    container.put("taskhub.json", info.to_string().into_bytes(), false).await?;
    for queue in queues {
        let lease = format!("{{\"PartitionId\":\"{queue}\",\"Owner\":null,\"Token\":null,\"Epoch\":0}}").into_bytes();
        for folder in ["intent", "ownership"] {
            container.put(&format!("{folder}/{queue}"), lease.clone(), false).await?;
        }
    }
    Ok(())
}
