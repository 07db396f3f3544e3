//! What is too large for a queue or a column lies in blobs of the hub (task-hub.md 1.8, 3.8, 4.5, 5.5).
//!
//! Invariant: a blob is written before whatever refers to it. A crash in
//! between leaves a blob that nobody refers to, which a purge removes; the
//! repeated episode writes others. Reading is bounded, also when unzipped.

use std::io::{Read as _, Write as _};

use durable_taskhub::message::{MAX_BLOB_BYTES, MAX_INLINE_BYTES, Message, MessageError};
use durable_taskhub::names::{HubName, escape_key};
use durable_taskhub::storage::{Container, Entity, Service, Storage, StorageError};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::uri;

/// The longest text of a column, in UTF-16 units: 60 KiB (task-hub.md 4.5).
const MAX_COLUMN_UTF16: usize = 30_720;
/// The columns of a history row that may lie in a blob (task-hub.md 5.5).
const LARGE_COLUMNS: [&str; 9] = ["Name", "Input", "Result", "Output", "Reason", "Details", "Correlation", "FailureDetails", "Tags"];
/// What a column is called that names the blob of another one.
const COMPANION: &str = "BlobName";

/// The container of large values of one hub; made when it is first needed.
pub struct LargeValues {
    container: Container,
    /// The container's URL, as columns of the Instances row refer to it.
    url: String,
}

/// A large value cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LargeValueError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The blob that is referred to is not there (yet).
    #[error("the blob {0} is not there")]
    Missing(String),
    /// The blob is not what engines write, or larger than this worker reads.
    #[error("the blob {0} is no gzip of UTF-8, or has more than {MAX_BLOB_BYTES} bytes")]
    Damaged(String),
    /// It holds no message.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl LargeValues {
    /// The large values of the hub `name`. Sends nothing.
    pub fn new(storage: &Storage, name: &HubName) -> LargeValues {
        let container = name.large_messages_container();
        let url = format!("{}/{container}", storage.account().endpoint(Service::Blob).trim_end_matches('/'));
        LargeValues { container: storage.container(&container), url }
    }

    /// The text for a queue: the message itself, or a wrapper around the name of the blob that it was written to (task-hub.md 3.8).
    ///
    /// # Errors
    /// Storage failed.
    pub async fn queue_text(&self, message: &Message) -> Result<String, StorageError> {
        match message.encode() {
            Ok(text) => Ok(text),
            Err(_) => {
                // The first segment is the raw ID, unlike in the blobs of columns.
                let kind = message.event.kind.event_type();
                let name = format!("{}/message-{}-{kind}.json.gz", message.instance_id, message.activity_id.simple());
                self.put(&name, &message.to_json()).await?;
                Ok(base64(&Message::wrapper_json(&name)))
            }
        }
    }

    /// The message that a wrapper refers to.
    ///
    /// # Errors
    /// [`LargeValueError`]; a blob that is missing may still come (engine-experiments.md 6.5).
    pub async fn message(&self, blob_name: &str) -> Result<Message, LargeValueError> {
        Ok(Message::from_blob(self.get(blob_name).await?.as_bytes())?)
    }

    /// Moves the values of a history row that are too large for a column to blobs (task-hub.md 5.5).
    ///
    /// # Errors
    /// Storage failed.
    pub async fn move_out(&self, row: &mut Entity) -> Result<(), StorageError> {
        let event_type = row.text("EventType").unwrap_or_default().to_owned();
        for column in LARGE_COLUMNS {
            let Some(text) = row.text(column).filter(|text| is_large(text)) else { continue };
            let name = column_blob(&row.partition_key, &row.row_key, &event_type, column);
            self.put(&name, text).await?;
            row.set(column, "");
            row.set(&format!("{column}{COMPANION}"), name);
        }
        Ok(())
    }

    /// Puts the values of a history row back that lie in blobs.
    ///
    /// # Errors
    /// [`LargeValueError`].
    pub async fn bring_back(&self, row: &mut Entity) -> Result<(), LargeValueError> {
        for (column, name) in blobs_of(row) {
            row.set(&column, self.get(&name).await?);
            row.columns.remove(&format!("{column}{COMPANION}"));
        }
        Ok(())
    }

    /// The text for a column of the Instances row that has no event to refer to, such as the reason of a terminate
    /// that came before the first episode: itself, or the URL of a blob (task-hub.md 6.5).
    ///
    /// # Errors
    /// Storage failed.
    pub async fn instance_column(&self, instance_id: &str, column: &str, text: &str) -> Result<String, StorageError> {
        if !is_large(text) {
            return Ok(text.to_owned());
        }
        let name = column_blob(&escape_key(instance_id), "", column, column);
        self.put(&name, text).await?;
        Ok(self.url_of(&name))
    }

    /// How a column of the Instances row refers to the value of a history row: by URL, escaped by segment (task-hub.md 4.5).
    pub fn url_of(&self, blob_name: &str) -> String {
        let segments: Vec<String> = blob_name.split('/').map(uri::escape).collect();
        format!("{}/{}", self.url, segments.join("/"))
    }

    /// Deletes the blobs that `rows` refer to: those of an execution that continued as new (task-hub.md 5.6, step 4).
    ///
    /// # Errors
    /// Storage failed.
    pub async fn delete_of(&self, rows: &[Entity]) -> Result<(), StorageError> {
        for (_, name) in rows.iter().flat_map(blobs_of) {
            self.container.delete(&name).await?;
        }
        Ok(())
    }

    async fn put(&self, name: &str, text: &str) -> Result<(), StorageError> {
        let bytes = gzip(text);
        match self.container.put(name, bytes.clone(), true).await {
            Err(error) if error.is_container_not_found() => {
                self.container.create_if_missing().await?;
                self.container.put(name, bytes, true).await.map(|_| ())
            }
            written => written.map(|_| ()),
        }
    }

    async fn get(&self, name: &str) -> Result<String, LargeValueError> {
        let mut bytes = self.container.get(name, MAX_BLOB_BYTES as u64).await?;
        if bytes.is_none() && name.contains('\\') {
            // The service stores a backslash as a slash (task-hub.md 1.8).
            bytes = self.container.get(&name.replace('\\', "/"), MAX_BLOB_BYTES as u64).await?;
        }
        let bytes = bytes.ok_or_else(|| LargeValueError::Missing(name.to_owned()))?;
        gunzip(&bytes).ok_or_else(|| LargeValueError::Damaged(name.to_owned()))
    }
}

/// The columns of a row whose values lie in blobs, with the names of these.
pub fn blobs_of(row: &Entity) -> Vec<(String, String)> {
    let column = |name: &str| LARGE_COLUMNS.into_iter().find(|column| name.strip_suffix(COMPANION) == Some(column));
    row.columns.keys().filter_map(|name| Some((column(name)?.to_owned(), row.text(name)?.to_owned()))).collect()
}

fn is_large(text: &str) -> bool {
    text.len() > MAX_COLUMN_UTF16 && text.encode_utf16().count() > MAX_COLUMN_UTF16
}

fn column_blob(partition_key: &str, row_key: &str, event_type: &str, column: &str) -> String {
    let random = uuid::Uuid::new_v4().as_fields().0;
    format!("{partition_key}/history-{row_key}-{event_type}-{random:08X}-{column}.json.gz")
}

fn base64(json: &str) -> String {
    use base64::Engine as _;
    debug_assert!(json.len() < MAX_INLINE_BYTES);
    base64::engine::general_purpose::STANDARD.encode(json)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

fn gunzip(bytes: &[u8]) -> Option<String> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).take(MAX_BLOB_BYTES as u64 + 1).read_to_end(&mut text).ok()?;
    if text.len() > MAX_BLOB_BYTES {
        return None;
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_hold_sixty_kibibytes_of_utf16() {
        assert!(!is_large(&"é".repeat(MAX_COLUMN_UTF16)));
        assert!(is_large(&"é".repeat(MAX_COLUMN_UTF16 + 1)));
        assert!(is_large(&"😀".repeat(MAX_COLUMN_UTF16 / 2 + 1)));
    }

    #[test]
    fn blobs_are_named_as_in_the_recordings() {
        let name = column_blob("a^0b", "0000000000000002", "TaskCompleted", "Result");
        let parts: Vec<&str> = name.split('-').collect();
        assert_eq!(
            (parts.len(), parts[0], parts[1], parts[2], parts[4]),
            (5, "a^0b/history", "0000000000000002", "TaskCompleted", "Result.json.gz")
        );
        assert_eq!(parts[3].len(), 8);
        let row = Entity::new("i", "0").with("ResultBlobName", name.as_str()).with("Result", "").with("SomeBlobName", "x");
        assert_eq!(blobs_of(&row), [("Result".to_owned(), name)]);
    }

    #[test]
    fn unzipping_is_bounded_and_wants_text() {
        assert_eq!(gunzip(&gzip("\"日本\"")).as_deref(), Some("\"日本\""));
        assert_eq!(gunzip(b"no gzip"), None);
        assert_eq!(gunzip(&gzip(&"a".repeat(MAX_BLOB_BYTES + 1))), None);
    }
}
