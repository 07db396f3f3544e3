//! An instance as its row in `{Hub}Instances` shows it (task-hub.md 4).
//!
//! The row is a summary that several writers overwrite: what it says about the
//! end of a run is what readers see, history is the truth. Columns of others
//! are kept, and can be read with [`Instance::column`].

use std::collections::BTreeMap;
use std::fmt;

use crate::names::unescape_key;
use crate::payload::Payload;
use crate::storage::{ETag, Entity, Value};
use crate::time::Time;

/// Status of an instance (task-hub.md 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeStatus {
    /// A start was accepted, or the instance was rewound.
    Pending,
    /// Started.
    Running,
    /// Started, and held until it is resumed.
    Suspended,
    /// Ended with an output.
    Completed,
    /// Ended with a failure.
    Failed,
    /// Ended on request.
    Terminated,
    /// Ended by cancellation; engines of today do not write it.
    Canceled,
    /// About to start anew with another input; practically never seen.
    ContinuedAsNew,
    /// A text that no engine known to us writes.
    Unknown,
}

impl RuntimeStatus {
    const NAMES: [(RuntimeStatus, &str); 8] = [
        (RuntimeStatus::Pending, "Pending"),
        (RuntimeStatus::Running, "Running"),
        (RuntimeStatus::Suspended, "Suspended"),
        (RuntimeStatus::Completed, "Completed"),
        (RuntimeStatus::Failed, "Failed"),
        (RuntimeStatus::Terminated, "Terminated"),
        (RuntimeStatus::Canceled, "Canceled"),
        (RuntimeStatus::ContinuedAsNew, "ContinuedAsNew"),
    ];

    /// The status of the name that the hub stores.
    pub fn from_name(name: &str) -> RuntimeStatus {
        Self::NAMES.iter().find(|(_, known)| *known == name).map_or(RuntimeStatus::Unknown, |(status, _)| *status)
    }

    /// The name that the hub stores.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(status, _)| *status == self).map_or("Unknown", |(_, name)| name)
    }

    /// True if a run with this status does nothing more by itself.
    pub fn is_terminal(self) -> bool {
        matches!(self, RuntimeStatus::Completed | RuntimeStatus::Failed | RuntimeStatus::Terminated | RuntimeStatus::Canceled)
    }
}

impl fmt::Display for RuntimeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of `{Hub}Instances`.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The instance's ID, unescaped.
    pub id: String,
    /// Name of the orchestrator function.
    pub name: String,
    /// Version of the orchestrator, if one was given.
    pub version: Option<String>,
    /// The current execution; absent on rows that clients before 1.8.6 wrote.
    pub execution_id: Option<String>,
    /// How many runs of this ID were replaced before this one.
    pub generation: i32,
    /// Status of the run.
    pub runtime_status: RuntimeStatus,
    /// Input of the current execution.
    pub input: Option<Payload>,
    /// Output of the run, text of its failure, or reason of the last suspend, resume or terminate (task-hub.md 4.4).
    pub output: Option<Payload>,
    /// What the orchestrator said about its progress, as JSON; absent if it said nothing.
    pub custom_status: Option<String>,
    /// When the current execution was created.
    pub created_time: Option<Time>,
    /// End of the last episode.
    pub last_updated_time: Option<Time>,
    /// When a scheduled start is due.
    pub scheduled_start_time: Option<Time>,
    /// The engine's tags, in their order.
    pub tags: Vec<(String, String)>,
    /// When a run of this ID ended; an instance that was rewound keeps it.
    pub completed_time: Option<Time>,
    /// Version of the row, for conditional writes.
    pub etag: Option<ETag>,
    /// True once a worker has taken up the start message: only then do control messages arrive (task-hub.md 4.3, 6.5).
    pub has_started: bool,
    other_columns: BTreeMap<String, Value>,
}

impl Instance {
    /// Reads a row of `{Hub}Instances`, for those who read the table themselves.
    ///
    /// `container` is the URL of the hub's container of large messages, by which references to blobs are known;
    /// with an empty text every value counts as inline.
    pub fn from_row(row: Entity, container: &str) -> Instance {
        let Entity { partition_key, etag, columns: mut other_columns, .. } = row;
        let mut text = |name: &str| match other_columns.remove(name) {
            Some(Value::String(text)) => Some(text),
            Some(value) => {
                other_columns.insert(name.to_owned(), value);
                None
            }
            None => None,
        };
        let name = text("Name").unwrap_or_default();
        let version = text("Version");
        let execution_id = text("ExecutionId");
        let runtime_status = RuntimeStatus::from_name(&text("RuntimeStatus").unwrap_or_default());
        let input = Payload::of_column(text("Input"), text("InputBlobName"), container);
        let output = Payload::of_column(text("Output"), None, container);
        // The engine writes the column at each checkpoint, as the text `null` when nothing was said: that it exists proves a start.
        let custom_status = text("CustomStatus");
        let tags = text("Tags").map(|tags| tags_of(&tags)).unwrap_or_default();
        let mut time = |name: &str| match other_columns.remove(name) {
            Some(Value::DateTime(time)) => Some(time),
            _ => None,
        };
        let (created_time, last_updated_time, completed_time) = (time("CreatedTime"), time("LastUpdatedTime"), time("CompletedTime"));
        let scheduled_start_time = time("ScheduledStartTime");
        let generation = match other_columns.remove("Generation") {
            Some(Value::Int32(generation)) => generation,
            _ => 0,
        };
        Instance {
            id: unescape_key(&partition_key),
            name,
            version,
            execution_id,
            generation,
            has_started: runtime_status != RuntimeStatus::Pending || custom_status.is_some() || completed_time.is_some(),
            runtime_status,
            input,
            output,
            custom_status: custom_status.filter(|text| text != "null"),
            created_time,
            last_updated_time,
            completed_time,
            scheduled_start_time,
            tags,
            etag,
            other_columns,
        }
    }

    /// The text of a column that the task hub itself does not know, such as a mark of the client that started the instance.
    pub fn column(&self, name: &str) -> Option<&str> {
        match self.other_columns.get(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}

/// The column's JSON object, whose members keep their order; the text `null` is no tags.
fn tags_of(text: &str) -> Vec<(String, String)> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(members)) => {
            let own = members.into_iter().filter(|(name, _)| name != "$type");
            own.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Entity {
        Entity::new("a^0b", "").with("Name", "Echo").with("RuntimeStatus", "Pending").with("ExecutionId", "E").with("Generation", 3)
    }

    #[test]
    fn a_row_that_a_client_wrote_has_not_started() {
        let instance = Instance::from_row(row().with("KubernetesOwner", "n/o/u"), "http://x/hub-largemessages");
        assert_eq!((instance.id.as_str(), instance.name.as_str(), instance.generation), ("a/b", "Echo", 3));
        assert_eq!(instance.column("KubernetesOwner"), Some("n/o/u"));
        assert!(!instance.has_started);
    }

    #[test]
    fn pending_does_not_prove_that_nothing_has_started() {
        // A rewound instance is Pending while it runs; its row has what a checkpoint wrote (engine-experiments.md 7.19).
        let rewound = Instance::from_row(row().with("CustomStatus", "null"), "");
        assert!(rewound.has_started);
        assert_eq!(rewound.custom_status, None);
        let terminated_before = Instance::from_row(row().with("CompletedTime", Time::now()), "");
        assert!(terminated_before.has_started);
    }

    #[test]
    fn every_status_has_a_name_and_foreign_ones_are_unknown() {
        for (status, name) in RuntimeStatus::NAMES {
            assert_eq!((RuntimeStatus::from_name(name), status.name()), (status, name));
        }
        assert_eq!(RuntimeStatus::from_name("Paused"), RuntimeStatus::Unknown);
    }
}
