//! What a person should be told of a change, as an Event. Pure.
//!
//! Invariant: nothing of an ordinary start and end, and no payload text.

use super::wish::Wish;
use crate::api::conditions::{self, READY};
use crate::api::v1alpha1::{Action, DesiredState, OrchestrationStatus, Phase, RewindResult, RuntimeStatus};
use crate::controllers::events::Notice;

/// The reasons that are told as Events, and what the operator was doing.
const TOLD: [(&str, &str); 17] = [
    ("InvalidSpec", "Read"),
    ("InvalidInstanceId", "Start"),
    ("NamespaceNotAllowed", "Start"),
    ("FunctionNotAllowed", "Start"),
    ("InputNotFound", "Start"),
    ("InputInvalid", "Start"),
    ("InputTooLarge", "Start"),
    ("Conflict", "Start"),
    ("SuspendedByOther", "Observe"),
    ("OrchestrationFailed", "Observe"),
    ("Terminated", "Observe"),
    ("Canceled", "Observe"),
    ("DeadlineExceeded", "Terminate"),
    ("Replaced", "Observe"),
    ("InstanceMissing", "Observe"),
    ("RewindRejected", "Rewind"),
    ("AlreadyTerminated", "Control"),
];

/// What a person should be told of the change from `before` to `after`.
pub fn notices(before: &OrchestrationStatus, after: &OrchestrationStatus, wish: Option<&Wish>) -> Vec<Notice> {
    let verdict = verdict(before, after);
    let control = wish.and_then(|wish| control(before, after, wish));
    let late = wish.and_then(|wish| too_late(before, after, wish));
    [verdict, control, late].into_iter().flatten().collect()
}

fn verdict(before: &OrchestrationStatus, after: &OrchestrationStatus) -> Option<Notice> {
    let ready = after.conditions.iter().find(|condition| condition.type_ == READY)?;
    let is_told_already = conditions::reason(&before.conditions, READY) == Some(ready.reason.as_str());
    if is_told_already || ready.status == "True" {
        return None;
    }
    let (reason, action) = TOLD.iter().find(|(reason, _)| *reason == ready.reason)?;
    Some(Notice { is_warning: true, reason, action, note: ready.message.clone() })
}

/// Each control action, once: when its message was sent, or the rewind has come to its end.
fn control(before: &OrchestrationStatus, after: &OrchestrationStatus, wish: &Wish) -> Option<Notice> {
    if let Some(last) = after.last_rewind.as_ref().filter(|_| before.last_rewind != after.last_rewind) {
        return (last.result == RewindResult::Succeeded).then(|| Notice {
            is_warning: false,
            reason: "Rewound",
            action: "Rewind",
            note: "the instance was rewound: what failed is done again".to_owned(),
        });
    }
    let sent = after.pending.as_ref().filter(|pending| pending.phase == Phase::Sent)?;
    if before.pending.as_ref().is_some_and(|before| before.message_id == sent.message_id) {
        return None;
    }
    let (reason, what) = match sent.action {
        Action::Suspend => ("Suspending", "suspend"),
        Action::Resume => ("Resuming", "resume"),
        Action::Terminate => ("Terminating", "terminate"),
        Action::Rewind => return None,
    };
    let by_deadline = sent.action == Action::Terminate && wish.desired() != DesiredState::Terminated;
    let why = if by_deadline { ": its deadline has passed, or the object is being deleted" } else { "" };
    Some(Notice { is_warning: false, reason, action: "Control", note: format!("the instance was asked to {what}{why}") })
}

/// A wish that came after the end.
fn too_late(before: &OrchestrationStatus, after: &OrchestrationStatus, wish: &Wish) -> Option<Notice> {
    let is_news = before.settled && before.observed_generation != after.observed_generation;
    let is_over = matches!(after.runtime_status, Some(RuntimeStatus::Completed | RuntimeStatus::Failed)) && after.settled;
    let what = match wish.desired() {
        DesiredState::Suspended => "suspended",
        DesiredState::Terminated => "terminated",
        DesiredState::Running | DesiredState::Rewound => return None,
    };
    (is_news && is_over).then(|| Notice {
        is_warning: true,
        reason: "TooLate",
        action: "Control",
        note: format!("the run has ended already and cannot be {what}"),
    })
}
