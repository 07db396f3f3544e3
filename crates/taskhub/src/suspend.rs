//! Suspending and resuming (task-hub.md 6.7): one read, one message.

use crate::control::{ControlError, Reachable, SentControl, safe_reason};
use crate::event::EventKind;
use crate::hub::TaskHub;

impl TaskHub {
    /// Holds the instance until it is resumed; what comes meanwhile waits. Two requests.
    ///
    /// The reason overwrites the row's `Output`. One that reads as a URI gets a trailing blank.
    ///
    /// # Errors
    /// [`ControlError`]; an instance that is suspended already is left alone.
    pub async fn suspend(&self, instance_id: &str, reason: Option<&str>) -> Result<SentControl, ControlError> {
        let instance = Reachable::find(self, instance_id).await?;
        if instance.is_suspended() {
            return Err(ControlError::AlreadySuspended);
        }
        Ok(instance.send(self, EventKind::ExecutionSuspended { reason: reason.map(safe_reason) }).await?)
    }

    /// Lets a suspended instance go on. Two requests.
    ///
    /// # Errors
    /// [`ControlError`]; an instance that is not suspended is left alone.
    pub async fn resume(&self, instance_id: &str, reason: Option<&str>) -> Result<SentControl, ControlError> {
        let instance = Reachable::find(self, instance_id).await?;
        if !instance.is_suspended() {
            return Err(ControlError::NotSuspended);
        }
        Ok(instance.send(self, EventKind::ExecutionResumed { reason: reason.map(safe_reason) }).await?)
    }
}
