//! Rows of engine-experiments.md about the worker that no recording shows.

use std::time::Duration;

use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::message::Message;
use durable_taskhub::{TaskHub, Time};
use durable_worker::large::LargeValues;

use crate::support::{PATIENCE, TestHub};

async fn send(hub: &TestHub, id: &str, execution_id: Option<&str>, kind: EventKind) {
    let message = Message::new(id, execution_id, Event::new(Time::now(), kind), Time::now().unix_seconds());
    let text = LargeValues::new(&hub.storage, &hub.name).queue_text(&message).await.unwrap();
    hub.queue_of(id).put(&text, Duration::ZERO).await.unwrap();
}

fn raised(name: &str, data: impl Into<Option<String>>) -> EventKind {
    EventKind::EventRaised { name: Some(name.to_owned()), input: data.into(), parent_trace_context: None }
}

async fn history_kinds(hub: &TestHub, id: &str) -> Vec<String> {
    let snapshot = hub.snapshot("").await;
    let rows = snapshot.rows("History").iter().filter(|row| row["PartitionKey"].value == id && row.contains_key("EventType"));
    rows.map(|row| row["EventType"].value.as_str().unwrap().to_owned()).collect()
}

/// 5.3, 5.19: a terminate before the start message ends the row alone, with a large reason in a blob; the start that comes
/// later runs all the same.
#[tokio::test]
async fn a_terminate_before_the_start_is_undone_by_it() {
    let hub = TestHub::new("early").await;
    let client = TaskHub::connect(hub.storage.clone(), hub.name.clone(), None).await.unwrap();
    let (created, reason) = (Time::now(), "r".repeat(32_000));
    hub.row("echo-1", "e", "Echo", Some("1"), created).await;
    let worker = hub.worker();
    send(&hub, "echo-1", None, EventKind::ExecutionTerminated { input: Some(reason.clone()) }).await;
    let row = hub.wait_for("echo-1", &["Terminated"], PATIENCE).await;
    assert!(row.time("CompletedTime").is_some() && row.text("CustomStatus").is_none(), "{row:?}");
    assert!(row.text("Output").unwrap().contains("/echo-1/history--Output-"), "{row:?}");
    let output = client.get("echo-1").await.unwrap().unwrap().output.unwrap();
    assert!(client.fetch(&output, 1 << 20).await.unwrap() == reason);
    assert_eq!(history_kinds(&hub, "echo-1").await, Vec::<String>::new());

    let started = durable_taskhub::event::ExecutionStarted::new("echo-1", "e", "Echo", Some("1".into()));
    hub.queue_of("echo-1").put(&Message::start(started, created, 1).encode().unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(hub.wait_for("echo-1", &["Completed"], PATIENCE).await.text("Output"), Some("1"));
    worker.stop().await;
}

/// 3.5: a terminate for an ID without row stays in its queue; nothing else waits for it.
#[tokio::test]
async fn a_terminate_without_row_stays() {
    let hub = TestHub::new("norow").await;
    send(&hub, "echo-1", None, EventKind::ExecutionTerminated { input: None }).await;
    let worker = hub.worker();
    hub.start("echo-2", "Echo", Some("2")).await;
    hub.wait_for("echo-2", &["Completed"], PATIENCE).await;
    worker.stop().await;
    assert_eq!(hub.queue_of("echo-1").approximate_count().await.unwrap(), 1);
    assert!(hub.instance("echo-1").await.is_none());
}

/// 4.5, 5.9, 5.12: after a continue-as-new the old execution's events and start reach nobody. A large event that nobody took
/// is carried over, and its old blob is deleted (task-hub.md 5.6, step 4).
#[tokio::test]
async fn an_execution_that_continued_takes_along_what_nobody_took() {
    let hub = TestHub::new("continued").await;
    let start = hub.start("counter-1", "Counter", Some("1")).await;
    let worker = hub.worker();
    hub.wait_for("counter-1", &["Running"], PATIENCE).await;
    let large = format!("\"{}\"", "x".repeat(60_000));
    send(&hub, "counter-1", None, raised("other", large.clone())).await;
    hub.wait_until_empty().await;
    let blobs = || async {
        let blobs = hub.storage.container(&hub.name.large_messages_container()).list("counter-1/history-").await.unwrap();
        blobs.into_iter().map(|blob| blob.name).collect::<Vec<_>>()
    };
    let before = blobs().await;
    assert!(before.len() == 1 && before[0].contains("-EventRaised-"), "{before:?}");

    send(&hub, "counter-1", None, raised("add", "2".to_owned())).await;
    hub.wait_until_empty().await;
    let after = blobs().await;
    assert!(after.len() == 1 && after != before, "{after:?}");
    assert_eq!(
        history_kinds(&hub, "counter-1").await,
        // Four rows of the second execution over the first one's six, whose last two are left over (task-hub.md 5.3).
        ["OrchestratorStarted", "ExecutionStarted", "EventRaised", "OrchestratorCompleted", "EventRaised", "OrchestratorCompleted"]
    );
    let row = hub.instance("counter-1").await.unwrap();
    assert_eq!((row.text("Input"), row.text("CustomStatus"), row.int32("Generation")), (Some("3"), Some("3"), Some(0)));
    assert_ne!(row.text("ExecutionId"), start.execution_id.as_deref());

    send(&hub, "counter-1", start.execution_id.as_deref(), raised("add", "100".to_owned())).await;
    hub.queue_of("counter-1").put(&start.encode().unwrap(), Duration::ZERO).await.unwrap();
    hub.wait_until_empty().await;
    send(&hub, "counter-1", None, raised("STOP", None)).await;
    assert_eq!(hub.wait_for("counter-1", &["Completed"], PATIENCE).await.text("Output"), Some("3"));
    worker.stop().await;
}

/// 5.10: a terminate for another execution ends the row alone; the instance lives on.
#[tokio::test]
async fn a_terminate_for_another_execution_ends_only_the_row() {
    let hub = TestHub::new("foreign").await;
    hub.start("approval-1", "Approval", None).await;
    let worker = hub.worker();
    hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    send(&hub, "approval-1", Some("another"), EventKind::ExecutionTerminated { input: Some("why".into()) }).await;
    let row = hub.wait_for("approval-1", &["Terminated"], PATIENCE).await;
    assert_eq!(row.text("Output"), Some("why"));
    send(&hub, "approval-1", None, raised("approval", "1".to_owned())).await;
    assert_eq!(hub.wait_for("approval-1", &["Completed"], PATIENCE).await.text("Output"), Some("1"));
    worker.stop().await;
}

/// 5.13 to 5.15: a resume of a running instance is recorded; one resume ends two suspends; a completion without result
/// keeps the reason as output.
#[tokio::test]
async fn reasons_stand_as_output_until_a_result_comes() {
    let hub = TestHub::new("reasons").await;
    hub.start("approval-1", "Approval", None).await;
    let worker = hub.worker();
    hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    let reason = |text: &str| Some(text.to_owned());
    let output = async || {
        hub.wait_until_empty().await;
        let row = hub.instance("approval-1").await.unwrap();
        (row.text("RuntimeStatus").unwrap().to_owned(), row.text("Output").unwrap_or_default().to_owned())
    };
    send(&hub, "approval-1", None, EventKind::ExecutionResumed { reason: reason("for nothing") }).await;
    assert_eq!(output().await, ("Running".into(), "for nothing".into()));
    for _ in 0..2 {
        send(&hub, "approval-1", None, EventKind::ExecutionSuspended { reason: reason("pause") }).await;
    }
    send(&hub, "approval-1", None, raised("Approval", None)).await;
    assert_eq!(output().await, ("Suspended".into(), "pause".into()));
    send(&hub, "approval-1", None, EventKind::ExecutionResumed { reason: reason("go on") }).await;
    assert_eq!(output().await, ("Completed".into(), "go on".into()));
    worker.stop().await;
}
