//! Reading an instance (task-hub.md 6.2): one point read, with or without its input.

use crate::hub::TaskHub;
use crate::instance::Instance;
use crate::names::escape_key;
use crate::payload::{Payload, PayloadError};
use crate::storage::StorageError;

/// What the engine's own status query selects when it hides the input (task-hub.md 4.2).
pub(crate) const STATUS_COLUMNS: [&str; 14] = [
    "PartitionKey",
    "RowKey",
    "Name",
    "Version",
    "ExecutionId",
    "Generation",
    "RuntimeStatus",
    "Output",
    "CustomStatus",
    "CreatedTime",
    "LastUpdatedTime",
    "CompletedTime",
    "ScheduledStartTime",
    "Tags",
];

impl TaskHub {
    /// The instance of that ID; `None` if the hub has none. One request.
    ///
    /// The ID may be any text, since engines run IDs that clients could not start.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed; a table that
    /// is gone is an error and never `None`.
    pub async fn get(&self, instance_id: &str) -> Result<Option<Instance>, StorageError> {
        let row = self.instances().get(&escape_key(instance_id), "", &[]).await?;
        Ok(row.map(|row| self.instance(row)))
    }

    /// The instance of that ID without its input, for those who look often. One request.
    ///
    /// `further` names columns that the task hub itself does not know, to be read with [`Instance::column`].
    ///
    /// # Errors
    /// As [`TaskHub::get`].
    pub async fn get_without_input(&self, instance_id: &str, further: &[&str]) -> Result<Option<Instance>, StorageError> {
        let columns: Vec<&str> = STATUS_COLUMNS.iter().chain(further).copied().collect();
        let row = self.instances().get(&escape_key(instance_id), "", &columns).await?;
        Ok(row.map(|row| self.instance(row)))
    }

    /// The text of a payload: as it stands, or downloaded from the hub's blobs, at most `limit` bytes. No request or one.
    ///
    /// # Errors
    /// [`PayloadError`] if the blob is missing, damaged, larger than `limit`, or cannot be had.
    pub async fn fetch(&self, payload: &Payload, limit: u64) -> Result<String, PayloadError> {
        match payload {
            Payload::Inline(text) => Ok(text.clone()),
            Payload::Blob(reference) => reference.fetch(&self.large_messages(), limit).await,
        }
    }

    pub(crate) fn instance(&self, row: crate::storage::Entity) -> Instance {
        let blob_endpoint = self.storage().account().endpoint(crate::storage::Service::Blob);
        Instance::from_row(row, &format!("{blob_endpoint}/{}", self.name().large_messages_container()))
    }
}
