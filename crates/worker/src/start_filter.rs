//! Which start messages run: the engine's filter, rule by rule (task-hub.md 7.2).
//!
//! The Instances row is the arbiter: a start whose execution is not the row's
//! waits for its row, and is dropped when it is clear that it lost.

use durable_taskhub::Time;
use durable_taskhub::storage::Entity;

use crate::poll::back_off_seconds;

/// The 10th delivery of a start without its row is the last.
const LAST_DELIVERY: u64 = 10;

/// A start message as far as the filter looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The execution that it would start.
    pub execution_id: &'a str,
    /// The event's generation; an absent one never matches.
    pub generation: Option<i32>,
    /// The event's timestamp.
    pub timestamp: Time,
    /// How often it was received, this time included.
    pub dequeue_count: u64,
    /// When it was received this time.
    pub received_at: Time,
}

/// What becomes of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the row's own start.
    Run,
    /// It lost to another start, or its row never came.
    Discard,
    /// Its row may still come: ask again after so many seconds.
    Defer(u64),
}

/// Rules 1 to 4, in order.
pub fn judge(start: Start<'_>, row: Option<&Entity>) -> Verdict {
    if let Some(row) = row {
        if row.text("ExecutionId").is_none_or(|id| id.eq_ignore_ascii_case(start.execution_id)) {
            return Verdict::Run;
        }
        let same_generation = start.generation.is_some_and(|generation| generation == row.int32("Generation").unwrap_or(0));
        if same_generation && scheduled_after(start, row) {
            return Verdict::Discard;
        }
    }
    if start.dequeue_count >= LAST_DELIVERY { Verdict::Discard } else { Verdict::Defer(back_off_seconds(start.dequeue_count)) }
}

fn scheduled_after(start: Start<'_>, row: &Entity) -> bool {
    let Some(created) = row.time("CreatedTime") else { return false };
    (row.text("RuntimeStatus") == Some("Pending") && created < start.timestamp) || (start.dequeue_count > 1 && start.received_at > created)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time::parse("2026-11-23T07:29:00Z").unwrap().saturating_add(Duration::from_secs(seconds))
    }

    fn start() -> Start<'static> {
        Start { execution_id: "abc", generation: Some(0), timestamp: at(10), dequeue_count: 1, received_at: at(11) }
    }

    fn row(execution_id: &str, status: &str, created: u64) -> Entity {
        Entity::new("i", "")
            .with("ExecutionId", execution_id)
            .with("RuntimeStatus", status)
            .with("CreatedTime", at(created))
            .with("Generation", 0)
    }

    #[test]
    fn the_rows_own_start_runs_in_any_letter_case_and_in_any_status() {
        assert_eq!(judge(start(), Some(&row("ABC", "Completed", 0))), Verdict::Run);
        let mut old = row("x", "Pending", 0);
        old.columns.remove("ExecutionId");
        assert_eq!(judge(start(), Some(&old)), Verdict::Run);
        assert_eq!(judge(Start { dequeue_count: 99, ..start() }, Some(&row("abc", "Pending", 99))), Verdict::Run);
    }

    #[test]
    fn a_start_made_after_anothers_row_is_discarded() {
        assert_eq!(judge(start(), Some(&row("other", "Pending", 9))), Verdict::Discard);
        assert_eq!(judge(start(), Some(&row("other", "Pending", 10))), Verdict::Defer(2));
        assert_eq!(judge(start(), Some(&row("other", "Running", 9))), Verdict::Defer(2));
        let second = Start { dequeue_count: 2, received_at: at(20), ..start() };
        assert_eq!(judge(second, Some(&row("other", "Running", 19))), Verdict::Discard);
        assert_eq!(judge(second, Some(&row("other", "Running", 20))), Verdict::Defer(4));
    }

    #[test]
    fn another_generation_waits() {
        let mut other = row("other", "Pending", 0);
        other.set("Generation", 1);
        assert_eq!(judge(start(), Some(&other)), Verdict::Defer(2));
        other.columns.remove("Generation");
        assert_eq!(judge(start(), Some(&other)), Verdict::Discard);
        assert_eq!(judge(Start { generation: None, ..start() }, Some(&other)), Verdict::Defer(2));
    }

    #[test]
    fn a_start_without_row_waits_for_seventeen_minutes() {
        let delays: Vec<Verdict> = (1..=10).map(|dequeue_count| judge(Start { dequeue_count, ..start() }, None)).collect();
        let mut expected: Vec<Verdict> = [2, 4, 8, 16, 32, 64, 128, 256, 512].into_iter().map(Verdict::Defer).collect();
        expected.push(Verdict::Discard);
        assert_eq!(delays, expected);
    }
}
