//! Received messages, in order and by instance (task-hub.md 7.1 step 3, 7.6). Pure.

use std::collections::BTreeMap;

use durable_taskhub::Time;
use durable_taskhub::event::EventKind;
use durable_taskhub::message::Message;
use durable_taskhub::storage::QueueMessage;

/// One message that was received and read.
#[derive(Debug)]
pub struct Received {
    /// The queue's side of it.
    pub raw: QueueMessage,
    /// What it says.
    pub message: Message,
    /// When it was received this time.
    pub received_at: Time,
}

/// Messages that one episode of one instance takes in together.
#[derive(Debug)]
pub struct Batch {
    /// The instance.
    pub instance_id: String,
    /// The execution that the messages are for; none if they reach whatever is current.
    pub execution_id: Option<String>,
    /// In order.
    pub messages: Vec<Received>,
}

/// The batches of each instance; those of one instance have to run one after another.
///
/// Messages are ordered by the second of their insertion, then by number. A
/// start always opens a batch; others join the newest one that fits.
pub fn group(mut received: Vec<Received>) -> Vec<Vec<Batch>> {
    received.sort_by_key(|received| (received.raw.inserted_at.map_or(i64::MAX, Time::unix_seconds), received.message.sequence_number));
    let mut instances: BTreeMap<String, Vec<Batch>> = BTreeMap::new();
    for received in received {
        let batches = instances.entry(received.message.instance_id.clone()).or_default();
        let execution_id = received.message.execution_id.clone();
        let opens = matches!(received.message.event.kind, EventKind::ExecutionStarted(_));
        let fitting = batches
            .iter_mut()
            .next_back()
            .filter(|batch| !opens && (execution_id.is_none() || batch.execution_id.is_none() || batch.execution_id == execution_id));
        match fitting {
            Some(batch) => {
                batch.execution_id = batch.execution_id.take().or(execution_id);
                batch.messages.push(received);
            }
            None => {
                batches.push(Batch { instance_id: received.message.instance_id.clone(), execution_id, messages: vec![received] });
            }
        }
    }
    instances.into_values().collect()
}

#[cfg(test)]
mod tests {
    use durable_taskhub::event::{Event, ExecutionStarted};

    use super::*;

    fn received(instance: &str, execution: Option<&str>, start: bool, second: &str, number: i64) -> Received {
        let time = Time::parse(&format!("2026-11-23T07:29:{second}Z")).unwrap();
        let message = if start {
            Message::start(ExecutionStarted::new(instance, execution.unwrap(), "Echo", None), time, number)
        } else {
            Message::new(instance, execution, Event::new(time, EventKind::TaskCompleted { task_scheduled_id: 0, result: None }), number)
        };
        let raw = QueueMessage {
            id: String::new(),
            pop_receipt: String::new(),
            text: String::new(),
            dequeue_count: 1,
            inserted_at: Some(time),
            expires_at: None,
            next_visible_at: None,
        };
        Received { raw, message, received_at: time }
    }

    #[test]
    fn order_is_by_second_then_by_number_and_starts_open_batches() {
        let groups = group(vec![
            received("a", None, false, "02", 9),
            received("b", Some("e"), true, "02", 1),
            received("a", Some("e2"), true, "02", 8),
            received("a", Some("e1"), true, "01", 50),
            received("a", Some("e1"), false, "03", 1),
        ]);
        let shape: Vec<Vec<(Option<&str>, Vec<i64>)>> = groups
            .iter()
            .map(|batches| {
                batches
                    .iter()
                    .map(|batch| {
                        (batch.execution_id.as_deref(), batch.messages.iter().map(|received| received.message.sequence_number).collect())
                    })
                    .collect()
            })
            .collect();
        assert_eq!(shape, [vec![(Some("e1"), vec![50]), (Some("e2"), vec![8, 9]), (Some("e1"), vec![1])], vec![(Some("e"), vec![1])],]);
    }
}
