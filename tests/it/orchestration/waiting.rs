//! Starts that wait, and what is done only when somebody asks.

use durable_operator::api::v1alpha1::OrchestrationStatus;
use serde_json::json;

use super::{find, said};
use crate::support::{World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_a_worker_waits_and_says_so() {
    let world = World::new("waiting_worker").await;
    // 30 s become 3 s.
    let _operator = world.fast_operator("10").await;
    world.quick_hub().await;
    world.orchestration("waits", "Echo", json!({"input": {"value": 1}}));
    let enqueued = world.reason("waits", "Enqueued").await;
    assert_eq!(said(&enqueued), ["Ready=False Enqueued", "Started=False Enqueued", "Reconciling=True Enqueued"]);
    let waiting = world.reason("waits", "NoActiveWorkers").await;
    assert_eq!(said(&waiting), ["Ready=False NoActiveWorkers", "Started=False NoActiveWorkers", "Reconciling=True NoActiveWorkers"]);
    let message = &find(&waiting, "Ready").unwrap().message;
    assert!(message.contains("check that the app runs") && message.contains("The start is not lost"), "{message}");
    let _worker = world.worker().await;
    let completed = world.reason("waits", "Completed").await;
    assert_eq!(world.times_started(&completed.instance_id.unwrap()).await, 1);
    assert_eq!(world.kubectl(&["get", "events", "--output=name"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_message_that_is_lost_is_sent_again() {
    let world = World::new("waiting_message").await;
    // 5 minutes become 6 s.
    let _operator = world.fast_operator("50").await;
    world.quick_hub().await;
    let id = world.accepted("lost").await;
    let mut cleared = 0;
    for queue in world.storage().list_queues(&world.hub_name.control_queue_prefix()).await.unwrap() {
        let queue = world.storage().queue(&queue);
        cleared += queue.approximate_count().await.unwrap();
        queue.clear().await.unwrap();
    }
    assert_eq!(cleared, 1, "the start was a message");
    let _worker = world.worker().await;
    world.workers_are_seen().await;
    let status = world.reason("lost", "Completed").await;
    assert_eq!(status.instance_id.as_deref(), Some(id.as_str()));
    assert_eq!(world.times_started(&id).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_object_is_left_alone() {
    let world = World::new("waiting_paused").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let paused = |name: &str| {
        world.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration",
            "metadata": {"name": name, "annotations": {"durable-operator.dev/paused": "true"}},
            "spec": {"taskHubRef": {"name": "hub"}, "functionName": "Echo", "instanceId": name}
        }));
    };
    paused("paused");
    paused("deleted");
    world.orchestration("other", "Echo", json!({}));
    world.reason("other", "Completed").await;
    assert_eq!(world.status("paused").await, OrchestrationStatus { observed_generation: Some(-1), ..OrchestrationStatus::default() });
    assert!(world.instance("paused").await.is_none());
    world.kubectl(&["delete", "orchestration", "deleted", "--timeout=10s"]);
    world.annotate("orchestration/paused", "durable-operator.dev/paused-");
    world.reason("paused", "Completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_reconcile_reads_once_and_is_echoed() {
    let world = World::new("waiting_requested").await;
    let worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;
    world.orchestration("settled", "Echo", json!({}));
    world.reason("settled", "Completed").await;
    // The status is written before the instance is let go: a read may fall between.
    eventually("nothing is read any more", async || match operator.counter("durable_operator_poller_tracked_instances", &[]).await {
        0 => Ok(()),
        tracked => Err(format!("{tracked} tracked")),
    })
    .await;
    let before = operator.counter("durable_operator_poller_reads_total", &[]).await;
    for value in ["first", "second"] {
        world.annotate("orchestration/settled", &format!("durable-operator.dev/reconcile-requested-at={value}"));
        eventually(&format!("{value} is echoed"), async || {
            let status = world.status("settled").await;
            if status.last_handled_reconcile_at.as_deref() == Some(value) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }
    assert_eq!(operator.counter("durable_operator_poller_reads_total", &[]).await - before, 2, "one read for each request");
    let status = world.status("settled").await;
    assert!(status.settled && find(&status, "Ready").unwrap().reason == "Completed", "{status:?}");

    // An unsettled object that is read seldom is read at once when somebody asks.
    drop(worker);
    world.kubectl(&[
        "patch",
        "taskhub",
        "hub",
        "--type=merge",
        "--patch",
        r#"{"spec":{"polling":{"minInterval":"1h","maxInterval":"1h"}}}"#,
    ]);
    eventually("the slower pace is taken over", async || {
        let status = world.task_hubs().get("hub").await.unwrap().status.unwrap();
        if status.observed_generation == Some(2) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let id = world.accepted("unsettled").await;
    let ask = |value: &str| world.annotate("orchestration/unsettled", &format!("durable-operator.dev/reconcile-requested-at={value}"));
    ask("while it is pending");
    eventually("the row was read", async || {
        let status = world.status("unsettled").await;
        if status.created_time.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let row =
        world.row(&id).await.with("RuntimeStatus", "Completed").with("Output", "1").with("CompletedTime", durable_taskhub::Time::now());
    world.replace_row(&row).await;
    ask("when it has ended");
    world.reason("unsettled", "Completed").await;
}
