//! Finding the instances that changed, without reading each of them.
//!
//! Owns the query by `Timestamp`, the column that the table service sets itself at
//! each write, and the order of keys in a range. One request per page. Invariants: no
//! clock but the service's decides, neither a worker's nor ours; IDs go into the
//! filter escaped and quoted. A row that was deleted is never shown, and a row can
//! change behind a page that was read already: whoever follows changes begins the next
//! scan at the [`ChangesPage::date`] of the first page of this one, less an overlap.

use std::cmp::Ordering;

use crate::hub::TaskHub;
use crate::instance::Instance;
use crate::list::{MAX_FILTER_TEXT, MAX_PAGE_SIZE};
use crate::names::{escape_key, unescape_key};
use crate::query::STATUS_COLUMNS;
use crate::storage::{Continuation, Query, StorageError, quote};
use crate::time::Time;

/// The key of an instance's row, in the order of the table service: by UTF-16 code units.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceKey(String);

impl InstanceKey {
    /// The key of the instance of this ID (task-hub.md 4.1).
    pub fn of(instance_id: &str) -> InstanceKey {
        InstanceKey(escape_key(instance_id))
    }

    /// The ID that it is the key of.
    pub fn instance_id(&self) -> String {
        unescape_key(&self.0)
    }

    /// The key, escaped.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The least key that sorts after this one.
    ///
    /// Keys hold no control characters, so nothing sorts between a key and the key with a blank at its end.
    #[must_use]
    pub fn successor(&self) -> InstanceKey {
        InstanceKey(format!("{} ", self.0))
    }
}

impl Ord for InstanceKey {
    fn cmp(&self, other: &InstanceKey) -> Ordering {
        // Differs from the order of bytes for characters beyond U+FFFF alone.
        self.0.encode_utf16().cmp(other.0.encode_utf16())
    }
}

impl PartialOrd for InstanceKey {
    fn partial_cmp(&self, other: &InstanceKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A range of keys, half-open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key of the range.
    pub from: InstanceKey,
    /// The first key behind the range.
    pub to: InstanceKey,
}

impl KeyRange {
    /// From `first` to `last`, both included.
    pub fn spanning(first: InstanceKey, last: &InstanceKey) -> KeyRange {
        KeyRange { from: first, to: last.successor() }
    }
}

/// Which rows to look for. The default finds every instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangesRequest {
    /// Written at this time of the service's clock or later; at any time if none.
    pub since: Option<Time>,
    /// With a key in this range; with any if none.
    pub range: Option<KeyRange>,
    /// Columns that the hub itself does not know, to be read with [`Instance::column`].
    pub columns: Vec<String>,
    /// Where the page before ended.
    pub continuation: Option<Continuation>,
}

/// An instance as its row was at the time of the scan.
#[derive(Debug, Clone)]
pub struct Change {
    /// The instance, without its input; its ETag is there.
    pub instance: Instance,
    /// When the row was written last, by the service's clock.
    pub written_at: Option<Time>,
}

/// Some of the rows that were written. A page can be empty and still have a continuation.
#[derive(Debug, Clone)]
pub struct ChangesPage {
    /// The instances, in the order of their keys; entities are left out.
    pub changes: Vec<Change>,
    /// How many rows came, entities included: what the page cost.
    pub rows: usize,
    /// Where this page ended; none on the last one. Good for the same request alone.
    pub continuation: Option<Continuation>,
    /// When the service answered, by its clock, to the second; none if something on the way took the header away.
    pub date: Option<Time>,
}

/// Why changes cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// A key of the range is too long to be sent.
    #[error("a key of the range is too long: at most {MAX_FILTER_TEXT} characters; read such instances one by one")]
    TooLong,
    /// The storage account did not answer as needed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TaskHub {
    /// A page of at most [`MAX_PAGE_SIZE`] instances whose row was written since a time, without their inputs. One request.
    ///
    /// # Errors
    /// [`ChangesError`]. A page over 16 MiB, which an emulator may give, is [`StorageErrorKind::TooLarge`](crate::storage::StorageErrorKind::TooLarge).
    pub async fn changes(&self, request: &ChangesRequest) -> Result<ChangesPage, ChangesError> {
        let own = request.columns.iter().map(String::as_str);
        let query = Query {
            filter: to_odata(request)?,
            select: STATUS_COLUMNS.into_iter().chain(["Timestamp"]).chain(own).map(str::to_owned).collect(),
            top: Some(MAX_PAGE_SIZE),
            continuation: request.continuation.clone(),
        };
        let page = self.instances().query(&query).await?;
        let rows = page.entities.len();
        // Not by the filter: an alternative in it would make the service walk through the whole table.
        let of_instances = page.entities.into_iter().filter(|row| !row.partition_key.starts_with('@'));
        let changes = of_instances.map(|row| Change { written_at: row.timestamp, instance: self.instance(row) });
        Ok(ChangesPage { changes: changes.collect(), rows, continuation: page.continuation, date: page.date })
    }
}

fn to_odata(request: &ChangesRequest) -> Result<Option<String>, ChangesError> {
    let mut conditions = Vec::new();
    if let Some(KeyRange { from, to }) = &request.range {
        if [from, to].iter().any(|key| key.0.encode_utf16().count() > MAX_FILTER_TEXT) {
            return Err(ChangesError::TooLong);
        }
        conditions.push(format!("PartitionKey ge {}", quote(&from.0)));
        conditions.push(format!("PartitionKey lt {}", quote(&to.0)));
    }
    conditions.extend(request.since.map(|since| format!("Timestamp ge datetime'{}'", since.to_table())));
    Ok((!conditions.is_empty()).then(|| conditions.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_quoted_escaped_and_half_open() {
        let range = KeyRange::spanning(InstanceKey::of("a/'1"), &InstanceKey::of("b?"));
        let request = ChangesRequest { since: Time::parse("2026-01-10T10:10:10Z").ok(), range: Some(range), ..ChangesRequest::default() };
        let expected = "PartitionKey ge 'a^0''1' and PartitionKey lt 'b^3 ' and Timestamp ge datetime'2026-01-10T10:10:10.0000000Z'";
        assert_eq!(to_odata(&request).unwrap().as_deref(), Some(expected));
        assert_eq!(to_odata(&ChangesRequest::default()).unwrap(), None);
        let long = KeyRange::spanning(InstanceKey::of("a"), &InstanceKey::of(&"é".repeat(MAX_FILTER_TEXT)));
        assert!(matches!(to_odata(&ChangesRequest { range: Some(long), ..ChangesRequest::default() }), Err(ChangesError::TooLong)));
    }

    #[test]
    fn keys_sort_as_the_service_sorts_them() {
        // A character beyond U+FFFF sorts before U+E000 there, and after it in UTF-8.
        let mut keys = ["b", "a b", "a", "a\u{E000}", "a\u{10000}", "a/", "B"].map(InstanceKey::of);
        keys.sort();
        assert_eq!(keys.map(|key| key.instance_id()), ["B", "a", "a b", "a/", "a\u{10000}", "a\u{E000}", "b"]);
        for (key, next) in [("a", "a b"), ("a", "a!"), ("a", "a\u{10000}"), ("a ", "a  ")] {
            assert!(InstanceKey::of(key) < InstanceKey::of(key).successor());
            assert!(InstanceKey::of(key).successor() <= InstanceKey::of(next), "{next:?}");
        }
    }
}
