//! What others do to an instance, and how the object shows it. No worker: the tests write the rows.

use durable_bed::binaries;
use durable_taskhub::Time;
use durable_taskhub::storage::Entity;
use serde_json::json;

use super::{find, said};
use crate::support::{OperatorProcess, World, eventually};

impl World {
    /// The operator with deadlines divided by `scale`.
    pub(super) async fn fast_operator(&self, scale: &str) -> OperatorProcess {
        let operator = self.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", scale)]);
        operator.until_ready().await;
        operator
    }

    /// As if a worker had taken all messages.
    pub(super) async fn clear_control_queues(&self) {
        for partition in self.hub().await.partitions().await.unwrap() {
            self.storage().queue(&partition.queue).clear().await.unwrap();
        }
    }

    /// An accepted Orchestration whose instance nobody runs, and the ID of its instance.
    pub(super) async fn accepted(&self, name: &str) -> String {
        self.orchestration(name, "Echo", json!({}));
        eventually(&format!("Orchestration {name} is accepted"), async || {
            let status = self.status(name).await;
            status.execution_id.clone().and(status.instance_id.clone()).ok_or_else(|| format!("{status:?}"))
        })
        .await
    }
}

/// The row as a checkpoint leaves it.
fn checkpoint(row: &Entity, status: &str) -> Entity {
    row.clone().with("RuntimeStatus", status).with("CustomStatus", r#"{"step":2}"#).with("LastUpdatedTime", Time::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_clients_do_is_shown_as_such() {
    let world = World::new("observed_others").await;
    let _operator = world.operator().await;
    world.quick_hub().await;

    let id = world.accepted("controlled").await;
    let row = world.row(&id).await;
    world.replace_row(&checkpoint(&row, "Running")).await;
    let running = world.reason("controlled", "Running").await;
    assert_eq!(running.custom_status.as_ref().unwrap().text(), r#"{"step":2}"#);
    assert_eq!(said(&running), ["Ready=False Running", "Started=True Started", "Reconciling=True Running"]);
    world.replace_row(&checkpoint(&row, "Suspended").with("Output", "by hand")).await;
    let suspended = world.reason("controlled", "SuspendedByOther").await;
    assert!(said(&suspended).contains(&"Suspended=True SuspendedByOther".to_owned()) && !suspended.settled, "{suspended:?}");
    world.replace_row(&checkpoint(&row, "Running")).await;
    let resumed = world.reason("controlled", "Running").await;
    assert_eq!(find(&resumed, "Suspended"), None);
    // With its start message in the queue it would run all the same (engine-experiments.md 5.1): that is no end.
    world.replace_row(&checkpoint(&row, "Terminated").with("Output", "no longer needed").with("CompletedTime", Time::now())).await;
    assert!(!world.reason("controlled", "NoActiveWorkers").await.settled);
    world.clear_control_queues().await;
    let terminated = world.reason("controlled", "Terminated").await;
    assert_eq!(said(&terminated), ["Ready=False Terminated", "Started=True Started", "Failed=True Terminated", "Stalled=True Terminated"]);
    assert!(terminated.settled && terminated.completed_time.is_some());
    assert_eq!(terminated.failure.unwrap().message.unwrap(), "no longer needed");

    for (status, reason) in [("Canceled", "Canceled"), ("ContinuedAsNew", "Running"), ("Paused", "Running")] {
        let name = format!("status-{}", status.to_lowercase());
        let id = world.accepted(&name).await;
        world.replace_row(&checkpoint(&world.row(&id).await, status)).await;
        let shown = world.reason(&name, reason).await;
        assert_eq!(shown.settled, status == "Canceled");
    }

    // Another client starts the ID anew: that replaces the row, and with it our column.
    let id = world.accepted("replaced").await;
    let mut theirs = checkpoint(&world.row(&id).await, "Completed").with("ExecutionId", "theirs").with("Output", "\"not ours\"");
    theirs.columns.remove("KubernetesOwner");
    world.replace_row(&theirs).await;
    let replaced = world.reason("replaced", "Replaced").await;
    assert!(replaced.settled && replaced.output.is_none(), "{replaced:?}");
    let message = &find(&replaced, "Ready").unwrap().message;
    assert!(message.contains("another client has the instance of this ID now (started by another client)"), "{message}");
    assert!(find(&replaced, "Stalled").is_some());
    assert_eq!(world.row(&id).await.text("Output"), Some("\"not ours\""));

    let mut reasons: Vec<String> =
        world.kubectl(&["get", "events", "--output=jsonpath={.items[*].reason}"]).split(' ').map(str::to_owned).collect();
    reasons.sort();
    assert_eq!(reasons, ["Canceled", "Replaced", "SuspendedByOther", "Terminated"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_vanishes_is_missing_only_before_its_end() {
    let world = World::new("observed_missing").await;
    // 30 s become 1.5 s.
    let operator = world.fast_operator("20").await;
    world.quick_hub().await;

    let unsettled = world.accepted("unsettled").await;
    let settled = world.accepted("settled").await;
    let row = world.row(&settled).await;
    world.replace_row(&checkpoint(&row, "Completed").with("Output", "\"kept\"").with("CompletedTime", Time::now())).await;
    world.reason("settled", "Completed").await;
    world.delete_row(&unsettled).await;
    world.delete_row(&settled).await;
    let missing = world.reason("unsettled", "InstanceMissing").await;
    assert!(missing.settled && find(&missing, "Failed").is_some(), "{missing:?}");
    assert!(find(&missing, "Ready").unwrap().message.contains("apply a new object to run it again"));
    assert!(world.instance(&unsettled).await.is_none(), "it was started again by itself");

    // Also when somebody asks: what is over keeps what it knows.
    world.annotate("orchestration/settled", "durable-operator.dev/reconcile-requested-at=1");
    eventually("the request is echoed", async || {
        let status = world.status("settled").await;
        assert_eq!(status.output.as_ref().unwrap().text(), "\"kept\"");
        if status.last_handled_reconcile_at.as_deref() == Some("1") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(find(&world.status("settled").await, "Ready").unwrap().reason, "Completed");
    eventually("nothing is read any more", async || match operator.counter("durable_operator_poller_tracked_instances", &[]).await {
        0 => Ok(()),
        tracked => Err(format!("{tracked} tracked")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_status_shows_nothing_of_others() {
    let world = World::new("observed_forged").await;
    // The 30 s after which a missing instance counts as gone become 1.5 s.
    let _operator = world.fast_operator("20").await;
    world.quick_hub().await;
    let victim = world.accepted("victim").await;
    let row = world.row(&victim).await;
    world.replace_row(&checkpoint(&row, "Completed").with("Output", "\"a secret\"").with("CompletedTime", Time::now())).await;
    world.reason("victim", "Completed").await;

    let forge = |name: &str| {
        let status =
            json!({"status": {"instanceId": victim, "executionId": "x", "runtimeStatus": "Running", "settled": false}}).to_string();
        world.kubectl(&["patch", "orchestration", name, "--subresource=status", "--type=merge", "--patch", &status]);
    };
    let own = world.accepted("attacker").await;
    forge("attacker");
    world.annotate("orchestration/attacker", "durable-operator.dev/reconcile-requested-at=forged");
    eventually("the status is the object's own again", async || {
        let status = world.status("attacker").await;
        assert!(status.output.is_none() && status.custom_status.is_none(), "{status:?}");
        if status.instance_id.as_ref() == Some(&own) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;

    // The same before the operator has ever seen the object: it is forged while paused.
    world.apply(&json!({
        "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration",
        "metadata": {"name": "paused", "annotations": {"durable-operator.dev/paused": "true"}},
        "spec": {"taskHubRef": {"name": "hub"}, "functionName": "Echo"}
    }));
    forge("paused");
    world.annotate("orchestration/paused", "durable-operator.dev/paused-");
    let missing = world.reason("paused", "InstanceMissing").await;
    assert!(missing.output.is_none() && missing.custom_status.is_none(), "{missing:?}");
    assert_eq!(world.row(&victim).await.text("Output"), Some("\"a secret\""));

    // What nests deeper than a parser likes, in a status that nobody should have written.
    let nested = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let body = format!(r#"{{"status":{{"customStatus":{nested}}}}}"#);
    let file = world.control_plane.with(|plane| plane.folder().join("nested-status.json"));
    std::fs::write(&file, body).unwrap();
    let file = file.to_string_lossy().into_owned();
    world.kubectl(&["patch", "orchestration", "victim", "--subresource=status", "--type=merge", "--patch-file", &file]);
    world.annotate("orchestration/victim", "durable-operator.dev/reconcile-requested-at=nested");
    let after = world.accepted("after").await;
    world.replace_row(&checkpoint(&world.row(&after).await, "Completed").with("Output", "1").with("CompletedTime", Time::now())).await;
    world.reason("after", "Completed").await;
}
