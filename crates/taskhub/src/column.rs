//! Columns of others in an instance's row (task-hub.md 4.2): the engine merges its own and leaves them.
//!
//! Invariant: no column of the hub is written, and no version of the row but the one that was read.

use crate::hub::TaskHub;
use crate::names::escape_key;
use crate::storage::{Condition, ETag, Entity, StorageError};

/// What the hub and the table service use themselves, in any case.
const OF_THE_HUB: [&str; 20] = [
    "PartitionKey",
    "RowKey",
    "Timestamp",
    "ETag",
    "Name",
    "Version",
    "ExecutionId",
    "Generation",
    "RuntimeStatus",
    "Input",
    "Output",
    "CustomStatus",
    "CreatedTime",
    "LastUpdatedTime",
    "CompletedTime",
    "ScheduledStartTime",
    "TaskHubName",
    "Tags",
    "FailureDetails",
    "ParentInstance",
];

/// The longest name of a column that the service takes, in characters.
const MAX_NAME: usize = 255;

/// The longest text of a column that the service takes, in UTF-16 code units.
pub const MAX_COLUMN_CHARACTERS: usize = 32 * 1024;

/// What became of a column that was to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnSet {
    /// It is set; the row has this version now.
    Set(ETag),
    /// The row has another version than the one given: read it again and decide anew. After an answer that was lost, the
    /// change can be this call's own.
    Changed,
    /// There is no such row.
    Gone,
}

/// Why a column was not set. But for [`ColumnError::Storage`], nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// The hub uses a column of this name itself.
    #[error("the column {0} belongs to the task hub: choose a name of your own")]
    OfTheHub(String),
    /// The service has no such names.
    #[error("a column's name has 1 to {MAX_NAME} ASCII letters, digits and underscores, and does not start with a digit")]
    Name,
    /// More than [`MAX_COLUMN_CHARACTERS`].
    #[error("a column holds at most {MAX_COLUMN_CHARACTERS} UTF-16 code units")]
    TooLong,
    /// The storage account did not answer as needed. The column may have been set.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TaskHub {
    /// Sets a text column of the caller's own in the instance's row, if the row still has the version `etag`
    /// ([`Instance::etag`](crate::Instance)), and leaves all others. One request.
    ///
    /// # Errors
    /// [`ColumnError`].
    pub async fn set_column(&self, instance_id: &str, column: &str, value: &str, etag: &ETag) -> Result<ColumnSet, ColumnError> {
        check(column)?;
        if value.encode_utf16().count() > MAX_COLUMN_CHARACTERS {
            return Err(ColumnError::TooLong);
        }
        let row = Entity::new(escape_key(instance_id), "").with(column, value);
        match self.instances().merge(&row, Condition::Match(etag.clone())).await {
            Ok(etag) => Ok(ColumnSet::Set(etag)),
            Err(error) if error.is_precondition_failed() => Ok(ColumnSet::Changed),
            Err(error) if error.is_not_found() && !error.is_container_not_found() => Ok(ColumnSet::Gone),
            Err(error) => Err(error.into()),
        }
    }
}

fn check(column: &str) -> Result<(), ColumnError> {
    let starts = column.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts || column.len() > MAX_NAME || !column.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(ColumnError::Name);
    }
    // With companions for large values, such as `InputBlobName` (task-hub.md 4.5).
    let lower = column.to_ascii_lowercase();
    let base = lower.strip_suffix("blobname").unwrap_or(&lower);
    if OF_THE_HUB.iter().any(|name| name.eq_ignore_ascii_case(base)) { Err(ColumnError::OfTheHub(column.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::STATUS_COLUMNS;

    #[test]
    fn columns_of_the_hub_are_refused_in_any_case() {
        let companions = ["InputBlobName", "OutputBlobName", "TagsBlobName", "runtimestatus", "INPUT", "Timestamp", "TaskHubName"];
        for name in STATUS_COLUMNS.iter().chain(&companions) {
            assert!(matches!(check(name), Err(ColumnError::OfTheHub(_))), "{name}");
        }
        for name in ["", "1st", "a-b", "odata.etag", "é", &"x".repeat(256)] {
            assert!(matches!(check(name), Err(ColumnError::Name)), "{name}");
        }
        for name in ["KubernetesOwner", "_x1", "NameOfMine", "BlobName"] {
            assert!(check(name).is_ok(), "{name}");
        }
    }
}
