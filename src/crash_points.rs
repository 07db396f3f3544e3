//! Named points at which a test makes the operator die or a reconcile panic, and deadlines that a test shortens.
//!
//! Owns both, so that the code that has them reads as without. Without the
//! feature `crash-points` nothing here does anything; no release has it.

use std::time::Duration;

/// Between any two effects, in their order.
pub mod at {
    /// Decided to start; nothing is written.
    pub const BEFORE_ROW: &str = "before-row";
    /// The row is in the hub, its message not yet sent.
    pub const ROW_WRITTEN: &str = "row-written";
    /// The start message is sent, the object says nothing of it.
    pub const MESSAGE_SENT: &str = "message-sent";
    /// The object says that the start was accepted.
    pub const ACCEPTED_WRITTEN: &str = "accepted-written";
    /// The object says that the instance runs.
    pub const RUNNING_WRITTEN: &str = "running-written";
    /// The object shows the end; no Event yet.
    pub const SETTLED_WRITTEN: &str = "settled-written";

    /// An instance of another client is about to be taken over.
    pub const BEFORE_CLAIM: &str = "before-claim";
    /// It is taken over; the object says nothing of it.
    pub const CLAIMED: &str = "claimed";
    /// The finalizer is on the object; nothing is in the hub.
    pub const FINALIZER_ADDED: &str = "finalizer-added";
    /// A control action is recorded, and not sent.
    pub const ACTION_RECORDED: &str = "action-recorded";
    /// Its message is sent; the record does not name it.
    pub const CONTROL_SENT: &str = "control-sent";
    /// The record names the message.
    pub const ACTION_SENT_WRITTEN: &str = "action-sent-written";
    /// The message was taken back, or a worker has it; the record does not say so.
    pub const WITHDRAWN: &str = "withdrawn";
    /// A rewind is recorded, and not begun.
    pub const REWIND_RECORDED: &str = "rewind-recorded";
    /// The rewind is done in the hub; the object says nothing of it.
    pub const REWOUND: &str = "rewound";
    /// The object says that it was rewound; the finalizer is still there.
    pub const REWOUND_WRITTEN: &str = "rewound-written";
    /// A start that nobody took up was taken back for a deletion.
    pub const CANCELED: &str = "canceled";
    /// The sub-orchestrations of a deleted object's instance were told to end.
    pub const CHILDREN_TOLD: &str = "children-told";
    /// The instance is purged; the object is still there.
    pub const PURGED: &str = "purged";

    /// All of a start.
    pub const ALL: [&str; 6] = [BEFORE_ROW, ROW_WRITTEN, MESSAGE_SENT, ACCEPTED_WRITTEN, RUNNING_WRITTEN, SETTLED_WRITTEN];
    /// Those of everything else that is done to an instance.
    pub const OF_CONTROL: [&str; 13] = [
        BEFORE_CLAIM,
        CLAIMED,
        FINALIZER_ADDED,
        ACTION_RECORDED,
        CONTROL_SENT,
        ACTION_SENT_WRITTEN,
        WITHDRAWN,
        REWIND_RECORDED,
        REWOUND,
        REWOUND_WRITTEN,
        CANCELED,
        CHILDREN_TOLD,
        PURGED,
    ];
    /// Decided to delete a hub with its TaskHub; nothing is deleted.
    pub const BEFORE_HUB_DELETE: &str = "before-hub-delete";
    /// The hub is deleted, nobody was told.
    pub const HUB_DELETED: &str = "hub-deleted";
    /// The hub is deleted and an Event says so; the TaskHub is still there.
    pub const BEFORE_FINALIZER_REMOVED: &str = "before-finalizer-removed";

    /// All of a hub's deletion.
    pub const OF_HUB_DELETION: [&str; 3] = [BEFORE_HUB_DELETE, HUB_DELETED, BEFORE_FINALIZER_REMOVED];
}

/// Around the sending of an event, in their order.
pub mod at_event {
    /// Decided to send; nothing is written.
    pub const BEFORE_SENDING: &str = "event-before-sending";
    /// The object says that the event is being sent; it is not.
    pub const SENDING_WRITTEN: &str = "event-sending-written";
    /// The event is in its queue, the object says nothing of it.
    pub const EVENT_SENT: &str = "event-sent";
    /// The object says that the event was sent.
    pub const SENT_WRITTEN: &str = "event-sent-written";

    /// All of them.
    pub const ALL: [&str; 4] = [BEFORE_SENDING, SENDING_WRITTEN, EVENT_SENT, SENT_WRITTEN];
}

/// Aborts the process if `DURABLE_CRASH_AT` names `point`, and panics if `DURABLE_PANIC_AT` does.
#[cfg(feature = "crash-points")]
#[allow(clippy::panic, reason = "a panic is what the test asks for")]
pub fn reached(point: &str) {
    let is_named = |variable| std::env::var(variable).is_ok_and(|wanted| wanted == point);
    if is_named("DURABLE_CRASH_AT") {
        eprintln!("crash point {point} reached");
        std::process::abort();
    }
    if is_named("DURABLE_PANIC_AT") {
        panic!("crash point {point} reached");
    }
}

/// Does nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
pub fn reached(_point: &str) {}

/// A deadline of minutes, divided by `DURABLE_TIME_SCALE`.
#[cfg(feature = "crash-points")]
pub fn scaled(deadline: Duration) -> Duration {
    static SCALE: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var("DURABLE_TIME_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1).max(1));
    deadline / *SCALE
}

/// The deadline itself: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
pub fn scaled(deadline: Duration) -> Duration {
    deadline
}
