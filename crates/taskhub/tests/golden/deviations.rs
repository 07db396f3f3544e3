//! Where we write something else than the official clients, and why.
//!
//! | What | Why |
//! |---|---|
//! | Base64 instead of raw JSON | every engine reads it (task-hub.md 3.1); the comparison decodes both |
//! | row before message | task-hub.md 7.3; the result is the same |
//! | `SequenceNumber` | starts count from 1 per process, control messages are microseconds (7.6) |
//! | no `$type` in `Tags` | optional on read, and the host's type name (3.5) |
//! | `GenerateNewTrace` | the older line does not have it, and ignores it (3.6) |
//! | URLs of blobs as the newer line escapes them | the older one leaves some characters; both name the same blob (4.5) |
//! | commands that are refused | below |

use durable_bed::recording::{Recording, Snapshot};
use durable_taskhub::names::escape_key;
use serde_json::Value as Json;

use crate::hub::{World, relocated, renamed};

/// What the official client carries out and we refuse: scenario, operation, and the error. Each is a place where the engine
/// was seen to drop, undo or repeat the command for ever (engine-experiments.md).
const REFUSED: [(&str, &str, &str); 11] = [
    // 4.9: a run that is not over would be replaced, and just be gone.
    ("duplicate_start", "start", "AlreadyExists"),
    // The rules of the extension, which the framework's client does not have (task-hub.md 4.1).
    ("instance_ids", "start", "InvalidInstanceId"),
    // 5.3 to 5.7d: what comes before the start is dropped, or undone by it.
    ("raise_event_before_start", "raise", "NotStarted"),
    ("suspend_pending", "suspend", "NotStarted"),
    ("terminate_pending", "terminate", "NotStarted"),
    // 3.5: a terminate for a missing row returns for ever; the others are dropped.
    ("raise_event_missing_instance", "", "NotFound"),
    ("raise_event_payloads", "raise", "NotFound"),
    // 5.16: dropped.
    ("terminate_running", "terminate", "Finished"),
    ("x_big_ids", "start", "InvalidInstanceId"),
    // 7.18: the row would be Pending until the next message repairs it.
    ("rewind_completed", "rewind", "NotFailed"),
    // Entities have their own way out, `clean_entities`.
    ("x_big_ids", "purge", "Entity"),
];

/// True if the official client changed in place what the refused command was about: what would be there without it is not
/// recorded. That the refused command itself wrote nothing is checked all the same.
pub fn hides_the_state_before(error: &str) -> bool {
    ["AlreadyExists", "NotFailed", "Entity"].contains(&error)
}

/// True where the official client deletes the large values of other instances, whose IDs begin like the purged one's (8.1):
/// there the tables and queues are compared, and what is left of the blobs is `tests/operations/purge.rs`.
pub fn spares_blobs(recording: &str, command: &Json) -> bool {
    recording.contains("__x_purge_prefix") && command["op"] == "purge"
}

/// What a .NET host writes before the tags of a message.
pub const TAGS_TYPE: &str = r#""$type":"System.Collections.Generic.Dictionary`2[[System.String, System.Private.CoreLib],[System.String, System.Private.CoreLib]]","#;

/// The error by which we refuse what the official client does there.
pub fn refusal(recording: &str, command: &Json) -> Option<&'static str> {
    let operation = command["op"].as_str().unwrap_or_default();
    let listed = |(scenario, op, _): &&(&str, &str, &str)| {
        let named = recording.split("__").nth(2).is_some_and(|rest| rest.split('.').next() == Some(*scenario));
        named && (op.is_empty() || *op == operation)
    };
    REFUSED.iter().find(listed).map(|(_, _, error)| *error)
}

/// The recorded state as it would be in our hub, without what the refused commands wrote.
pub fn expected(recording: &Recording, world: &World, after: &Snapshot, refused: &[String]) -> Snapshot {
    let mut snapshot = after.clone();
    let keys: Vec<String> = refused.iter().map(|id| escape_key(id)).collect();
    let rename = |text: &str| renamed(text, recording, &world.name);
    snapshot.queues = std::mem::take(&mut snapshot.queues)
        .into_iter()
        .map(|(name, mut queue)| {
            let before = queue.messages.len();
            queue.messages.retain(|message| !is_of(&message.text, refused));
            queue.approximate_count -= u64::try_from(before - queue.messages.len()).unwrap_or_default();
            (rename(&name), queue)
        })
        .collect();
    snapshot.tables = std::mem::take(&mut snapshot.tables)
        .into_iter()
        .map(|(name, mut rows)| {
            // A refused start wrote the row; other refused commands wrote none.
            rows.retain(|row| !(is_new_start(recording, row, &keys)));
            for cell in rows.iter_mut().flat_map(|row| row.values_mut()) {
                if let Some(text) = cell.value.as_str() {
                    cell.value = relocated(text, &world.storage, recording, &world.name).into();
                }
            }
            (rename(&name), rows)
        })
        .collect();
    for blobs in snapshot.blobs.values_mut().flatten() {
        blobs.retain(|blob| !refused.iter().any(|id| is_message_of(&blob.name, id)));
        for blob in blobs {
            blob.name = rename(&blob.name);
        }
    }
    snapshot.blobs = std::mem::take(&mut snapshot.blobs).into_iter().map(|(name, blobs)| (rename(&name), blobs)).collect();
    snapshot
}

/// True for the message of a refused command: an event of that instance that is no start of another client's.
fn is_of(text: &str, refused: &[String]) -> bool {
    use base64::Engine as _;
    let decoded = if text.starts_with('{') {
        text.to_owned()
    } else {
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()).unwrap_or_default()
    };
    let Ok(message) = serde_json::from_str::<Json>(&decoded) else { return false };
    if let Some(blob) = message["CompressedBlobName"].as_str() {
        return refused.iter().any(|id| is_message_of(blob, id));
    }
    let id = message.pointer("/TaskMessage/OrchestrationInstance/InstanceId").and_then(Json::as_str).unwrap_or_default();
    let kind = message.pointer("/TaskMessage/Event/EventType").and_then(Json::as_i64);
    refused.iter().any(|refused| refused == id) && (kind != Some(0) || durable_taskhub::names::InstanceId::new(id).is_err())
}

/// True for the blob of a large message to the instance; a `\` of an ID is stored as `/` (task-hub.md 1.8).
fn is_message_of(blob: &str, id: &str) -> bool {
    [id.to_owned(), id.replace('\\', "/")].iter().any(|id| blob.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with("/message-")))
}

fn is_new_start(recording: &Recording, row: &durable_bed::recording::Row, keys: &[String]) -> bool {
    let key = row.get("PartitionKey").and_then(|cell| cell.value.as_str()).unwrap_or_default();
    let started = recording.commands("start").any(|command| {
        let id = command["id"].as_str().unwrap_or_default();
        escape_key(id) == key && durable_taskhub::names::InstanceId::new(id).is_err()
    });
    started && keys.iter().any(|refused| refused == key)
}

/// Takes out what the table above names.
pub fn smooth(lines: Vec<String>) -> Vec<String> {
    let number = |line: &str| -> String {
        let Some((before, rest)) = line.split_once(",\"CompressedBlobName\"") else { return line.to_owned() };
        let rest = match rest.split_once("\"SequenceNumber\":") {
            Some((middle, after)) => {
                let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{middle}\"SequenceNumber\":<number>{after}")
            }
            None => rest.to_owned(),
        };
        format!("{before},\"CompressedBlobName\"{rest}")
    };
    let unordered = |line: &str| -> String {
        // Which message lies before which does not matter here: the row and the execution say which it is.
        match line.split_once(" message ") {
            Some((queue, rest)) if line.starts_with("queue ") => {
                format!("{queue} message: {}", rest.split_once(": ").map_or(rest, |(_, text)| text))
            }
            _ => line.to_owned(),
        }
    };
    let timestamp = |line: &String| !line.contains("] Timestamp (Edm.DateTime)");
    lines
        .into_iter()
        .filter(timestamp)
        .map(|line| unordered(&number(&line)).replace(TAGS_TYPE, "").replace("\"GenerateNewTrace\":false,", ""))
        .map(|line| if line.contains("<blobs>/") { decoded(&line) } else { line })
        .collect()
}

fn decoded(line: &str) -> String {
    let mut text = line.to_owned();
    for byte in b' '..=b'~' {
        text = text.replace(&format!("%{byte:02X}"), &char::from(byte).to_string());
    }
    text
}
