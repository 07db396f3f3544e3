//! Each recorded scenario again with our worker: what it leaves equals what the engine left.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durable_bed::recording::{Cell, Recording, Snapshot, difference, entity};

use durable_taskhub::TaskHub;
use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;

use crate::comparison::compare;
use crate::support::{PATIENCE, TestHub, recording};
use crate::times::implausible;

const FINAL: [&str; 2] = ["Completed", "Failed"];

/// Who writes the start.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// The recorded row and text, as the 2.x engine's client left them.
    Recorded,
    /// The same with the text in Base64, as the 1.x line writes it.
    RecordedInBase64,
    /// Our client, given the recorded command.
    Client,
}

/// Brings a fresh hub into the recorded state `queued`.
async fn queue_start(hub: &TestHub, recording: &Recording, start: Start) {
    let queued = recording.snapshot("queued").unwrap();
    if start == Start::Client {
        start_by_client(hub, recording).await;
    } else {
        let mut row = entity(&queued.rows("Instances")[0]).unwrap();
        row.set("TaskHubName", hub.name.as_str());
        hub.storage.table(&hub.name.instances_table()).insert(&row).await.unwrap();
        for (name, queue) in &queued.queues {
            let name = name.replace(&recording.hub.to_lowercase(), &hub.name.as_str().to_lowercase());
            for message in &queue.messages {
                let text = if start == Start::Recorded { message.text.clone() } else { STANDARD.encode(&message.text) };
                hub.storage.queue(&name).put(&text, Duration::ZERO).await.unwrap();
            }
        }
    }
    compare(hub, recording, queued, &hub.snapshot("queued").await);
}

/// The recorded command, given to our client.
async fn start_by_client(hub: &TestHub, recording: &Recording) {
    let command = recording.commands("start").next().unwrap();
    let client = TaskHub::connect(hub.storage.clone(), hub.name.clone(), None).await.unwrap();
    let request = StartRequest {
        instance_id: InstanceId::new(command["id"].as_str().unwrap()).unwrap(),
        input: command.get("input").map(ToString::to_string),
        ..StartRequest::new(command["name"].as_str().unwrap())
    };
    client.start(request).await.unwrap();
}

async fn conforms(scenario: &str, id: &str, done: &str) {
    let run = |start: Start| async move {
        let recording = recording(scenario);
        let expected = recording.snapshot(done).unwrap();
        let hub = TestHub::new(scenario).await;
        queue_start(&hub, &recording, start).await;
        let worker = hub.worker();
        hub.wait_for(id, &FINAL, PATIENCE).await;
        worker.stop().await;
        let actual = hub.snapshot(done).await;
        compare(&hub, &recording, expected, &actual);
    };
    tokio::join!(run(Start::Recorded), run(Start::RecordedInBase64), run(Start::Client));
}

#[tokio::test]
async fn start_hello() {
    conforms("start_hello", "hellosequence-1", "done").await;
}

#[tokio::test]
async fn start_echo_array() {
    conforms("start_echo_array", "echo-1", "done").await;
}

#[tokio::test]
async fn start_echo_date() {
    conforms("start_echo_date", "echo-1", "done").await;
}

#[tokio::test]
async fn start_echo_null() {
    conforms("start_echo_null", "echo-1", "done").await;
}

#[tokio::test]
async fn start_echo_number() {
    conforms("start_echo_number", "echo-1", "done").await;
}

#[tokio::test]
async fn start_echo_object() {
    conforms("start_echo_object", "echo-1", "done").await;
}

#[tokio::test]
async fn start_echo_string() {
    conforms("start_echo_string", "echo-1", "done").await;
}

#[tokio::test]
async fn start_fail() {
    conforms("start_fail", "fail-1", "done").await;
}

#[tokio::test]
async fn start_unknown_name() {
    conforms("start_unknown_name", "unknown-1", "after the worker").await;
}

/// The worker sleeps away while the timer runs, and fires it after its return.
#[tokio::test]
async fn timer() {
    let recording = recording("timer");
    let hub = TestHub::new("timer").await;
    start_by_client(&hub, &recording).await;

    let worker = hub.worker();
    hub.wait_for("timer-1", &["Running"], PATIENCE).await;
    worker.stop().await;
    let sleeping = hub.snapshot("sleeping").await;
    compare(&hub, &recording, recording.snapshot("sleeping").unwrap(), &sleeping);

    let worker = hub.worker();
    hub.wait_for("timer-1", &FINAL, PATIENCE).await;
    worker.stop().await;
    let done = hub.snapshot("done").await;
    compare(&hub, &recording, recording.snapshot("done").unwrap(), &done);
}

/// One changed value is found, whichever it is, or the comparison would prove nothing.
#[test]
fn the_comparison_finds_a_change_of_any_value() {
    let recording = recording("start_hello");
    let original = recording.snapshot("done").unwrap();
    let lines = |snapshot: &Snapshot| snapshot.normalised(&recording.hub);
    assert_eq!(difference(&lines(original), &lines(original)), None);

    let mut changes = 0;
    let tables: Vec<(String, usize)> = original.tables.iter().map(|(name, rows)| (name.clone(), rows.len())).collect();
    for (table, rows) in tables {
        for row in 0..rows {
            for column in original.tables[&table][row].keys() {
                let mut changed = original.clone();
                let cell = changed.tables.get_mut(&table).unwrap()[row].get_mut(column).unwrap();
                let free = cell.edm == "Edm.DateTime" || column == "ExecutionId";
                *cell = Cell { edm: cell.edm.clone(), value: "changed".into() };
                let found = difference(&lines(original), &lines(&changed)).is_some();
                // A time is free; an execution ID must still be the same everywhere.
                assert_eq!(found, !free || column == "ExecutionId", "{table} {row} {column}");
                let cell = changed.tables.get_mut(&table).unwrap()[row].get_mut(column).unwrap();
                "Edm.Guid".clone_into(&mut cell.edm);
                assert!(difference(&lines(original), &lines(&changed)).is_some(), "type of {table} {row} {column}");
                let mut missing = original.clone();
                missing.tables.get_mut(&table).unwrap()[row].remove(column);
                assert!(difference(&lines(original), &lines(&missing)).is_some(), "without {table} {row} {column}");
                changes += 3;
            }
            let mut missing = original.clone();
            missing.tables.get_mut(&table).unwrap().remove(row);
            assert!(difference(&lines(original), &lines(&missing)).is_some());
        }
    }
    assert!(changes > 500, "{changes}");

    let mut changed = original.clone();
    changed.queues.values_mut().next().unwrap().approximate_count = 1;
    assert!(difference(&lines(original), &lines(&changed)).is_some());
    let mut changed = original.clone();
    changed.blobs.values_mut().flatten().flatten().next().unwrap().base64 = STANDARD.encode("{ }");
    let text = difference(&lines(original), &lines(&changed)).unwrap();
    for line in ["- expected blob <hub>-applease/<hub>-appleaseinfo: {}", "+ found    blob <hub>-applease/<hub>-appleaseinfo: { }"] {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
    assert_eq!(text.lines().count(), 2, "{text}");
}

/// The checks of times can fail as well.
#[test]
fn a_wrong_time_is_found() {
    let recording = recording("timer");
    let original = recording.snapshot("done").unwrap();
    let change = |table: &str, row: usize, column: &str, value: &str| {
        let mut changed = original.clone();
        let rows = changed.tables.iter_mut().find(|(name, _)| name.ends_with(table)).unwrap().1;
        rows[row].get_mut(column).unwrap().value = value.into();
        implausible(&changed)
    };
    let (early, late) = ("2026-11-23T07:33:00.0000000Z", "2026-11-23T07:35:00.0000000Z");
    for (table, row, column, value) in [
        ("Instances", 0, "CreatedTime", early),
        ("Instances", 0, "LastUpdatedTime", late),
        ("Instances", 0, "CompletedTime", early),
        ("History", 0, "_Timestamp", late),
        ("History", 1, "_Timestamp", early),
        ("History", 2, "FireAt", "2026-11-23T07:34:17.0046308Z"),
        ("History", 2, "_Timestamp", early),
        ("History", 3, "_Timestamp", late),
        ("History", 4, "_Timestamp", "2026-11-23T07:34:15.0000000Z"),
        ("History", 5, "FireAt", late),
        ("History", 5, "_Timestamp", late),
        ("History", 6, "_Timestamp", early),
        ("History", 8, "CheckpointCompletedTimestamp", early),
        ("Partitions", 0, "ExpiresAt", late),
        ("Partitions", 3, "OwnedSince", late),
    ] {
        assert_ne!(change(table, row, column, value), Vec::<String>::new(), "{table} {row} {column}");
    }
}
