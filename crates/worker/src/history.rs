//! Reading and writing an instance's history (task-hub.md 5.1 to 5.3).
//!
//! The sentinel row's ETag is the lock of the whole history: whoever lost it
//! writes nothing. Values in blobs are not read yet; such a history is an error.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventError};
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Condition, ETag, Entity, Operation, Query, StorageError, Table, Value, quote};

/// The most event rows of one transaction; the sentinel is the hundredth.
const ROWS_PER_TRANSACTION: usize = 99;
/// A transaction is written before its estimated size passes this many bytes (task-hub.md 5.2).
const BYTES_PER_TRANSACTION: usize = 3 * 1024 * 1024;
/// The most pages that are read of one history, each of up to 1000 rows.
const MAX_PAGES: usize = 200;

/// What the History table holds of one instance's current execution.
#[derive(Debug, Default)]
pub struct History {
    /// The current execution, by the sentinel; by the first row if there is none.
    pub execution_id: Option<String>,
    /// Its events.
    pub events: Vec<Event>,
    /// The lock; none before the first checkpoint.
    pub sentinel: Option<ETag>,
}

/// A history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A row is not as the engine writes it, or has its value in a blob.
    #[error("history row {row_key}: {source}")]
    Row {
        /// Its row key.
        row_key: String,
        /// What is wrong.
        source: EventError,
    },
    /// Longer than this worker reads.
    #[error("the history has more than {MAX_PAGES} pages")]
    TooLong,
    /// Another worker, or another client, wrote this history first.
    #[error("somebody else wrote the history first")]
    Lost,
}

/// Reads the current execution's history; leftovers of earlier executions end it (task-hub.md 5.3).
///
/// # Errors
/// [`HistoryError`].
pub async fn load(table: &Table, instance_id: &str) -> Result<History, HistoryError> {
    let mut query = Query { filter: Some(format!("PartitionKey eq {}", quote(&escape_key(instance_id)))), ..Query::default() };
    let mut rows = Vec::new();
    for page in 0.. {
        if page == MAX_PAGES {
            return Err(HistoryError::TooLong);
        }
        let page = table.query(&query).await?;
        rows.extend(page.entities);
        if page.continuation.is_none() {
            break;
        }
        query.continuation = page.continuation;
    }
    current(&rows)
}

fn current(rows: &[Entity]) -> Result<History, HistoryError> {
    let sentinel = rows.iter().find(|row| row.row_key == "sentinel");
    let execution_id = sentinel.or(rows.first()).and_then(|row| row.text("ExecutionId")).map(str::to_owned);
    let events = rows
        .iter()
        .take_while(|row| row.row_key != "sentinel" && row.text("ExecutionId") == execution_id.as_deref())
        .map(|row| Event::from_row(row).map_err(|source| HistoryError::Row { row_key: row.row_key.clone(), source }))
        .collect::<Result<_, _>>()?;
    Ok(History { execution_id, events, sentinel: sentinel.and_then(|row| row.etag.clone()) })
}

/// Appends `events` behind the first `known` ones of the execution, under the lock `sentinel`.
///
/// # Errors
/// [`HistoryError::Lost`] if the lock was changed by somebody else; nothing of the failing transaction is written.
pub async fn append(
    table: &Table,
    instance_id: &str,
    execution_id: &str,
    known: usize,
    events: &[Event],
    sentinel: Option<ETag>,
) -> Result<(), HistoryError> {
    let key = escape_key(instance_id);
    let rows: Vec<Entity> = (known..).zip(events).map(|(ordinal, event)| event.to_row(&key, ordinal as u64, execution_id)).collect();
    let mut lock = sentinel;
    let transactions = split(rows);
    let last = transactions.len().saturating_sub(1);
    for (index, rows) in transactions.into_iter().enumerate() {
        let mut operations: Vec<Operation> = rows.into_iter().map(|row| Operation::Replace(row, Condition::Upsert)).collect();
        let mut row = Entity::new(key.as_str(), "sentinel").with("ExecutionId", execution_id).with("IsCheckpointComplete", index == last);
        if index == last {
            row.set("CheckpointCompletedTimestamp", Time::now());
        }
        operations.push(match lock.take() {
            None => Operation::Insert(row),
            Some(etag) => Operation::Merge(row, Condition::Match(etag)),
        });
        match table.transaction(&operations).await {
            Ok(etags) => lock = etags.into_iter().next_back().flatten(),
            Err(error) if error.is_precondition_failed() || error.is_already_exists() => return Err(HistoryError::Lost),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn split(rows: Vec<Entity>) -> Vec<Vec<Entity>> {
    let mut transactions = vec![Vec::new()];
    let mut bytes = 0;
    for row in rows {
        let size = estimated_size(&row);
        let full = transactions
            .last()
            .is_some_and(|rows| rows.len() == ROWS_PER_TRANSACTION || (!rows.is_empty() && bytes + size > BYTES_PER_TRANSACTION));
        if full {
            transactions.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(rows) = transactions.last_mut() {
            rows.push(row);
        }
    }
    transactions
}

/// Bytes of the row as JSON, about.
fn estimated_size(row: &Entity) -> usize {
    let value = |value: &Value| if let Value::String(text) = value { text.len() * 2 } else { 40 };
    400 + row.columns.iter().map(|(name, column)| name.len() + value(column)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use durable_taskhub::event::EventKind;

    use super::*;

    fn row(ordinal: u64, execution_id: &str) -> Entity {
        Event::new(Time::now(), EventKind::OrchestratorStarted).to_row("i", ordinal, execution_id)
    }

    #[test]
    fn leftovers_of_an_earlier_execution_end_the_history() {
        let mut sentinel = Entity::new("i", "sentinel").with("ExecutionId", "new");
        sentinel.etag = Some(ETag("7".into()));
        let history = current(&[row(0, "new"), row(1, "new"), row(2, "old"), row(3, "new"), sentinel]).unwrap();
        assert_eq!((history.execution_id.as_deref(), history.events.len(), history.sentinel), (Some("new"), 2, Some(ETag("7".into()))));
        let none = current(&[]).unwrap();
        assert_eq!((none.execution_id, none.events.len(), none.sentinel), (None, 0, None));
    }

    #[test]
    fn transactions_hold_at_most_ninety_nine_rows_and_three_mebibytes() {
        let sizes = |rows: Vec<Entity>| split(rows).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..200).map(|ordinal| row(ordinal, "e")).collect()), [99, 99, 2]);
        let large = |ordinal| row(ordinal, "e").with("Result", "x".repeat(800_000));
        assert_eq!(sizes(vec![large(0), large(1), large(2)]), [1, 1, 1]);
        assert_eq!(sizes(Vec::new()), [0]);
    }
}
