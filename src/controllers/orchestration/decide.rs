//! What to do about an Orchestration now. Pure: no IO, no clock of its own.
//!
//! The rules are product.md 3.1 and 3.4. Invariant: deciding again on what is
//! visible after any prefix of the effects leads to the same end.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::{Instance, Time};

use super::identity::{Identity, Whose};
use crate::api::v1alpha1::{OrchestrationStatus, Payload};
use crate::connection::NotReady;
use crate::crash_points::scaled;
use crate::poller::Seen;

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

/// A start that waits this long while no worker serves the hub is reported as `NoActiveWorkers`: the seed's start time-out.
pub const START_EXPECTED_AFTER: Duration = Duration::from_secs(30);

/// A start that waits this long although workers serve the hub may have lost its message: it is sent again.
pub const SEND_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// What is known when a decision is due.
pub struct Facts<'a> {
    /// What the status of the object says.
    pub status: &'a OrchestrationStatus,
    /// The object's instance, or why its spec cannot have one.
    pub wish: Result<&'a Wish, &'a Refusal>,
    /// The hub that the object refers to.
    pub hub: Hub,
    /// What the poller saw of the instance.
    pub seen: Seen,
    /// True if somebody asked for a reconcile that was not handled yet.
    pub asked: bool,
    /// True if the object is being deleted, and something holds it.
    pub deleted: bool,
    /// When the start message was last sent, as far as this process knows.
    pub last_sent: Option<Time>,
    /// The time.
    pub now: Time,
}

/// What the object wants to be started.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The instance.
    pub identity: Identity,
    /// The orchestrator function.
    pub function_name: String,
    /// The input.
    pub input: Option<Payload>,
}

/// Why the object's spec can never be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The condition's reason.
    pub reason: &'static str,
    /// What to change.
    pub message: String,
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
    /// Nothing: what the object says stays true.
    Rest,
    /// Nothing in the hub; the conditions say why.
    Hold(Hold),
    /// Insert the row, send the message.
    Start,
    /// Have the instance read.
    Follow,
    /// Send the start message of an unstarted row of ours again.
    SendAgain(Arc<Instance>),
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
    /// The TaskHub does not exist.
    TaskHubNotFound,
    /// The TaskHub says why it cannot be used.
    TaskHubNotReady(NotReady),
}

/// Decides.
pub fn decide(facts: &Facts<'_>) -> Decision {
    if facts.status.settled {
        return settled(facts);
    }
    let wish = match facts.wish {
        Ok(wish) => wish,
        Err(refusal) => return Decision::Hold(Hold::Refused(refusal.clone())),
    };
    let was_accepted = facts.status.execution_id.is_some();
    if facts.deleted && !was_accepted {
        // Nobody wants a run whose object is going.
        return Decision::Wait;
    }
    let workers_active = match &facts.hub {
        Hub::Ready { workers_active } => *workers_active,
        // Nothing is concluded from a hub that cannot be asked: what was seen of an accepted run stays true.
        Hub::Unknown => return Decision::Wait,
        Hub::NotFound | Hub::NotReady(_) if was_accepted => return Decision::Wait,
        Hub::NotFound => return Decision::Hold(Hold::TaskHubNotFound),
        Hub::NotReady(why) => return Decision::Hold(Hold::TaskHubNotReady(why.clone())),
    };
    if !was_accepted {
        return Decision::Start;
    }
    match &facts.seen {
        Seen::Nothing | Seen::Absent => Decision::Follow,
        Seen::Missing => Decision::Missing,
        Seen::Row(instance) if wish.identity.whose(instance) != Whose::Ours => Decision::Replaced(instance.clone()),
        Seen::Row(instance) if workers_active && message_may_be_lost(instance, facts) => Decision::SendAgain(instance.clone()),
        Seen::Row(instance) => Decision::Show(instance.clone()),
    }
}

/// What is over keeps what it knows; it is read again only when somebody asks.
fn settled(facts: &Facts<'_>) -> Decision {
    let (true, Ok(wish), Some(_)) = (facts.asked, facts.wish, &facts.status.execution_id) else { return Decision::Rest };
    match (&facts.hub, &facts.seen) {
        (Hub::Unknown, _) => Decision::Wait,
        (Hub::NotFound | Hub::NotReady(_), _) | (_, Seen::Missing) => Decision::Rest,
        (_, Seen::Nothing | Seen::Absent) => Decision::Follow,
        (_, Seen::Row(instance)) if wish.identity.whose(instance) == Whose::Ours => Decision::Show(instance.clone()),
        (_, Seen::Row(_)) => Decision::Rest,
    }
}

/// Rule 1: a crash, or somebody who cleared the queue, leaves our row without its message.
fn message_may_be_lost(instance: &Instance, facts: &Facts<'_>) -> bool {
    let last = instance.created_time.max(facts.last_sent);
    !instance.has_started && last.is_some_and(|last| facts.now.since(last) >= scaled(SEND_AGAIN_AFTER))
}
