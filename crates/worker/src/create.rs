//! Makes the artifacts of a table-managed hub, as a .NET client leaves them (task-hub.md 1.7).
//!
//! Each step is create-if-missing, so an existing hub keeps what it has. Only
//! the worker makes hubs; the client library never does (task-hub.md 10, 51).

use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Entity, Storage, StorageError};

/// Creates what is missing of the hub `name`.
///
/// # Errors
/// Whatever storage answers but "exists already"; a hub that is still being deleted is an error.
pub async fn create_hub(storage: &Storage, name: &HubName, partitions: PartitionCount) -> Result<(), StorageError> {
    let app_lease = storage.container(&name.app_lease_container());
    app_lease.create_if_missing().await?;
    app_lease.put(&name.app_lease_blob(), b"{}".to_vec(), false).await?;

    let leases = storage.table(&name.partitions_table());
    leases.create_if_missing().await?;
    storage.table(&name.instances_table()).create_if_missing().await?;
    storage.table(&name.history_table()).create_if_missing().await?;
    storage.queue(&name.work_item_queue()).create_if_missing().await?;
    for index in 0..partitions.get() {
        let queue = name.control_queue(index);
        storage.queue(&queue).create_if_missing().await?;
        match leases.insert(&Entity::new("", queue).with("IsDraining", false)).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
