//! What to do about an event now. Pure: no IO, no clock of its own.
//!
//! The rules are product.md 4. Invariants: nothing is sent but from a status
//! that says `Sending`, and what is found in `Sending` by a process that knows
//! nothing of it is `Unknown` for good; what costs requests is asked for only
//! when everything that costs none allows it.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::{RuntimeStatus, Time};

use super::target::{Instance, Refusal, Target};
use crate::api::v1alpha1::{EventPhase, WaitFor};
use crate::connection::NotReady;
use crate::controllers::orchestration::Whose;
use crate::controllers::payload::Unusable;
use crate::hubs::PollingLimits;

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

/// How much longer the next interval is when an event still waits.
const GROWTH_PERCENT: u32 = 150;

/// What is known when a decision is due.
pub struct Facts<'a> {
    /// How far the event has come, by its object.
    pub phase: Option<EventPhase>,
    /// What this process did and could not write down.
    pub remembered: Option<&'a Verdict>,
    /// True if the object is being deleted, and something holds it.
    pub deleted: bool,
    /// What the event wants, or why its spec cannot be read.
    pub wish: Result<&'a Wish, &'a str>,
    /// Who gets it.
    pub target: &'a Target,
    /// The hub of the target.
    pub hub: Hub,
    /// Whether the object's namespace may use the hub.
    pub namespace: Answer<Result<(), Refusal>>,
    /// The instance's row.
    pub seen: Answer<Option<Arc<durable_taskhub::Instance>>>,
    /// Whether the function of that row may be reached from the object's namespace.
    pub function: Answer<Result<(), Refusal>>,
    /// Whether there is a payload that can be sent.
    pub payload: Answer<Result<(), Unusable>>,
    /// The time.
    pub now: Time,
}

/// What a request would tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<T> {
    /// Not asked yet.
    Open,
    /// This.
    Is(T),
}

/// What the event wants, besides its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What it waits for.
    pub wait_for: WaitFor,
    /// When it expires.
    pub deadline: Time,
    /// True if its payload stands in another object.
    pub payload_is_elsewhere: bool,
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
    Ready,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nothing: too little is known.
    Wait,
    /// Nothing: what the object says stays true.
    Rest,
    /// Make the Orchestration the owner.
    Bind {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Find out more, and decide again.
    Ask(Question),
    /// Write `Sending`, then send.
    Send,
    /// Write this down.
    Conclude(Verdict),
}

/// What costs a request to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// May the namespace use the hub?
    Namespace,
    /// What does the instance's row say?
    Instance,
    /// May its function be reached?
    Function,
    /// Can the payload be sent?
    Payload,
}

/// What the object says next.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It waits.
    Held {
        /// The condition's reason.
        reason: &'static str,
        /// What for, and what to do.
        message: String,
    },
    /// It waits for a change of the object or of the operator.
    Stuck {
        /// The condition's reason.
        reason: &'static str,
        /// What to change.
        message: String,
    },
    /// It was sent at this time.
    Sent(Time),
    /// It may have been sent, and nobody will ever know.
    Unknown(String),
    /// The deadline passed.
    Expired,
    /// It cannot be delivered.
    Rejected {
        /// The condition's reason.
        reason: &'static str,
        /// Why, and what to do.
        message: String,
    },
}

/// It waits for what `message` says.
pub fn hold(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict::Held { reason, message: message.into() }
}

/// It will never be sent, because of `message`.
pub fn reject(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict::Rejected { reason, message: message.into() }
}

/// Decides.
pub fn decide(facts: &Facts<'_>) -> Decision {
    match facts.phase {
        Some(EventPhase::Sent | EventPhase::Expired | EventPhase::Rejected) => return Decision::Rest,
        // Another operator that found it in Sending wrote what it had to write; this one knows better.
        Some(EventPhase::Unknown) => match facts.remembered {
            Some(sent @ Verdict::Sent(_)) => return Decision::Conclude(sent.clone()),
            _ => return Decision::Rest,
        },
        Some(EventPhase::Sending) => {
            let unknown = || Verdict::Unknown("the operator ended, or lost the API server, while it was sending the event".to_owned());
            return Decision::Conclude(facts.remembered.cloned().unwrap_or_else(unknown));
        }
        Some(EventPhase::Waiting) | None => {}
    }
    if facts.deleted {
        return Decision::Rest;
    }
    match not_yet(facts) {
        Ok(()) => Decision::Send,
        Err(decision) => decision,
    }
}

/// Goes through what has to hold before anything is sent, what costs nothing first.
fn not_yet(facts: &Facts<'_>) -> Result<(), Decision> {
    let wish = facts.wish.map_err(|error| stuck(format!("the spec: {error}")))?;
    if facts.now >= wish.deadline {
        return conclude(Verdict::Expired);
    }
    target_is_known(facts.target)?;
    hub_answers(facts)?;
    allowed(&facts.namespace, Question::Namespace)?;
    if !wish.payload_is_elsewhere {
        payload_is_usable(&facts.payload)?;
    }
    if let Target::Instance(instance) = facts.target {
        match &facts.seen {
            Answer::Open => return Err(Decision::Ask(Question::Instance)),
            Answer::Is(row) => instance_is_reachable(instance, row.as_deref(), wish.wait_for)?,
        }
    }
    allowed(&facts.function, Question::Function)?;
    payload_is_usable(&facts.payload)
}

fn target_is_known(target: &Target) -> Result<(), Decision> {
    match target {
        Target::Instance(_) | Target::Entity { .. } => Ok(()),
        Target::Unknown => Err(Decision::Wait),
        Target::Unbound { name, uid } => Err(Decision::Bind { name: name.clone(), uid: uid.clone() }),
        Target::Unreadable(what) => Err(stuck(what.clone())),
        Target::Refused(Refusal { reason, message }) => conclude(Verdict::Rejected { reason, message: message.clone() }),
        Target::NoOrchestration(name) => {
            let message = format!("there is no Orchestration {name} in this namespace: create it, or make a new event with the right name");
            conclude(hold("OrchestrationNotFound", message))
        }
    }
}

fn hub_answers(facts: &Facts<'_>) -> Result<(), Decision> {
    let name = facts.target.hub().map(|hub| format!("{}/{}", hub.namespace, hub.name)).unwrap_or_default();
    match &facts.hub {
        Hub::Ready => Ok(()),
        Hub::Unknown => Err(Decision::Wait),
        Hub::NotFound => {
            let message = format!("there is no TaskHub {name}: create it, or make a new event with the right taskHubRef");
            conclude(hold("TaskHubNotFound", message))
        }
        Hub::NotReady(NotReady { reason, message }) => {
            conclude(hold("TaskHubNotReady", format!("TaskHub {name} is not ready ({reason}): {message}")))
        }
    }
}

/// A refusal waits: the owner of the hub may allow it.
fn allowed(answer: &Answer<Result<(), Refusal>>, question: Question) -> Result<(), Decision> {
    match answer {
        Answer::Open => Err(Decision::Ask(question)),
        Answer::Is(Ok(())) => Ok(()),
        Answer::Is(Err(Refusal { reason, message })) => conclude(hold(reason, message.clone())),
    }
}

fn payload_is_usable(answer: &Answer<Result<(), Unusable>>) -> Result<(), Decision> {
    match answer {
        Answer::Open => Err(Decision::Ask(Question::Payload)),
        Answer::Is(Ok(())) => Ok(()),
        Answer::Is(Err(Unusable::NotFound(why))) => conclude(hold("PayloadNotFound", format!("spec.payload.valueFrom: {why}"))),
        Answer::Is(Err(Unusable::Invalid(why))) => conclude(reject("PayloadInvalid", again(&format!("spec.payload: {why}")))),
        Answer::Is(Err(Unusable::TooLarge(why))) => conclude(reject("PayloadTooLarge", again(&format!("spec.payload: {why}")))),
    }
}

/// Rule 2 of product.md 3.4: an event before the start would be lost.
fn instance_is_reachable(instance: &Instance, row: Option<&durable_taskhub::Instance>, wait_for: WaitFor) -> Result<(), Decision> {
    let Some(row) = row else { return conclude(not_there(&instance.id)) };
    if let Some(owner) = &instance.owner
        && owner.identity.whose(row) != Whose::Ours
    {
        if owner.has_claimed {
            let message = format!("the instance {} is another client's now, not the Orchestration's: nothing was sent to it", instance.id);
            return conclude(reject("Replaced", again(&message)));
        }
        let message = format!("the Orchestration has not taken over the instance {} yet: see its conditions", instance.id);
        return conclude(hold("WaitingForStart", message));
    }
    if row.runtime_status.is_terminal() {
        return conclude(finished(&instance.id, row.runtime_status));
    }
    if wait_for == WaitFor::Running && !row.has_started {
        return conclude(not_started(&instance.id));
    }
    Ok(())
}

/// There is no instance of this ID.
pub fn not_there(id: &str) -> Verdict {
    hold("InstanceNotFound", format!("the task hub has no instance {id} yet: start it, or make a new event with the right ID"))
}

/// The instance waits for a worker.
pub fn not_started(id: &str) -> Verdict {
    let message = format!(
        "no worker has started the instance {id} yet, and the engine would drop an event: it is sent when it runs. If that lasts, check that the app runs"
    );
    hold("WaitingForStart", message)
}

/// The instance is over.
pub fn finished(id: &str, status: RuntimeStatus) -> Verdict {
    reject("InstanceFinished", format!("the instance {id} is {status} already, and would never see the event"))
}

/// A spec cannot be read by this version.
fn stuck(what: String) -> Decision {
    let message = format!("this version of the operator cannot read {what}. Change the object, or upgrade the operator");
    Decision::Conclude(Verdict::Stuck { reason: "InvalidSpec", message })
}

/// The spec is immutable: what is wrong in it takes a new object.
fn again(why: &str) -> String {
    format!("{why}. Make a new OrchestrationEvent")
}

fn conclude(verdict: Verdict) -> Result<(), Decision> {
    Err(Decision::Conclude(verdict))
}

/// The time until what costs requests is asked again, after `previous`: the hub's shortest interval, then half as long again
/// each time up to its longest.
pub fn next_interval(previous: Duration, limits: PollingLimits) -> Duration {
    (previous * GROWTH_PERCENT / 100).clamp(limits.min, limits.max)
}
