//! The columns of the Instances row that events change (task-hub.md 4.2 to 4.4). Pure.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, OrchestrationStatus};
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::Entity;

use crate::plan::Execution;

/// The row for an insert-or-merge after `events`, with the rows of the History table that they became.
///
/// A value that lies in a blob is referred to by the URL that `url_of` gives for the blob's name. Columns that are not
/// mentioned keep what they have: a completion without result leaves the reason of a resume as output.
pub fn instance_row<'a>(
    hub: &str,
    execution: &Execution,
    events: impl IntoIterator<Item = (&'a Event, &'a Entity)>,
    custom_status: Option<String>,
    now: Time,
    url_of: impl Fn(&str) -> String,
) -> Entity {
    let mut row = Entity::new(escape_key(&execution.instance_id), "")
        .with("ExecutionId", execution.execution_id.as_str())
        .with("TaskHubName", hub)
        .with("CustomStatus", custom_status.unwrap_or_else(|| "null".to_owned()));
    for (event, stored) in events {
        let mut set = |column: &str, property: &str, text: &Option<String>| match stored.text(&format!("{property}BlobName")) {
            Some(name) => row.set(column, url_of(name)),
            None => {
                if let Some(text) = text {
                    row.set(column, text.as_str());
                }
            }
        };
        let status = match &event.kind {
            EventKind::ExecutionStarted(started) => {
                set("Version", "Version", &started.version);
                set("Input", "Input", &started.input);
                row.set("Name", started.name.as_str());
                row.set("CreatedTime", event.timestamp);
                if let Some(time) = started.scheduled_start_time {
                    row.set("ScheduledStartTime", time);
                }
                if let Some(generation) = started.generation {
                    row.set("Generation", generation);
                }
                row.set("Tags", durable_taskhub::event::tags_to_text(started.tags.as_ref()));
                Some(OrchestrationStatus::Running)
            }
            EventKind::ExecutionCompleted { status, result, .. } => {
                set("Output", "Result", result);
                row.set("CompletedTime", now);
                Some(*status)
            }
            EventKind::ExecutionTerminated { input } => {
                set("Output", "Input", input);
                row.set("CompletedTime", now);
                Some(OrchestrationStatus::Terminated)
            }
            EventKind::ExecutionSuspended { reason } => {
                set("Output", "Reason", reason);
                Some(OrchestrationStatus::Suspended)
            }
            EventKind::ExecutionResumed { reason } => {
                set("Output", "Reason", reason);
                Some(OrchestrationStatus::Running)
            }
            _ => None,
        };
        if let Some(status) = status {
            row.set("RuntimeStatus", status.as_str());
        }
        row.set("LastUpdatedTime", event.timestamp);
    }
    row
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::parse("2026-11-23T07:29:00Z").unwrap().saturating_add(Duration::from_millis(milliseconds))
    }

    fn row_of(events: &[Event], blob: Option<(usize, &str)>) -> Entity {
        let execution = Execution { instance_id: "a/b".into(), execution_id: "e".into() };
        let mut rows: Vec<Entity> = (0..).zip(events).map(|(ordinal, event)| event.to_row("a^0b", ordinal, "e")).collect();
        if let Some((at, column)) = blob {
            rows[at].set(column, "name");
        }
        instance_row("Hub", &execution, events.iter().zip(&rows), None, at(7), |name| format!("http://x/{name}"))
    }

    fn completed(result: Option<String>) -> Event {
        Event::new(at(5), EventKind::ExecutionCompleted { status: OrchestrationStatus::Completed, result, failure_details: None })
    }

    #[test]
    fn a_row_without_result_keeps_its_old_output() {
        let row = row_of(&[completed(None), Event::new(at(6), EventKind::OrchestratorCompleted)], None);
        assert_eq!(
            row.columns.keys().collect::<Vec<_>>(),
            ["CompletedTime", "CustomStatus", "ExecutionId", "LastUpdatedTime", "RuntimeStatus", "TaskHubName"]
        );
        assert_eq!(
            (row.partition_key.as_str(), row.time("LastUpdatedTime"), row.time("CompletedTime")),
            ("a^0b", Some(at(6)), Some(at(7)))
        );
    }

    #[test]
    fn the_last_event_decides_over_status_and_output() {
        let suspended = Event::new(at(1), EventKind::ExecutionSuspended { reason: Some("pause".into()) });
        let resumed = Event::new(at(2), EventKind::ExecutionResumed { reason: None });
        let row = row_of(&[suspended.clone(), resumed], None);
        assert_eq!((row.text("RuntimeStatus"), row.text("Output"), row.time("CompletedTime")), (Some("Running"), Some("pause"), None));
        let row = row_of(&[completed(Some("1".into())), suspended], None);
        assert_eq!((row.text("RuntimeStatus"), row.text("Output")), (Some("Suspended"), Some("pause")));
    }

    #[test]
    fn a_value_in_a_blob_is_referred_to_by_its_url() {
        let row = row_of(&[completed(Some("x".into()))], Some((0, "ResultBlobName")));
        assert_eq!(row.text("Output"), Some("http://x/name"));
    }
}
