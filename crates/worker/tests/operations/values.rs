//! Large values, foreign columns, and rows that are repaired or not purged.

use std::time::Duration;

use durable_taskhub::event::{EventKind, ExecutionStarted};
use durable_taskhub::message::Message;
use durable_taskhub::purge::PurgeError;
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::Condition;
use durable_taskhub::{RuntimeStatus, Time};
use durable_worker::large::LargeValues;

use crate::served::{Served, request};
use crate::support::PATIENCE;

/// 6.3, 6.7: inline, by a blob of the row, by a blob of the message; also under IDs that URLs escape.
#[tokio::test]
async fn inputs_of_all_sizes_come_back() {
    let served = Served::new("sizes").await;
    let worker = served.hub.worker();
    let cases: Vec<(String, String)> = [("echo", 31), ("echo", 44), ("echo", 60), ("é / %41", 60), ("é / %41", 31), ("echo", 300)]
        .into_iter()
        .map(|(id, thousands)| (format!("{id} {thousands}"), format!("\"{}\"", "x".repeat(thousands * 1000))))
        .collect();
    // An ID cannot hold a slash.
    let id = |id: &str| id.replace('/', "~");
    for (name, input) in &cases {
        served.start(&id(name), "Echo", Some(input)).await;
    }
    for (name, input) in &cases {
        served.hub.wait_for(&id(name), &["Completed"], PATIENCE).await;
        let row = served.get(&id(name)).await;
        assert!(served.client.fetch(row.input.as_ref().unwrap(), 1 << 20).await.unwrap() == *input, "{name}");
        assert!(served.output(&id(name)).await == *input, "{name}");
    }
    worker.stop().await;
}

/// 6.4, 6.5: a wrapper whose blob comes late waits for it.
#[tokio::test]
async fn a_wrapper_waits_for_its_blob() {
    let served = Served::new("late").await;
    let (hub, created) = (&served.hub, Time::now());
    let container = hub.storage.container(&hub.name.large_messages_container());
    let input = format!("\"{}\"", "x".repeat(60_000));
    let started = ExecutionStarted::new("echo-1", "e", "Echo", Some(input.clone()));
    let wrapper = LargeValues::new(&hub.storage, &hub.name).queue_text(&Message::start(started, created, 1)).await.unwrap();
    let name = container.list("echo-1/message-").await.unwrap().remove(0).name;
    let blob = container.get(&name, 1 << 20).await.unwrap().unwrap();
    container.delete(&name).await.unwrap();
    hub.row("echo-1", "e", "Echo", None, created).await;
    let worker = hub.worker();
    hub.queue_of("echo-1").put(&wrapper, Duration::ZERO).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(served.get("echo-1").await.runtime_status, RuntimeStatus::Pending);
    container.put(&name, blob, false).await.unwrap();
    hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    assert!(served.output("echo-1").await == input);
    worker.stop().await;
}

/// 8.9: columns of others survive a whole run. 8.8: a row that was removed before its history comes back.
#[tokio::test]
async fn columns_of_others_survive_and_a_removed_row_comes_back() {
    let served = Served::new("rows").await;
    let worker = served.hub.worker();
    let owner = vec![("KubernetesOwner".to_owned(), "n/o/u".to_owned())];
    served.client.start(StartRequest { columns: owner, ..request("hello", "HelloSequence", None) }).await.unwrap();
    served.hub.wait_for("hello", &["Completed"], PATIENCE).await;
    assert_eq!(served.get("hello").await.column("KubernetesOwner"), Some("n/o/u"));

    served.hub.storage.table(&served.hub.name.instances_table()).delete("hello", "", Condition::Any).await.unwrap();
    served.send_unchecked("hello", EventKind::ExecutionSuspended { reason: None }).await;
    let row = served.hub.wait_for("hello", &["Completed"], PATIENCE).await;
    assert!(!row.columns.contains_key("Generation"), "{row:?}");
    worker.stop().await;
}

/// 8.2 to 8.5: what waits for an event or a timer is not purged, what has ended is purged once.
#[tokio::test]
async fn only_ended_instances_are_purged_and_once() {
    let served = Served::new("purge").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    served.start("event", "Approval", None).await;
    served.start("timer", "Sleep", Some("600")).await;
    served.start("ended", "Echo", None).await;
    for id in ["event", "timer"] {
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
        let refused = through.client.purge(id, false).await;
        assert!(matches!(refused, Err(PurgeError::NotTerminal { status: RuntimeStatus::Running, .. })), "{refused:?}");
    }
    assert!(through.has_only_read());
    served.hub.wait_for("ended", &["Completed"], PATIENCE).await;
    assert_eq!(served.client.purge("ended", false).await.unwrap().instances, 1);
    assert!(matches!(served.client.purge("ended", false).await, Err(PurgeError::NotFound { .. })));
    served.client.raise_event("event", "Approval", None).await.unwrap();
    served.hub.wait_for("event", &["Completed"], PATIENCE).await;
    worker.stop().await;
}
