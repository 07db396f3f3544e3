//! What the history says of the end of the current execution (task-hub.md 5.3, 5.6).
//!
//! History is the truth, the row a summary that several writers overwrite
//! (engine-experiments.md 5.8). Invariant: an end counts only if it is of the
//! execution that the sentinel names: longer runs of the same ID leave their
//! ends behind, a rewind makes an end a `GenericEvent`, and an execution that
//! continued as new has not ended.

use crate::event::FailureDetails;
use crate::history::{SENTINEL, take_references};
use crate::hub::TaskHub;
use crate::instance::RuntimeStatus;
use crate::names::escape_key;
use crate::payload::{BlobReference, Payload, PayloadError};
use crate::storage::{Entity, Query, StorageError, StorageErrorKind, quote};
use crate::time::Time;

/// The row key of the first event.
const FIRST: &str = "0000000000000000";

/// The largest text of failure details that is read from a blob, in bytes.
const MAX_FAILURE: u64 = 1024 * 1024;

const COLUMNS: [&str; 8] = [
    "EventType",
    "ExecutionId",
    "OrchestrationStatus",
    "Result",
    "ResultBlobName",
    "FailureDetails",
    "FailureDetailsBlobName",
    "_Timestamp",
];

/// How the history of an instance stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// There is no history: the instance has not started, was terminated before it could (then the row alone says so,
    /// engine-experiments.md 5.1, and it may start yet), or is not there.
    NoHistory,
    /// The current execution has not ended.
    Open {
        /// That execution.
        execution_id: String,
    },
    /// The current execution has ended.
    Ended(End),
}

/// The end of an execution, as its history has it.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The execution.
    pub execution_id: String,
    /// How it ended.
    pub status: RuntimeStatus,
    /// The output, or the message of the failure, or the reason of the terminate. [`TaskHub::fetch`] gets what lies in a blob.
    pub result: Option<Payload>,
    /// The failure with the name of its type, where the app has failure details enabled; none too if they cannot be read.
    pub failure: Option<FailureDetails>,
    /// When it ended, by the worker's clock.
    pub completed_time: Option<Time>,
}

/// The rows by which a history is told without being read.
#[derive(Debug, Default)]
pub(crate) struct Landmarks {
    sentinel: Option<Entity>,
    first: Option<Entity>,
    ends: Vec<Entity>,
}

impl Landmarks {
    fn add(&mut self, row: Entity) {
        match row.row_key.as_str() {
            SENTINEL => self.sentinel = Some(row),
            FIRST => self.first = Some(row),
            _ => self.ends.push(row),
        }
    }

    /// Without a sentinel the first row decides.
    fn execution_id(&self) -> Option<&str> {
        self.sentinel.as_ref().or(self.first.as_ref()).or(self.ends.last()).and_then(|row| row.text("ExecutionId"))
    }

    /// True if there are rows of that execution. A first checkpoint of many rows writes the sentinel last.
    pub(crate) fn mention(&self, execution_id: &str) -> bool {
        [&self.sentinel, &self.first].into_iter().flatten().any(|row| row.text("ExecutionId") == Some(execution_id))
    }

    /// The current execution and the row that ends it.
    fn end(mut self) -> (Option<String>, Option<Entity>) {
        let execution_id = self.execution_id().map(str::to_owned);
        let is_end =
            |row: &Entity| row.text("ExecutionId") == execution_id.as_deref() && row.text("OrchestrationStatus") != Some("ContinuedAsNew");
        let end = self.ends.iter().rposition(is_end);
        let end = end.map(|index| self.ends.swap_remove(index));
        (execution_id, end)
    }
}

impl TaskHub {
    /// What the history says of the end of the current execution. One request, which carries at most the sentinel, the first
    /// event and the ends of executions; one more for failure details that lie in a blob. Where the service breaks off the
    /// search of a very long history, one more for each part.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed.
    pub async fn end_of(&self, instance_id: &str) -> Result<Ending, StorageError> {
        let (execution_id, end) = self.landmarks(instance_id, &COLUMNS).await?.end();
        Ok(match (execution_id, end) {
            (None, None) => Ending::NoHistory,
            (execution_id, None) => Ending::Open { execution_id: execution_id.unwrap_or_default() },
            (execution_id, Some(row)) => Ending::Ended(self.end_of_row(execution_id.unwrap_or_default(), row).await?),
        })
    }

    async fn end_of_row(&self, execution_id: String, mut row: Entity) -> Result<End, StorageError> {
        let (mut result, mut failure) = (None, None);
        for (column, blob_name) in take_references(&mut row) {
            let reference = BlobReference::named(&blob_name);
            match column.as_str() {
                "Result" => result = Some(Payload::Blob(reference)),
                _ => failure = self.failure_text(&reference).await?,
            }
        }
        let text = |name: &str| row.text(name).map(str::to_owned);
        let failure = failure.or_else(|| text("FailureDetails"));
        let failure = failure.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        Ok(End {
            execution_id,
            status: row.text("OrchestrationStatus").map_or(RuntimeStatus::Unknown, RuntimeStatus::from_name),
            result: result.or_else(|| text("Result").map(Payload::Inline)),
            failure: failure.and_then(|value| FailureDetails::from_json(&value).ok()),
            completed_time: row.time("_Timestamp"),
        })
    }

    /// None if it is damaged, gone or too large: the end is known all the same.
    async fn failure_text(&self, reference: &BlobReference) -> Result<Option<String>, StorageError> {
        match reference.fetch(&self.large_messages(), MAX_FAILURE).await {
            Ok(text) => Ok(Some(text)),
            Err(PayloadError::Storage(error)) if error.kind() != StorageErrorKind::TooLarge => Err(error),
            Err(_) => Ok(None),
        }
    }

    pub(crate) async fn landmarks(&self, instance_id: &str, select: &[&str]) -> Result<Landmarks, StorageError> {
        let key = quote(&escape_key(instance_id));
        let mut query = Query {
            filter: Some(format!(
                "PartitionKey eq {key} and (RowKey eq '{SENTINEL}' or RowKey eq '{FIRST}' or EventType eq 'ExecutionCompleted')"
            )),
            select: select.iter().map(|column| (*column).to_owned()).collect(),
            ..Query::default()
        };
        let mut found = Landmarks::default();
        loop {
            let page = self.history_table().query(&query).await?;
            page.entities.into_iter().for_each(|row| found.add(row));
            match page.continuation {
                Some(continuation) => query.continuation = Some(continuation),
                None => return Ok(found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landmarks(rows: &[(&str, &str, Option<&str>)]) -> Landmarks {
        let mut found = Landmarks::default();
        for (key, execution, status) in rows {
            let mut row = Entity::new("i", *key).with("ExecutionId", *execution);
            if let Some(status) = status {
                row.set("OrchestrationStatus", *status);
            }
            found.add(row);
        }
        found
    }

    fn end(rows: &[(&str, &str, Option<&str>)]) -> (Option<String>, Option<String>) {
        let (execution, end) = landmarks(rows).end();
        (execution, end.map(|row| row.row_key))
    }

    #[test]
    fn only_the_last_end_of_the_current_execution_counts() {
        let text = |text: &str| Some(text.to_owned());
        let (first, sentinel) = ((FIRST, "B", None), (SENTINEL, "B", None));
        assert_eq!(end(&[]), (None, None));
        assert_eq!(end(&[first, sentinel]), (text("B"), None));
        assert_eq!(end(&[first, ("4", "B", Some("Failed")), ("8", "B", Some("Completed")), sentinel]), (text("B"), text("8")));
        // Left behind by a longer run.
        assert_eq!(end(&[first, ("9", "A", Some("Completed")), sentinel]), (text("B"), None));
        assert_eq!(end(&[first, ("4", "B", Some("ContinuedAsNew")), sentinel]), (text("B"), None));
        // What interrupted purges leave.
        assert_eq!(end(&[("4", "B", Some("Failed")), sentinel]), (text("B"), text("4")));
        assert_eq!(end(&[first, ("4", "B", Some("Failed"))]), (text("B"), text("4")));
        assert_eq!(end(&[("4", "B", Some("Failed"))]), (text("B"), text("4")));
    }

    #[test]
    fn rows_of_an_execution_are_known_by_sentinel_or_first_event() {
        // The first part of a first checkpoint, over what an earlier run left.
        let found = landmarks(&[(FIRST, "B", None), (SENTINEL, "A", None)]);
        assert!(found.mention("B") && found.mention("A") && !found.mention("C"));
    }
}
