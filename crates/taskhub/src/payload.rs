//! Values of rows that may lie in a blob (task-hub.md 4.5).
//!
//! Invariant: a text is a reference only if it names a blob in the hub's own
//! container of large messages. Engines take any well-formed URI for one and
//! fail; following a foreign URL would also carry our credential elsewhere.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::storage::{Container, StorageError};

/// What the names of blobs end with that hold a whole start message (task-hub.md 4.5).
const START_MESSAGE_SUFFIX: &str = "ExecutionStarted.json.gz";

/// The input or output of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The text itself: JSON, except in the output of runs that failed or were ended.
    Inline(String),
    /// The text lies in a blob of the hub.
    Blob(BlobReference),
}

/// A blob in the hub's container of large messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobReference {
    name: String,
    /// The name as engines 2.0 and 2.1 wrote it into the URL: not percent-encoded.
    undecoded: Option<String>,
}

/// Why a payload could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The storage account did not deliver it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The row refers to a blob that is not there.
    #[error("the large value that the instance refers to is not in the hub's blob container")]
    Missing,
    /// The text is larger than the caller accepts.
    #[error("the large value has more than {limit} bytes")]
    TooLarge {
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// The blob is not what engines write.
    #[error("the blob of the large value is damaged: {0}")]
    Damaged(&'static str),
}

impl Payload {
    /// Reads a column, its companion that names a blob, and tells texts from references to blobs below `container`.
    pub(crate) fn of_column(text: Option<String>, blob_name: Option<String>, container: &str) -> Option<Payload> {
        let text = text?;
        if text.is_empty()
            && let Some(name) = blob_name
        {
            return Some(Payload::Blob(BlobReference { name, undecoded: None }));
        }
        let below = text.strip_prefix(container).and_then(|rest| rest.strip_prefix('/'));
        Some(match below {
            Some(encoded) if !container.is_empty() => {
                let name = percent_decoded(encoded);
                let undecoded = (name != encoded).then(|| encoded.to_owned());
                Payload::Blob(BlobReference { name, undecoded })
            }
            _ => Payload::Inline(text),
        })
    }

    /// The text, if it is in the row itself.
    pub fn inline(&self) -> Option<&str> {
        match self {
            Payload::Inline(text) => Some(text),
            Payload::Blob(_) => None,
        }
    }
}

impl BlobReference {
    /// The blob's name, if the blob holds a whole start message and not the value alone.
    pub(crate) fn start_message(&self) -> Option<&str> {
        self.name.ends_with(START_MESSAGE_SUFFIX).then_some(&self.name)
    }

    /// The blob's name within the container.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The blob of that name in the hub's container, as companion columns of the history name it (task-hub.md 5.5).
    pub(crate) fn named(name: &str) -> BlobReference {
        BlobReference { name: name.to_owned(), undecoded: None }
    }

    /// Downloads and decompresses the text, at most `limit` bytes of it.
    pub(crate) async fn fetch(&self, container: &Container, limit: u64) -> Result<String, PayloadError> {
        // A `\` of an ID is stored as `/` in the names of message blobs (task-hub.md 1.8).
        let candidates = [Some(self.name.clone()), self.undecoded.clone(), self.name.contains('\\').then(|| self.name.replace('\\', "/"))];
        for name in candidates.into_iter().flatten() {
            if let Some(bytes) = container.get(&name, limit).await? {
                let text = gunzip(&bytes, limit)?;
                return if name.ends_with(START_MESSAGE_SUFFIX) { input_of_start(&text) } else { Ok(text) };
            }
        }
        Err(PayloadError::Missing)
    }
}

/// The blob of a large start message holds the whole message; the value is the input in it.
pub(crate) fn input_of_start(message: &str) -> Result<String, PayloadError> {
    let damaged = PayloadError::Damaged("it holds no start message");
    let value: serde_json::Value = serde_json::from_str(message).map_err(|_| PayloadError::Damaged("it is not JSON"))?;
    value.pointer("/TaskMessage/Event/Input").and_then(serde_json::Value::as_str).map(str::to_owned).ok_or(damaged)
}

pub(crate) fn gunzip(bytes: &[u8], limit: u64) -> Result<String, PayloadError> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).take(limit.saturating_add(1)).read_to_end(&mut text).map_err(|_| PayloadError::Damaged("it is not gzip"))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > limit {
        return Err(PayloadError::TooLarge { limit });
    }
    String::from_utf8(text).map_err(|_| PayloadError::Damaged("it is not UTF-8"))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        // `from_str_radix` alone would take a sign for a digit.
        let hexadecimal = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let hexadecimal = hexadecimal.and_then(|digits| std::str::from_utf8(digits).ok());
        match (bytes[at], hexadecimal.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const CONTAINER: &str = "http://127.0.0.1:10000/devstoreaccount1/hub-largemessages";

    #[test]
    fn only_urls_of_the_hubs_own_container_are_references() {
        let of = |text: &str| Payload::of_column(Some(text.to_owned()), None, CONTAINER);
        for text in
            ["https://example.com/ticket/1", "Failed:x", "\"text\"", "", "http://127.0.0.1:10000/devstoreaccount1/hub-largemessagesX/a"]
        {
            assert_eq!(of(text), Some(Payload::Inline(text.to_owned())));
        }
        // The escapings of task-hub.md 4.5.
        for (url, name) in [
            ("/a%5E0b/history--Output-0A1B2C3D-Output.json.gz", "a^0b/history--Output-0A1B2C3D-Output.json.gz"),
            ("/o%27brien%20%25%20%C3%A9/history-x.json.gz", "o'brien % é/history-x.json.gz"),
            ("/@counter@k/history-x.json.gz", "@counter@k/history-x.json.gz"),
            ("/100%+5/history-x.json.gz", "100%+5/history-x.json.gz"),
        ] {
            let Some(Payload::Blob(reference)) = of(&format!("{CONTAINER}{url}")) else { panic!("{url}") };
            assert_eq!(reference.name, name);
        }
    }

    #[test]
    fn an_empty_column_with_a_companion_refers_to_the_named_blob() {
        let payload = Payload::of_column(Some(String::new()), Some("i/history--Input-0-Input.json.gz".to_owned()), CONTAINER);
        assert!(matches!(payload, Some(Payload::Blob(_))));
        // After the first checkpoint the column is filled and the companion stale (engine-experiments.md 6.1).
        let filled = Payload::of_column(Some("1".to_owned()), Some("old".to_owned()), CONTAINER);
        assert_eq!(filled, Some(Payload::Inline("1".to_owned())));
    }

    #[test]
    fn decompression_is_bounded() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b'a'; 1_000_000]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 5_000);
        assert!(matches!(gunzip(&bomb, 999_999), Err(PayloadError::TooLarge { limit: 999_999 })));
        assert_eq!(gunzip(&bomb, 1_000_000).unwrap().len(), 1_000_000);
        assert!(matches!(gunzip(b"no gzip", 10), Err(PayloadError::Damaged(_))));
    }
}
