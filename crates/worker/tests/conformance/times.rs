//! What must hold between the times of a finished or sleeping run, in our hub as in a recorded one.

use std::time::Duration;

use durable_bed::recording::{Row, Snapshot};
use durable_taskhub::Time;

/// How late anything may be by the worker's own clock.
const SLACK: Duration = Duration::from_secs(10);

/// Everything that cannot be; empty for a plausible snapshot.
pub fn implausible(snapshot: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    for instance in snapshot.rows("Instances") {
        let of_instance = |row: &&Row| row["PartitionKey"] == instance["PartitionKey"];
        let history: Vec<&Row> = snapshot.rows("History").iter().filter(of_instance).collect();
        let is_current = history.last().is_some_and(|sentinel| sentinel["ExecutionId"] == instance["ExecutionId"]);
        // The row of a pending instance, new or rewound, is its client's.
        if is_current && text(instance, "RuntimeStatus") != "Pending" {
            found.extend(implausible_instance(instance, &history));
        }
    }
    for row in snapshot.rows("Partitions").iter().filter(|row| row.contains_key("OwnedSince")) {
        let (since, renewal, expires) = (time(row, "OwnedSince"), time(row, "LastRenewal"), time(row, "ExpiresAt"));
        let lease = expires.since(renewal);
        if since > renewal {
            found.push("a lease was renewed before it was taken".into());
        }
        if !(29_999..=30_001).contains(&lease.as_millis()) {
            found.push(format!("a lease lasts {lease:?}"));
        }
    }
    found
}

fn implausible_instance(instance: &Row, history: &[&Row]) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let (mut episode, mut last) = (None, None);
    let mut timer: Option<(Time, Time)> = None;
    for row in history {
        let key = text(row, "RowKey").to_owned();
        if key == "sentinel" {
            let checkpoint = time(row, "CheckpointCompletedTimestamp");
            must(last.is_some_and(|last| within(last, checkpoint, SLACK)), "the last checkpoint is not after the last event".into());
            continue;
        }
        let (kind, at) = (text(row, "EventType"), time(row, "_Timestamp"));
        match kind {
            "OrchestratorStarted" => {
                must(last.is_none_or(|last| last <= at), format!("{key}: an episode begins before the one before it ends"));
                (episode, last) = (Some(at), Some(at));
            }
            "ExecutionStarted" => {
                must(at == time(instance, "CreatedTime"), format!("{key}: CreatedTime is not the start's"));
                must(episode.is_some_and(|episode| at <= episode), format!("{key}: started after its episode"));
            }
            "EventRaised" | "ExecutionSuspended" | "ExecutionResumed" | "ExecutionTerminated" => {
                must(episode.is_some_and(|episode| at <= episode), format!("{key}: {kind} comes after its episode"));
            }
            // A rewind's message, or what a rewind rewrote.
            "GenericEvent" => {}
            "TaskCompleted" | "TaskFailed" | "SubOrchestrationInstanceCompleted" | "SubOrchestrationInstanceFailed" => {
                must(episode.is_some_and(|episode| within(at, episode, SLACK)), format!("{key}: comes after its episode"))
            }
            "TimerFired" => {
                let fire_at = time(row, "FireAt");
                let made = timer.is_some_and(|(made, expected)| expected == fire_at && within(made, at, Duration::from_secs(1)));
                must(made, format!("{key}: is not the timer that was made"));
                // Whole seconds, cut: early by less than one (task-hub.md, Appendix D).
                let due = episode.is_some_and(|episode| within(fire_at, episode.saturating_add(Duration::from_secs(1)), SLACK));
                must(due, format!("{key}: fired at the wrong time"));
            }
            _ => {
                must(last.is_some_and(|last| within(last, at, SLACK)), format!("{key}: {kind} is before what it follows"));
                if kind == "TimerCreated" {
                    let seconds: u64 = text(instance, "Input").parse().unwrap();
                    let fire_at = time(row, "FireAt");
                    let expected = episode.map(|episode: Time| episode.saturating_add(Duration::from_secs(seconds)));
                    must(expected == Some(fire_at), format!("{key}: FireAt is not the episode's begin + {seconds} s"));
                    timer = Some((at, fire_at));
                }
                last = Some(at);
            }
        }
    }
    must(last == Some(time(instance, "LastUpdatedTime")), "LastUpdatedTime is not the last event's".into());
    if instance.contains_key("CompletedTime") {
        let completed = time(instance, "CompletedTime");
        must(last.is_some_and(|last| within(last, completed, SLACK)), "CompletedTime is not after the last event".into());
    }
    found
}

fn within(early: Time, late: Time, slack: Duration) -> bool {
    early <= late && late.since(early) <= slack
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(|cell| cell.value.as_str()).unwrap_or_else(|| panic!("no column {column}: {row:?}"))
}

fn time(row: &Row, column: &str) -> Time {
    Time::parse(text(row, column)).unwrap()
}
