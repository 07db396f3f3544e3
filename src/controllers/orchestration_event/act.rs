//! Sends an event or a signal, once, and says what came of it.
//!
//! Knows no status and no condition. Invariant: what comes back says "not sent"
//! only if the message certainly is in no queue.

use durable_taskhub::Time;
use durable_taskhub::control::ControlError;
use durable_taskhub::entity::{EntityId, Signal, SignalError};
use durable_taskhub::storage::StorageError;

use super::decide::{Verdict, finished, hold, not_started, not_there, reject};
use crate::api::v1alpha1::WaitFor;
use crate::hubs::ReadyHub;

/// What is sent, and to whom.
pub enum Delivery {
    /// An event to an instance.
    Event {
        /// ID of the instance.
        instance_id: String,
        /// Name of the event.
        name: String,
        /// What the instance must have come to.
        wait_for: WaitFor,
        /// JSON text.
        payload: Option<String>,
    },
    /// A signal to an entity.
    Signal {
        /// The entity.
        entity: EntityId,
        /// Name of the operation.
        operation: String,
        /// JSON text.
        input: Option<String>,
    },
}

/// Sends it. Two requests for an event, one for a signal; up to three more if the payload is large.
pub async fn send(hub: &ReadyHub, delivery: &Delivery) -> Verdict {
    match delivery {
        Delivery::Event { instance_id, name, wait_for, payload } => {
            let sent = match wait_for {
                WaitFor::Running => hub.client.raise_event(instance_id, name, payload.as_deref()).await,
                WaitFor::Exists => hub.client.raise_event_unstarted(instance_id, name, payload.as_deref()).await,
            };
            sent.map_or_else(|error| event_failed(instance_id, &error), |_| Verdict::Sent(Time::now()))
        }
        Delivery::Signal { entity, operation, input } => {
            let signal = Signal { operation: operation.clone(), input: input.clone(), due: None };
            let sent = hub.client.signal(entity, &signal).await;
            sent.map_or_else(|error| signal_failed(&error), |()| Verdict::Sent(Time::now()))
        }
    }
}

fn event_failed(id: &str, error: &ControlError) -> Verdict {
    match error {
        ControlError::NotFound => not_there(id),
        ControlError::NotStarted => not_started(id),
        ControlError::Finished(status) => finished(id, *status),
        ControlError::InvalidPayload(why) => reject("PayloadInvalid", format!("spec.payload is not JSON: {why}")),
        ControlError::NoEventName => reject("InvalidSpec", "spec.name is empty: make a new OrchestrationEvent"),
        ControlError::Storage(error) => storage_failed(error),
        // Answers to other operations: should one come, nothing is known.
        error @ (ControlError::AlreadySuspended | ControlError::NotSuspended) => Verdict::Unknown(error.to_string()),
    }
}

fn signal_failed(error: &SignalError) -> Verdict {
    match error {
        SignalError::NoOperation => reject("InvalidSpec", "spec.operation is empty: make a new OrchestrationEvent"),
        SignalError::InvalidInput(why) => reject("PayloadInvalid", format!("spec.payload is not JSON: {why}")),
        SignalError::Storage(error) => storage_failed(error),
    }
}

/// Only what fails while the message is put, and is no refusal, may have put it.
fn storage_failed(error: &StorageError) -> Verdict {
    if error.operation() == "queue.put" && !error.was_refused() {
        return Verdict::Unknown(format!("the storage account's answer was lost ({error})"));
    }
    hold("TaskHubNotReady", format!("the event was not sent, and is tried again: {error}"))
}
