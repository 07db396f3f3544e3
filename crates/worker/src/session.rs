//! One episode of one instance: from a batch of messages to a checkpoint
//! (task-hub.md 7.1 steps 4 to 8).
//!
//! [`admission`] decides by the history what becomes of each message; this
//! module carries that out. Episodes of one instance never overlap in one
//! worker, and the history's lock guards against other workers. The batch's
//! messages are deleted last: a crash before brings all of them back.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, OrchestrationStatus};
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Condition, Entity, Queue, StorageError};

use crate::admission::{self, Admission};
use crate::batch::{Batch, Received};
use crate::checkpoint::{self, CheckpointError};
use crate::history::{self, History, HistoryError};
use crate::hub::Hub;
use crate::plan::{self, Execution};
use crate::{poll, replay, samples};

/// Runs the episode that `batch` asks for, and deletes its messages. On failure they are put back.
pub async fn run(hub: &Hub, queue: &Queue, batch: Batch) {
    let instance_id = batch.instance_id.clone();
    let mut history = match history::load(&hub.history, &hub.large, &instance_id).await {
        Ok(history) => history,
        Err(error) => {
            tracing::warn!(instance = instance_id, %error, "the history cannot be read");
            return put_all_back(queue, &batch.messages).await;
        }
    };
    if batch.execution_id.is_some() && batch.execution_id != history.execution_id {
        // Another execution's events: only its lock counts (task-hub.md 5.3).
        history.events.clear();
        history.rows.clear();
    }
    let (early, messages): (Vec<Received>, Vec<Received>) =
        batch.messages.into_iter().partition(|received| admission::comes_early(received, &history.events));
    put_all_back(queue, &early).await;
    if messages.is_empty() {
        return;
    }
    let done = match admission::admit(&messages, batch.execution_id.as_deref(), &history) {
        Admission::Discard(reason) => {
            tracing::info!(instance = instance_id, messages = messages.len(), reason, "messages discarded");
            repair_row(hub, &instance_id, &history).await.map_err(CheckpointError::from)
        }
        Admission::TerminatePending(at) => match messages.get(at).map(|received| &received.message.event) {
            Some(terminate) => match terminate_pending(hub, &instance_id, terminate).await {
                Err(error) if error.is_not_found() => {
                    // As in the engine: the message comes back every five minutes (task-hub.md 6.5).
                    tracing::warn!(instance = instance_id, "a terminate for an instance without row");
                    return;
                }
                written => written.map_err(CheckpointError::from),
            },
            None => Ok(()),
        },
        Admission::Run { execution_id, incoming } => {
            let execution = Execution { instance_id: instance_id.clone(), execution_id };
            let is_start = |received: &Received| matches!(received.message.event.kind, EventKind::ExecutionStarted(_));
            let mend_row = !history.events.is_empty() && messages.iter().any(is_start);
            let incoming = incoming.into_iter().filter_map(|at| messages.get(at)).map(|received| received.message.event.clone());
            episode(hub, execution, history, incoming, mend_row).await
        }
    };
    match done {
        Ok(()) => {
            for received in &messages {
                poll::delete(queue, &received.raw).await;
            }
        }
        Err(CheckpointError::History(HistoryError::Lost)) => {
            tracing::warn!(instance = instance_id, "another worker was first; the messages are put back");
            put_all_back(queue, &messages).await;
        }
        Err(error) => {
            tracing::error!(instance = instance_id, %error, "the checkpoint could not be written; the messages are put back");
            put_all_back(queue, &messages).await;
        }
    }
}

async fn episode(
    hub: &Hub,
    execution: Execution,
    history: History,
    incoming: impl Iterator<Item = Event>,
    mend_row: bool,
) -> Result<(), CheckpointError> {
    let mut events = vec![Event::new(Time::now(), EventKind::OrchestratorStarted)];
    events.extend(incoming.map(|event| Event { is_played: true, ..event }));
    let instance_id = execution.instance_id.clone();
    let plan = plan::plan(execution, &history.events, events, |past, new| {
        replay::replay(&instance_id, past.iter().chain(new), samples::orchestrator)
    });
    let types: Vec<&str> = plan.events.iter().map(|event| event.kind.event_type()).collect();
    tracing::info!(instance = instance_id, continued_as_new = plan.replaced, events = types.join(" "), "episode");
    checkpoint::write(hub, plan, history, mend_row).await
}

async fn put_all_back(queue: &Queue, messages: &[Received]) {
    for received in messages {
        poll::put_back(queue, &received.raw).await;
    }
}

/// Ends an instance that no start message has reached, by its row alone (task-hub.md 6.5).
async fn terminate_pending(hub: &Hub, instance_id: &str, terminate: &Event) -> Result<(), StorageError> {
    let mut row = Entity::new(escape_key(instance_id), "")
        .with("RuntimeStatus", OrchestrationStatus::Terminated.as_str())
        .with("LastUpdatedTime", terminate.timestamp)
        .with("CompletedTime", Time::now());
    if let EventKind::ExecutionTerminated { input: Some(reason) } = &terminate.kind {
        row.set("Output", hub.large.instance_column(instance_id, "Output", reason).await?);
    }
    hub.instances.merge(&row, Condition::Any).await?;
    Ok(())
}

/// A crash between the history and the row leaves a row that lags behind: the next message mends it (task-hub.md 4.6).
async fn repair_row(hub: &Hub, instance_id: &str, history: &History) -> Result<(), StorageError> {
    let Some(execution_id) = history.execution_id.clone().filter(|_| admission::is_finished(&history.events)) else { return Ok(()) };
    let completed = history.events.iter().find_map(|event| match &event.kind {
        EventKind::ExecutionCompleted { status, .. } => Some((*status, event.timestamp)),
        _ => None,
    });
    let Some((status, completed_time)) = completed else { return Ok(()) };
    let row = hub.instances.get(&escape_key(instance_id), "", &["ExecutionId", "RuntimeStatus", "Name"]).await?;
    let lags = row.is_none_or(|row| {
        // Without a name it is a child's, and lacks all that the first episode had to say.
        let differs = row.text("RuntimeStatus") != Some(status.as_str()) || row.text("Name").is_none();
        row.text("ExecutionId").is_none_or(|id| id == execution_id) && differs
    });
    if !lags {
        return Ok(());
    }
    tracing::warn!(instance = instance_id, status = status.as_str(), "the instances row lagged behind the history: repaired");
    let execution = Execution { instance_id: instance_id.to_owned(), execution_id };
    let custom_status = replay::replay(instance_id, &history.events, samples::orchestrator).custom_status;
    checkpoint::merge_row(hub, &execution, history.events.iter().zip(&history.rows), custom_status, completed_time, false).await
}
