//! Events for what a person would want to be told: failures, conflicts, refusals.
//!
//! An ordinary start and end are not among them: conditions show them, and each
//! Event is one more write. An Event that cannot be written is never a reason to
//! fail. Invariant: no payload text.

use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::api::conditions::cut;
use crate::api::{Envelope, FIELD_MANAGER, Kind};

/// An Event is worth a short wait only.
const TIME_OUT: Duration = Duration::from_secs(5);

/// The API server takes notes of at most 1 KiB.
const MAX_NOTE_BYTES: usize = 1024;

/// Publishes Events. Clones share the cache of series.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

/// What a person should be told of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// True for something that should not be.
    pub is_warning: bool,
    /// The reason, as in the conditions.
    pub reason: &'static str,
    /// What the operator was doing.
    pub action: &'static str,
    /// The condition's message.
    pub note: String,
}

impl Events {
    /// Publishes with `client`.
    pub fn new(client: Client) -> Events {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
        Events { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes `notice` about `object`, or logs why not.
    pub async fn publish<K: Kind>(&self, object: &Envelope<K>, notice: Notice) {
        let event = Event {
            type_: if notice.is_warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_owned(),
            note: Some(cut(&notice.note, MAX_NOTE_BYTES).to_owned()),
            action: notice.action.to_owned(),
            secondary: None,
        };
        let reference = object.object_ref(&());
        match tokio::time::timeout(TIME_OUT, self.recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(namespace = object.namespace(), name = object.name(), %error, "Event not published"),
            Err(_) => tracing::warn!(namespace = object.namespace(), name = object.name(), "Event not published in time"),
        }
    }
}
