//! Rewinding through the object: once for each token, and only what failed.

use std::collections::BTreeMap;

use durable_bed::binaries;
use durable_bed::guard::Signal;
use durable_operator::api::v1alpha1::{Action, RewindResult, RuntimeStatus};
use durable_operator::crash_points::at;
use durable_taskhub::Time;
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Condition, Entity};
use serde_json::{Value, json};

use super::{find, said};
use crate::support::runs::Runs;
use crate::support::{PATIENCE, World, eventually};

const FAILED: &str = "OrchestrationFailed";

fn token(token: &str) -> Value {
    json!({"desiredState": "Rewound", "rewindToken": token})
}

impl World {
    async fn without_finalizer(&self, name: &str) {
        eventually(&format!("the finalizer of {name} has gone"), async || match self.finalizers(name).await {
            none if none.is_empty() => Ok(()),
            finalizers => Err(format!("{finalizers:?}")),
        })
        .await;
    }

    async fn merge_history(&self, row: &Entity) {
        self.storage().table(&self.hub_name.history_table()).merge(row, Condition::Any).await.unwrap();
    }

    async fn history_rows(&self, id: &str) -> Vec<Entity> {
        let query = durable_taskhub::storage::Query {
            filter: Some(format!("PartitionKey eq {}", durable_taskhub::storage::quote(&escape_key(id)))),
            ..Default::default()
        };
        self.storage().table(&self.hub_name.history_table()).query(&query).await.unwrap().entities
    }
}

/// How many rows of the history a rewind has rewritten.
fn rewritten(history: &[Entity]) -> usize {
    history.iter().filter(|row| row.text("Reason").is_some_and(|reason| reason.starts_with("Rewound:"))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_done_again_once_for_each_token() {
    let world = World::new("rewind_tokens").await;
    let (_worker, markers) = world.worker_and_markers().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    for name in ["plain", "twice", "tokenless"] {
        world.run(name, "Flaky", json!({}));
    }
    world.run("parent", "ParentChild", json!({}));
    world.all(&["plain", "twice", "tokenless", "parent"], FAILED).await;
    std::fs::write(markers.join("plain"), "").unwrap();
    std::fs::write(markers.join("parent"), "").unwrap();

    world.wish_all(&["plain", "parent", "twice"], &token("first"));
    world.wish("tokenless", &json!({"desiredState": "Rewound"}));
    for name in ["plain", "parent"] {
        let status = world.reason(name, "Completed").await;
        assert_eq!(said(&status), ["Ready=True Completed", "Started=True Started", "Complete=True Completed"]);
        assert!(status.settled && status.pending.is_none() && status.failure.is_none() && status.completed_time.is_some(), "{status:?}");
        world.rewind_is(name, Some("first"), RewindResult::Succeeded).await;
        world.without_finalizer(name).await;
        world.events_are(name, &[FAILED, "Rewound"]).await;
    }
    let output: Value = serde_json::from_str(world.status("parent").await.output.unwrap().text()).unwrap();
    assert_eq!(output["child"], json!(["Hello before!", "healed parent", "Hello after!"]));
    let output: Value = serde_json::from_str(world.status("plain").await.output.unwrap().text()).unwrap();
    assert_eq!(output, json!(["Hello before!", "healed plain", "Hello after!"]));
    world.row_is("parent-child", "Completed").await;

    // Not healed, it fails again, and is not rewound again by itself.
    for (name, used) in [("twice", Some("first")), ("tokenless", None)] {
        world.rewind_is(name, used, RewindResult::Succeeded).await;
        world.without_finalizer(name).await;
        let status = world.reason(name, FAILED).await;
        assert_eq!(
            said(&status),
            [
                format!("Ready=False {FAILED}"),
                "Started=True Started".into(),
                format!("Failed=True {FAILED}"),
                format!("Stalled=True {FAILED}")
            ]
        );
        assert!(status.settled && status.failure.is_some());
    }
    // The same manifest again does nothing, nor does a new reason.
    Runs::at_rest(&world).await;
    let before: Vec<_> = [world.history_rows("twice").await, world.history_rows("tokenless").await].concat();
    world.wish("twice", &token("first"));
    world.wish("tokenless", &json!({"desiredState": "Rewound"}));
    world.wish_all(&["twice", "tokenless"], &json!({"reason": "again"}));
    for name in ["twice", "tokenless"] {
        assert_eq!(find(&world.handled(name).await, "Ready").unwrap().reason, FAILED);
    }
    let after: Vec<_> = [world.history_rows("twice").await, world.history_rows("tokenless").await].concat();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(Runs::read(&world).await.messages(), 0);

    // A new token is one more; without one, another state has to be wished in between.
    std::fs::write(markers.join("twice"), "").unwrap();
    std::fs::write(markers.join("tokenless"), "").unwrap();
    world.wish("twice", &token("second"));
    world.wish("tokenless", &json!({"desiredState": "Running"}));
    eventually("the rewind without a token is forgotten", async || {
        let status = world.status("tokenless").await;
        if status.last_rewind.is_none() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    world.wish("tokenless", &json!({"desiredState": "Rewound"}));
    world.all(&["twice", "tokenless"], "Completed").await;
    world.rewind_is("twice", Some("second"), RewindResult::Succeeded).await;
    for name in ["twice", "tokenless"] {
        let events = world.events_in_history(name).await;
        let count = |event: &str| events.get(event).copied().unwrap_or_default();
        assert_eq!((count("TaskCompleted"), count("ExecutionCompleted"), count("TaskFailed")), (3, 1, 0), "{name}: {events:?}");
        world.without_finalizer(name).await;
    }
    // A token that comes when nothing has failed is used up.
    world.wish("plain", &token("late"));
    world.rewind_is("plain", Some("late"), RewindResult::NotNeeded).await;
    assert_eq!(find(&world.handled("plain").await, "Ready").unwrap().reason, "Completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_that_cannot_work_is_refused_and_says_why() {
    let world = World::new("rewind_refused").await;
    let (worker, markers) = world.worker_and_markers().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let names = ["timer", "caught", "orphan", "purged", "stale"];
    for name in names {
        world.run(name, if name == "orphan" { "ParentChild" } else { "Flaky" }, json!({}));
    }
    // Started with the token already: it is used up before the run fails.
    world.run("early", "Flaky", token("early"));
    world.all(&names, FAILED).await;
    world.rewind_is("early", Some("early"), RewindResult::NotNeeded).await;
    assert_eq!(find(&world.reason("early", FAILED).await, "Ready").unwrap().reason, FAILED);
    for name in names.iter().chain(&["early", "orphan"]) {
        std::fs::write(markers.join(name), "").unwrap();
    }
    Runs::at_rest(&world).await;
    drop(worker);

    // As if the orchestrator had waited for a timer; as if it had gone on after the failure; the child, and all, purged.
    for (name, event) in [("timer", "TimerCreated"), ("caught", "TaskScheduled")] {
        let rows = world.history_rows(name).await;
        // Its place is that of the end, which moves behind it.
        let completed = rows.iter().find(|row| row.text("EventType") == Some("ExecutionCompleted")).unwrap();
        let number = u64::from_str_radix(&completed.row_key, 16).unwrap();
        let moved = Entity { row_key: format!("{:016X}", number + 2), ..completed.clone() };
        let added = Entity::new(&completed.partition_key, &completed.row_key)
            .with("EventType", event)
            .with("EventId", 7)
            .with("Name", "SayHello")
            .with("ExecutionId", completed.text("ExecutionId").unwrap())
            .with("FireAt", Time::now())
            .with("_Timestamp", Time::now());
        let table = world.storage().table(&world.hub_name.history_table());
        table.replace(&added, Condition::Any).await.unwrap();
        table.insert(&moved).await.unwrap();
    }
    let hub = world.hub().await;
    hub.purge("orphan-child", false).await.unwrap();
    hub.purge("purged", false).await.unwrap();
    // The row says Failed, the history Completed (engine-experiments.md 5.8).
    let rows = world.history_rows("stale").await;
    let completed = rows.iter().find(|row| row.text("EventType") == Some("ExecutionCompleted")).unwrap();
    world.merge_history(&Entity::new(&completed.partition_key, &completed.row_key).with("OrchestrationStatus", "Completed")).await;
    let mut before = BTreeMap::new();
    for name in ["timer", "caught", "orphan", "stale"] {
        before.insert(name, rewritten(&world.history_rows(name).await));
    }

    world.wish_all(&names, &token("t"));
    for (name, why) in [
        ("timer", "used durable timers"),
        ("caught", "was retried or caught"),
        ("orphan", "is not in the hub any more"),
        ("purged", "no longer in the task hub"),
    ] {
        let status = world.reason(name, "RewindRejected").await;
        assert_eq!(
            said(&status),
            ["Ready=False RewindRejected", "Started=True Started", &format!("Failed=True {FAILED}"), "Stalled=True RewindRejected"]
        );
        let message = &find(&status, "Ready").unwrap().message;
        assert!(message.contains("cannot be rewound") && message.contains(why), "{name}: {message}");
        let last = world.rewind_is(name, Some("t"), RewindResult::Rejected).await.last_rewind.unwrap();
        assert!(last.message.as_ref().is_some_and(|message| message.contains(why)), "{last:?}");
        world.without_finalizer(name).await;
        world.events_are(name, &[FAILED, "RewindRejected"]).await;
        // Another wish, and the run has just failed.
        world.wish(name, &json!({"desiredState": "Running"}));
        assert_eq!(find(&world.reason(name, FAILED).await, "Stalled").unwrap().reason, FAILED);
    }
    world.rewind_is("stale", Some("t"), RewindResult::NotNeeded).await;
    world.without_finalizer("stale").await;
    for (name, before) in before {
        assert_eq!(rewritten(&world.history_rows(name).await), before, "{name}: something was written");
    }
    assert_eq!(Runs::read(&world).await.messages(), 0);
}

/// .NET's client writes row by row, and its own rewind fails for ever after the first one (engine-experiments.md 7.2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_that_another_client_left_half_done_is_finished() {
    let world = World::new("rewind_half").await;
    let (worker, markers) = world.worker_and_markers().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.run("half", "Flaky", json!({}));
    world.reason("half", FAILED).await;
    std::fs::write(markers.join("half"), "").unwrap();
    Runs::at_rest(&world).await;
    drop(worker);
    let rows = world.history_rows("half").await;
    let failure = rows.iter().find(|row| row.text("EventType") == Some("TaskFailed")).unwrap();
    let number = failure.columns["TaskScheduledId"].clone();
    let scheduled =
        rows.iter().find(|row| row.text("EventType") == Some("TaskScheduled") && row.columns.get("EventId") == Some(&number)).unwrap();
    let row = Entity::new(&scheduled.partition_key, &scheduled.row_key)
        .with("EventType", "GenericEvent")
        .with("Reason", "Rewound: TaskScheduled");
    world.merge_history(&row).await;

    // While it is under way, a finalizer stands; nobody works on the hub yet.
    world.wish("half", &token("finish"));
    let status = world.rewind_is("half", Some("finish"), RewindResult::Succeeded).await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "Rewinding");
    assert_eq!(find(&status, "Reconciling").unwrap().reason, "Rewinding");
    assert!(!status.settled && status.failure.is_none() && status.output.is_none(), "{status:?}");
    world.without_finalizer("half").await;
    assert_eq!(rewritten(&world.history_rows("half").await), 3);
    assert_eq!(world.row("half").await.text("RuntimeStatus"), Some("Pending"));
    let _worker = world.worker_and_markers().await;
    let status = world.reason("half", "Completed").await;
    let output: Value = serde_json::from_str(status.output.unwrap().text()).unwrap();
    assert_eq!(output, json!(["Hello before!", "healed half", "Hello after!"]));
}

/// The end is first seen with the wish to rewind it: what was seen before the rewind does not count after it, and after a
/// crash the end that the rewind was for is told from a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_nobody_saw_is_rewound_also_after_a_crash() {
    let world = World::new("rewind_unseen").await;
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.operator().await;
    world.quick_hub().await;
    let names = ["unseen", "cut-off"];
    for name in names {
        world.run(name, "Flaky", json!({}));
    }
    world.run("refused", "ParentChild", json!({}));
    world.all(&["unseen", "cut-off", "refused"], "Enqueued").await;
    operator.process.signal(Signal::Kill);
    operator.process.wait(PATIENCE).unwrap();
    let (_worker, markers) = world.worker_and_markers().await;
    for name in names {
        world.row_is(name, "Failed").await;
        std::fs::write(markers.join(name), "").unwrap();
    }
    world.row_is("refused", "Failed").await;
    world.hub().await.purge("refused-child", false).await.unwrap();
    world.wish_all(&["unseen", "refused", "cut-off"], &token("t"));
    // The operator that dies sees one of them only.
    for name in ["unseen", "refused"] {
        world.annotate(&format!("orchestration/{name}"), "durable-operator.dev/paused=true");
    }
    let mut operator = world.start_operator(&program, &[("DURABLE_CRASH_AT", at::REWIND_RECORDED)]);
    eventually("the operator dies", async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    let pending = world.status("cut-off").await.pending.unwrap();
    assert_eq!(pending.action, Action::Rewind);
    for name in ["unseen", "refused"] {
        world.annotate(&format!("orchestration/{name}"), "durable-operator.dev/paused-");
    }
    let _operator = world.operator().await;
    for name in names {
        let status = world.reason(name, "Completed").await;
        world.rewind_is(name, Some("t"), RewindResult::Succeeded).await;
        let output: Value = serde_json::from_str(status.output.unwrap().text()).unwrap();
        assert_eq!(output[1], json!(format!("healed {name}")));
        world.without_finalizer(name).await;
    }
    // Also if it is refused, the end is shown.
    let status = world.reason("refused", "RewindRejected").await;
    assert!(status.settled && status.failure.is_some() && status.runtime_status == Some(RuntimeStatus::Failed), "{status:?}");
    world.wish("refused", &json!({"desiredState": "Running"}));
    world.reason("refused", FAILED).await;
}
