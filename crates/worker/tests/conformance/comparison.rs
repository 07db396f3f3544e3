//! When a snapshot of our hub equals a recorded one, and the exceptions from it.
//!
//! Ids, times, trace contexts and random parts of names are free: `Snapshot::normalised` replaces them. Beyond that:
//!
//! - the text about an unknown function lists what the worker knows: the recorded one knew an entity's caller as well;
//! - `Details` of failed tasks is a serialised .NET exception, with a stack trace: our worker writes none;
//! - in scenarios that say so, the order of answers, and how many come in one episode, is that of a race ([`Order`]).

use durable_bed::recording::{Recording, Row, Snapshot, difference};

use crate::support::{TestHub, recording};
use crate::times::implausible;

/// What of the history's order must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All of it.
    Exact,
    /// Calls run side by side: their answers come in any order, in one episode or in several.
    Racing,
}

/// Equal but for the exceptions that hold everywhere.
pub fn compare(hub: &TestHub, recording: &Recording, expected: &Snapshot, actual: &Snapshot) {
    compare_in(Order::Exact, hub, recording, expected, actual);
}

/// Equal but for the exceptions, with this order of history rows.
pub fn compare_in(order: Order, hub: &TestHub, recording: &Recording, expected: &Snapshot, actual: &Snapshot) {
    for snapshot in [expected, actual] {
        assert_eq!(torn_episodes(snapshot), Vec::<String>::new(), "{} in {}", snapshot.label, hub.name);
        assert_eq!(implausible(snapshot), Vec::<String>::new(), "{} at {:?} in {}", recording.scenario, snapshot.label, hub.name);
    }
    let ours = actual.rows("History").iter().filter(|row| row.contains_key("Details")).count();
    assert_eq!(ours, 0, "{}: our worker serialises no exceptions", recording.scenario);
    let expected = lines(order, expected, &recording.hub);
    let found = lines(order, actual, hub.name.as_str());
    if let Some(difference) = difference(&expected, &found) {
        panic!("{} at {:?} in {} ({}):\n{difference}", recording.scenario, actual.label, hub.name, hub.folder.display());
    }
}

fn lines(order: Order, snapshot: &Snapshot, hub: &str) -> Vec<String> {
    let lines = snapshot.normalised(hub);
    let lines = lines.iter().filter(|line| !line.contains("] Details (Edm.String): ")).map(|line| without_known_functions(line)).collect();
    if order == Order::Exact { lines } else { without_order(lines) }
}

/// History rows without their keys and without the marks of episodes.
fn without_order(lines: Vec<String>) -> Vec<String> {
    const HISTORY: &str = "table <Hub>History";
    let (history, mut others): (Vec<String>, Vec<String>) = lines.into_iter().partition(|line| line.starts_with(HISTORY));
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for line in history {
        // The number of rows is not kept: it depends on the number of episodes.
        let Some((key, column)) = line.split_once("] ") else { continue };
        match rows.last_mut() {
            Some((last, columns)) if last == key => columns.push(column.to_owned()),
            _ => rows.push((key.to_owned(), vec![column.to_owned()])),
        }
    }
    for (key, columns) in rows {
        let mut columns: Vec<String> = columns.into_iter().filter(|column| !column.starts_with("RowKey ")).collect();
        let mark = |column: &String| column.starts_with("EventType ") && column.contains("\"Orchestrator");
        if !columns.iter().any(mark) {
            let partition = key.split_once('|').map_or(key.as_str(), |(partition, _)| partition);
            columns.sort();
            others.push(format!("{partition}: {}", columns.join(", ")));
        }
    }
    others
}

/// Each episode begins with `OrchestratorStarted` and ends with `OrchestratorCompleted`, whatever it holds.
fn torn_episodes(snapshot: &Snapshot) -> Vec<String> {
    let mut torn = Vec::new();
    let mut open: Option<String> = None;
    for row in snapshot.rows("History") {
        let instance = row["PartitionKey"].value.to_string();
        let kind = row.get("EventType").map_or("sentinel", |cell| cell.value.as_str().unwrap_or_default());
        let is_open = open.as_ref() == Some(&instance);
        if is_open == matches!(kind, "OrchestratorStarted" | "sentinel") {
            torn.push(format!("{instance} {}: {kind}", row["RowKey"].value));
        }
        open = (kind != "OrchestratorCompleted" && kind != "sentinel").then_some(instance);
    }
    torn
}

/// The exception: the text about an unknown function lists what the worker knows, and the recorded worker knew more.
fn without_known_functions(line: &str) -> String {
    let Some((before, list)) = line.split_once("known orchestrator functions: ") else { return line.to_owned() };
    for known in ["'Approval'", "'Cascade'", "'Echo'", "'Fail'", "'HelloSequence'", "'ParentChild'", "'Sleep'"] {
        assert!(list.contains(known), "{line}");
    }
    assert!(list.ends_with("'.\""), "{line}");
    format!("{before}known orchestrator functions: <list>")
}

/// One changed value is found, also where order and large values are made comparable.
#[test]
fn changes_are_found_in_racing_and_in_large_scenarios() {
    for (scenario, label, order) in [
        ("start_cascade", "done", Order::Racing),
        ("start_fanout", "done", Order::Racing),
        ("big_event", "event queued", Order::Exact),
        ("big_input", "queued", Order::Exact),
        ("rewind_parent_child", "completed", Order::Exact),
    ] {
        let recording = recording(scenario);
        let original = recording.snapshot(label).unwrap();
        let differs =
            |changed: &Snapshot| difference(&lines(order, original, &recording.hub), &lines(order, changed, &recording.hub)).is_some();
        assert!(!differs(original));
        let is_mark =
            |row: &Row| row.get("EventType").and_then(|cell| cell.value.as_str()).is_some_and(|kind| kind.starts_with("Orchestrator"));
        for (table, rows) in &original.tables {
            for (at, row) in rows.iter().enumerate() {
                for column in row.keys() {
                    let free = row[column].edm == "Edm.DateTime"
                        || column == "Details"
                        || (order == Order::Racing
                            && table.ends_with("History")
                            && (column == "RowKey" || (is_mark(row) && column != "EventType")));
                    let mut changed = original.clone();
                    changed.tables.get_mut(table).unwrap()[at].get_mut(column).unwrap().value = "changed".into();
                    assert_eq!(differs(&changed), !free, "{scenario} {label} {table} {at} {column}");
                }
                let mut missing = original.clone();
                missing.tables.get_mut(table).unwrap().remove(at);
                assert_eq!(differs(&missing), order == Order::Exact || !is_mark(row), "{scenario} {label} without {table} {at}");
            }
        }
        for (queue, state) in &original.queues {
            for at in 0..state.messages.len() {
                let mut changed = original.clone();
                let text = &mut changed.queues.get_mut(queue).unwrap().messages[at].text;
                *text = text.replacen("message-", "massage-", 1);
                assert!(differs(&changed), "{scenario} {label} {queue} {at}");
            }
        }
        for (container, blobs) in &original.blobs {
            for at in 0..blobs.as_ref().map_or(0, Vec::len) {
                let mut changed = original.clone();
                changed.blobs.get_mut(container).unwrap().as_mut().unwrap()[at].base64 = "AAAA".into();
                assert!(differs(&changed), "{scenario} {label} {container} {at}");
            }
        }
    }
}

/// A row too many or too few in an episode is seen, also where the number of episodes is free.
#[test]
fn a_torn_episode_is_found() {
    let recording = recording("start_fanout");
    let original = recording.snapshot("done").unwrap();
    assert_eq!(torn_episodes(original), Vec::<String>::new());
    for at in 0..original.rows("History").len() {
        let mut torn = original.clone();
        let rows = torn.tables.iter_mut().find(|(name, _)| name.ends_with("History")).unwrap().1;
        let row = rows.remove(at);
        let is_mark = row.get("EventType").is_some_and(|cell| cell.value.as_str().unwrap().starts_with("Orchestrator"));
        assert_eq!(!torn_episodes(&torn).is_empty(), is_mark, "{row:?}");
    }
}
