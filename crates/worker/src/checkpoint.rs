//! What an episode leaves: new events, messages, and the Instances row.
//!
//! The plan is made without effects; [`write()`] then carries it out in the
//! engine's order (task-hub.md 5.6): messages, history, row. A crash on the way
//! repeats the episode, which every receiver stands.

use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, ExecutionStarted, OrchestrationStatus};
use durable_taskhub::message::{Message, Sender};
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Condition, ETag, Entity, StorageError};

use crate::history::{self, HistoryError};
use crate::hub::{Hub, SendError};
use crate::replay::{Action, Completion, Outcome};

/// The longest text of a column that this worker writes: beyond it lies a blob (task-hub.md 4.5).
const MAX_COLUMN_UTF16: usize = 30_720;
/// The longest delay of a message; a timer beyond it is put back again when it comes (task-hub.md 3.2).
const LONGEST_DELAY: Duration = Duration::from_secs(6 * 24 * 3600);

/// The execution that an episode belongs to.
#[derive(Debug, Clone)]
pub struct Execution {
    /// The instance's ID, raw.
    pub instance_id: String,
    /// The execution.
    pub execution_id: String,
}

/// All that an episode writes.
#[derive(Debug)]
pub struct Checkpoint {
    execution: Execution,
    /// The episode's events: started, incoming, decisions, completed.
    pub events: Vec<Event>,
    work_items: Vec<Message>,
    timers: Vec<Message>,
    custom_status: Option<String>,
}

/// A checkpoint was not written, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A message could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The history could not be written.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The Instances row could not be written.
    #[error("instances row: {0}")]
    Row(#[from] StorageError),
}

/// Plans the checkpoint of an episode that began with `events` (`OrchestratorStarted` and what came in).
pub fn plan(execution: Execution, mut events: Vec<Event>, outcome: Outcome) -> Checkpoint {
    let (mut work_items, mut timers) = (Vec::new(), Vec::new());
    let message = |event| Message::new(&execution.instance_id, Some(&execution.execution_id), event, 0);
    for (id, action) in outcome.actions {
        match action {
            Action::ScheduleTask { name, input } => {
                // The recordings have an empty version and no trace (task-hub.md, Appendix D).
                let kind = EventKind::TaskScheduled { name, version: Some(String::new()), input, parent_trace_context: None, tags: None };
                let event = Event::with_id(id, Time::now(), kind);
                work_items.push(message(event.clone()));
                events.push(event);
            }
            Action::CreateTimer { fire_at } => {
                events.push(Event::with_id(id, Time::now(), EventKind::TimerCreated { fire_at }));
                timers.push(message(Event::new(Time::now(), EventKind::TimerFired { timer_id: id, fire_at })));
            }
        }
    }
    if let Some(completion) = outcome.completion {
        let Completion { status, result } = fitting(completion);
        let kind = EventKind::ExecutionCompleted { status, result, failure_details: None };
        events.push(Event::with_id(outcome.next_id, Time::now(), kind));
    }
    events.push(Event::new(Time::now(), EventKind::OrchestratorCompleted));
    Checkpoint { execution, events, work_items, timers, custom_status: outcome.custom_status }
}

/// An output that needs a blob would never be written: the instance fails with a text that says so.
fn fitting(completion: Completion) -> Completion {
    let units = completion.result.as_deref().map_or(0, |result| result.encode_utf16().count());
    if units <= MAX_COLUMN_UTF16 {
        return completion;
    }
    let result = Some(format!("the output has {units} UTF-16 units; this worker writes at most {MAX_COLUMN_UTF16}"));
    Completion { status: OrchestrationStatus::Failed, result }
}

/// How long a timer's message stays invisible: whole seconds, cut, so that a timer may be early by less than one.
pub fn timer_delay(fire_at: Time, now: Time) -> Duration {
    Duration::from_secs(fire_at.since(now).as_secs()).min(LONGEST_DELAY)
}

/// Writes the checkpoint behind the `known` events of the history, under its lock.
///
/// # Errors
/// [`CheckpointError`]; the triggering messages must then be put back.
pub async fn write(hub: &Hub, checkpoint: Checkpoint, known: usize, sentinel: Option<ETag>) -> Result<(), CheckpointError> {
    let Execution { instance_id, execution_id } = &checkpoint.execution;
    let sender = Sender { instance_id: Some(instance_id.clone()), execution_id: Some(execution_id.clone()) };
    for message in checkpoint.work_items {
        hub.send_work_item(&hub.number(message, sender.clone())).await?;
    }
    for message in checkpoint.timers {
        let EventKind::TimerFired { fire_at, .. } = message.event.kind else { continue };
        hub.send_to_instance(&hub.number(message, sender.clone()), timer_delay(fire_at, Time::now())).await?;
    }
    history::append(&hub.history, instance_id, execution_id, known, &checkpoint.events, sentinel).await?;
    let row = instance_row(hub.name.as_str(), &checkpoint.execution, &checkpoint.events, checkpoint.custom_status, Time::now());
    hub.instances.merge(&row, Condition::Upsert).await?;
    Ok(())
}

/// The columns of the Instances row that `events` change (task-hub.md 4.2 to 4.4), for an insert-or-merge.
pub fn instance_row(hub: &str, execution: &Execution, events: &[Event], custom_status: Option<String>, now: Time) -> Entity {
    let mut row = Entity::new(escape_key(&execution.instance_id), "")
        .with("ExecutionId", execution.execution_id.as_str())
        .with("TaskHubName", hub)
        .with("CustomStatus", custom_status.unwrap_or_else(|| "null".to_owned()));
    for event in events {
        match &event.kind {
            EventKind::ExecutionStarted(started) => set_started(&mut row, started, event.timestamp),
            EventKind::ExecutionCompleted { status, result, .. } => {
                row.set("RuntimeStatus", status.as_str());
                set_text(&mut row, "Output", result.as_deref());
                row.set("CompletedTime", now);
            }
            EventKind::ExecutionTerminated { input } => {
                row.set("RuntimeStatus", OrchestrationStatus::Terminated.as_str());
                set_text(&mut row, "Output", input.as_deref());
                row.set("CompletedTime", now);
            }
            _ => {}
        }
        row.set("LastUpdatedTime", event.timestamp);
    }
    row
}

fn set_started(row: &mut Entity, started: &ExecutionStarted, timestamp: Time) {
    row.set("Name", started.name.as_str());
    set_text(row, "Version", started.version.as_deref());
    set_text(row, "Input", started.input.as_deref());
    row.set("CreatedTime", timestamp);
    row.set("RuntimeStatus", OrchestrationStatus::Running.as_str());
    if let Some(time) = started.scheduled_start_time {
        row.set("ScheduledStartTime", time);
    }
    if let Some(generation) = started.generation {
        row.set("Generation", generation);
    }
    row.set("Tags", durable_taskhub::event::tags_to_text(started.tags.as_ref()));
}

fn set_text(row: &mut Entity, column: &str, text: Option<&str>) {
    if let Some(text) = text {
        row.set(column, text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::parse("2026-11-23T07:29:00Z").unwrap().saturating_add(Duration::from_millis(milliseconds))
    }

    fn execution() -> Execution {
        Execution { instance_id: "a/b".into(), execution_id: "e".into() }
    }

    #[test]
    fn delays_of_timers_are_cut_to_seconds_and_bounded() {
        assert_eq!(timer_delay(at(15_900), at(1000)), Duration::from_secs(14));
        assert_eq!(timer_delay(at(0), at(1000)), Duration::ZERO);
        assert_eq!(timer_delay(at(30 * 24 * 3600 * 1000), at(0)), LONGEST_DELAY);
    }

    #[test]
    fn a_row_without_result_keeps_its_old_output() {
        let completed = |result| {
            Event::new(at(5), EventKind::ExecutionCompleted { status: OrchestrationStatus::Completed, result, failure_details: None })
        };
        let row = instance_row("Hub", &execution(), &[completed(None), Event::new(at(6), EventKind::OrchestratorCompleted)], None, at(7));
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
    fn an_output_beyond_a_column_fails_with_a_reason() {
        let outcome = |length| Outcome {
            actions: BTreeMap::new(),
            completion: Some(Completion { status: OrchestrationStatus::Completed, result: Some("é".repeat(length)) }),
            next_id: 0,
            custom_status: None,
        };
        for (length, expected) in [(MAX_COLUMN_UTF16, OrchestrationStatus::Completed), (MAX_COLUMN_UTF16 + 1, OrchestrationStatus::Failed)]
        {
            let checkpoint = plan(execution(), Vec::new(), outcome(length));
            assert!(matches!(checkpoint.events[0].kind, EventKind::ExecutionCompleted { status, .. } if status == expected));
        }
    }
}
