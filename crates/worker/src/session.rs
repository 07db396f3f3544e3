//! One episode of one instance: from a batch of messages to a checkpoint
//! (task-hub.md 7.1 steps 4 to 8).
//!
//! `admit` decides by the history what becomes of each message; the rest of
//! the module carries that out. Episodes of one instance never overlap in one
//! worker, and the history's lock guards against other workers.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::storage::{Condition, Queue};

use crate::batch::{Batch, Received};
use crate::checkpoint::{self, CheckpointError, Execution};
use crate::history::{self, History, HistoryError};
use crate::hub::Hub;
use crate::{poll, replay, samples};

/// An answer to an instance that does not exist is dropped at this delivery (task-hub.md 7.1).
const LAST_DELIVERY_WITHOUT_INSTANCE: u64 = 5;

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    /// All messages are for nobody.
    Discard(&'static str),
    /// An episode takes in the messages at these places, in order; the others were duplicates.
    Run { execution_id: String, incoming: Vec<usize> },
}

/// Runs the episode that `batch` asks for, and deletes its messages. On failure they are put back.
pub async fn run(hub: &Hub, queue: &Queue, batch: Batch) {
    let instance_id = batch.instance_id.clone();
    let mut history = match history::load(&hub.history, &instance_id).await {
        Ok(history) => history,
        Err(error) => {
            tracing::warn!(instance = instance_id, %error, "the history cannot be read");
            return put_all_back(queue, &batch.messages).await;
        }
    };
    if batch.execution_id.is_some() && batch.execution_id != history.execution_id {
        // Another execution's events: only its lock counts (task-hub.md 5.3).
        history.events.clear();
    }
    let (early, messages): (Vec<Received>, Vec<Received>) =
        batch.messages.into_iter().partition(|received| comes_early(received, &history.events));
    put_all_back(queue, &early).await;
    if messages.is_empty() {
        return;
    }
    match admit(&messages, batch.execution_id.as_deref(), &history) {
        Admission::Discard(reason) => {
            tracing::info!(instance = instance_id, messages = messages.len(), reason, "messages discarded");
            if let Err(error) = repair_row(hub, &instance_id, &history).await {
                tracing::warn!(instance = instance_id, %error, "the instances row could not be repaired");
                return put_all_back(queue, &messages).await;
            }
        }
        Admission::Run { execution_id, incoming } => {
            let execution = Execution { instance_id: instance_id.clone(), execution_id };
            let incoming = incoming.into_iter().filter_map(|at| messages.get(at)).map(|received| received.message.event.clone());
            if let Err(error) = episode(hub, execution, history, incoming).await {
                match error {
                    CheckpointError::History(HistoryError::Lost) => {
                        tracing::warn!(instance = instance_id, "another worker was first; the messages are put back");
                    }
                    error => tracing::error!(instance = instance_id, %error, "the checkpoint could not be written"),
                }
                return put_all_back(queue, &messages).await;
            }
        }
    }
    for received in &messages {
        poll::delete(queue, &received.raw).await;
    }
}

async fn episode(hub: &Hub, execution: Execution, history: History, incoming: impl Iterator<Item = Event>) -> Result<(), CheckpointError> {
    let mut events = vec![Event::new(Time::now(), EventKind::OrchestratorStarted)];
    events.extend(incoming.map(|event| Event { is_played: true, ..event }));
    let outcome = replay::replay(&execution.instance_id, history.events.iter().chain(&events), samples::orchestrator);
    tracing::info!(
        instance = execution.instance_id,
        actions = outcome.actions.len(),
        status = outcome.completion.as_ref().map_or("Running", |completion| completion.status.as_str()),
        "episode"
    );
    let checkpoint = checkpoint::plan(execution, events, outcome);
    checkpoint::write(hub, checkpoint, history.events.len(), history.sentinel).await
}

async fn put_all_back(queue: &Queue, messages: &[Received]) {
    for received in messages {
        poll::put_back(queue, &received.raw).await;
    }
}

/// What a message answers, by task id.
fn answers(event: &Event) -> Option<i32> {
    match event.kind {
        EventKind::TaskCompleted { task_scheduled_id: id, .. }
        | EventKind::TaskFailed { task_scheduled_id: id, .. }
        | EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: id, .. }
        | EventKind::SubOrchestrationInstanceFailed { task_scheduled_id: id, .. }
        | EventKind::TimerFired { timer_id: id, .. } => Some(id),
        _ => None,
    }
}

/// An answer whose question is not in the history: the checkpoint that asked may still be on its way.
fn comes_early(received: &Received, history: &[Event]) -> bool {
    let Some(id) = answers(&received.message.event) else { return false };
    let asked = history.iter().any(|event| {
        event.event_id == id
            && matches!(
                event.kind,
                EventKind::TaskScheduled { .. } | EventKind::TimerCreated { .. } | EventKind::SubOrchestrationInstanceCreated { .. }
            )
    });
    !asked && (!history.is_empty() || received.raw.dequeue_count < LAST_DELIVERY_WITHOUT_INSTANCE)
}

fn is_finished(history: &[Event]) -> bool {
    history.iter().any(|event| matches!(event.kind, EventKind::ExecutionCompleted { .. }))
}

fn admit(messages: &[Received], execution_id: Option<&str>, history: &History) -> Admission {
    let is_start = |received: &Received| matches!(received.message.event.kind, EventKind::ExecutionStarted(_));
    let started = history.events.iter().any(|event| matches!(event.kind, EventKind::ExecutionStarted(_)));
    if !started && !messages.iter().any(is_start) {
        return Admission::Discard("no such instance");
    }
    if is_finished(&history.events) {
        return Admission::Discard("the instance is finished");
    }
    let current = if started { history.execution_id.as_deref() } else { execution_id };
    let Some(current) = current else { return Admission::Discard("a start without execution ID") };
    let mut start_seen = started;
    let incoming = messages.iter().enumerate().filter(|(_, received)| {
        // A duplicate of the start leaves an episode without events (task-hub.md 7.1 step 7).
        let duplicate = is_start(received) && std::mem::replace(&mut start_seen, true);
        let foreign = received.message.execution_id.as_deref().is_some_and(|id| id != current);
        !duplicate && !foreign
    });
    Admission::Run { execution_id: current.to_owned(), incoming: incoming.map(|(at, _)| at).collect() }
}

/// A crash between the history and the row leaves a row that lags behind: the next message mends it (task-hub.md 4.6).
async fn repair_row(hub: &Hub, instance_id: &str, history: &History) -> Result<(), durable_taskhub::storage::StorageError> {
    let Some(execution_id) = history.execution_id.clone().filter(|_| is_finished(&history.events)) else { return Ok(()) };
    let completed = history.events.iter().find_map(|event| match &event.kind {
        EventKind::ExecutionCompleted { status, .. } => Some((*status, event.timestamp)),
        _ => None,
    });
    let Some((status, completed_time)) = completed else { return Ok(()) };
    let key = durable_taskhub::names::escape_key(instance_id);
    let row = hub.instances.get(&key, "", &["ExecutionId", "RuntimeStatus"]).await?;
    let lags = row.is_none_or(|row| {
        row.text("ExecutionId").is_none_or(|id| id == execution_id) && row.text("RuntimeStatus") != Some(status.as_str())
    });
    if !lags {
        return Ok(());
    }
    tracing::warn!(instance = instance_id, status = status.as_str(), "the instances row lagged behind the history: repaired");
    let execution = Execution { instance_id: instance_id.to_owned(), execution_id };
    let outcome = replay::replay(instance_id, &history.events, samples::orchestrator);
    let mut row = checkpoint::instance_row(hub.name.as_str(), &execution, &history.events, outcome.custom_status, completed_time);
    row.columns.remove("Generation");
    hub.instances.merge(&row, Condition::Upsert).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use durable_taskhub::event::{ExecutionStarted, OrchestrationStatus};
    use durable_taskhub::message::Message;
    use durable_taskhub::storage::QueueMessage;

    use super::*;

    fn received(message: Message, dequeue_count: u64) -> Received {
        let raw = QueueMessage {
            id: String::new(),
            pop_receipt: String::new(),
            text: String::new(),
            dequeue_count,
            inserted_at: None,
            expires_at: None,
            next_visible_at: None,
        };
        Received { raw, message, received_at: Time::now() }
    }

    fn start(execution_id: &str) -> Received {
        received(Message::start(ExecutionStarted::new("i", execution_id, "Echo", None), Time::now(), 1), 1)
    }

    fn message(execution_id: Option<&str>, kind: EventKind, dequeue_count: u64) -> Received {
        received(Message::new("i", execution_id, Event::new(Time::now(), kind), 1), dequeue_count)
    }

    fn history(kinds: Vec<EventKind>) -> History {
        let mut events = vec![start("e").message.event];
        events.extend(kinds.into_iter().map(|kind| Event::with_id(0, Time::now(), kind)));
        History { execution_id: Some("e".into()), events, sentinel: None }
    }

    fn run(incoming: &[usize]) -> Admission {
        Admission::Run { execution_id: "e".into(), incoming: incoming.to_vec() }
    }

    #[test]
    fn a_start_runs_once_and_its_duplicate_leaves_an_empty_episode() {
        assert_eq!(admit(&[start("e"), start("e")], Some("e"), &History::default()), run(&[0]));
        assert_eq!(admit(&[start("e")], Some("e"), &history(Vec::new())), run(&[]));
    }

    #[test]
    fn messages_for_nobody_are_discarded() {
        let terminate = || message(None, EventKind::ExecutionTerminated { input: None }, 1);
        assert_eq!(admit(&[terminate()], None, &History::default()), Admission::Discard("no such instance"));
        let finished = EventKind::ExecutionCompleted { status: OrchestrationStatus::Completed, result: None, failure_details: None };
        assert_eq!(admit(&[terminate()], None, &history(vec![finished])), Admission::Discard("the instance is finished"));
        assert_eq!(admit(&[terminate()], None, &history(Vec::new())), run(&[0]));
        let foreign = message(Some("other"), EventKind::ExecutionTerminated { input: None }, 1);
        assert_eq!(admit(&[foreign, terminate()], None, &history(Vec::new())), run(&[1]));
    }

    #[test]
    fn an_answer_waits_for_its_question_and_not_for_a_missing_instance() {
        let answer = |count| message(Some("e"), EventKind::TaskCompleted { task_scheduled_id: 0, result: None }, count);
        let asked = EventKind::TaskScheduled { name: "A".into(), version: None, input: None, parent_trace_context: None, tags: None };
        assert!(!comes_early(&answer(1), &history(vec![asked]).events));
        assert!(comes_early(&answer(9), &history(Vec::new()).events));
        assert!(comes_early(&answer(4), &[]));
        assert!(!comes_early(&answer(5), &[]));
    }
}
