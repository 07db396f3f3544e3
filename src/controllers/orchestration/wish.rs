//! What an Orchestration object asks for: its spec, and which instance it is about. Pure.

use std::time::Duration;

use durable_taskhub::Time;

use super::identity::Identity;
use crate::api::conditions::{self, SUSPENDED};
use crate::api::v1alpha1::{
    Action, DeletionPolicy, DesiredState, OrchestrationSpec, OrchestrationStatus, RewindResult, RuntimeStatus, StartPolicy,
};
use crate::traces::RunTrace;

/// What the object asks for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The instance.
    pub identity: Identity,
    /// The spec.
    pub spec: OrchestrationSpec,
    /// The trace that the run belongs to.
    pub trace: Option<RunTrace>,
}

/// Why the object's spec can not be carried out as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The condition's reason.
    pub reason: &'static str,
    /// What to change.
    pub message: String,
}

impl Wish {
    /// The state that is asked for.
    pub fn desired(&self) -> DesiredState {
        self.spec.desired_state
    }

    /// True if the object may make an instance.
    pub fn may_start(&self) -> bool {
        self.spec.start_policy != StartPolicy::Adopt
    }

    /// When the instance may be made, if that lies ahead.
    pub fn starts_later(&self, now: Time) -> Option<Time> {
        self.spec.start_at.as_ref().map(|at| at.0).filter(|at| *at > now && self.may_start())
    }

    /// True if the deletion of the object has to be carried into the hub.
    pub fn outlives_object(&self) -> bool {
        self.spec.deletion_policy != DeletionPolicy::Retain
    }

    /// True if a rewind is asked for that was not handled yet. No token counts as one, until another state is asked for.
    pub fn asks_for_rewind(&self, status: &OrchestrationStatus) -> bool {
        self.desired() == DesiredState::Rewound && status.last_rewind.as_ref().is_none_or(|last| last.token != self.spec.rewind_token)
    }

    /// True if the rewind that is asked for was refused.
    pub fn rewind_was_refused(&self, status: &OrchestrationStatus) -> bool {
        self.desired() == DesiredState::Rewound
            && !self.asks_for_rewind(status)
            && status.last_rewind.as_ref().is_some_and(|last| matches!(last.result, RewindResult::Rejected | RewindResult::Failed))
    }

    /// When the run has to have ended.
    pub fn deadline(&self, created: Option<Time>) -> Option<Time> {
        let seconds = u64::try_from(self.spec.active_deadline_seconds?).unwrap_or_default();
        Some(created?.saturating_add(Duration::from_secs(seconds)))
    }

    /// True if the deadline of a run that was created then has passed.
    pub fn is_overdue(&self, created: Option<Time>, now: Time) -> bool {
        self.deadline(created).is_some_and(|deadline| deadline <= now)
    }

    /// What has to be done to a started and unfinished instance in that state.
    pub fn action(&self, runtime_status: RuntimeStatus, status: &OrchestrationStatus, created: Option<Time>, now: Time) -> Option<Action> {
        let is_suspended = runtime_status == RuntimeStatus::Suspended;
        match self.desired() {
            DesiredState::Terminated => Some(Action::Terminate),
            _ if self.is_overdue(created, now) => Some(Action::Terminate),
            DesiredState::Suspended => (!is_suspended).then_some(Action::Suspend),
            DesiredState::Running | DesiredState::Rewound => (is_suspended && is_suspended_by_us(status)).then_some(Action::Resume),
        }
    }
}

/// True if the suspension that the status shows was asked for through the object.
pub fn is_suspended_by_us(status: &OrchestrationStatus) -> bool {
    conditions::reason(&status.conditions, SUSPENDED) == Some("Suspended")
}

/// True if the status shows an instance of the object: it was started or taken over.
pub fn is_accepted(status: &OrchestrationStatus) -> bool {
    status.runtime_status.is_some()
}

/// True if an action has shown its effect on an instance in that state.
pub fn has_effect(action: Action, runtime_status: RuntimeStatus) -> bool {
    match action {
        _ if is_terminal(runtime_status) => action != Action::Rewind,
        Action::Suspend => runtime_status == RuntimeStatus::Suspended,
        Action::Resume => runtime_status != RuntimeStatus::Suspended,
        Action::Terminate | Action::Rewind => false,
    }
}

/// True if a run with this status does nothing more by itself.
pub fn is_terminal(status: RuntimeStatus) -> bool {
    matches!(status, RuntimeStatus::Completed | RuntimeStatus::Failed | RuntimeStatus::Terminated | RuntimeStatus::Canceled)
}

/// The hub's word as the API's.
pub fn runtime_status(status: durable_taskhub::RuntimeStatus) -> RuntimeStatus {
    use durable_taskhub::RuntimeStatus as Hub;
    match status {
        Hub::Pending => RuntimeStatus::Pending,
        Hub::Running => RuntimeStatus::Running,
        Hub::Suspended => RuntimeStatus::Suspended,
        Hub::Completed => RuntimeStatus::Completed,
        Hub::Failed => RuntimeStatus::Failed,
        Hub::Terminated => RuntimeStatus::Terminated,
        Hub::Canceled => RuntimeStatus::Canceled,
        Hub::ContinuedAsNew => RuntimeStatus::ContinuedAsNew,
        Hub::Unknown => RuntimeStatus::Unknown,
    }
}
