//! Messages to instances that are there: what all control operations share.
//!
//! Owns the rules of the core: the row is read before anything is sent, nothing
//! is sent to an instance that has not started (the engine would drop it, or
//! undo it by the start: engine-experiments.md 5.3 to 5.7d), `ExecutionId` is
//! null (5.9 to 5.12), and control messages sort after any start of the same
//! second (task-hub.md 7.6). Knows no operation by name.

use std::io::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::event::{Event, EventKind};
use crate::hub::TaskHub;
use crate::instance::{Instance, RuntimeStatus};
use crate::message::{Message, TooLargeForQueue};
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
    InvalidPayload(serde_json::Error),
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

    /// ID of the message and the receipt with which it can be withdrawn, to be kept over a crash.
    pub fn receipt(&self) -> (&str, &str) {
        (&self.sent.id, &self.sent.pop_receipt)
    }
}

/// An instance that has started and has not ended: control messages reach it.
#[derive(Debug)]
pub(crate) struct Reachable(Instance);

impl Reachable {
    /// Reads the row and checks it. One request.
    pub(crate) async fn find(hub: &TaskHub, instance_id: &str) -> Result<Reachable, ControlError> {
        Reachable::check(hub.get_without_input(instance_id, &[]).await?)
    }

    fn check(found: Option<Instance>) -> Result<Reachable, ControlError> {
        let instance = found.ok_or(ControlError::NotFound)?;
        if instance.runtime_status.is_terminal() {
            return Err(ControlError::Finished(instance.runtime_status));
        }
        if !instance.has_started {
            return Err(ControlError::NotStarted);
        }
        Ok(Reachable(instance))
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.0.runtime_status == RuntimeStatus::Suspended
    }

    /// Sends an event to the instance. One request, two if it is large.
    pub(crate) async fn send(&self, hub: &TaskHub, kind: EventKind) -> Result<SentControl, StorageError> {
        let message = Message::new(&self.0.id, None, Event::new(Time::now(), kind), next_control_number());
        enqueue(hub, &self.0.id, &message, Duration::ZERO).await
    }
}

/// Puts a message into the instance's control queue; a large one goes to a blob first (task-hub.md 3.8).
pub(crate) async fn enqueue(hub: &TaskHub, instance_id: &str, message: &Message, visible_after: Duration) -> Result<SentControl, StorageError> {
    let text = match message.encode() {
        Ok(text) => text,
        Err(TooLargeForQueue { .. }) => {
            let large = LargeMessage::new(message);
            large.upload(hub).await?;
            large.wrapper()
        }
    };
    let queue = hub.control_queue_of(instance_id);
    let sent = queue.put(&text, visible_after).await?;
    Ok(SentControl { queue, sent })
}

/// A message that is too large for a queue: its blob, and the wrapper that stands in the queue for it.
#[derive(Debug, Clone)]
pub(crate) struct LargeMessage {
    pub(crate) blob_name: String,
    content: Vec<u8>,
}

impl LargeMessage {
    pub(crate) fn new(message: &Message) -> LargeMessage {
        let blob_name = format!("{}/message-{}-{}.json.gz", message.instance_id, message.activity_id.simple(), message.event.kind.event_type());
        LargeMessage { blob_name, content: gzip(message.to_json().as_bytes()) }
    }

    /// Uploads the blob; before the wrapper is sent, always (engine-experiments.md 6.5).
    pub(crate) async fn upload(&self, hub: &TaskHub) -> Result<(), StorageError> {
        upload(hub, &self.blob_name, self.content.clone()).await
    }

    pub(crate) fn wrapper(&self) -> String {
        wrapper(&self.blob_name)
    }
}

/// The text of a wrapper, for the queue.
pub(crate) fn wrapper(blob_name: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(Message::wrapper_json(blob_name))
}

/// Uploads to the container of large messages, which is made with the first one (task-hub.md 1.8).
pub(crate) async fn upload(hub: &TaskHub, blob_name: &str, content: Vec<u8>) -> Result<(), StorageError> {
    let container = hub.large_messages();
    match container.put(blob_name, content.clone(), true).await {
        Err(error) if error.is_container_not_found() => {
            container.create_if_missing().await?;
            container.put(blob_name, content, true).await?;
        }
        result => drop(result?),
    }
    Ok(())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Microseconds since 1970, and one more than the last if that is the same: above any counter of starts, and in order
/// among the messages of this process.
fn next_control_number() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = Time::now().unix_microseconds();
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    now.max(last.unwrap_or_else(|last| last) + 1)
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
        Reachable::check(Some(Instance::from_row(change(row), "")))
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
    fn control_messages_are_numbered_in_order_above_all_starts() {
        let numbers: Vec<i64> = (0..1000).map(|_| next_control_number()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(numbers[0] > 1_700_000_000_000_000);
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
