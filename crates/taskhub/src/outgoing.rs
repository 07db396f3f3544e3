//! Sending messages of a client to instances: to the right queue, large ones through a blob (task-hub.md 3.8).
//!
//! Invariant: the blob is there before the message that names it.

use std::io::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::hub::TaskHub;
use crate::message::Message;
use crate::storage::{SentMessage, StorageError};
use crate::time::Time;

/// The sequence number of the next message that is not a start: above every start's, and growing (task-hub.md 7.6).
pub(crate) fn next_number() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = Time::now().unix_microseconds();
    let previous = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1))).unwrap_or_default();
    now.max(previous + 1)
}

/// A message that is too large for a queue: its blob, and the wrapper that stands in the queue for it.
#[derive(Debug, Clone)]
pub(crate) struct LargeMessage {
    pub(crate) blob_name: String,
    content: Vec<u8>,
}

impl LargeMessage {
    pub(crate) fn new(message: &Message) -> LargeMessage {
        let (id, activity, kind) = (&message.instance_id, message.activity_id.simple(), message.event.kind.event_type());
        LargeMessage { blob_name: format!("{id}/message-{activity}-{kind}.json.gz"), content: gzip(message.to_json().as_bytes()) }
    }

    /// Uploads the blob; before the wrapper is sent, always (engine-experiments.md 6.5). One request, three for the first one.
    pub(crate) async fn upload(&self, hub: &TaskHub) -> Result<(), StorageError> {
        hub.upload(&self.blob_name, self.content.clone()).await
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }

    pub(crate) fn wrapper(&self) -> String {
        wrapper(&self.blob_name)
    }
}

/// The text of a wrapper, for the queue.
pub(crate) fn wrapper(blob_name: &str) -> String {
    STANDARD.encode(Message::wrapper_json(blob_name))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail; should it, the damaged blob would be refused by its reader.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

impl TaskHub {
    /// Sends the message, visible after that time. One request; a message over 45 KiB costs one or three more.
    pub(crate) async fn deliver(&self, message: &Message, visible_after: Duration) -> Result<SentMessage, StorageError> {
        let text = self.text_of(message).await?;
        self.control_queue_of(&message.instance_id).put(&text, visible_after).await
    }

    /// As [`TaskHub::deliver`], with a single try to put the message: for what is done twice if it arrives twice.
    pub(crate) async fn deliver_once(&self, message: &Message, visible_after: Duration) -> Result<SentMessage, StorageError> {
        let text = self.text_of(message).await?;
        self.control_queue_of(&message.instance_id).put_once(&text, visible_after).await
    }

    /// What goes into the queue; a large message is in its blob by then.
    async fn text_of(&self, message: &Message) -> Result<String, StorageError> {
        match message.encode() {
            Ok(text) => Ok(text),
            Err(_) => {
                let large = LargeMessage::new(message);
                large.upload(self).await?;
                Ok(large.wrapper())
            }
        }
    }

    /// Uploads to the container of large messages, which is made with the first one (task-hub.md 1.8).
    pub(crate) async fn upload(&self, name: &str, content: Vec<u8>) -> Result<(), StorageError> {
        let container = self.large_messages();
        match container.put(name, content.clone(), true).await {
            Err(error) if error.is_container_not_found() => {
                container.create_if_missing().await?;
                container.put(name, content, true).await?;
            }
            result => drop(result?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_and_lie_above_those_of_starts() {
        let numbers: Vec<i64> = (0..1000).map(|_| next_number()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert!(numbers[0] > 1_000_000_000_000_000);
    }
}
