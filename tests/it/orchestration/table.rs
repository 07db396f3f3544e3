//! Desired state against what is: every cell of the table, by kubectl, told by the hub as well as by the status.

use durable_operator::api::v1alpha1::{OrchestrationStatus, RewindResult, RuntimeStatus};
use serde_json::{Value, json};

use super::{find, said};
use crate::support::World;
use crate::support::runs::Runs;

fn suspended() -> Value {
    json!({"desiredState": "Suspended"})
}

fn running() -> Value {
    json!({"desiredState": "Running"})
}

fn terminated() -> Value {
    json!({"desiredState": "Terminated"})
}

fn rewound() -> Value {
    json!({"desiredState": "Rewound", "rewindToken": "once"})
}

fn with(mut wish: Value, key: &str, value: Value) -> Value {
    wish[key] = value;
    wish
}

fn is(status: &OrchestrationStatus, expected: &[&str]) {
    assert_eq!(said(status), expected, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_created_yet() {
    let world = World::new("table_uncreated").await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let far = || json!("2099-01-01T00:00:00Z");
    world.run("ahead", "Echo", json!({"startAt": far()}));
    world.run("ahead-suspended", "Echo", with(suspended(), "startAt", far()));
    world.run("ahead-terminated", "Echo", with(terminated(), "startAt", far()));
    world.run("ahead-rewound", "Echo", with(rewound(), "startAt", far()));
    world.run("suspended", "Echo", suspended());
    world.run("terminated", "Echo", terminated());
    is(
        &world.reason("ahead", "WaitingForStartAt").await,
        &["Ready=False WaitingForStartAt", "Started=False WaitingForStartAt", "Reconciling=True WaitingForStartAt"],
    );
    for name in ["suspended", "ahead-suspended"] {
        let status = world.reason(name, "NotCreated").await;
        is(&status, &["Ready=False NotCreated", "Started=False NotCreated", "Reconciling=True NotCreated"]);
        assert!(!status.settled);
    }
    for name in ["terminated", "ahead-terminated"] {
        let status = world.reason(name, "Terminated").await;
        is(&status, &["Ready=True Terminated", "Started=False NotCreated", "Complete=True Terminated"]);
        assert!(status.settled && status.runtime_status.is_none(), "{status:?}");
    }
    world.reason("ahead-rewound", "WaitingForStartAt").await;
    world.rewind_is("ahead-rewound", Some("once"), RewindResult::NotNeeded).await;

    // A start that waits for its time can be called off, and stays so.
    world.wish("ahead", &terminated());
    world.reason("ahead", "Terminated").await;
    for (name, wish) in [("ahead", running()), ("terminated", suspended()), ("ahead-terminated", running())] {
        world.wish(name, &wish);
        let status = world.reason(name, "AlreadyTerminated").await;
        is(
            &status,
            &["Ready=False AlreadyTerminated", "Started=False NotCreated", "Failed=True Terminated", "Stalled=True AlreadyTerminated"],
        );
    }
    world.wish("terminated", &rewound());
    world.reason("terminated", "RewindRejected").await;
    world.rewind_is("terminated", Some("once"), RewindResult::Rejected).await;
    let runs = Runs::read(&world).await;
    assert!(runs.instances().is_empty() && runs.messages() == 0, "{:?}", runs.instances());

    // What starts once it is wished, or due.
    let _worker = world.worker().await;
    world.wish("suspended", &running());
    let soon = durable_taskhub::Time::now().saturating_add(std::time::Duration::from_secs(3));
    world.run("soon", "Echo", json!({"startAt": format!("{soon}")}));
    world.run("rewound", "Echo", rewound());
    world.all(&["suspended", "soon", "rewound"], "Completed").await;
    world.rewind_is("rewound", Some("once"), RewindResult::NotNeeded).await;
    assert!(world.instance("soon").await.unwrap().created_time.unwrap() >= durable_taskhub::Time::parse(&format!("{soon}")).unwrap());
    let runs = Runs::at_rest(&world).await;
    assert_eq!(runs.instances().len(), 3, "{:?}", runs.instances());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pending_waits_for_its_start() {
    let world = World::new("table_pending").await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let names = ["running", "suspended", "terminated", "rewound"];
    for name in names {
        world.run(name, "Approval", json!({}));
    }
    world.all(&names, "Enqueued").await;
    world.wish("suspended", &suspended());
    world.wish("terminated", &terminated());
    world.wish("rewound", &rewound());
    world.rewind_is("rewound", Some("once"), RewindResult::NotNeeded).await;
    for (name, then) in [("suspended", "it is suspended as soon"), ("terminated", "it is terminated as soon")] {
        let status = world.handled(name).await;
        let ready = find(&status, "Ready").unwrap();
        assert!(ready.reason == "NoActiveWorkers" || ready.message.contains(then), "{ready:?}");
        assert!(status.pending.is_none() && !status.settled, "{status:?}");
    }
    // A message before the start would be lost: the queues have the starts only.
    assert_eq!(world.control_messages().await, ["ExecutionStartedEvent"; 4]);
    let _worker = world.worker().await;
    is(&world.reason("suspended", "Suspended").await, &["Ready=True Suspended", "Started=True Started", "Suspended=True Suspended"]);
    is(&world.reason("terminated", "Terminated").await, &["Ready=True Terminated", "Started=True Started", "Complete=True Terminated"]);
    world.all(&["running", "rewound"], "Running").await;
    Runs::at_rest(&world).await;
    for (name, expected) in [("suspended", [1, 0, 0]), ("terminated", [0, 0, 1]), ("running", [0; 3]), ("rewound", [0; 3])] {
        assert_eq!(world.steered(name).await, expected, "{name}");
    }
    world.row_is("suspended", "Suspended").await;
    world.row_is("terminated", "Terminated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_and_what_is_suspended() {
    let world = World::new("table_running").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let ours = ["ours-running", "ours-suspended", "ours-terminated", "ours-rewound"];
    let others = ["other-running", "other-suspended", "other-terminated", "other-rewound"];
    let plain = ["run-terminated", "run-rewound", "run-running"];
    for name in ours.iter().chain(&others).chain(&plain) {
        world.run(name, "Approval", json!({}));
    }
    world.all(&ours, "Running").await;
    world.wish_all(&ours, &suspended());
    world.all(&others, "Running").await;
    for name in others {
        world.hub().await.suspend(name, Some("by hand")).await.unwrap();
    }
    world.all(&plain, "Running").await;

    // Running.
    world.wish("run-terminated", &terminated());
    world.wish("run-rewound", &rewound());
    world.rewind_is("run-rewound", Some("once"), RewindResult::NotNeeded).await;
    world.reason("run-terminated", "Terminated").await;
    assert_eq!(world.steered("run-terminated").await, [0, 0, 1]);

    // Suspended by us.
    world.all(&ours, "Suspended").await;
    world.wish("ours-running", &running());
    world.wish("ours-suspended", &json!({"desiredState": "Suspended", "reason": "still"}));
    world.wish("ours-terminated", &terminated());
    world.wish("ours-rewound", &rewound());
    // By another client.
    world.all(&others, "SuspendedByOther").await;
    world.wish("other-suspended", &suspended());
    world.wish("other-terminated", &terminated());
    world.wish("other-rewound", &rewound());

    world.all(&["ours-running", "ours-rewound"], "Running").await;
    world.rewind_is("ours-rewound", Some("once"), RewindResult::NotNeeded).await;
    world.all(&["ours-terminated", "other-terminated"], "Terminated").await;
    is(&world.reason("other-suspended", "Suspended").await, &["Ready=True Suspended", "Started=True Started", "Suspended=True Suspended"]);
    let status = world.rewind_is("other-rewound", Some("once"), RewindResult::NotNeeded).await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "SuspendedByOther");
    world.handled("ours-suspended").await;
    Runs::at_rest(&world).await;
    for (name, expected, state) in [
        ("run-running", [0, 0, 0], "Running"),
        ("run-rewound", [0, 0, 0], "Running"),
        ("ours-running", [1, 1, 0], "Running"),
        ("ours-suspended", [1, 0, 0], "Suspended"),
        ("ours-terminated", [1, 0, 1], "Terminated"),
        ("ours-rewound", [1, 1, 0], "Running"),
        ("other-running", [1, 0, 0], "Suspended"),
        ("other-suspended", [1, 0, 0], "Suspended"),
        ("other-terminated", [1, 0, 1], "Terminated"),
        ("other-rewound", [1, 0, 0], "Suspended"),
    ] {
        assert_eq!((world.steered(name).await, world.row(name).await.text("RuntimeStatus")), (expected, Some(state)), "{name}");
    }
    // Once it was wished through the object, the suspension is the object's.
    world.wish("other-suspended", &running());
    world.reason("other-suspended", "Running").await;
    assert_eq!(world.steered("other-suspended").await, [1, 1, 0]);
    world.events_are("other-suspended", &["Resuming", "SuspendedByOther"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_is_final() {
    let world = World::new("table_over").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let completed = ["completed-suspended", "completed-terminated", "completed-rewound"];
    let failed = ["failed-suspended", "failed-terminated"];
    let by_us = ["terminated-running", "terminated-suspended", "terminated-terminated", "terminated-rewound"];
    let by_other = ["killed-running", "killed-suspended", "killed-terminated", "killed-rewound"];
    completed.iter().for_each(|name| world.run(name, "Echo", json!({"input": {"value": 1}})));
    failed.iter().for_each(|name| world.run(name, "Fail", json!({})));
    by_us.iter().chain(&by_other).for_each(|name| world.run(name, "Approval", json!({})));
    world.all(&by_us, "Running").await;
    world.wish_all(&by_us, &terminated());
    world.all(&by_other, "Running").await;
    for name in by_other {
        world.hub().await.terminate(name, Some("by hand")).await.unwrap();
    }
    world.all(&completed, "Completed").await;
    world.all(&failed, "OrchestrationFailed").await;
    world.all(&by_us, "Terminated").await;
    is(
        &world.all(&by_other, "Terminated").await,
        &["Ready=False Terminated", "Started=True Started", "Failed=True Terminated", "Stalled=True Terminated"],
    );
    Runs::at_rest(&world).await;
    let before = hub_rows(&world).await;

    world.wish_all(&["completed-suspended", "failed-suspended", "terminated-suspended", "killed-suspended"], &suspended());
    world.wish_all(&["completed-terminated", "failed-terminated", "killed-terminated"], &terminated());
    world.wish_all(&["completed-rewound", "terminated-rewound", "killed-rewound"], &rewound());
    world.wish("terminated-running", &running());
    world.wish("terminated-terminated", &json!({"reason": "still"}));
    for name in completed {
        let status = world.handled(name).await;
        is(&status, &["Ready=True Completed", "Started=True Started", "Complete=True Completed"]);
        assert!(status.settled && status.output.is_some());
    }
    for name in failed {
        let status = world.handled(name).await;
        is(
            &status,
            &[
                "Ready=False OrchestrationFailed",
                "Started=True Started",
                "Failed=True OrchestrationFailed",
                "Stalled=True OrchestrationFailed",
            ],
        );
        world.events_are(name, &["OrchestrationFailed", "TooLate"]).await;
    }
    world.rewind_is("completed-rewound", Some("once"), RewindResult::NotNeeded).await;
    world.events_are("completed-suspended", &["TooLate"]).await;
    world.events_are("completed-terminated", &["TooLate"]).await;
    world.events_are("completed-rewound", &[]).await;
    for name in ["terminated-running", "terminated-suspended", "killed-suspended"] {
        let status = world.reason(name, "AlreadyTerminated").await;
        is(&status, &["Ready=False AlreadyTerminated", "Started=True Started", "Failed=True Terminated", "Stalled=True AlreadyTerminated"]);
        assert!(find(&status, "Ready").unwrap().message.contains("apply a new object"));
    }
    world.events_are("terminated-running", &["AlreadyTerminated", "Terminating"]).await;
    for name in ["terminated-terminated", "killed-terminated"] {
        is(&world.handled(name).await, &["Ready=True Terminated", "Started=True Started", "Complete=True Terminated"]);
    }
    for name in ["terminated-rewound", "killed-rewound"] {
        let status = world.reason(name, "RewindRejected").await;
        is(&status, &["Ready=False RewindRejected", "Started=True Started", "Failed=True Terminated", "Stalled=True RewindRejected"]);
        world.rewind_is(name, Some("once"), RewindResult::Rejected).await;
    }
    // Back again: the wish is what it was, and so is the answer.
    world.wish("terminated-running", &terminated());
    world.reason("terminated-running", "Terminated").await;
    assert_eq!(hub_rows(&world).await, before, "something was done in the hub");
    assert_eq!(Runs::read(&world).await.messages(), 0);
}

/// ETags and all columns of all instances.
async fn hub_rows(world: &World) -> Vec<String> {
    let rows = world.instances().query(&durable_taskhub::storage::Query::default()).await.unwrap().entities;
    rows.iter().map(|row| format!("{row:?}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_or_replaced() {
    let world = World::new("table_gone").await;
    // 30 s become 1.5 s.
    let _operator = world.fast_operator("20").await;
    world.quick_hub().await;
    let missing = ["missing-running", "missing-suspended", "missing-terminated", "missing-rewound"];
    let replaced = ["replaced-running", "replaced-suspended", "replaced-terminated", "replaced-rewound"];
    for name in missing.iter().chain(&replaced) {
        world.run(name, "Approval", json!({}));
    }
    for name in missing.iter().chain(&replaced) {
        world.row_is(name, "Pending").await;
        eventually_accepted(&world, name).await;
    }
    world.clear_queues().await;
    for name in missing {
        world.delete_row(name).await;
    }
    for name in replaced {
        let mut theirs = world.row(name).await.with("RuntimeStatus", "Running").with("CustomStatus", "1").with("ExecutionId", "theirs");
        theirs.columns.remove("KubernetesOwner");
        world.replace_row(&theirs).await;
    }
    world.all(&missing, "InstanceMissing").await;
    world.all(&replaced, "Replaced").await;
    let before = hub_rows(&world).await;
    world.wish_all(&["missing-suspended", "replaced-suspended"], &suspended());
    world.wish_all(&["missing-terminated", "replaced-terminated"], &terminated());
    world.wish_all(&["missing-rewound", "replaced-rewound"], &rewound());
    let gone =
        ["Ready=False InstanceMissing", "Started=False InstanceNotFound", "Failed=True InstanceMissing", "Stalled=True InstanceMissing"];
    for name in ["missing-running", "missing-suspended", "missing-rewound"] {
        is(&world.handled(name).await, &gone);
    }
    is(
        &world.reason("missing-terminated", "Terminated").await,
        &["Ready=True Terminated", "Started=False InstanceNotFound", "Complete=True Terminated"],
    );
    for name in replaced {
        let status = world.handled(name).await;
        is(&status, &["Ready=False Replaced", "Started=False InstanceNotFound", "Stalled=True Replaced"]);
        assert!(status.settled);
    }
    for name in ["missing-rewound", "replaced-rewound"] {
        world.rewind_is(name, Some("once"), RewindResult::Rejected).await;
    }
    // It was gone as it was asked for; asked to run, it is missing.
    world.wish("missing-terminated", &running());
    is(&world.reason("missing-terminated", "InstanceMissing").await, &gone);
    assert_eq!(hub_rows(&world).await, before, "hands off");
    assert_eq!(Runs::read(&world).await.messages(), 0);
}

async fn eventually_accepted(world: &World, name: &str) {
    crate::support::eventually(&format!("{name} is accepted"), async || {
        let status = world.status(name).await;
        if status.runtime_status == Some(RuntimeStatus::Pending) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}
