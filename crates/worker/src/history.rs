//! Reading and writing an instance's history (task-hub.md 5.1 to 5.3).
//!
//! The sentinel row's ETag is the lock of the whole history: whoever lost it
//! writes nothing. The rows are kept as stored beside the events that they mean,
//! since they name the blobs of large values.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventError};
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Condition, ETag, Entity, Operation, Query, StorageError, Table, Value, quote};

use crate::large::{LargeValueError, LargeValues};

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
    /// Its events, large values included.
    pub events: Vec<Event>,
    /// The rows of the events, as stored.
    pub rows: Vec<Entity>,
    /// The lock; none before the first checkpoint.
    pub sentinel: Option<ETag>,
}

/// A history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A large value cannot be read.
    #[error("history row {row_key}: {source}")]
    Large {
        /// The row's key.
        row_key: String,
        /// What is wrong.
        source: LargeValueError,
    },
    /// A row is not as the engine writes it.
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
pub async fn load(table: &Table, large: &LargeValues, instance_id: &str) -> Result<History, HistoryError> {
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
    let mut history = current(rows);
    for row in &history.rows {
        let mut whole = row.clone();
        large.bring_back(&mut whole).await.map_err(|source| HistoryError::Large { row_key: row.row_key.clone(), source })?;
        let event = Event::from_row(&whole).map_err(|source| HistoryError::Row { row_key: row.row_key.clone(), source })?;
        history.events.push(event);
    }
    Ok(history)
}

/// The rows of the current execution; the events are still to be read.
fn current(mut rows: Vec<Entity>) -> History {
    let sentinel = rows.iter().position(|row| row.row_key == "sentinel").map(|at| rows.remove(at));
    let execution_id = sentinel.as_ref().or(rows.first()).and_then(|row| row.text("ExecutionId")).map(str::to_owned);
    let end = rows.iter().position(|row| row.text("ExecutionId") != execution_id.as_deref());
    rows.truncate(end.unwrap_or(rows.len()));
    History { execution_id, events: Vec::new(), rows, sentinel: sentinel.and_then(|row| row.etag) }
}

/// Writes the event `rows` of an execution under the lock `sentinel`; `key` is the escaped instance ID.
///
/// # Errors
/// [`HistoryError::Lost`] if the lock was changed by somebody else; nothing of the failing transaction is written.
pub async fn append(table: &Table, key: &str, execution_id: &str, rows: &[Entity], sentinel: Option<ETag>) -> Result<(), HistoryError> {
    let mut lock = sentinel;
    let transactions = split(rows);
    let last = transactions.len().saturating_sub(1);
    for (index, rows) in transactions.into_iter().enumerate() {
        let mut operations: Vec<Operation> = rows.iter().map(|row| Operation::Replace(row.clone(), Condition::Upsert)).collect();
        let mut row = Entity::new(key, "sentinel").with("ExecutionId", execution_id).with("IsCheckpointComplete", index == last);
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

fn split(rows: &[Entity]) -> Vec<&[Entity]> {
    let mut transactions = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        let size = estimated_size(row);
        if at - begin == ROWS_PER_TRANSACTION || (at > begin && bytes + size > BYTES_PER_TRANSACTION) {
            transactions.push(&rows[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += size;
    }
    transactions.push(&rows[begin..]);
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
        let history = current(vec![row(0, "new"), row(1, "new"), row(2, "old"), row(3, "new"), sentinel]);
        assert_eq!((history.execution_id.as_deref(), history.rows.len(), history.sentinel), (Some("new"), 2, Some(ETag("7".into()))));
        let none = current(Vec::new());
        assert_eq!((none.execution_id, none.rows.len(), none.sentinel), (None, 0, None));
    }

    #[test]
    fn transactions_hold_at_most_ninety_nine_rows_and_three_mebibytes() {
        let sizes = |rows: Vec<Entity>| split(&rows).iter().map(|rows| rows.len()).collect::<Vec<_>>();
        assert_eq!(sizes((0..200).map(|ordinal| row(ordinal, "e")).collect()), [99, 99, 2]);
        let large = |ordinal| row(ordinal, "e").with("Result", "x".repeat(800_000));
        assert_eq!(sizes(vec![large(0), large(1), large(2)]), [1, 1, 1]);
        assert_eq!(sizes(Vec::new()), [0]);
    }
}
