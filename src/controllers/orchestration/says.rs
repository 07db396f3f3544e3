//! What the conditions of an Orchestration say (product.md 3.2). Pure.
//!
//! Invariants: `Reconciling` or `Stalled` repeats the reason of a `Ready` that
//! is not true; each message says what is, and what to do where somebody can do
//! something.

use durable_taskhub::Time;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::decide::{Hold, START_EXPECTED_AFTER};
use super::describe::Row;
use super::wish::{Wish, is_suspended_by_us};
use crate::api::conditions::{self, COMPLETE, FAILED, READY, RECONCILING, STALLED, STARTED, SUSPENDED, Statement};
use crate::api::v1alpha1::{Action, DesiredState, OrchestrationStatus, ReadyWhen, RewindResult, RuntimeStatus, StartPolicy};
use crate::crash_points::scaled;

/// How `Ready` stands, and with it kstatus' conditions.
pub struct Verdict {
    reason: &'static str,
    message: String,
    stands: Stands,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Ready,
    InProgress,
    Stalled,
}

impl Verdict {
    fn ready(reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict { reason, message: message.into(), stands: Stands::Ready }
    }

    fn in_progress(reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict { reason, message: message.into(), stands: Stands::InProgress }
    }

    fn stalled(reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict { reason, message: message.into(), stands: Stands::Stalled }
    }

    /// `Ready`, then `further`, then what kstatus reads.
    fn with(self, further: impl IntoIterator<Item = Statement>) -> Vec<Statement> {
        let Verdict { reason, message, stands } = self;
        let ready = Statement { kind: READY, holds: stands == Stands::Ready, reason, message: message.clone() };
        let mut said = vec![ready];
        said.extend(further);
        match stands {
            Stands::Ready => {}
            Stands::InProgress => said.push(Statement::yes(RECONCILING, reason, message)),
            Stands::Stalled => said.push(Statement::yes(STALLED, reason, message)),
        }
        said
    }

    /// `Started` is false for the same reason.
    fn and_not_started(self) -> Vec<Statement> {
        let started = Statement::no(STARTED, self.reason, self.message.clone());
        self.with([started])
    }
}

/// `Started` of an instance that runs or ran.
fn started(adopted: bool) -> Statement {
    if adopted {
        Statement::yes(STARTED, "Adopted", "the instance, which another client started, was taken over")
    } else {
        Statement::yes(STARTED, "Started", "a worker has started the instance")
    }
}

/// True if the status says that the instance was taken over.
pub fn is_adopted(status: &OrchestrationStatus) -> bool {
    conditions::reason(&status.conditions, STARTED) == Some("Adopted")
}

/// True if the instance was taken over while it waited for a worker: then no condition says so yet, and its execution is not
/// the one that the object would have started.
fn was_adopted_before_its_start(wish: &Wish, status: &OrchestrationStatus) -> bool {
    let is_started = conditions::reason(&status.conditions, STARTED) == Some("Started");
    let is_others = status.execution_id.as_ref().is_some_and(|execution| *execution != wish.identity.execution_id);
    !is_started && is_others && wish.spec.start_policy != StartPolicy::Create
}

/// Nothing can be done in the hub. What is known of an instance that is there stays said.
pub fn held(before: &OrchestrationStatus, hold: &Hold, accepted: bool) -> Vec<Statement> {
    let verdict = match hold {
        Hold::Refused(refusal) => Verdict::stalled(refusal.reason, refusal.message.clone()),
        Hold::Waits(refusal) => Verdict::in_progress(refusal.reason, refusal.message.clone()),
        Hold::TaskHubNotFound => {
            Verdict::in_progress("TaskHubNotFound", "the TaskHub of spec.taskHubRef does not exist: create it, and the instance is started")
        }
        Hold::TaskHubNotReady(why) => {
            Verdict::in_progress("TaskHubNotReady", format!("the TaskHub is not ready ({}): {}", why.reason, why.message))
        }
        Hold::StartAt(at) => Verdict::in_progress("WaitingForStartAt", format!("the instance is started at {at}")),
        Hold::NotWanted => Verdict::in_progress(
            "NotCreated",
            "nothing was written to the task hub: the instance is started when spec.desiredState is Running",
        ),
        Hold::NeverStarted => return never_started(),
        Hold::InstanceNotFound => Verdict::in_progress(
            "InstanceNotFound",
            "the task hub has no instance of spec.instanceId: it is taken over as soon as the app has started it",
        ),
    };
    if accepted {
        let kept = before.conditions.iter().filter_map(|condition| match condition.type_.as_str() {
            STARTED if condition.status == "True" => Some(started(condition.reason == "Adopted")),
            _ => None,
        });
        return verdict.with(kept.collect::<Vec<_>>());
    }
    let not_started = match hold {
        Hold::StartAt(_) => Statement::no(STARTED, "WaitingForStartAt", verdict.message.clone()),
        Hold::InstanceNotFound => Statement::no(STARTED, "InstanceNotFound", verdict.message.clone()),
        _ => Statement::no(STARTED, "NotCreated", "nothing was written to the task hub"),
    };
    verdict.with([not_started])
}

fn never_started() -> Vec<Statement> {
    let message = "it was terminated before anything was written to the task hub";
    let not_created = Statement::no(STARTED, "NotCreated", "nothing was written to the task hub");
    Verdict::ready("Terminated", message).with([not_created, Statement::yes(COMPLETE, "Terminated", message)])
}

/// The start is in the hub and no worker has taken it up.
pub fn enqueued(no_workers: bool, desired: DesiredState) -> Vec<Statement> {
    if no_workers {
        let message = "the start waits in the task hub, and no worker serves the hub: check that the app runs and uses this task hub and storage account (kubectl get taskhub shows the hub). The start is not lost";
        return Verdict::in_progress("NoActiveWorkers", message).and_not_started();
    }
    let then = match desired {
        DesiredState::Running | DesiredState::Rewound => "",
        DesiredState::Suspended => "; it is suspended as soon as it has started",
        DesiredState::Terminated => "; it is terminated as soon as it has started",
    };
    Verdict::in_progress("Enqueued", format!("the start is in the task hub and waits for a worker{then}")).and_not_started()
}

/// The ID is another run's.
pub fn conflict(instance_id: &str, what: &str, by: Option<&str>) -> Vec<Statement> {
    let message = format!(
        "the task hub already has an instance {instance_id} ({what}, {}), which was left alone: use another spec.instanceId, or purge that instance, and apply a new object",
        by_whom(by)
    );
    Verdict::stalled("Conflict", message).and_not_started()
}

/// The instance was the object's and is another's now.
pub fn replaced(before: &[Condition], by: Option<&str>) -> Vec<Statement> {
    let message = format!(
        "another client has the instance of this ID now ({}); this object keeps what it knew of its own run and does nothing more",
        by_whom(by)
    );
    Verdict::stalled("Replaced", message).with([started_if_seen(before)])
}

fn by_whom(owner: Option<&str>) -> String {
    owner.map_or_else(|| "started by another client".to_owned(), |owner| format!("started by Orchestration {owner}"))
}

/// The instance is gone.
pub fn missing(before: &[Condition], desired: DesiredState) -> Vec<Statement> {
    if desired == DesiredState::Terminated {
        let message = "the instance is no longer in the task hub, so there is nothing left to terminate";
        return Verdict::ready("Terminated", message).with([started_if_seen(before), Statement::yes(COMPLETE, "Terminated", message)]);
    }
    let message = "the instance is no longer in the task hub: it was purged, or the hub was deleted. It is not started again; apply a new object to run it again";
    let failed = Statement::yes(FAILED, "InstanceMissing", message);
    Verdict::stalled("InstanceMissing", message).with([started_if_seen(before), failed])
}

/// `Started` of an instance that cannot be looked at any more.
fn started_if_seen(before: &[Condition]) -> Statement {
    match before.iter().find(|condition| condition.type_ == STARTED && condition.status == "True") {
        Some(condition) => started(condition.reason == "Adopted"),
        None => Statement::no(STARTED, "InstanceNotFound", "no worker was seen to start the instance before it was gone"),
    }
}

/// `Ready` and `Failed`, which may differ in their reasons.
fn failed(ready: &'static str, failed: &'static str, message: String, adopted: bool) -> Vec<Statement> {
    let condition = Statement::yes(FAILED, failed, message.clone());
    Verdict::stalled(ready, message).with([started(adopted), condition])
}

/// A rewind was recorded, or sent and not taken up yet.
pub fn rewinding(adopted: bool) -> Vec<Statement> {
    Verdict::in_progress("Rewinding", "the instance is being rewound: what failed is done again").with([started(adopted)])
}

/// What a run that failed says.
pub fn run_failed(wish: &Wish, status: &OrchestrationStatus, adopted: bool) -> Vec<Statement> {
    let message = "the run failed; status.failure has the hub's message";
    if wish.rewind_was_refused(status) {
        let why = status.last_rewind.as_ref().and_then(|last| last.message.clone()).unwrap_or_default();
        let kind = Statement::yes(FAILED, "OrchestrationFailed", message);
        return Verdict::stalled("RewindRejected", format!("the instance cannot be rewound: {why}")).with([started(adopted), kind]);
    }
    failed("OrchestrationFailed", "OrchestrationFailed", message.to_owned(), adopted)
}

/// Why a run was terminated, as far as the object knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Another client did it.
    ByOther,
    /// The deadline did it.
    ByDeadline,
    /// It was asked for, and something else is asked for now.
    AskedForBefore,
}

/// What a terminated run says.
pub fn terminated(wish: &Wish, status: &OrchestrationStatus, ended: Ended, started: Statement) -> Vec<Statement> {
    if wish.desired() == DesiredState::Terminated {
        let message = "the run was terminated, as it was asked for";
        return Verdict::ready("Terminated", message).with([started, Statement::yes(COMPLETE, "Terminated", message)]);
    }
    let (reason, message) = match ended {
        Ended::ByDeadline => ("DeadlineExceeded", "the run did not end within spec.activeDeadlineSeconds and was terminated".to_owned()),
        Ended::ByOther => ("Terminated", "another client terminated the run".to_owned()),
        Ended::AskedForBefore => ("Terminated", "the run was terminated".to_owned()),
    };
    let ready = match ended {
        _ if wish.rewind_was_refused(status) => Verdict::stalled(
            "RewindRejected",
            "the run was terminated, and only a run that failed can be rewound: apply a new object to run it again",
        ),
        Ended::AskedForBefore => {
            Verdict::stalled("AlreadyTerminated", "the run was terminated, which cannot be taken back: apply a new object to run it again")
        }
        _ => Verdict::stalled(reason, message.clone()),
    };
    ready.with([started, Statement::yes(FAILED, reason, message)])
}

/// `Started` as it was, for a run that is over.
pub fn started_as_before(before: &[Condition]) -> Statement {
    match before.iter().find(|condition| condition.type_ == STARTED) {
        Some(condition) if condition.status == "True" => started(condition.reason == "Adopted"),
        _ => Statement::no(STARTED, "NotCreated", "nothing was written to the task hub"),
    }
}

/// What the row says; `after` is the status with the fields that the row has just filled.
pub fn row(wish: &Wish, before: &OrchestrationStatus, after: &OrchestrationStatus, row: &Row, now: Time) -> Vec<Statement> {
    let adopted = row.adopted || is_adopted(before) || was_adopted_before_its_start(wish, before);
    let action = after.pending.as_ref().map(|pending| pending.action);
    match row.status {
        RuntimeStatus::Pending if !row.has_started => {
            let waits = row.instance.created_time.is_some_and(|created| now.since(created) >= scaled(START_EXPECTED_AFTER));
            enqueued(waits && !row.workers_active, wish.desired())
        }
        RuntimeStatus::Pending if is_rewound(after) => rewinding(adopted),
        RuntimeStatus::Suspended => suspended(wish, before, action, adopted),
        RuntimeStatus::Pending | RuntimeStatus::Running | RuntimeStatus::ContinuedAsNew | RuntimeStatus::Unknown => under_way(action)
            .unwrap_or_else(|| match wish.spec.ready_when {
                ReadyWhen::Started if wish.desired() != DesiredState::Suspended => Verdict::ready("Started", "the instance runs"),
                _ => Verdict::in_progress("Running", "the instance runs"),
            })
            .with([started(adopted)]),
        RuntimeStatus::Completed => {
            let message = match &row.output {
                Some(Err(why)) => format!("the run completed; its output cannot be shown: {why}"),
                _ => "the run completed".to_owned(),
            };
            let complete = Statement::yes(COMPLETE, "Completed", message.clone());
            Verdict::ready("Completed", message).with([started(adopted), complete])
        }
        RuntimeStatus::Failed => run_failed(wish, after, adopted),
        RuntimeStatus::Terminated => terminated(wish, after, ended(wish, before, row, now), started(adopted)),
        RuntimeStatus::Canceled => failed("Canceled", "Canceled", "the run was canceled".to_owned(), adopted),
    }
}

fn is_rewound(status: &OrchestrationStatus) -> bool {
    status.last_rewind.as_ref().is_some_and(|last| last.result == RewindResult::Succeeded)
}

fn under_way(action: Option<Action>) -> Option<Verdict> {
    Some(match action? {
        Action::Suspend => Verdict::in_progress("Suspending", "the instance was asked to suspend"),
        Action::Resume => Verdict::in_progress("Resuming", "the instance was asked to resume"),
        Action::Terminate => Verdict::in_progress("Terminating", "the instance was asked to terminate"),
        Action::Rewind => Verdict::in_progress("Rewinding", "the instance is being rewound"),
    })
}

fn suspended(wish: &Wish, before: &OrchestrationStatus, action: Option<Action>, adopted: bool) -> Vec<Statement> {
    // A suspension that was on its way when the wish changed is ours as well.
    let was_asked = before.pending.as_ref().is_some_and(|pending| pending.action == Action::Suspend);
    let ours = wish.desired() == DesiredState::Suspended || was_asked || is_suspended_by_us(before);
    let reason = if ours { "Suspended" } else { "SuspendedByOther" };
    let message = if ours {
        "the instance is held until spec.desiredState is Running"
    } else {
        "another client suspended the instance; it goes on when that client resumes it, or after spec.desiredState was Suspended and is Running again"
    };
    let verdict = match under_way(action) {
        Some(verdict) => verdict,
        None if wish.desired() == DesiredState::Suspended => Verdict::ready("Suspended", message),
        None if ours => Verdict::in_progress("Resuming", "the instance is about to be resumed"),
        None => Verdict::in_progress("SuspendedByOther", message),
    };
    verdict.with([started(adopted), Statement::yes(SUSPENDED, reason, message)])
}

/// Who ended a terminated run, by what the status said before.
fn ended(wish: &Wish, before: &OrchestrationStatus, row: &Row, now: Time) -> Ended {
    let was_ours = before.pending.as_ref().is_some_and(|pending| pending.action == Action::Terminate);
    if was_ours && wish.is_overdue(row.instance.created_time, now) {
        return Ended::ByDeadline;
    }
    ended_before(before).unwrap_or(if was_ours { Ended::AskedForBefore } else { Ended::ByOther })
}

/// The same of a run whose end the status shows already.
pub fn ended_before(before: &OrchestrationStatus) -> Option<Ended> {
    let reason = |kind| conditions::reason(&before.conditions, kind);
    match (reason(FAILED), reason(COMPLETE)) {
        (Some("DeadlineExceeded"), _) => Some(Ended::ByDeadline),
        (_, Some("Terminated")) => Some(Ended::AskedForBefore),
        (Some("Terminated"), _) if reason(READY) == Some("AlreadyTerminated") => Some(Ended::AskedForBefore),
        (Some("Terminated"), _) => Some(Ended::ByOther),
        _ => None,
    }
}
