//! Terminating an instance (task-hub.md 6.5): a read, a message, and a look back.
//!
//! A terminate for a missing row returns every five minutes for ever, and ends
//! the next instance of that ID (engine-experiments.md 3.5, 5.17). So the row is
//! read before, and read again after: if it has gone in between, the message is
//! withdrawn.

mod tree;

use crate::control::{ControlError, Reachable, SentControl, safe_reason};
use crate::event::EventKind;
use crate::hub::TaskHub;
use crate::storage::StorageError;

pub use tree::{MAX_INSTANCES, TerminateTreeError, TerminatedTree};

/// What became of a terminate.
#[derive(Debug, Clone)]
pub enum Terminating {
    /// The message is on its way. The end shows in the history; the row alone does not prove it (5.8).
    Sent(SentControl),
    /// The instance was purged meanwhile; the message was taken back.
    Withdrawn,
    /// The instance was purged meanwhile, and a worker has the message: it returns every five minutes until somebody deletes
    /// it from the queue, and would end a new instance of the same ID.
    Stranded(SentControl),
}

impl TaskHub {
    /// Ends a run. Activities under way are not canceled, sub-orchestrations run on. Three requests.
    ///
    /// # Errors
    /// [`ControlError`]. A start that waits cannot be terminated: it would run all the same (5.1, 5.3). Wait until it has
    /// started, or purge it.
    pub async fn terminate(&self, instance_id: &str, reason: Option<&str>) -> Result<Terminating, ControlError> {
        let instance = Reachable::find(self, instance_id).await?;
        let sent = instance.send(self, EventKind::ExecutionTerminated { input: reason.map(safe_reason) }).await?;
        Ok(self.look_back(instance_id, sent).await?)
    }

    async fn look_back(&self, instance_id: &str, sent: SentControl) -> Result<Terminating, StorageError> {
        if self.get_without_input(instance_id, &[]).await?.is_some() {
            return Ok(Terminating::Sent(sent));
        }
        Ok(if sent.withdraw().await? { Terminating::Withdrawn } else { Terminating::Stranded(sent) })
    }
}
