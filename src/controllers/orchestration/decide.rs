//! What to do about an Orchestration now. Pure: no IO, no clock of its own.
//!
//! The rules are product.md 3.1, 3.3 and 3.4. Invariant: deciding again on what
//! is visible after any prefix of the effects leads to the same end.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::{Instance, Time};

use super::identity::Whose;
use super::wish::{Refusal, Wish, has_effect, is_accepted, runtime_status};
use crate::api::v1alpha1::{Action, DesiredState, OrchestrationStatus, Pending, Phase, RuntimeStatus};
use crate::connection::NotReady;
use crate::crash_points::scaled;
use crate::poller::Seen;

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

/// A start that waits this long while no worker serves the hub is reported as `NoActiveWorkers`: the seed's start time-out.
pub const START_EXPECTED_AFTER: Duration = Duration::from_secs(30);

/// A message that waits this long although workers serve the hub may be lost: it is sent again.
pub const SEND_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// What is known when a decision is due.
pub struct Facts<'a> {
    /// What the status of the object says.
    pub status: &'a OrchestrationStatus,
    /// What the object asks for, or why it cannot be told.
    pub wish: Result<&'a Wish, &'a Refusal>,
    /// The hub that the object refers to.
    pub hub: Hub,
    /// What the poller saw of the instance.
    pub seen: Seen,
    /// True if somebody asked for a reconcile that was not handled yet.
    pub asked: bool,
    /// True if our finalizer is on the object.
    pub has_finalizer: bool,
    /// When the start message was last sent, as far as this process knows.
    pub last_sent: Option<Time>,
    /// The time.
    pub now: Time,
}

/// The hub, as far as deciding goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hub {
    /// Not judged yet.
    Unknown,
    /// There is no such TaskHub.
    NotFound,
    /// It cannot be used now.
    NotReady(NotReady),
    /// It answers, and does not let the object use it.
    Refuses(Refusal),
    /// It answers.
    Ready {
        /// True if a worker serves a partition.
        workers_active: bool,
    },
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Nothing: too little is known.
    Wait,
    /// Nothing in the hub: what is known stays true, under the spec as it is now.
    Rest,
    /// Nothing in the hub; the conditions say why.
    Hold(Hold),
    /// Put our finalizer on the object; nothing else before.
    AddFinalizer,
    /// Take it off.
    RemoveFinalizer,
    /// Insert the row, send the message.
    Start,
    /// Look whether a start of ours is there after all; if not, hold.
    LookBeforeHold(Hold),
    /// Look for the instance of another client, and claim it.
    Adopt,
    /// Have the instance read.
    Follow,
    /// Send the start message of an unstarted row of ours again.
    SendAgain(Arc<Instance>),
    /// Record the action, then send its message.
    Issue(Action, Arc<Instance>),
    /// The record says that the message was perhaps sent: find out, and send it if it is still wanted and was not.
    Resolve {
        /// False if something else is asked for by now.
        wanted: bool,
        /// The row.
        instance: Arc<Instance>,
    },
    /// Take the message back: something else is asked for.
    Withdraw(Arc<Instance>),
    /// Begin the rewind that is asked for, or go on with it.
    Rewind,
    /// Show what the row says.
    Show(Arc<Instance>),
    /// The row is another's now: hands off.
    Replaced(Arc<Instance>),
    /// The instance is gone.
    Missing,
}

/// Why nothing can be done in the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The spec cannot be carried out.
    Refused(Refusal),
    /// What the spec refers to is not there yet.
    Waits(Refusal),
    /// The TaskHub does not exist.
    TaskHubNotFound,
    /// The TaskHub says why it cannot be used.
    TaskHubNotReady(NotReady),
    /// It is to start later.
    StartAt(Time),
    /// It is to be suspended, and does not run yet.
    NotWanted,
    /// It was terminated before it was started.
    NeverStarted,
    /// The instance that is to be taken over is not there.
    InstanceNotFound,
}

/// Decides about an object that is not being deleted.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let wish = match facts.wish {
        Ok(wish) => wish,
        Err(_) if facts.status.settled => return Decision::Rest,
        Err(refusal) => return Decision::Hold(Hold::Refused(refusal.clone())),
    };
    if let Some(decision) = upkeep(facts, wish) {
        return decision;
    }
    if facts.status.settled {
        return settled(facts, wish);
    }
    let accepted = is_accepted(facts.status);
    let workers_active = match &facts.hub {
        Hub::Ready { workers_active } => *workers_active,
        // Nothing is concluded from a hub that cannot be asked: what was seen of an accepted run stays true.
        Hub::Unknown => return Decision::Wait,
        Hub::NotFound | Hub::NotReady(_) if accepted => return Decision::Wait,
        Hub::NotFound => return Decision::Hold(Hold::TaskHubNotFound),
        Hub::NotReady(why) => return Decision::Hold(Hold::TaskHubNotReady(why.clone())),
        Hub::Refuses(refusal) => return Decision::Hold(Hold::Waits(refusal.clone())),
    };
    if is_rewinding(facts.status) {
        return Decision::Rewind;
    }
    if !accepted {
        return not_created(facts, wish);
    }
    match &facts.seen {
        Seen::Nothing | Seen::Absent => Decision::Follow,
        Seen::Missing => Decision::Missing,
        Seen::Row(instance) if wish.identity.whose(instance) != Whose::Ours => Decision::Replaced(instance.clone()),
        Seen::Row(instance) if !instance.has_started && workers_active && start_may_be_lost(instance, facts) => {
            Decision::SendAgain(instance.clone())
        }
        Seen::Row(instance) if !instance.has_started => Decision::Show(instance.clone()),
        Seen::Row(instance) => started(facts, wish, instance, workers_active),
    }
}

/// The finalizer follows the deletion policy; a rewind has it too (product.md 3.5).
fn upkeep(facts: &Facts<'_>, wish: &Wish) -> Option<Decision> {
    let has_instance = is_accepted(facts.status) && !is_hands_off(facts.status);
    let needed = is_rewinding(facts.status) || (wish.outlives_object() && has_instance);
    let rewinds = is_rewinding(facts.status) || wish.asks_for_rewind(facts.status);
    let superfluous = !rewinds && (!wish.outlives_object() || is_hands_off(facts.status));
    match facts.has_finalizer {
        false if needed => Some(Decision::AddFinalizer),
        true if superfluous => Some(Decision::RemoveFinalizer),
        _ => None,
    }
}

/// True if the instance of the ID is not the object's.
pub fn is_hands_off(status: &OrchestrationStatus) -> bool {
    use crate::api::conditions::{READY, reason};
    status.settled && matches!(reason(&status.conditions, READY), Some("Conflict" | "Replaced"))
}

/// True if a rewind was recorded and has not come to its end.
pub fn is_rewinding(status: &OrchestrationStatus) -> bool {
    status.pending.as_ref().is_some_and(|pending| pending.action == Action::Rewind)
}

fn not_created(facts: &Facts<'_>, wish: &Wish) -> Decision {
    // An operator that died after it had written the row left no word of it in the status.
    if wish.may_start() {
        match wish.desired() {
            DesiredState::Terminated => return Decision::LookBeforeHold(Hold::NeverStarted),
            DesiredState::Suspended => return Decision::LookBeforeHold(Hold::NotWanted),
            DesiredState::Running | DesiredState::Rewound => {}
        }
        if let Some(at) = wish.starts_later(facts.now) {
            return Decision::Hold(Hold::StartAt(at));
        }
    }
    match wish.may_start() {
        // The finalizer is there before the row: whatever happens after, the deletion reaches the instance.
        _ if wish.outlives_object() && !facts.has_finalizer => Decision::AddFinalizer,
        true => Decision::Start,
        false => Decision::Adopt,
    }
}

fn started(facts: &Facts<'_>, wish: &Wish, instance: &Arc<Instance>, workers_active: bool) -> Decision {
    let state = runtime_status(instance.runtime_status);
    if let Some(pending) = &facts.status.pending {
        return under_way(facts, wish, instance, pending, workers_active);
    }
    if instance.runtime_status.is_terminal() {
        // With a rewind asked for, the end is only shown on the way: the rewind decides by the history.
        return if state == RuntimeStatus::Failed && wish.asks_for_rewind(facts.status) {
            rewind(facts)
        } else {
            Decision::Show(instance.clone())
        };
    }
    match wish.action(state, facts.status, instance.created_time, facts.now) {
        Some(action) => Decision::Issue(action, instance.clone()),
        None => Decision::Show(instance.clone()),
    }
}

/// A message is under way: one at a time.
fn under_way(facts: &Facts<'_>, wish: &Wish, instance: &Arc<Instance>, pending: &Pending, workers_active: bool) -> Decision {
    let state = runtime_status(instance.runtime_status);
    if has_effect(pending.action, state) {
        return Decision::Show(instance.clone());
    }
    let wanted = wish.action(state, facts.status, instance.created_time, facts.now) == Some(pending.action);
    let is_old = facts.now.since(pending.issued_at.0) >= scaled(SEND_AGAIN_AFTER);
    match pending.phase {
        // A message that could not be withdrawn was received, or had been withdrawn before a crash.
        Phase::Issued | Phase::Taken => Decision::Resolve { wanted, instance: instance.clone() },
        Phase::Sent if !wanted => Decision::Withdraw(instance.clone()),
        Phase::Sent if is_old && workers_active => Decision::Resolve { wanted, instance: instance.clone() },
        Phase::Sent => Decision::Show(instance.clone()),
    }
}

fn rewind(facts: &Facts<'_>) -> Decision {
    if facts.has_finalizer { Decision::Rewind } else { Decision::AddFinalizer }
}

/// What is over keeps what it knows; it is read again only when somebody asks.
fn settled(facts: &Facts<'_>, wish: &Wish) -> Decision {
    if facts.status.runtime_status == Some(RuntimeStatus::Failed) && wish.asks_for_rewind(facts.status) && !is_hands_off(facts.status) {
        return match &facts.hub {
            Hub::Ready { .. } => rewind(facts),
            Hub::Unknown | Hub::NotFound | Hub::NotReady(_) => Decision::Wait,
            Hub::Refuses(_) => Decision::Rest,
        };
    }
    if !facts.asked || !is_accepted(facts.status) || is_hands_off(facts.status) {
        return Decision::Rest;
    }
    match (&facts.hub, &facts.seen) {
        (Hub::Unknown, _) => Decision::Wait,
        (Hub::NotFound | Hub::NotReady(_) | Hub::Refuses(_), _) | (_, Seen::Missing) => Decision::Rest,
        (_, Seen::Nothing | Seen::Absent) => Decision::Follow,
        (_, Seen::Row(instance)) if wish.identity.whose(instance) == Whose::Ours => Decision::Show(instance.clone()),
        (_, Seen::Row(_)) => Decision::Rest,
    }
}

/// Rule 1: a crash, or somebody who cleared the queue, leaves our row without its message.
fn start_may_be_lost(instance: &Instance, facts: &Facts<'_>) -> bool {
    let last = instance.created_time.max(instance.scheduled_start_time).max(facts.last_sent);
    last.is_some_and(|last| facts.now.since(last) >= scaled(SEND_AGAIN_AFTER))
}
