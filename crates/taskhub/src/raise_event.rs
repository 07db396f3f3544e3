//! Raising an external event (task-hub.md 6.6): one read, one message.
//!
//! Events are not de-duplicated: sending twice delivers twice. So the message is put with a single try: after an answer that was
//! lost, another try would deliver it again.

use crate::control::{ControlError, Reachable, SentControl};
use crate::event::EventKind;
use crate::hub::TaskHub;

impl TaskHub {
    /// Raises the event `name` with a payload of JSON text, or without one. Two requests; three if the message is over 45 KiB.
    ///
    /// While an instance is suspended, its events wait.
    ///
    /// # Errors
    /// [`ControlError`]; after [`ControlError::Storage`] of `queue.put` the event may have been raised, unless
    /// [`StorageError::was_refused`](crate::storage::StorageError::was_refused).
    pub async fn raise_event(&self, instance_id: &str, name: &str, payload: Option<&str>) -> Result<SentControl, ControlError> {
        let event = event(name, payload)?;
        let instance = Reachable::find(self, instance_id).await?;
        Ok(instance.send_once(self, event).await?)
    }

    /// As [`TaskHub::raise_event`], also if the instance has not started yet, for those who take a lost event for the lesser evil.
    ///
    /// It arrives if a worker receives it together with the start (engine-experiments.md 5.7). Otherwise, and always with a
    /// start that is scheduled for later (5.4), the engine drops it, and nothing tells.
    ///
    /// # Errors
    /// [`ControlError`], but never [`ControlError::NotStarted`]. [`ControlError::Storage`] as there.
    pub async fn raise_event_unstarted(&self, instance_id: &str, name: &str, payload: Option<&str>) -> Result<SentControl, ControlError> {
        let event = event(name, payload)?;
        let instance = Reachable::find_unstarted(self, instance_id).await?;
        Ok(instance.send_once(self, event).await?)
    }
}

fn event(name: &str, payload: Option<&str>) -> Result<EventKind, ControlError> {
    if name.is_empty() {
        return Err(ControlError::NoEventName);
    }
    if let Some(payload) = payload {
        serde_json::from_str::<serde::de::IgnoredAny>(payload).map_err(|error| ControlError::InvalidPayload(error.to_string()))?;
    }
    Ok(EventKind::EventRaised { name: Some(name.to_owned()), input: payload.map(str::to_owned), parent_trace_context: None })
}
