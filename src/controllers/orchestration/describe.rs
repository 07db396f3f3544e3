//! What the status of an Orchestration says. Pure.
//!
//! Owns the conditions of product.md 3.2 and the limits of 3.5. Invariants:
//! times are the hub's, never the time of a read; the same outcome described
//! twice is the same status; what is written nests at most 64 levels, since a
//! deeper object could not be read back.

use durable_taskhub::{Instance, RuntimeStatus, Time};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::decide::{Hold, START_EXPECTED_AFTER};
use crate::api::Json;
use crate::api::conditions::{self, COMPLETE, FAILED, READY, RECONCILING, STALLED, STARTED, SUSPENDED, Statement, cut};
use crate::api::v1alpha1::{self, Failure, HubTime, OrchestrationStatus, OutputReference};
use crate::controllers::events::Notice;
use crate::crash_points::scaled;

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;

/// Outputs up to this size are shown on the object (product.md 2, `maxInlineOutputBytes`).
pub const MAX_INLINE_BYTES: usize = 8192;
const MAX_CUSTOM_STATUS_BYTES: usize = 4096;
const PREVIEW_BYTES: usize = 1024;
/// serde_json reads 128 levels; what is deeper than half of that is shown as text only.
const MAX_LEVELS: usize = 64;

/// What is echoed of the annotation that asks for a reconcile.
pub const MAX_ECHO_BYTES: usize = 256;

/// What came of a decision.
#[derive(Debug)]
pub enum Outcome {
    /// What the object says stays true.
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
    /// The row of the object's instance.
    Row(Row),
    /// The ID is taken by another run.
    Conflict {
        /// ID of the instance.
        instance_id: String,
        /// Status of the other run.
        status: RuntimeStatus,
        /// Who started it, if another Orchestration did.
        owner: Option<String>,
    },
    /// The instance was the object's and is another's now.
    Replaced {
        /// Who started it, if another Orchestration did.
        owner: Option<String>,
    },
    /// The instance is gone.
    Missing,
}

/// A row and what belongs to it.
#[derive(Debug)]
pub struct Row {
    /// The row itself.
    pub instance: std::sync::Arc<Instance>,
    /// The output of a run that ended, also if it lay in a blob; or why it cannot be shown.
    pub output: Option<Result<String, String>>,
    /// True if a worker serves the hub.
    pub workers_active: bool,
}

/// The status after `outcome`, if `before` is what the object says now.
pub fn describe(
    before: &OrchestrationStatus,
    outcome: &Outcome,
    generation: i64,
    requested_at: Option<&str>,
    now: Time,
) -> OrchestrationStatus {
    let mut status = before.clone();
    status.last_handled_reconcile_at = requested_at.map(|value| cut(value, MAX_ECHO_BYTES).to_owned()).or(status.last_handled_reconcile_at);
    let said = match outcome {
        Outcome::Unchanged => return status,
        Outcome::Held(hold) => held(hold),
        Outcome::Accepted { instance_id, execution_id, created_time } => {
            status.created_time = Some(HubTime(*created_time));
            status.instance_id = Some(instance_id.clone());
            status.execution_id = Some(execution_id.clone());
            status.runtime_status = Some(v1alpha1::RuntimeStatus::Pending);
            enqueued(false, true)
        }
        Outcome::Row(row) => {
            show(&mut status, row);
            row_says(row, now)
        }
        Outcome::Conflict { instance_id, status: other, owner } => {
            status.instance_id = Some(instance_id.clone());
            status.settled = true;
            conflict(instance_id, *other, owner.as_deref())
        }
        Outcome::Replaced { owner } => {
            status.settled = true;
            let by = by_whom(owner.as_deref());
            let message = format!(
                "another client started an instance of the same ID anew ({by}); this object keeps what it knew of its own run and does nothing more"
            );
            with_started(Verdict::stalled("Replaced", message), true)
        }
        Outcome::Missing => {
            status.settled = true;
            let message = "the instance is no longer in the task hub: it was purged, or the hub was deleted. It is not started again; apply a new object to run it again";
            failed("InstanceMissing", message.to_owned())
        }
    };
    status.observed_generation = Some(generation);
    let at = Timestamp::from_second(now.unix_seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
    status.conditions = conditions::conditions(&before.conditions, &said, generation, at);
    status
}

/// What a person should be told of the change from `before` to `after`.
pub fn notice(before: &OrchestrationStatus, after: &OrchestrationStatus) -> Option<Notice> {
    let ready = after.conditions.iter().find(|condition| condition.type_ == READY)?;
    if conditions::reason(&before.conditions, READY) == Some(ready.reason.as_str()) {
        return None;
    }
    let (reason, action) = TOLD.iter().find(|(reason, _)| *reason == ready.reason)?;
    Some(Notice { is_warning: true, reason, action, note: ready.message.clone() })
}

/// The reasons that are told as Events, and what the operator was doing.
const TOLD: [(&str, &str); 10] = [
    ("InvalidSpec", "Read"),
    ("InvalidInstanceId", "Start"),
    ("InputTooLarge", "Start"),
    ("Conflict", "Start"),
    ("SuspendedByOther", "Observe"),
    ("OrchestrationFailed", "Observe"),
    ("Terminated", "Observe"),
    ("Canceled", "Observe"),
    ("Replaced", "Observe"),
    ("InstanceMissing", "Observe"),
];

/// How `Ready` stands, and with it kstatus' conditions.
struct Verdict {
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
}

fn with_started(verdict: Verdict, started: bool) -> Vec<Statement> {
    let said = if started { started_yes() } else { Statement::no(STARTED, verdict.reason, verdict.message.clone()) };
    verdict.with([said])
}

fn started_yes() -> Statement {
    Statement::yes(STARTED, "Started", "a worker has started the instance")
}

fn held(hold: &Hold) -> Vec<Statement> {
    let verdict = match hold {
        Hold::Refused(refusal) => Verdict::stalled(refusal.reason, refusal.message.clone()),
        Hold::TaskHubNotFound => Verdict::in_progress(
            "TaskHubNotFound",
            "the TaskHub of spec.taskHubRef does not exist in this namespace; the instance is started when it is there",
        ),
        Hold::TaskHubNotReady(why) => {
            let message = format!("the TaskHub is not ready ({}): {}", why.reason, why.message);
            Verdict::in_progress("TaskHubNotReady", message)
        }
    };
    let not_created = Statement::no(STARTED, "NotCreated", "nothing was written to the task hub");
    verdict.with([not_created])
}

fn enqueued(no_workers: bool, just_now: bool) -> Vec<Statement> {
    if no_workers && !just_now {
        let message = "the start waits in the task hub, and no worker serves the hub: check that the app runs and uses this task hub and storage account (kubectl get taskhub shows the hub). The start is not lost";
        return with_started(Verdict::in_progress("NoActiveWorkers", message), false);
    }
    with_started(Verdict::in_progress("Enqueued", "the start is in the task hub and waits for a worker"), false)
}

fn conflict(instance_id: &str, status: RuntimeStatus, owner: Option<&str>) -> Vec<Statement> {
    let by = by_whom(owner);
    let message = format!(
        "the task hub already has an instance {instance_id} ({status}, {by}), which was left alone: use another spec.instanceId, or purge that instance, and apply a new object"
    );
    with_started(Verdict::stalled("Conflict", message), false)
}

fn by_whom(owner: Option<&str>) -> String {
    owner.map_or_else(|| "started by another client".to_owned(), |owner| format!("started by Orchestration {owner}"))
}

fn failed(reason: &'static str, message: String) -> Vec<Statement> {
    let failed = Statement::yes(FAILED, reason, message.clone());
    Verdict::stalled(reason, message).with([started_yes(), failed])
}

fn row_says(row: &Row, now: Time) -> Vec<Statement> {
    let instance = &row.instance;
    match instance.runtime_status {
        RuntimeStatus::Pending if !instance.has_started => {
            let waits = instance.created_time.is_some_and(|created| now.since(created) >= scaled(START_EXPECTED_AFTER));
            enqueued(waits && !row.workers_active, false)
        }
        RuntimeStatus::Pending | RuntimeStatus::Running | RuntimeStatus::ContinuedAsNew | RuntimeStatus::Unknown => {
            with_started(Verdict::in_progress("Running", "the instance runs"), true)
        }
        RuntimeStatus::Suspended => {
            let message = "another client suspended the instance; it goes on when that client resumes it";
            let suspended = Statement::yes(SUSPENDED, "SuspendedByOther", message);
            Verdict::in_progress("SuspendedByOther", message).with([started_yes(), suspended])
        }
        RuntimeStatus::Completed => {
            let message = match &row.output {
                Some(Err(why)) => format!("the run completed; its output cannot be shown: {why}"),
                _ => "the run completed".to_owned(),
            };
            let complete = Statement::yes(COMPLETE, "Completed", message.clone());
            Verdict { reason: "Completed", message, stands: Stands::Ready }.with([started_yes(), complete])
        }
        RuntimeStatus::Failed => failed("OrchestrationFailed", "the run failed; status.failure has the hub's message".to_owned()),
        RuntimeStatus::Terminated => failed("Terminated", "another client terminated the run".to_owned()),
        RuntimeStatus::Canceled => failed("Canceled", "the run was canceled".to_owned()),
    }
}

/// Copies what the row says into the fields.
fn show(status: &mut OrchestrationStatus, row: &Row) {
    let instance = &row.instance;
    let time = |time: Option<Time>| time.map(HubTime);
    status.instance_id = Some(instance.id.clone());
    status.execution_id = instance.execution_id.clone().or(status.execution_id.take());
    status.runtime_status = Some(runtime_status(instance.runtime_status));
    status.settled = instance.runtime_status.is_terminal();
    status.created_time = time(instance.created_time);
    status.last_updated_time = time(instance.last_updated_time);
    status.completed_time = time(instance.completed_time.filter(|_| status.settled));
    status.custom_status = instance.custom_status.as_deref().map(custom_status);
    (status.output, status.output_ref, status.failure) = (None, None, None);
    let text = match &row.output {
        Some(Ok(text)) => text,
        Some(Err(_)) | None => return,
    };
    match instance.runtime_status {
        RuntimeStatus::Completed => match shown(text, MAX_INLINE_BYTES) {
            Some(json) => status.output = Some(json),
            None => status.output_ref = Some(reference(text)),
        },
        RuntimeStatus::Failed | RuntimeStatus::Terminated | RuntimeStatus::Canceled => {
            status.failure = Some(Failure { message: Some(cut(text, MAX_INLINE_BYTES).to_owned()), type_: None });
        }
        _ => {}
    }
}

fn runtime_status(status: RuntimeStatus) -> v1alpha1::RuntimeStatus {
    match status {
        RuntimeStatus::Pending => v1alpha1::RuntimeStatus::Pending,
        RuntimeStatus::Running => v1alpha1::RuntimeStatus::Running,
        RuntimeStatus::Suspended => v1alpha1::RuntimeStatus::Suspended,
        RuntimeStatus::Completed => v1alpha1::RuntimeStatus::Completed,
        RuntimeStatus::Failed => v1alpha1::RuntimeStatus::Failed,
        RuntimeStatus::Terminated => v1alpha1::RuntimeStatus::Terminated,
        RuntimeStatus::Canceled => v1alpha1::RuntimeStatus::Canceled,
        RuntimeStatus::ContinuedAsNew => v1alpha1::RuntimeStatus::ContinuedAsNew,
        RuntimeStatus::Unknown => v1alpha1::RuntimeStatus::Unknown,
    }
}

/// `text` as JSON, if it is small and flat enough; text that is no JSON becomes a string, as in Durable Functions' HTTP API.
fn shown(text: &str, max_bytes: usize) -> Option<Json> {
    if text.len() > max_bytes || levels(text) > MAX_LEVELS {
        return None;
    }
    Json::parse(text.to_owned()).or_else(|| Some(Json::string(text)))
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
