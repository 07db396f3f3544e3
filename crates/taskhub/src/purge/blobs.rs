//! The blobs of one instance (task-hub.md 1.8, 6.13).
//!
//! Owns the exact names. Invariant: no blob of another instance is removed. Where
//! a name can belong to two instances, the content decides, and what cannot be
//! decided is left.

use futures::StreamExt;

use super::Purged;
use crate::message::Message;
use crate::names::escape_key;
use crate::payload::gunzip;
use crate::storage::{Container, StorageError};

const PARALLEL: usize = 8;

/// The largest message that is read to see whose it is, zipped and unzipped.
const MAX_MESSAGE: u64 = 64 * 1024 * 1024;

/// A prefix under which blobs of the instance lie.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    prefix: String,
    /// True if blobs of other instances can lie here too: a stored `/` may have been a `\` (task-hub.md 1.8).
    shared: bool,
}

fn places(instance_id: &str) -> Vec<Place> {
    let place = |id: &str, family: &str, shared| Place { prefix: format!("{id}/{family}-"), shared };
    let shared = instance_id.contains(['/', '\\']);
    let mut places = vec![place(&escape_key(instance_id), "history", false), place(instance_id, "message", shared)];
    if instance_id.contains('\\') {
        places.push(place(&instance_id.replace('\\', "/"), "message", true));
    }
    places
}

/// Removes the instance's blobs; a container that is not there holds none.
///
/// With `keep_start` the start message's blob stays: while the message may still be in the queue, a blob that is missing makes
/// the engine try it for ever, where a row that is missing ends it (task-hub.md 3.8, 3.9 A; engine-experiments.md 4.13).
pub(super) async fn remove(container: &Container, instance_id: &str, keep_start: bool) -> Result<Purged, StorageError> {
    let mut purged = Purged::default();
    for Place { prefix, shared } in places(instance_id) {
        let entries = match container.list(&prefix).await {
            Ok(entries) => entries,
            Err(error) if error.is_container_not_found() => return Ok(purged),
            Err(error) => return Err(error),
        };
        // Instance `a/message-b` stores `a/message-b/message-…`.
        let exact = |name: &String| name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/'));
        let own = entries.into_iter().map(|entry| entry.name).filter(exact);
        let prefix = prefix.as_str();
        let removals = own.map(|name| async move {
            // No client of ours can name it: the URL library drops control characters.
            let is_start = prefix.ends_with("/message-") && name.ends_with("-ExecutionStarted.json.gz");
            if (keep_start && is_start) || name.chars().any(char::is_control) || (shared && !belongs(container, &name, instance_id).await?)
            {
                return Ok(false);
            }
            container.delete(&name).await.map(|_| true)
        });
        let mut removals = futures::stream::iter(removals).buffer_unordered(PARALLEL);
        while let Some(removed) = removals.next().await {
            match removed? {
                true => purged.blobs += 1,
                false => purged.blobs_left += 1,
            }
        }
    }
    Ok(purged)
}

/// True if the message in the blob is for this instance.
async fn belongs(container: &Container, name: &str, instance_id: &str) -> Result<bool, StorageError> {
    let Some(bytes) = container.get(name, MAX_MESSAGE).await? else { return Ok(false) };
    let message = gunzip(&bytes, MAX_MESSAGE).ok().and_then(|json| Message::from_blob(json.as_bytes()).ok());
    Ok(message.is_some_and(|message| message.instance_id == instance_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_exact() {
        let of = |id: &str| places(id).into_iter().map(|place| (place.prefix, place.shared)).collect::<Vec<_>>();
        assert_eq!(of("pp-2"), [("pp-2/history-".to_owned(), false), ("pp-2/message-".to_owned(), false)]);
        assert_eq!(of("a/b"), [("a^0b/history-".to_owned(), false), ("a/b/message-".to_owned(), true)]);
        let expected = [("a^1b/history-".to_owned(), false), ("a\\b/message-".to_owned(), true), ("a/b/message-".to_owned(), true)];
        assert_eq!(of("a\\b"), expected);
    }
}
