//! Duplicates, messages for nobody, unreadable ones, crashes: what the engine was seen to do.

use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, ExecutionStarted};
use durable_taskhub::message::Message;
use durable_taskhub::storage::Condition;

use crate::support::{PATIENCE, TestHub, connection_string};

fn event_types(snapshot: &durable_bed::recording::Snapshot, id: &str) -> Vec<String> {
    let rows = snapshot.rows("History").iter().filter(|row| row["PartitionKey"].value == id && row.contains_key("EventType"));
    rows.map(|row| row["EventType"].value.as_str().unwrap().to_owned()).collect()
}

/// Two messages of one start: one run (engine-experiments.md 4.4, 4.5). A third one, to the finished instance, is deleted.
#[tokio::test]
async fn a_start_that_was_sent_twice_runs_once() {
    let hub = TestHub::new("twice").await;
    // Long enough for the second message to come before the timer, also on a busy machine.
    let message = hub.start("sleep-1", "Sleep", Some("5")).await;
    let again = || async { hub.queue_of("sleep-1").put(&message.encode().unwrap(), Duration::ZERO).await.unwrap() };
    let worker = hub.worker();
    hub.wait_for("sleep-1", &["Running"], PATIENCE).await;
    again().await;
    hub.wait_for("sleep-1", &["Completed"], PATIENCE).await;
    again().await;
    hub.wait_until_empty().await;
    worker.stop().await;
    let types = event_types(&hub.snapshot("done").await, "sleep-1");
    let (first, empty, last) = (
        ["OrchestratorStarted", "ExecutionStarted", "TimerCreated", "OrchestratorCompleted"],
        ["OrchestratorStarted", "OrchestratorCompleted"],
        ["OrchestratorStarted", "TimerFired", "ExecutionCompleted", "OrchestratorCompleted"],
    );
    assert_eq!(types, [first.as_slice(), &empty, &last].concat());
}

/// The row decides which of two starts is genuine (task-hub.md 7.2).
#[tokio::test]
async fn a_start_that_lost_the_row_is_discarded_and_a_late_row_is_waited_for() {
    let hub = TestHub::new("filter").await;
    let winner = hub.start("echo-1", "Echo", Some("1")).await;
    let loser = ExecutionStarted::new("echo-1", "loser", "Echo", Some("2".into()));
    let later = winner.event.timestamp.saturating_add(Duration::from_millis(1));
    hub.queue_of("echo-1").put(&Message::start(loser, later, 1).encode().unwrap(), Duration::ZERO).await.unwrap();

    let early = Message::start(ExecutionStarted::new("late-1", "e", "Echo", Some("3".into())), Time::now(), 1);
    hub.queue_of("late-1").put(&early.encode().unwrap(), Duration::ZERO).await.unwrap();
    let worker = hub.worker();
    assert_eq!(hub.wait_for("echo-1", &["Completed"], PATIENCE).await.text("Output"), Some("1"));
    assert!(hub.instance("late-1").await.is_none());
    hub.row("late-1", "e", "Echo", Some("3"), early.event.timestamp).await;
    assert_eq!(hub.wait_for("late-1", &["Completed"], PATIENCE).await.text("Output"), Some("3"));
    hub.wait_until_empty().await;
    worker.stop().await;
    assert_eq!(event_types(&hub.snapshot("done").await, "echo-1").iter().filter(|kind| *kind == "ExecutionStarted").count(), 1);
}

/// What cannot be read stays in its queue; what is for nobody goes; neither hinders other messages (task-hub.md 3.9, 7.5).
#[tokio::test]
async fn bad_messages_hinder_nobody() {
    let hub = TestHub::new("bad").await;
    let queue = hub.queue_of("echo-1");
    let bad = ["hello world", "{}", "{\"TaskMessage\":{\"Event\":{}}}", &Message::wrapper_json("echo-1/message-x-EventRaised.json.gz")];
    for text in bad {
        queue.put(text, Duration::ZERO).await.unwrap();
    }
    let nobody = Event::new(Time::now(), EventKind::ExecutionSuspended { reason: None });
    queue.put(&Message::new("echo-1", None, nobody, 9).encode().unwrap(), Duration::ZERO).await.unwrap();
    hub.storage.queue(&hub.name.work_item_queue()).put("no work", Duration::ZERO).await.unwrap();
    let worker = hub.worker();
    tokio::time::sleep(Duration::from_millis(500)).await;
    hub.start("echo-1", "Echo", Some("1")).await;
    hub.start("hello-1", "HelloSequence", None).await;
    hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    hub.wait_for("hello-1", &["Completed"], PATIENCE).await;
    worker.stop().await;
    let snapshot = hub.snapshot("done").await;
    let left: u64 = snapshot.queues.values().map(|queue| queue.approximate_count).sum();
    assert_eq!(left, bad.len() as u64 + 1, "{:?}", snapshot.queues);
}

/// A row that a crash left behind its history is mended by the next message (task-hub.md 4.6).
#[tokio::test]
async fn a_row_that_lags_is_mended() {
    let hub = TestHub::new("lag").await;
    let message = hub.start("echo-1", "Echo", Some("1")).await;
    let worker = hub.worker();
    let mut row = hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    row.set("RuntimeStatus", "Running");
    row.columns.remove("Output");
    hub.storage.table(&hub.name.instances_table()).replace(&row, Condition::Any).await.unwrap();
    hub.queue_of("echo-1").put(&message.encode().unwrap(), Duration::ZERO).await.unwrap();
    let mended = hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    assert_eq!((mended.text("Output"), mended.int32("Generation")), (Some("1"), Some(0)));
    worker.stop().await;
}

/// A second worker takes nothing while the first one lives, and all of it after a clean stop.
#[tokio::test]
async fn a_partition_has_one_owner_at_a_time() {
    let hub = TestHub::new("owner").await;
    let owners = || async {
        let rows = hub.snapshot("").await.rows("Partitions").to_vec();
        rows.iter().map(|row| row.get("CurrentOwner").map(|cell| cell.value.to_string())).collect::<Vec<_>>()
    };
    let first = hub.worker();
    hub.start("echo-1", "Echo", Some("1")).await;
    hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    let owned_by_first = owners().await;
    assert!(owned_by_first.iter().all(Option::is_some), "{owned_by_first:?}");
    let second = hub.worker();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(owners().await, owned_by_first);
    first.stop().await;
    hub.start("echo-2", "Echo", Some("2")).await;
    hub.wait_for("echo-2", &["Completed"], PATIENCE).await;
    let owned_by_second = owners().await;
    assert!(owned_by_second.iter().all(Option::is_some) && owned_by_second != owned_by_first);
    second.crash().await;
    assert_eq!(owners().await, owned_by_second, "a crash leaves the lease until it runs out");
}

/// Wrong arguments end at once, with a text that says what to change and that holds no secret.
#[tokio::test]
async fn a_worker_that_cannot_serve_says_why() {
    let refused = async |storage: &str, arguments: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_durable-worker"))
            .args(["--connection-string-env", "TEST_STORAGE"])
            .args(arguments)
            .env("TEST_STORAGE", storage)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let storage = connection_string();
    let missing = refused(&storage, &["--task-hub-name", "NoSuchHub"]).await;
    assert!(missing.contains("task hub NoSuchHub has 0 partitions") && missing.contains("--create-hub"), "{missing}");
    let name = refused(&storage, &["--task-hub-name", "no-such-hub"]).await;
    assert!(name.contains("--task-hub-name"), "{name}");
    let count = refused(&storage, &["--task-hub-name", "NoSuchHub", "--create-hub", "--partition-count", "17"]).await;
    assert!(count.contains("1 to 16"), "{count}");
    let broken = refused("AccountName=x;AccountKey=c2VjcmV0", &["--task-hub-name", "NoSuchHub"]).await;
    assert!(broken.contains("TEST_STORAGE: ") && !broken.contains("c2VjcmV0"), "{broken}");
}

/// Many instances in all partitions: each gets its own history and its own result, and nothing is left over.
#[tokio::test]
async fn many_runs_side_by_side_stay_apart() {
    let hub = TestHub::new("many").await;
    let ids: Vec<String> = (0..60).map(|n| format!("run {n}/é")).collect();
    let start = async |n: usize, id: &str| {
        if n.is_multiple_of(2) { hub.start(id, "HelloSequence", None).await } else { hub.start(id, "Echo", Some(&n.to_string())).await }
    };
    futures::future::join_all(ids.iter().enumerate().map(|(n, id)| start(n, id))).await;
    let worker = hub.worker();
    for (n, id) in ids.iter().enumerate() {
        let row = hub.wait_for(id, &["Completed"], PATIENCE).await;
        let number = n.to_string();
        let expected = if n % 2 == 0 { r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"# } else { &number };
        assert_eq!(row.text("Output"), Some(expected));
    }
    hub.wait_until_empty().await;
    worker.stop().await;
    let snapshot = hub.snapshot("done").await;
    for (n, id) in ids.iter().enumerate() {
        let key = durable_taskhub::names::escape_key(id);
        assert_eq!(event_types(&snapshot, &key).len(), if n % 2 == 0 { 16 } else { 4 }, "{id}");
    }
}
