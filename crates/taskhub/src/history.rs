//! Reading an instance's history, in pages (task-hub.md 5.3).
//!
//! Owns which rows of a partition are the current execution: the sentinel names
//! it, and the first row of another execution ends it, since longer histories of
//! earlier runs of the same ID leave rows behind. Invariant: no page mixes two
//! executions; a history that begins anew between two pages is an error.
//! Knows nothing of what events mean.

use std::collections::BTreeMap;

use crate::event::{Event, EventError};
use crate::hub::TaskHub;
use crate::names::escape_key;
use crate::payload::{BlobReference, Payload, PayloadError};
use crate::storage::{Continuation, Entity, Query, StorageError, quote};

/// The sentinel's row key. It sorts after all events.
pub(crate) const SENTINEL: &str = "sentinel";

/// The most events of a page: what the table service gives at once.
pub const MAX_PAGE_SIZE: u32 = 1000;

/// What companion columns are called: `Result` in a blob is `ResultBlobName` (task-hub.md 5.5).
const BLOB_NAME: &str = "BlobName";

/// All columns that engines write but inputs and results (task-hub.md 5.4), with the companions of large values.
const COLUMNS: [&str; 40] = [
    "EventId",
    "EventType",
    "IsPlayed",
    "_Timestamp",
    "ExecutionId",
    "OrchestrationInstance",
    "ParentInstance",
    "Name",
    "NameBlobName",
    "Version",
    "Tags",
    "TagsBlobName",
    "Correlation",
    "CorrelationBlobName",
    "ParentTraceContext",
    "ScheduledStartTime",
    "Generation",
    "GenerateNewTrace",
    "OrchestrationStatus",
    "FailureDetails",
    "FailureDetailsBlobName",
    "TaskScheduledId",
    "Reason",
    "ReasonBlobName",
    "Details",
    "DetailsBlobName",
    "InstanceId",
    "ClientSpanId",
    "FireAt",
    "TimerId",
    "ParentExecutionId",
    "EventData",
    "Input",
    "InputBlobName",
    "Data",
    "DataBlobName",
    "Result",
    "ResultBlobName",
    "Output",
    "OutputBlobName",
];

/// What to read of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryOptions {
    /// The most events of one page, 1 to [`MAX_PAGE_SIZE`].
    pub page_size: u32,
    /// With inputs of orchestrations and events, and the data of generic events. Without, they are not even transferred.
    pub inputs: bool,
    /// With results of activities and orchestrations. Without, they are not even transferred.
    pub outputs: bool,
    /// Download large values, at most this many bytes (unzipped) per page; what exceeds it stays in [`HistoryEvent::large`].
    pub large_values: u64,
}

impl Default for HistoryOptions {
    /// Pages of 1,000 with inputs and outputs; large values are left in their blobs.
    fn default() -> HistoryOptions {
        HistoryOptions { page_size: MAX_PAGE_SIZE, inputs: true, outputs: true, large_values: 0 }
    }
}

/// Some of an instance's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// The current execution; none if the instance has no history.
    pub execution_id: Option<String>,
    /// The events, in their order.
    pub events: Vec<HistoryEvent>,
    /// Where to go on; none at the end.
    pub next: Option<HistoryPosition>,
}

/// One event and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEvent {
    /// Its place, from 0.
    pub ordinal: u64,
    /// The event. What lies in a blob is missing in it.
    pub event: Event,
    /// By column: values that lie in blobs and were not downloaded. [`TaskHub::fetch`] gets them.
    pub large: BTreeMap<String, Payload>,
}

/// Where a page ended. Opaque; good for the instance and options that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPosition {
    execution_id: Option<String>,
    continuation: Continuation,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Not 1 to [`MAX_PAGE_SIZE`].
    #[error("the page size is {0}: it must be 1 to {MAX_PAGE_SIZE}")]
    PageSize(u32),
    /// The instance began a new execution since the page before: read again from the first page.
    #[error("the instance began a new execution while its history was read: read it again from the first page")]
    Restarted,
    /// A row is not what engines write.
    #[error("row {row_key} of the history cannot be read: {error}")]
    Row {
        /// The row's key.
        row_key: String,
        /// What is wrong with it.
        error: EventError,
    },
    /// A large value is damaged or gone.
    #[error("a large value of row {row_key} of the history cannot be read: {error}")]
    Value {
        /// The row's key.
        row_key: String,
        /// What is wrong with it.
        error: PayloadError,
    },
    /// The storage account did not answer as needed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TaskHub {
    /// A page of the instance's history: the first one, or the one at `position`. An instance without history gives an empty page.
    ///
    /// Two requests for the first page (sentinel and events), one for each further one, and one per downloaded value.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn history(
        &self,
        instance_id: &str,
        options: &HistoryOptions,
        position: Option<&HistoryPosition>,
    ) -> Result<HistoryPage, HistoryError> {
        if !(1..=MAX_PAGE_SIZE).contains(&options.page_size) {
            return Err(HistoryError::PageSize(options.page_size));
        }
        let table = self.history_table();
        let key = escape_key(instance_id);
        let known = match position {
            Some(position) => position.execution_id.clone(),
            None => {
                let sentinel = table.get(&key, SENTINEL, &["ExecutionId"]).await?;
                sentinel.and_then(|row| row.text("ExecutionId").map(str::to_owned))
            }
        };
        let query = Query {
            filter: Some(format!("PartitionKey eq {} and RowKey lt '{SENTINEL}'", quote(&key))),
            select: selection(options),
            top: Some(options.page_size),
            continuation: position.map(|position| position.continuation.clone()),
        };
        let page = table.query(&query).await?;
        let (rows, foreign, execution_id) = current(page.entities, known);
        let ended = !foreign.is_empty();
        // An execution that continued as new overwrote the rows from the first one.
        if position.is_some() && ended && rows.is_empty() && self.sentinel_differs(&key, execution_id.as_deref()).await? {
            return Err(HistoryError::Restarted);
        }
        let mut budget = options.large_values;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            events.push(self.event_of(row, &mut budget).await?);
        }
        let next = page.continuation.filter(|_| !ended);
        let next = next.map(|continuation| HistoryPosition { execution_id: execution_id.clone(), continuation });
        Ok(HistoryPage { execution_id, events, next })
    }

    async fn sentinel_differs(&self, key: &str, execution_id: Option<&str>) -> Result<bool, StorageError> {
        let sentinel = self.history_table().get(key, SENTINEL, &["ExecutionId"]).await?;
        Ok(sentinel.is_none_or(|row| row.text("ExecutionId") != execution_id))
    }

    async fn event_of(&self, mut row: Entity, budget: &mut u64) -> Result<HistoryEvent, HistoryError> {
        let mut large = BTreeMap::new();
        for (column, name) in take_references(&mut row) {
            let reference = BlobReference::named(&name);
            let fetched = match *budget {
                0 => Err(PayloadError::TooLarge { limit: 0 }),
                limit => reference.fetch(&self.large_messages(), limit).await,
            };
            match fetched {
                Ok(text) => {
                    *budget = budget.saturating_sub(text.len() as u64);
                    row.set(&column, text);
                }
                Err(PayloadError::TooLarge { .. }) => drop(large.insert(column, Payload::Blob(reference))),
                Err(PayloadError::Storage(error)) if error.kind() == crate::storage::StorageErrorKind::TooLarge => {
                    large.insert(column, Payload::Blob(reference));
                }
                Err(error) => return Err(HistoryError::Value { row_key: row.row_key, error }),
            }
        }
        // The event needs a name; an empty one stands for one that is in its blob.
        if large.contains_key("Name") {
            row.set("Name", "");
        }
        let malformed = |error| HistoryError::Row { row_key: row.row_key.clone(), error };
        let ordinal = u64::from_str_radix(&row.row_key, 16)
            .map_err(|_| malformed(EventError::Malformed { member: "RowKey", expected: "a hexadecimal number" }))?;
        let event = Event::from_row(&row).map_err(malformed)?;
        Ok(HistoryEvent { ordinal, event, large })
    }
}

/// The rows of the current execution, the rows from the first foreign one on, and that execution.
fn current(mut rows: Vec<Entity>, known: Option<String>) -> (Vec<Entity>, Vec<Entity>, Option<String>) {
    // Without a sentinel the first row decides (task-hub.md 5.3).
    let execution_id = known.or_else(|| rows.first().and_then(|row| row.text("ExecutionId").map(str::to_owned)));
    let own = rows.iter().take_while(|row| row.text("ExecutionId") == execution_id.as_deref()).count();
    let foreign = rows.split_off(own);
    (rows, foreign, execution_id)
}

/// Takes the companion columns off a row, and the empty texts that stand for the large values; by column, the blob's name.
pub(crate) fn take_references(row: &mut Entity) -> Vec<(String, String)> {
    let columns: Vec<String> = row.columns.keys().filter_map(|name| name.strip_suffix(BLOB_NAME).map(str::to_owned)).collect();
    let mut references = Vec::new();
    for column in columns {
        if let Some(crate::storage::Value::String(name)) = row.columns.remove(&format!("{column}{BLOB_NAME}")) {
            row.columns.remove(&column);
            references.push((column, name));
        }
    }
    references
}

fn selection(options: &HistoryOptions) -> Vec<String> {
    let hidden = |column: &str| match column.strip_suffix(BLOB_NAME).unwrap_or(column) {
        "Input" | "Data" => !options.inputs,
        "Result" | "Output" => !options.outputs,
        _ => false,
    };
    if options.inputs && options.outputs {
        // All, also what only later engines write.
        return Vec::new();
    }
    COLUMNS.iter().filter(|column| !hidden(column)).map(|column| (*column).to_owned()).collect()
}

/// Rows of one partition of the history, for those who decide from them or remove them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// The rows of the current execution, in their order.
    pub(crate) current: Vec<Entity>,
    /// Rows of earlier executions, left behind the current one's end.
    pub(crate) leftovers: Vec<Entity>,
    /// The sentinel.
    pub(crate) sentinel: Option<Entity>,
    /// The service's clock when it answered.
    pub(crate) date: Option<crate::Time>,
}

impl Rows {
    pub(crate) fn execution_id(&self) -> Option<&str> {
        self.sentinel.as_ref().or(self.current.first()).and_then(|row| row.text("ExecutionId"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.leftovers.is_empty() && self.sentinel.is_none()
    }
}

impl TaskHub {
    /// All rows of the instance, with `select` of their columns; none if there are more than `limit`. One request per 1,000 rows.
    pub(crate) async fn history_rows(&self, instance_id: &str, select: &[&str], limit: usize) -> Result<Option<Rows>, StorageError> {
        let mut query = Query {
            filter: Some(format!("PartitionKey eq {}", quote(&escape_key(instance_id)))),
            select: select.iter().map(|column| (*column).to_owned()).collect(),
            ..Query::default()
        };
        let mut all = Vec::new();
        let mut date;
        loop {
            let page = self.history_table().query(&query).await?;
            date = page.date;
            all.extend(page.entities);
            if all.len() > limit {
                return Ok(None);
            }
            match page.continuation {
                Some(continuation) => query.continuation = Some(continuation),
                None => break,
            }
        }
        let sentinel = all.iter().position(|row| row.row_key == SENTINEL).map(|index| all.remove(index));
        let known = sentinel.as_ref().and_then(|row| row.text("ExecutionId").map(str::to_owned));
        let (current, leftovers, _) = current(all, known);
        Ok(Some(Rows { current, leftovers, sentinel, date }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ordinal: u64, execution: &str) -> Entity {
        Entity::new("i", Event::row_key(ordinal)).with("ExecutionId", execution)
    }

    #[test]
    fn a_history_ends_at_the_first_row_of_another_execution() {
        let rows = || vec![row(0, "B"), row(1, "B"), row(2, "A"), row(3, "B")];
        let (found, foreign, execution) = current(rows(), Some("B".to_owned()));
        assert_eq!((found.len(), foreign.len(), execution.as_deref()), (2, 2, Some("B")));
        // Without a sentinel the first row decides.
        let (found, _, execution) = current(rows(), None);
        assert_eq!((found.len(), execution.as_deref()), (2, Some("B")));
        // The sentinel is right even if no row is its own.
        assert_eq!(current(rows(), Some("C".to_owned())).0.len(), 0);
    }

    #[test]
    fn hidden_values_are_not_selected() {
        let options = HistoryOptions { inputs: false, outputs: false, ..HistoryOptions::default() };
        let columns = selection(&options);
        for hidden in ["Input", "InputBlobName", "Result", "ResultBlobName", "Data", "Output"] {
            assert!(!columns.iter().any(|column| column == hidden), "{hidden}");
        }
        assert!(columns.iter().any(|column| column == "Reason"));
        assert_eq!(selection(&HistoryOptions::default()), Vec::<String>::new());
    }
}
