//! What a deletion asks of the hub (product.md 3.5). The decision is pure; `mod.rs` carries it out.
//!
//! Invariants: what is not the object's is left alone; a run is purged only when
//! no terminate for it can be in a queue any more: it would come back every five
//! minutes and end the next run of that ID (engine-experiments.md 3.5, 5.17);
//! nothing holds an object for longer than [`GIVEN_UP_AFTER`].

use std::time::Duration;

use durable_taskhub::{Instance, Time};

use super::decide::{Facts, Hub, is_hands_off, is_rewinding};
use super::identity::Whose;
use super::wish::{Wish, has_effect, runtime_status};
use crate::api::v1alpha1::{Action, DeletionPolicy, Pending, Phase};
use crate::crash_points::scaled;

#[cfg(test)]
#[path = "teardown_tests.rs"]
mod tests;

/// A deletion that could not be carried into the hub by then is given up: the object goes, the instance stays.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(300);

/// Messages that were sent are taken for consumed after this, in a queue that is never empty.
const CONSUMED_AFTER: Duration = Duration::from_secs(30);

/// Whether anything is to be done in the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: the finalizer can go.
    None,
    /// It took too long: the finalizer goes, and a person is told why.
    GiveUp(String),
    /// Nothing can be done now.
    Wait,
    /// The rewind that is under way comes to its end first.
    Rewind,
    /// The instance is looked at, and [`step`] decides.
    Instance(DeletionPolicy),
}

/// Decides about an object that is being deleted and has our finalizer.
pub fn duty(facts: &Facts<'_>, deleted_at: Time) -> Duty {
    let Ok(wish) = facts.wish else { return Duty::None };
    let rewinding = is_rewinding(facts.status);
    if is_hands_off(facts.status) || !(wish.outlives_object() || rewinding) {
        return Duty::None;
    }
    let (hub_answers, why) = match &facts.hub {
        Hub::Ready { .. } => (true, "the instance did not end, or could not be removed, in time"),
        Hub::Unknown | Hub::NotReady(_) => (false, "its TaskHub is not ready"),
        Hub::NotFound => (false, "its TaskHub does not exist"),
        Hub::Refuses(_) => (false, "its TaskHub does not allow it"),
    };
    if facts.now.since(deleted_at) >= scaled(GIVEN_UP_AFTER) {
        return Duty::GiveUp(format!("the deletion was not carried into the task hub: {why}. The instance stays there"));
    }
    match (hub_answers, rewinding) {
        (false, _) => Duty::Wait,
        (true, true) => Duty::Rewind,
        (true, false) => Duty::Instance(wish.spec.deletion_policy),
    }
}

/// What to do about the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is left to be done.
    Release,
    /// Take back the start that nobody has taken up.
    Cancel,
    /// Record a terminate and send it.
    Terminate,
    /// Take back the message that would do something else.
    Withdraw,
    /// Find out what became of the message.
    Resolve,
    /// Wait for the effect of the terminate.
    Await,
    /// End the sub-orchestrations; then [`after_children`].
    Children,
}

/// Decides by the row. `None`: there is no such row.
pub fn step(wish: &Wish, row: Option<&Instance>, pending: Option<&Pending>, now: Time) -> Step {
    let Some(row) = row else {
        // What is left of an instance without its row is a purge that was cut off.
        return if wish.spec.deletion_policy == DeletionPolicy::Purge { Step::Children } else { Step::Release };
    };
    if wish.identity.whose(row) != Whose::Ours {
        return Step::Release;
    }
    if !row.has_started {
        return Step::Cancel;
    }
    if row.runtime_status.is_terminal() {
        return Step::Children;
    }
    match pending {
        None => Step::Terminate,
        Some(pending) if has_effect(pending.action, runtime_status(row.runtime_status)) => Step::Terminate,
        Some(Pending { action: Action::Terminate, phase: Phase::Issued, .. }) => Step::Resolve,
        Some(pending) if pending.action == Action::Terminate => {
            let is_old = now.since(pending.issued_at.0) >= scaled(CONSUMED_AFTER);
            if is_old { Step::Resolve } else { Step::Await }
        }
        Some(Pending { phase: Phase::Sent, .. }) => Step::Withdraw,
        Some(_) => Step::Resolve,
    }
}

/// True if no terminate that was sent can be in a queue any more. Only then are sub-orchestrations told again, since a second
/// message can outlive its instance, and only then is anything purged.
pub fn is_consumed(messages: u64, last_told: Time, now: Time) -> bool {
    messages == 0 || now.since(last_told) >= scaled(CONSUMED_AFTER)
}
