//! The work-item queue: runs activities, a bounded number at a time, and sends
//! their results to the instances that asked.
//!
//! A result is sent before the work item is deleted: a crash in between runs
//! the activity again, and the instance takes the first result.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::message::{Decoded, Message, Sender};
use durable_taskhub::storage::{Queue, QueueMessage, StorageError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::hub::Hub;
use crate::poll::{self, Pace};
use crate::samples::{self, activities::Markers};

/// How many activities run at the same time.
const CONCURRENT: usize = 16;
/// How long a received work item stays invisible.
const VISIBILITY: Duration = Duration::from_secs(300);
/// The pause after a failed request.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Serves the work-item queue until `stop` is true, then waits for the activities that run.
pub async fn serve(hub: Arc<Hub>, mut stop: watch::Receiver<bool>) {
    let (queue, bell) = &hub.work_items;
    let slots = Arc::new(Semaphore::new(CONCURRENT));
    let mut running = JoinSet::new();
    let mut pace = Pace::default();
    while !*stop.borrow() {
        while running.try_join_next().is_some() {}
        // The semaphore is never closed; were it, there would be nothing left to do.
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let free = u32::try_from(slots.available_permits() + 1).unwrap_or(1).min(32);
        drop(slot);
        match queue.receive(free, VISIBILITY).await {
            Ok(items) if items.is_empty() => pace.pause(bell, &mut stop).await,
            Ok(items) => {
                pace.reset();
                for item in items {
                    let Ok(slot) = slots.clone().acquire_owned().await else { break };
                    let hub = hub.clone();
                    running.spawn(async move {
                        run(&hub, &hub.work_items.0, item).await;
                        drop(slot);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(queue = queue.name(), %error, "the work-item queue cannot be read");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
                    () = poll::stopped(&mut stop) => {}
                }
            }
        }
    }
    while running.join_next().await.is_some() {}
}

async fn run(hub: &Hub, queue: &Queue, item: QueueMessage) {
    let message = match Message::decode(&item.text) {
        Ok(Decoded::Message(message)) => message,
        Ok(Decoded::Wrapper { blob_name }) => match hub.large.message(&blob_name).await {
            Ok(message) => Box::new(message),
            Err(error) => {
                tracing::error!(queue = queue.name(), message = item.id, %error, "the large work item cannot be read: put back");
                return poll::put_back(queue, &item).await;
            }
        },
        Err(error) => {
            tracing::error!(queue = queue.name(), message = item.id, %error, "the work item cannot be read: put back");
            return poll::put_back(queue, &item).await;
        }
    };
    let EventKind::TaskScheduled { name, input, .. } = &message.event.kind else {
        tracing::error!(queue = queue.name(), kind = message.event.kind.event_type(), "no work item: put back");
        return poll::put_back(queue, &item).await;
    };
    let kind = result(&hub.markers, name, input.as_deref(), message.event.event_id);
    match answer(hub, &message, kind).await {
        Ok(()) => poll::delete(queue, &item).await,
        Err(error) => {
            tracing::error!(instance = message.instance_id, activity = name, %error, "the result could not be sent: put back");
            poll::put_back(queue, &item).await;
        }
    }
}

fn result(markers: &Markers, name: &str, input: Option<&str>, id: i32) -> EventKind {
    match samples::activity(name).and_then(|activity| activity(markers, input)) {
        Ok(result) => EventKind::TaskCompleted { task_scheduled_id: id, result },
        Err(failure) => EventKind::TaskFailed {
            task_scheduled_id: id,
            reason: Some(format!("Activity function '{name}' failed: {}", failure.0)),
            details: None,
            failure_details: None,
        },
    }
}

async fn answer(hub: &Hub, question: &Message, kind: EventKind) -> Result<(), StorageError> {
    let (instance_id, execution_id) = (question.instance_id.clone(), question.execution_id.clone());
    let answer = Message::new(&instance_id, execution_id.as_deref(), Event::new(Time::now(), kind), 0);
    let message = Message { episode: question.episode, ..answer };
    let sender = Sender { instance_id: Some(instance_id), execution_id };
    hub.send_to_instance(&hub.number(message, sender), Duration::ZERO).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_failures_carry_the_task_id() {
        let done = result(&Markers::default(), "SayHello", Some(r#""Tokyo""#), 3);
        assert_eq!(done, EventKind::TaskCompleted { task_scheduled_id: 3, result: Some(r#""Hello Tokyo!""#.into()) });
        let EventKind::TaskFailed { task_scheduled_id: 4, reason: Some(reason), .. } = result(&Markers::default(), "Nope", None, 4) else {
            panic!()
        };
        assert!(reason.starts_with("Activity function 'Nope' failed: The function 'Nope' doesn't exist"), "{reason}");
    }
}
