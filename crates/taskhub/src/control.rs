//! Messages to instances that are there: what all control operations share.
//!
//! Owns the rules of the core: the row is read before anything is sent, nothing
//! is sent to an instance that has not started (the engine would drop it, or
//! undo it by the start: engine-experiments.md 5.3 to 5.7d) unless the caller
//! asks for just that, `ExecutionId` is
//! null (5.9 to 5.12), and control messages sort after any start of the same
//! second (task-hub.md 7.6). Knows no operation by name.

use std::time::Duration;

use crate::event::{Event, EventKind};
use crate::hub::TaskHub;
use crate::instance::{Instance, RuntimeStatus};
use crate::message::Message;
use crate::outgoing::next_number;
use crate::storage::{Queue, SentMessage, StorageError};
use crate::time::Time;

/// Why a message was not sent. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The hub has no instance of this ID.
    #[error("the task hub has no instance of this ID")]
    NotFound,
    /// The start was not taken up yet: the engine would drop the message, or the start would undo it.
    #[error("the instance has not started yet, and the engine would drop the message: try again when it runs")]
    NotStarted,
    /// The run is over.
    #[error("the instance is {0} already")]
    Finished(RuntimeStatus),
    /// It was to be suspended, and is.
    #[error("the instance is suspended already")]
    AlreadySuspended,
    /// It was to be resumed, and is not suspended.
    #[error("the instance is not suspended; the engine would record the resume and overwrite its output")]
    NotSuspended,
    /// The payload is no JSON: the orchestrator's handler would throw, for ever (engine-experiments.md 2.19).
    #[error("the payload is not JSON: {0}")]
    InvalidPayload(String),
    /// The name of an event is missing.
    #[error("an event needs a name")]
    NoEventName,
    /// The storage account did not answer as needed. The message may have been sent.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A message that lies in a control queue, or was taken from it.
#[derive(Debug, Clone)]
pub struct SentControl {
    queue: Queue,
    sent: SentMessage,
}

impl SentControl {
    /// Takes the message back. True: it is withdrawn, and will have no effect. False: a worker has taken it, and its effect
    /// is to be waited for. One request.
    ///
    /// # Errors
    /// [`StorageError`] if the queue service does not answer as needed; then neither is known.
    pub async fn withdraw(&self) -> Result<bool, StorageError> {
        self.queue.delete(&self.sent.id, &self.sent.pop_receipt).await
    }

    /// ID of the message and the receipt with which it can be withdrawn, to be kept over a crash: [`TaskHub::withdraw`].
    pub fn receipt(&self) -> (&str, &str) {
        (&self.sent.id, &self.sent.pop_receipt)
    }

    /// The name of the control queue that it was put into.
    pub fn queue_name(&self) -> &str {
        self.queue.name()
    }
}

impl TaskHub {
    /// Takes back a message to the instance by what was kept of its [`SentControl::receipt`], as after a restart. True: it is
    /// withdrawn, and will have no effect. False: a worker has taken it, or it was withdrawn before. One request.
    ///
    /// If the answer to a first try was lost, the second one finds nothing and says false: an effect that was waited for in
    /// vain may have been withdrawn.
    ///
    /// # Errors
    /// [`StorageError`] if the queue service does not answer as needed, or if this cannot be the ID of a message.
    pub async fn withdraw(&self, instance_id: &str, message_id: &str, pop_receipt: &str) -> Result<bool, StorageError> {
        self.control_queue_of(instance_id).delete(message_id, pop_receipt).await
    }

    /// How many messages are in the instance's control queue, those that workers have taken and not yet deleted included; also
    /// those of all other instances of the partition. One request.
    ///
    /// By the service's documentation the number can be too high and is never too low, so 0 proves that nothing is queued or
    /// being processed.
    ///
    /// # Errors
    /// [`StorageError`] if the queue service does not answer as needed, or the queue is gone.
    pub async fn control_backlog(&self, instance_id: &str) -> Result<u64, StorageError> {
        self.control_queue_of(instance_id).approximate_count().await
    }
}

/// An instance that has not ended, and has started unless the caller wants it otherwise: control messages reach it.
#[derive(Debug)]
pub(crate) struct Reachable(Instance);

impl Reachable {
    /// Reads the row and checks it. One request.
    pub(crate) async fn find(hub: &TaskHub, instance_id: &str) -> Result<Reachable, ControlError> {
        let instance = Reachable::find_unstarted(hub, instance_id).await?;
        instance.started()
    }

    /// As [`Reachable::find`], also if it has not started: the message may be lost.
    pub(crate) async fn find_unstarted(hub: &TaskHub, instance_id: &str) -> Result<Reachable, ControlError> {
        Reachable::check(hub.get_without_input(instance_id, &[]).await?)
    }

    fn check(found: Option<Instance>) -> Result<Reachable, ControlError> {
        let instance = found.ok_or(ControlError::NotFound)?;
        if instance.runtime_status.is_terminal() {
            return Err(ControlError::Finished(instance.runtime_status));
        }
        Ok(Reachable(instance))
    }

    fn started(self) -> Result<Reachable, ControlError> {
        if self.0.has_started { Ok(self) } else { Err(ControlError::NotStarted) }
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.0.runtime_status == RuntimeStatus::Suspended
    }

    /// Sends an event to the instance. One request, two if it is large.
    pub(crate) async fn send(&self, hub: &TaskHub, kind: EventKind) -> Result<SentControl, StorageError> {
        let sent = hub.deliver(&self.message(kind), Duration::ZERO).await?;
        Ok(SentControl { queue: hub.control_queue_of(&self.0.id), sent })
    }

    /// The same, with a single try to put the message: for what the engine would do twice.
    pub(crate) async fn send_once(&self, hub: &TaskHub, kind: EventKind) -> Result<SentControl, StorageError> {
        let sent = hub.deliver_once(&self.message(kind), Duration::ZERO).await?;
        Ok(SentControl { queue: hub.control_queue_of(&self.0.id), sent })
    }

    fn message(&self, kind: EventKind) -> Message {
        Message::new(&self.0.id, None, Event::new(Time::now(), kind), next_number())
    }
}

/// A reason as it can be stored: .NET takes a bare URI for a reference and fails on the row, and on each list with it
/// (engine-experiments.md 5.18). A trailing blank makes it text.
pub(crate) fn safe_reason(reason: &str) -> String {
    let scheme = reason.split_once(':').map(|(scheme, _)| scheme);
    let is_scheme = scheme.is_some_and(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    if is_scheme && !reason.contains(char::is_whitespace) { format!("{reason} ") } else { reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Entity;

    fn checked(change: impl FnOnce(Entity) -> Entity) -> Result<Reachable, ControlError> {
        let row = Entity::new("i", "").with("RuntimeStatus", "Running").with("CustomStatus", "null");
        Reachable::check(Some(Instance::from_row(change(row), "")))?.started()
    }

    #[test]
    fn nothing_is_sent_where_it_would_be_lost_or_return_for_ever() {
        assert!(matches!(Reachable::check(None), Err(ControlError::NotFound)));
        assert!(checked(|row| row).is_ok());
        assert!(checked(|row| row.with("RuntimeStatus", "Suspended")).unwrap().is_suspended());
        for status in ["Completed", "Failed", "Terminated", "Canceled"] {
            assert!(matches!(checked(|row| row.with("RuntimeStatus", status)), Err(ControlError::Finished(_))), "{status}");
        }
        let pending = |mut row: Entity| {
            row.columns.remove("CustomStatus");
            row.with("RuntimeStatus", "Pending")
        };
        assert!(matches!(checked(pending), Err(ControlError::NotStarted)));
        assert!(checked(|row| row.with("RuntimeStatus", "Pending")).is_ok(), "a rewound instance is Pending while it runs");
    }

    #[test]
    fn reasons_that_read_as_a_uri_get_a_blank() {
        for uri in ["https://example.com/ticket/1", "Failed:x", "urn:x", "a+b-c.d:e"] {
            assert_eq!(safe_reason(uri), format!("{uri} "));
        }
        for text in ["no longer needed", "ticket: 4711", "", "4711:x", "\"https://x\"", "https://example.com and more"] {
            assert_eq!(safe_reason(text), text);
        }
    }
}
