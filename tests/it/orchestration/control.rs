//! Suspend, resume and terminate of instances that a worker runs: what arrives in the hub, what is told, and what it costs.

use durable_operator::api::v1alpha1::RuntimeStatus;
use serde_json::json;

use super::{find, said};
use crate::support::growth::growth;
use crate::support::runs::Runs;
use crate::support::{World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_action_arrives_once_with_its_reason_and_is_told() {
    let world = World::new("control_reasons").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.run("run", "Approval", json!({}));
    world.reason("run", "Running").await;

    // What .NET would read as a URI gets a blank (engine-experiments.md 5.18).
    world.wish("run", &json!({"desiredState": "Suspended", "reason": "https://example.com/ticket/1"}));
    let suspended = world.reason("run", "Suspended").await;
    assert_eq!(said(&suspended), ["Ready=True Suspended", "Started=True Started", "Suspended=True Suspended"]);
    assert!(!suspended.settled && suspended.pending.is_none() && suspended.runtime_status == Some(RuntimeStatus::Suspended));
    assert_eq!(world.row("run").await.text("Output"), Some("https://example.com/ticket/1 "));
    assert_eq!(world.steered("run").await, [1, 0, 0]);

    // A reason alone sends nothing; neither does the same manifest again.
    world.wish("run", &json!({"reason": "another"}));
    world.handled("run").await;
    world.wish("run", &json!({"reason": "another", "desiredState": "Suspended"}));
    let runs = Runs::at_rest(&world).await;
    assert_eq!(runs.column("run", "Output").as_deref(), Some("https://example.com/ticket/1 "));
    assert_eq!(world.steered("run").await, [1, 0, 0]);

    world.wish("run", &json!({"desiredState": "Running", "reason": "looked at"}));
    let running = world.reason("run", "Running").await;
    assert_eq!(said(&running), ["Ready=False Running", "Started=True Started", "Reconciling=True Running"]);
    assert_eq!(world.row("run").await.text("Output"), Some("looked at"));
    assert_eq!(world.steered("run").await, [1, 1, 0]);

    world.wish("run", &json!({"desiredState": "Terminated", "reason": "urn:done"}));
    let terminated = world.reason("run", "Terminated").await;
    assert_eq!(said(&terminated), ["Ready=True Terminated", "Started=True Started", "Complete=True Terminated"]);
    assert!(terminated.settled && terminated.completed_time.is_some() && terminated.pending.is_none(), "{terminated:?}");
    assert_eq!(world.row("run").await.text("Output"), Some("urn:done "));
    Runs::at_rest(&world).await;
    assert_eq!(world.steered("run").await, [1, 1, 1]);
    world.events_are("run", &["Resuming", "Suspending", "Terminating"]).await;

    // The end has overwritten what a resume left in the row; and the other way round a reason is no output (5.14, 5.15).
    world.run("ends", "Approval", json!({"reason": "not an output"}));
    world.reason("ends", "Running").await;
    world.wish("ends", &json!({"desiredState": "Suspended"}));
    world.reason("ends", "Suspended").await;
    world.hub().await.raise_event("ends", "Approval", None).await.unwrap();
    world.wish("ends", &json!({"desiredState": "Running"}));
    let completed = world.reason("ends", "Completed").await;
    assert_eq!(said(&completed), ["Ready=True Completed", "Started=True Started", "Complete=True Completed"]);
    assert!(completed.output.is_none_or(|output| output.text() == "null"), "the reason of the resume is no output");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_costs_four_writes_and_a_wish_that_is_met_none() {
    let world = World::new("control_costs").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;
    world.run("run", "Approval", json!({}));
    world.reason("run", "Running").await;
    eventually("the start is over", async || {
        let status = world.status("run").await;
        if status.custom_status.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    for (desired, reason, event) in [("Suspended", "Suspended", "Suspending"), ("Running", "Running", "Resuming")] {
        let before = writes(&operator.api_writes().await);
        world.wish("run", &json!({"desiredState": desired}));
        world.reason("run", reason).await;
        let mut expected = vec![event];
        if event == "Resuming" {
            expected.push("Suspending");
        }
        world.events_are("run", &expected).await;
        let grown = growth(&before, &writes(&operator.api_writes().await));
        let count = |what: &str| grown.iter().filter(|(labels, _)| labels.contains(what)).map(|(_, count)| count).sum::<u64>();
        // The record, the message's receipt, the effect.
        assert_eq!((count("orchestrations"), count("events")), (3, 1), "{desired}: {grown:?}");

        // As long as the wish is met, reads cost no write.
        let reads = operator.counter("durable_operator_poller_reads_total", &[]).await;
        let before = writes(&operator.api_writes().await);
        eventually("the instance was read ten times", async || {
            match operator.counter("durable_operator_poller_reads_total", &[]).await - reads {
                10.. => Ok(()),
                fewer => Err(format!("{fewer} reads")),
            }
        })
        .await;
        assert_eq!(growth(&before, &writes(&operator.api_writes().await)), Default::default(), "{desired}");
    }
}

/// The writes for the object: leases and the hub's own status come and go.
fn writes(all: &std::collections::BTreeMap<String, u64>) -> std::collections::BTreeMap<String, u64> {
    let of_object = |labels: &str| labels.contains("orchestrations") || labels.contains("events");
    all.iter().filter(|(labels, _)| of_object(labels)).map(|(labels, count)| (labels.clone(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_the_truth_and_the_row_a_summary() {
    let world = World::new("control_history").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;

    // Marked by hand, it runs on (engine-experiments.md 5.10): it is not over, and its next checkpoint shows that.
    world.run("marked", "Approval", json!({}));
    world.reason("marked", "Running").await;
    world.row_is("marked", "Running").await;
    let mark = world
        .row("marked")
        .await
        .with("RuntimeStatus", "Terminated")
        .with("Output", "x")
        .with("CompletedTime", durable_taskhub::Time::now());
    world.replace_row(&mark).await;
    world.wish("marked", &json!({"reason": "looked at once more"}));
    let status = world.handled("marked").await;
    assert!(!status.settled && status.runtime_status == Some(RuntimeStatus::Running), "{status:?}");
    assert_eq!(find(&status, "Ready").unwrap().reason, "Running");

    // Start and terminate were processed apart (5.8): the history has a result, the row the reason of the terminate.
    world.start_foreign("contradicted", "HelloSequence").await;
    world.instance_ends("contradicted").await;
    let row = world.row("contradicted").await.with("RuntimeStatus", "Terminated").with("Output", "too late");
    world.replace_row(&row).await;
    world.run("contradicted", "HelloSequence", json!({"startPolicy": "Adopt"}));
    let status = world.reason("contradicted", "Completed").await;
    assert_eq!(status.output.as_ref().unwrap().text(), r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#);
    assert!(status.settled && status.failure.is_none() && status.runtime_status == Some(RuntimeStatus::Completed), "{status:?}");
    assert_eq!(said(&status), ["Ready=True Completed", "Started=True Adopted", "Complete=True Completed"]);
}
