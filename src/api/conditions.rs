//! Condition types and reasons (product.md 2 and 3.2), and how a list of conditions changes.
//!
//! Invariant: `lastTransitionTime` moves only with the status of a condition, so
//! that writing the same conditions again changes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Everything that was asked for holds.
pub const READY: &str = "Ready";
/// The instance has started in the hub.
pub const STARTED: &str = "Started";
/// The instance is suspended.
pub const SUSPENDED: &str = "Suspended";
/// The run ended as it was asked to.
pub const COMPLETE: &str = "Complete";
/// The run ended otherwise.
pub const FAILED: &str = "Failed";
/// A worker holds a fresh lease of at least one partition of the hub.
pub const WORKERS_ACTIVE: &str = "WorkersActive";
/// kstatus: work is under way. Present only while true.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: nothing will change without help. Present only while true.
pub const STALLED: &str = "Stalled";

/// The most bytes that a message keeps; the schema of `metav1.Condition` documents 32 KiB, terminals want less.
const MAX_MESSAGE_BYTES: usize = 1024;

/// What a condition says, before it is known whether that is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The condition's type.
    pub kind: &'static str,
    /// `True` or `False`.
    pub holds: bool,
    /// The reason, a word in CamelCase that scripts rely on.
    pub reason: &'static str,
    /// What a person should know or do.
    pub message: String,
}

impl Statement {
    /// `kind` holds, because of `reason`.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Statement {
        Statement { kind, holds: true, reason, message: message.into() }
    }

    /// `kind` does not hold, because of `reason`.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Statement {
        Statement { kind, holds: false, reason, message: message.into() }
    }
}

/// The list that says exactly `statements`, with the transition times of `before` where the status is the same.
pub fn conditions(before: &[Condition], statements: &[Statement], generation: i64, now: Timestamp) -> Vec<Condition> {
    statements
        .iter()
        .map(|statement| {
            let status = if statement.holds { "True" } else { "False" };
            let kept = before.iter().find(|condition| condition.type_ == statement.kind && condition.status == status);
            // Whole seconds, as the API server keeps them: else what was read back would differ from what was written.
            let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
            Condition {
                type_: statement.kind.to_owned(),
                status: status.to_owned(),
                reason: statement.reason.to_owned(),
                message: cut(&statement.message, MAX_MESSAGE_BYTES).to_owned(),
                observed_generation: Some(generation),
                last_transition_time: kept.map_or(Time(now), |condition| condition.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The reason of the condition `kind`, if the list has it.
pub fn reason<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a str> {
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str())
}

/// The longest beginning of `text` that has at most `bytes` bytes and cuts no character.
pub fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_times_move_only_with_the_status() {
        let (early, late) = (Timestamp::from_second(10).unwrap(), Timestamp::from_second(20).unwrap());
        let first = conditions(&[], &[Statement::no(READY, "Enqueued", ""), Statement::no(STARTED, "Enqueued", "")], 1, early);
        let second = conditions(&first, &[Statement::no(READY, "Running", "x"), Statement::yes(STARTED, "Started", "")], 2, late);
        let times: Vec<_> = second.iter().map(|c| (c.type_.as_str(), c.last_transition_time.0)).collect();
        assert_eq!(times, [(READY, early), (STARTED, late)]);
        assert_eq!(second[0].reason, "Running");
        assert_eq!(conditions(&second, &[Statement::no(READY, "Running", "x"), Statement::yes(STARTED, "Started", "")], 2, early), second);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let long = "ü".repeat(2000);
        let made = conditions(&[], &[Statement::no(READY, "X", long)], 1, Timestamp::UNIX_EPOCH);
        assert_eq!(made[0].message.len(), 1024);
        assert_eq!(cut("aü", 2), "a");
    }
}
