//! What the status of an Orchestration says. Pure.
//!
//! Owns the fields and the limits of product.md 3.5; the conditions' words are
//! those of `says`. Invariants: times are the hub's, never the time of a read;
//! the same outcome described twice is the same status; what is written nests at
//! most 64 levels, since a deeper object could not be read back; with
//! `outputPolicy: Omit` nothing that a worker returned is in it.

use durable_taskhub::{Instance, Time};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::decide::{Hold, is_hands_off};
use super::says::{self, Ended};
use super::wish::{Wish, has_effect, is_accepted, is_terminal};
use crate::api::Json;
use crate::api::conditions::{self, Statement, cut};
use crate::api::v1alpha1::{
    DesiredState, Failure, HubTime, LastRewind, OrchestrationStatus, OutputPolicy, OutputReference, Pending, RewindResult, RuntimeStatus,
};

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;

/// Failures are shown up to this size, whatever the hub's limit for outputs.
const MAX_FAILURE_BYTES: usize = 8192;
const MAX_CUSTOM_STATUS_BYTES: usize = 4096;
const PREVIEW_BYTES: usize = 1024;
const MAX_TYPE_BYTES: usize = 512;
const MAX_REWIND_MESSAGE_BYTES: usize = 1024;
/// serde_json reads 128 levels; what is deeper than half of that is shown as text only.
const MAX_LEVELS: usize = 64;

/// What is echoed of the annotation that asks for a reconcile.
pub const MAX_ECHO_BYTES: usize = 256;

/// What came of a decision.
#[derive(Debug)]
pub enum Outcome {
    /// What the object says of its run stays true, under the spec as it is now.
    Unchanged,
    /// Nothing was done in the hub.
    Held(Hold),
    /// The start was sent just now.
    Accepted {
        /// ID of the instance.
        instance_id: String,
        /// ID of its execution.
        execution_id: String,
        /// The row's creation time, so that the row, seen while it waits, is nothing new to write.
        created_time: Time,
    },
    /// The row of the object's instance, and what was done to it.
    Row(Row, Change),
    /// A rewind of the run that ended then is about to begin. The object may not have shown that end yet, and after a crash a
    /// later one is told from it.
    Rewinding(Pending, Option<Time>),
    /// A rewind came to its end.
    Rewound(RewindResult, String),
    /// The ID is taken by another run.
    Conflict {
        /// ID of the instance.
        instance_id: String,
        /// What the other run is: its status, or in what it differs.
        what: String,
        /// Who has it, if another Orchestration does.
        owner: Option<String>,
    },
    /// The instance was the object's and is another's now.
    Replaced {
        /// Who has it, if another Orchestration does.
        owner: Option<String>,
    },
    /// The instance is gone.
    Missing,
}

/// What happens to the record of the action under way.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It stays, until its effect shows.
    Keep,
    /// It is this one now.
    Set(Pending),
    /// Nothing is under way any more.
    Clear,
}

/// A row and what belongs to it.
#[derive(Debug)]
pub struct Row {
    /// The row itself.
    pub instance: std::sync::Arc<Instance>,
    /// The status of the run: the history's where the row cannot be trusted.
    pub status: RuntimeStatus,
    /// True once a worker has taken up the start.
    pub has_started: bool,
    /// The output or failure of a run that ended, also if it lay in a blob; or why it cannot be shown.
    pub output: Option<Result<String, String>>,
    /// Type of the failure, if the engine recorded it.
    pub failure_type: Option<String>,
    /// True if a worker serves the hub.
    pub workers_active: bool,
    /// True if the instance was taken over just now.
    pub adopted: bool,
}

/// What an outcome is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// What the object asks for; none if that cannot be read.
    pub wish: Option<&'a Wish>,
    /// Generation of the spec.
    pub generation: i64,
    /// The annotation that asks for a reconcile.
    pub requested_at: Option<&'a str>,
    /// Outputs up to this size are shown.
    pub max_inline_bytes: usize,
    /// The time.
    pub now: Time,
}

/// The status after `outcome`, if `before` is what the object says now.
pub fn describe(before: &OrchestrationStatus, outcome: &Outcome, about: &About<'_>) -> OrchestrationStatus {
    let mut status = before.clone();
    status.last_handled_reconcile_at =
        about.requested_at.map(|value| cut(value, MAX_ECHO_BYTES).to_owned()).or(status.last_handled_reconcile_at);
    consume_token(&mut status, outcome, about);
    let desired = about.wish.map(Wish::desired).unwrap_or_default();
    let adopted = says::is_adopted(before);
    let said = match outcome {
        Outcome::Unchanged => match unchanged(before, &status, about) {
            Some(said) => said,
            None => {
                status.observed_generation = Some(about.generation);
                for condition in &mut status.conditions {
                    condition.observed_generation = Some(about.generation);
                }
                return status;
            }
        },
        Outcome::Held(hold) => {
            status.settled = *hold == Hold::NeverStarted;
            says::held(before, hold, is_accepted(before))
        }
        Outcome::Accepted { instance_id, execution_id, created_time } => {
            status.created_time = Some(HubTime(*created_time));
            status.instance_id = Some(instance_id.clone());
            status.execution_id = Some(execution_id.clone());
            status.runtime_status = Some(RuntimeStatus::Pending);
            status.settled = false;
            says::enqueued(false, desired)
        }
        Outcome::Row(row, change) => {
            let Some(wish) = about.wish else { return status };
            show(&mut status, row, wish, about.max_inline_bytes);
            status.pending = match change {
                Change::Set(pending) => Some(pending.clone()),
                Change::Clear => None,
                Change::Keep => before.pending.clone().filter(|pending| !has_effect(pending.action, row.status)),
            };
            says::row(wish, before, &status, row, about.now)
        }
        Outcome::Rewinding(pending, ended) => {
            status.pending = Some(pending.clone());
            status.completed_time = ended.map(HubTime);
            status.settled = false;
            says::rewinding(adopted)
        }
        Outcome::Rewound(result, message) => {
            status.pending = None;
            status.last_rewind = Some(last_rewind(about, *result, message));
            match (result, about.wish) {
                // The row is Pending now, and the worker that takes it up says more. When it ended is kept no longer.
                (RewindResult::Succeeded, _) => {
                    status.runtime_status = Some(RuntimeStatus::Pending);
                    status.settled = false;
                    (status.completed_time, status.output, status.output_ref, status.failure) = (None, None, None, None);
                    says::rewinding(adopted)
                }
                // The object has not shown the end yet: the row, read next, says what it was.
                (_, Some(_)) if before.runtime_status != Some(RuntimeStatus::Failed) => {
                    status.settled = false;
                    says::rewinding(adopted)
                }
                (_, Some(wish)) => {
                    status.settled = true;
                    says::run_failed(wish, &status, adopted)
                }
                (_, None) => return status,
            }
        }
        Outcome::Conflict { instance_id, what, owner } => {
            status.instance_id = Some(instance_id.clone());
            status.settled = true;
            says::conflict(instance_id, what, owner.as_deref())
        }
        Outcome::Replaced { owner } => {
            status.settled = true;
            status.pending = None;
            says::replaced(&before.conditions, owner.as_deref())
        }
        Outcome::Missing => {
            status.settled = true;
            status.pending = None;
            says::missing(&before.conditions, desired)
        }
    };
    status.observed_generation = Some(about.generation);
    let at = Timestamp::from_second(about.now.unix_seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
    status.conditions = conditions::conditions(&before.conditions, &said, about.generation, at);
    status
}

/// A token that arrives at the wrong moment is used up: it cannot fire weeks later (product.md 3.3).
fn consume_token(status: &mut OrchestrationStatus, outcome: &Outcome, about: &About<'_>) {
    let Some(wish) = about.wish else { return };
    if wish.desired() != DesiredState::Rewound {
        // A rewind without a token can be asked for again after another state was.
        if status.last_rewind.as_ref().is_some_and(|last| last.token.is_none()) {
            status.last_rewind = None;
        }
        return;
    }
    if !wish.asks_for_rewind(status) {
        return;
    }
    let known = match outcome {
        Outcome::Rewinding(..) | Outcome::Rewound(..) => return,
        Outcome::Row(row, _) => Some(row.status),
        _ => status.runtime_status,
    };
    let (result, message) = match (outcome, known) {
        (Outcome::Missing, _) => (RewindResult::Rejected, "the instance is no longer in the task hub"),
        (Outcome::Replaced { .. } | Outcome::Conflict { .. }, _) => (RewindResult::Rejected, "the instance is another client's"),
        (_, Some(_)) if is_hands_off(status) => (RewindResult::Rejected, "the instance is another client's"),
        // The rewind itself has still to be decided upon, when the hub can be asked.
        (_, Some(RuntimeStatus::Failed)) => return,
        (_, Some(RuntimeStatus::Terminated | RuntimeStatus::Canceled)) => {
            (RewindResult::Rejected, "the run was terminated, and only a run that failed can be rewound")
        }
        (Outcome::Unchanged, None) => (RewindResult::Rejected, "there is no instance to rewind"),
        // Settled without an end: the instance is gone.
        (Outcome::Unchanged, Some(known)) if !is_terminal(known) => (RewindResult::Rejected, "the instance is no longer in the task hub"),
        // Nothing is known yet of an instance that is there.
        (Outcome::Held(_), Some(_)) => return,
        _ => (RewindResult::NotNeeded, "the instance had not failed"),
    };
    status.last_rewind = Some(last_rewind(about, result, message));
}

fn last_rewind(about: &About<'_>, result: RewindResult, message: &str) -> LastRewind {
    LastRewind {
        token: about.wish.and_then(|wish| wish.spec.rewind_token.clone()),
        result,
        at: HubTime(about.now),
        message: (!message.is_empty()).then(|| cut(message, MAX_REWIND_MESSAGE_BYTES).to_owned()),
    }
}

/// What a settled object says under a changed spec; none if its conditions stay as they are.
fn unchanged(before: &OrchestrationStatus, after: &OrchestrationStatus, about: &About<'_>) -> Option<Vec<Statement>> {
    let wish = about.wish?;
    let changed = before.observed_generation != Some(about.generation);
    if !before.settled || is_hands_off(before) || !(changed || before.last_rewind != after.last_rewind) {
        return None;
    }
    let adopted = says::is_adopted(before);
    let started = says::started_as_before(&before.conditions);
    match before.runtime_status {
        // Settled without an end: the instance is gone, which also is what somebody had asked for, and may not ask for any more.
        Some(known) if !is_terminal(known) => Some(says::missing(&before.conditions, wish.desired())),
        Some(RuntimeStatus::Failed) => Some(says::run_failed(wish, after, adopted)),
        None | Some(RuntimeStatus::Terminated) => {
            let ended = match says::ended_before(before) {
                Some(Ended::ByDeadline) => Ended::ByDeadline,
                // Whoever ended it: another state is asked for now, and cannot be had.
                _ => Ended::AskedForBefore,
            };
            Some(says::terminated(wish, after, ended, started))
        }
        _ => None,
    }
}

/// Copies what the row says into the fields.
fn show(status: &mut OrchestrationStatus, row: &Row, wish: &Wish, max_inline_bytes: usize) {
    let instance = &row.instance;
    let time = |time: Option<Time>| time.map(HubTime);
    status.instance_id = Some(instance.id.clone());
    status.execution_id = instance.execution_id.clone().or(status.execution_id.take());
    status.runtime_status = Some(row.status);
    status.settled = is_terminal(row.status);
    status.created_time = time(instance.created_time);
    status.last_updated_time = time(instance.last_updated_time);
    status.completed_time = time(instance.completed_time.filter(|_| status.settled));
    (status.custom_status, status.output, status.output_ref, status.failure) = (None, None, None, None);
    let is_shown = wish.spec.output_policy == OutputPolicy::Inline;
    if is_shown {
        status.custom_status = instance.custom_status.as_deref().map(custom_status);
    }
    let text = row.output.as_ref().and_then(|output| output.as_deref().ok());
    match row.status {
        RuntimeStatus::Completed => match text.filter(|_| is_shown).map(|text| (text, shown(text, max_inline_bytes))) {
            Some((_, Some(json))) => status.output = Some(json),
            Some((text, None)) => status.output_ref = Some(reference(text)),
            None => {}
        },
        RuntimeStatus::Failed | RuntimeStatus::Terminated | RuntimeStatus::Canceled => {
            let message = text.filter(|_| is_shown).map(|text| cut(text, MAX_FAILURE_BYTES).to_owned());
            let type_ = row.failure_type.as_deref().map(|name| cut(name, MAX_TYPE_BYTES).to_owned());
            status.failure = (message.is_some() || type_.is_some()).then_some(Failure { message, type_ });
        }
        _ => {}
    }
}

/// `text` as JSON, if it is small and flat enough, and the API server can keep it; text that is no JSON becomes a string, as in Durable Functions' HTTP API.
fn shown(text: &str, max_bytes: usize) -> Option<Json> {
    if text.len() > max_bytes || levels(text) > MAX_LEVELS {
        return None;
    }
    match Json::parse(text.to_owned()) {
        // JSON that the API server would refuse (1e400) or change (half of a surrogate pair): the status could never be written.
        Some(json) => serde_json::from_str::<serde_json::Value>(text).is_ok().then_some(json),
        None => Some(Json::string(text)),
    }
}

fn custom_status(text: &str) -> Json {
    shown(text, MAX_CUSTOM_STATUS_BYTES).unwrap_or_else(|| Json::string(&format!("{}… ({} bytes)", cut(text, PREVIEW_BYTES), text.len())))
}

fn reference(text: &str) -> OutputReference {
    OutputReference {
        bytes: i64::try_from(text.len()).unwrap_or(i64::MAX),
        sha256: hex::encode(Sha256::digest(text.as_bytes())),
        preview: cut(text, PREVIEW_BYTES).to_owned(),
    }
}

/// How deep the brackets of a JSON text nest. Never recursive: the text is a stranger's.
fn levels(text: &str) -> usize {
    let (mut deepest, mut depth, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
