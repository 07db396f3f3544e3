//! Cancelling a start that no worker has taken up: its row goes, and the engine drops the message.
//!
//! Invariant: a row goes only as it was read, and whoever removed it learns if a history of that execution is there.

use super::{PurgeError, ROW_COLUMNS};
use crate::hub::TaskHub;
use crate::instance::RuntimeStatus;
use crate::names::escape_key;
use crate::storage::{Condition, StorageError};

impl TaskHub {
    /// Cancels a start that no worker has taken up, such as one that is scheduled for later: removes the row, without which the engine drops
    /// the message when it is due. A terminate does not do that: the instance would run all the same (engine-experiments.md 4.13, 5.1).
    ///
    /// Four requests, the last of which looks back: a worker that took up the start meanwhile writes the history first, and then
    /// the row anew, without what others had put into it, so that the instance runs on. One that has the message and no history yet cannot be seen: where that
    /// matters, [`TaskHub::control_backlog`] of 0 and then still no row prove that nothing comes any more.
    /// The large value of the start message, if it has one, stays in its blob until the hub is deleted.
    ///
    /// # Errors
    /// [`PurgeError::NotTerminal`] if it has started, also if meanwhile; [`PurgeError::Changed`] if somebody changed the row
    /// meanwhile: decide anew; [`PurgeError::NotFound`] if there is no row.
    pub async fn cancel_start(&self, instance_id: &str) -> Result<(), PurgeError> {
        let id = || instance_id.to_owned();
        let key = escape_key(instance_id);
        let columns: Vec<&str> = ROW_COLUMNS.into_iter().chain(["CompletedTime"]).collect();
        let row = self.instances().get(&key, "", &columns).await?.map(|row| self.instance(row));
        let row = row.ok_or_else(|| PurgeError::NotFound { instance_id: id() })?;
        let execution_id = row.execution_id.unwrap_or_default();
        let started = |status| Err(PurgeError::NotTerminal { instance_id: id(), status });
        // The first checkpoint writes the history before the row. What an earlier run of the ID left is of another execution.
        if row.has_started || self.has_begun(instance_id, &execution_id).await? {
            return started(row.runtime_status);
        }
        let version = row.etag.map_or(Condition::Any, Condition::Match);
        match self.instances().delete(&key, "", version).await {
            Ok(_) if self.has_begun(instance_id, &execution_id).await? => started(RuntimeStatus::Running),
            Ok(_) => Ok(()),
            Err(error) if error.is_precondition_failed() => Err(PurgeError::Changed { instance_id: id() }),
            Err(error) => Err(error.into()),
        }
    }

    async fn has_begun(&self, instance_id: &str, execution_id: &str) -> Result<bool, StorageError> {
        Ok(self.landmarks(instance_id, &["ExecutionId"]).await?.mention(execution_id))
    }
}
