//! One control queue: receives messages, filters starts, and runs the episodes
//! that they ask for (task-hub.md 7.1 steps 1 to 3).
//!
//! A message that cannot be read is put back with growing delays and never
//! hinders another one. A batch is worked off before the next is received, so
//! that no two episodes of an instance overlap.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::EventKind;
use durable_taskhub::message::{Decoded, Message};
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Queue, QueueMessage};
use futures::StreamExt as _;
use tokio::sync::watch;

use crate::batch::{self, Received};
use crate::checkpoint::timer_delay;
use crate::hub::Hub;
use crate::large::LargeValueError;
use crate::poll::{self, Pace};
use crate::session;
use crate::start_filter::{Start, Verdict, judge};

/// How many messages one request receives, at most.
const BATCH: u32 = 32;
/// How long received messages stay invisible: the engine's `controlQueueVisibilityTimeout`.
const VISIBILITY: Duration = Duration::from_secs(300);
/// How many instances of a partition run at the same time.
const CONCURRENT_INSTANCES: usize = 16;
/// The pause after a failed request.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Serves the control queue of partition `index` until `stop` is true; the batch at hand is finished.
pub async fn serve(hub: Arc<Hub>, index: usize, mut stop: watch::Receiver<bool>) {
    let Some((queue, bell)) = hub.control.get(index) else { return };
    let mut pace = Pace::default();
    while !*stop.borrow() {
        match queue.receive(BATCH, VISIBILITY).await {
            Ok(messages) if messages.is_empty() => pace.pause(bell, &mut stop).await,
            Ok(messages) => {
                pace.reset();
                work(&hub, queue, messages).await;
            }
            Err(error) => {
                tracing::warn!(queue = queue.name(), %error, "the control queue cannot be read");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
                    () = poll::stopped(&mut stop) => {}
                }
            }
        }
    }
}

async fn work(hub: &Hub, queue: &Queue, messages: Vec<QueueMessage>) {
    let mut received = Vec::new();
    for raw in messages {
        match read(hub, &raw.text).await {
            Ok(message) => {
                let candidate = Received { raw, message, received_at: Time::now() };
                if is_due(queue, &candidate).await && may_run(hub, queue, &candidate).await {
                    received.push(candidate);
                }
            }
            Err(error) => {
                tracing::error!(queue = queue.name(), message = raw.id, %error, "the message cannot be read: put back");
                poll::put_back(queue, &raw).await;
            }
        }
    }
    futures::stream::iter(batch::group(received))
        .for_each_concurrent(CONCURRENT_INSTANCES, |batches| async move {
            for batch in batches {
                session::run(hub, queue, batch).await;
            }
        })
        .await;
}

/// The message itself, or the one in the blob that it names.
async fn read(hub: &Hub, text: &str) -> Result<Message, LargeValueError> {
    match Message::decode(text)? {
        Decoded::Message(message) => Ok(*message),
        Decoded::Wrapper { blob_name } => hub.large.message(&blob_name).await,
    }
}

/// A timer beyond the longest delay of a message comes too soon: it is put back for what is left.
async fn is_due(queue: &Queue, received: &Received) -> bool {
    let EventKind::TimerFired { fire_at, .. } = received.message.event.kind else { return true };
    let left = timer_delay(fire_at, received.received_at);
    if left.is_zero() {
        return true;
    }
    if let Err(error) = queue.update(&received.raw.id, &received.raw.pop_receipt, None, left).await {
        tracing::warn!(queue = queue.name(), %error, "a timer could not be put back");
    }
    false
}

/// Applies the start filter to top-level starts; other messages pass.
async fn may_run(hub: &Hub, queue: &Queue, received: &Received) -> bool {
    let EventKind::ExecutionStarted(started) = &received.message.event.kind else { return true };
    if started.parent.is_some() {
        return true;
    }
    let instance_id = received.message.instance_id.as_str();
    let select = ["ExecutionId", "Generation", "RuntimeStatus", "CreatedTime"];
    let row = match hub.instances.get(&escape_key(instance_id), "", &select).await {
        Ok(row) => row,
        Err(error) => {
            tracing::warn!(instance = instance_id, %error, "the instances row cannot be read");
            poll::put_back(queue, &received.raw).await;
            return false;
        }
    };
    let start = Start {
        // A start without execution ID matches no row, and is dropped in the end (task-hub.md 3.9 E).
        execution_id: received.message.execution_id.as_deref().unwrap_or_default(),
        generation: started.generation,
        timestamp: received.message.event.timestamp,
        dequeue_count: received.raw.dequeue_count,
        received_at: received.received_at,
    };
    match judge(start, row.as_ref()) {
        Verdict::Run => return true,
        Verdict::Defer(seconds) => {
            tracing::info!(instance = instance_id, seconds, "a start waits for its row");
            poll::put_back(queue, &received.raw).await;
        }
        Verdict::Discard => {
            tracing::warn!(instance = instance_id, "a duplicate start was discarded");
            poll::delete(queue, &received.raw).await;
        }
    }
    false
}
