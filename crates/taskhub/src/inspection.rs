//! What property tests and fuzz targets must reach and users need not: pure functions between the hub's bytes and the API.
//!
//! No part of the public interface: it can change with any version. Knows no
//! network. Invariant: each function only calls the one that operations use.

use crate::TaskHub;
use crate::history::Rows;
use crate::list::{Filter, ListError, from_token, to_token};
use crate::names::HubName;
use crate::partition::PartitionCount;
use crate::payload::{Payload, PayloadError};
use crate::purge::{in_order_of_removal, transactions};
use crate::start::{PreparedStart, StartError, StartRequest, written_by};
use crate::storage::{Entity, Storage};

/// What a start writes.
#[derive(Debug)]
pub struct StartWrites {
    /// The row of `{Hub}Instances`.
    pub row: Entity,
    /// The text of the message in the control queue.
    pub message: String,
    /// Name and content of each blob.
    pub blobs: Vec<(String, Vec<u8>)>,
}

/// A client of a hub that nobody looked at.
pub fn hub(storage: Storage, name: HubName, partitions: PartitionCount) -> TaskHub {
    TaskHub::of_known(storage, name, partitions)
}

/// What [`TaskHub::start`] would write.
///
/// # Errors
/// Those of [`PreparedStart::new`].
pub fn start_writes(hub: &TaskHub, request: StartRequest) -> Result<StartWrites, StartError> {
    let (row, message, blobs) = written_by(&PreparedStart::new(request)?, hub);
    Ok(StartWrites { row, message, blobs })
}

/// The OData of a filter.
///
/// # Errors
/// [`ListError::TooLong`].
pub fn odata(filter: &Filter) -> Result<Option<String>, ListError> {
    filter.to_odata()
}

/// A continuation token, read and written again; none if it is none.
pub fn continuation_token(text: &str) -> Option<String> {
    from_token(text).as_ref().map(to_token)
}

/// The text of a blob, at most `limit` bytes of it.
///
/// # Errors
/// [`PayloadError`].
pub fn gunzip(bytes: &[u8], limit: u64) -> Result<String, PayloadError> {
    crate::payload::gunzip(bytes, limit)
}

/// The input in the text of a large start message.
///
/// # Errors
/// [`PayloadError`].
pub fn input_of_start(message: &str) -> Result<String, PayloadError> {
    crate::payload::input_of_start(message)
}

/// The name of the blob that a column refers to; none if it holds the value itself.
pub fn blob_of_column(text: &str, container: &str) -> Option<String> {
    match Payload::of_column(Some(text.to_owned()), None, container)? {
        Payload::Blob(reference) => Some(reference.name().to_owned()),
        Payload::Inline(_) => None,
    }
}

/// The URL under which a column refers to a blob.
pub fn blob_url(hub: &TaskHub, blob_name: &str) -> String {
    hub.large_message_url(blob_name)
}

/// A row as the table service sends it; none if it is none.
pub fn row(json: &[u8]) -> Option<Entity> {
    serde_json::from_slice(json).ok().and_then(Entity::from_json)
}

/// A row as it is sent to the table service.
pub fn row_text(row: &Entity) -> String {
    row.to_json().to_string()
}

/// How a purge removes these rows of history and that sentinel: the row keys by transaction.
pub fn removal(current: Vec<Entity>, leftovers: Vec<Entity>, sentinel: Option<Entity>) -> Vec<Vec<String>> {
    let ordered = in_order_of_removal(Rows { current, leftovers, sentinel, date: None });
    transactions(&ordered).map(|rows| rows.iter().map(|row| row.row_key.clone()).collect()).collect()
}
