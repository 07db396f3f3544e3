//! Whether an instance may be purged. Pure: row and history in, verdict out.
//!
//! History is the truth; the row is a summary that several writers overwrite
//! (task-hub.md 5.6). The row decides in two cases alone: where there is no
//! history, and where it belongs to a newer start than the history.

use std::time::Duration;

use crate::history::Rows;
use crate::instance::{Instance, RuntimeStatus};
use crate::storage::Entity;
use crate::time::Time;

/// A checkpoint writes the row right after the history, within milliseconds; a row that is still behind after this time
/// was left behind by a worker that crashed in between.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may go; the row is first to be given this status, if one is named.
    Purge { repair: Option<RuntimeStatus> },
    /// There is nothing of it.
    NotFound,
    /// It has not ended.
    NotTerminal(RuntimeStatus),
    /// It has ended just now.
    Settling,
}

pub(super) fn judge(row: Option<&Instance>, history: &Rows) -> Verdict {
    let ended = history.current.iter().rev().find(|row| is_end(row));
    match (row, ended) {
        (None, _) if history.is_empty() => Verdict::NotFound,
        // What an interrupted purge of .NET leaves, which removes the row at any time.
        (None, Some(_)) => Verdict::Purge { repair: None },
        (None, None) if history.current.is_empty() => Verdict::Purge { repair: None },
        // The first checkpoint of a sub-orchestration writes its history before its row.
        (None, None) => Verdict::NotTerminal(RuntimeStatus::Running),
        (Some(row), None) if history.current.is_empty() => of_status(row.runtime_status),
        // The row may say Terminated while the instance runs on (engine-experiments.md 5.10).
        (Some(row), None) if row.runtime_status.is_terminal() => Verdict::NotTerminal(RuntimeStatus::Running),
        (Some(row), None) => Verdict::NotTerminal(row.runtime_status),
        // A newer start of the same ID, which no worker has taken up.
        (Some(row), Some(_)) if row.execution_id.as_deref() != history.execution_id() => of_status(row.runtime_status),
        (Some(row), Some(_)) if row.runtime_status.is_terminal() => Verdict::Purge { repair: None },
        (Some(_), Some(end)) if settled(history) => {
            let status = end.text("OrchestrationStatus").map(RuntimeStatus::from_name).filter(|status| status.is_terminal());
            Verdict::Purge { repair: Some(status.unwrap_or(RuntimeStatus::Completed)) }
        }
        (Some(_), Some(_)) => Verdict::Settling,
    }
}

/// True for the row that ends an execution. One that a rewind took back is a `GenericEvent`.
pub(super) fn is_end(row: &Entity) -> bool {
    row.text("EventType") == Some("ExecutionCompleted")
}

fn of_status(status: RuntimeStatus) -> Verdict {
    if status.is_terminal() { Verdict::Purge { repair: None } } else { Verdict::NotTerminal(status) }
}

/// Both times are the service's: clocks of workers do not matter.
fn settled(history: &Rows) -> bool {
    let written = history.sentinel.as_ref().and_then(|row| row.timestamp);
    let age = |written: Time| history.date.map(|now| now.since(written));
    written.and_then(age).is_some_and(|age| age > SETTLES_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(status: &str, execution: &str) -> Instance {
        Instance::from_row(Entity::new("i", "").with("RuntimeStatus", status).with("ExecutionId", execution), "")
    }

    fn history(execution: &str, end: Option<&str>, age: u64) -> Rows {
        let now = Time::parse("2026-01-01T12:00:00Z").unwrap();
        let row = |event_type: &str| Entity::new("i", "0").with("EventType", event_type).with("ExecutionId", execution);
        let mut current = vec![row("OrchestratorStarted"), row("ExecutionStarted")];
        current.extend(end.map(|status| row("ExecutionCompleted").with("OrchestrationStatus", status)));
        let mut sentinel = Entity::new("i", "sentinel").with("ExecutionId", execution);
        sentinel.timestamp = Some(now);
        Rows { current, leftovers: Vec::new(), sentinel: Some(sentinel), date: Some(now.saturating_add(Duration::from_secs(age))) }
    }

    #[test]
    fn history_decides() {
        let purge = || Verdict::Purge { repair: None };
        for (row, history, expected) in [
            (Some(instance("Completed", "E")), history("E", Some("Completed"), 0), purge()),
            // A terminate that came too late: the row contradicts the history (engine-experiments.md 5.8).
            (Some(instance("Terminated", "E")), history("E", Some("Completed"), 0), purge()),
            // A terminate with a foreign execution ID: the instance runs on (5.10).
            (Some(instance("Terminated", "E")), history("E", None, 0), Verdict::NotTerminal(RuntimeStatus::Running)),
            // Rewound: Pending, and alive (7.19).
            (Some(instance("Pending", "E")), history("E", None, 0), Verdict::NotTerminal(RuntimeStatus::Pending)),
            // Terminated before it started (5.1), and what an interrupted purge leaves.
            (Some(instance("Terminated", "E")), Rows::default(), purge()),
            (Some(instance("Pending", "E")), Rows::default(), Verdict::NotTerminal(RuntimeStatus::Pending)),
            // Started anew: the history is the run before.
            (Some(instance("Pending", "F")), history("E", Some("Completed"), 100), Verdict::NotTerminal(RuntimeStatus::Pending)),
            (None, history("E", Some("Failed"), 0), purge()),
            (None, history("E", None, 0), Verdict::NotTerminal(RuntimeStatus::Running)),
            (None, Rows::default(), Verdict::NotFound),
            // A crash between the two writes of the last checkpoint.
            (Some(instance("Running", "E")), history("E", Some("Failed"), 10), Verdict::Settling),
            (Some(instance("Running", "E")), history("E", Some("Failed"), 61), Verdict::Purge { repair: Some(RuntimeStatus::Failed) }),
        ] {
            assert_eq!(judge(row.as_ref(), &history), expected, "{row:?}");
        }
    }

    #[test]
    fn continue_as_new_and_rewound_ends_are_no_ends() {
        let row = |event_type: &str| Entity::new("i", "0").with("EventType", event_type).with("OrchestrationStatus", "Failed");
        assert!(is_end(&row("ExecutionCompleted")));
        assert!(!is_end(&row("GenericEvent")));
        assert!(!is_end(&row("ContinueAsNew")));
    }
}
