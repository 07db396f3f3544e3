//! Runs that must end, runs that never do, and what kstatus reads of both.

use durable_operator::api::v1alpha1::RuntimeStatus;
use serde_json::json;

use super::{find, said};
use crate::support::World;
use crate::support::runs::Runs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_beyond_its_deadline_is_terminated_and_says_why() {
    let world = World::new("deadline_exceeded").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.run("late", "Approval", json!({"activeDeadlineSeconds": 1, "reason": "not this one"}));
    world.run("suspended", "Approval", json!({"activeDeadlineSeconds": 6}));
    world.run("in-time", "Echo", json!({"activeDeadlineSeconds": 60}));
    world.run("later", "Approval", json!({}));
    world.run("asked", "Approval", json!({"activeDeadlineSeconds": 3600}));
    world.all(&["suspended", "later", "asked"], "Running").await;
    world.wish("suspended", &json!({"desiredState": "Suspended"}));
    world.wish("asked", &json!({"desiredState": "Terminated"}));
    world.reason("suspended", "Suspended").await;
    world.wish("later", &json!({"activeDeadlineSeconds": 1}));
    for name in ["late", "suspended", "later"] {
        let status = world.reason(name, "DeadlineExceeded").await;
        assert!(status.settled && status.runtime_status == Some(RuntimeStatus::Terminated), "{status:?}");
        assert_eq!(
            said(&status),
            ["Ready=False DeadlineExceeded", "Started=True Started", "Failed=True DeadlineExceeded", "Stalled=True DeadlineExceeded"]
        );
        let instance = world.row(name).await;
        let why = format!("Orchestration {}/{name} did not end within spec.activeDeadlineSeconds", world.namespace);
        assert_eq!((instance.text("RuntimeStatus"), instance.text("Output")), (Some("Terminated"), Some(why.as_str())));
        assert_eq!(world.steered(name).await[2], 1, "{name}");
    }
    world.events_are("late", &["DeadlineExceeded", "Terminating"]).await;
    assert_eq!(find(&world.reason("in-time", "Completed").await, "Failed"), None);
    assert_eq!(said(&world.reason("asked", "Terminated").await)[0], "Ready=True Terminated");

    // The reason stays, whatever is wished afterwards; only who wanted it ended has what she wanted.
    world.wish("late", &json!({"activeDeadlineSeconds": null}));
    let status = world.handled("late").await;
    assert_eq!(find(&status, "Failed").unwrap().reason, "DeadlineExceeded");
    world.wish("late", &json!({"desiredState": "Terminated"}));
    world.reason("late", "Terminated").await;
    Runs::at_rest(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eternal_run_is_ready_once_it_has_started() {
    let world = World::new("deadline_eternal").await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.run("counts", "Counter", json!({"readyWhen": "Started", "input": {"value": 5}}));
    let waiting = world.reason("counts", "Enqueued").await;
    assert_eq!(find(&waiting, "Ready").unwrap().status, "False");
    let _worker = world.worker().await;
    let started = world.reason("counts", "Started").await;
    assert_eq!(said(&started), ["Ready=True Started", "Started=True Started"]);
    assert!(!started.settled);

    // A continue-as-new is the same instance, in a new execution.
    world.hub().await.raise_event("counts", "add", Some("2")).await.unwrap();
    crate::support::eventually("the total is shown", async || {
        let status = world.status("counts").await;
        let total = status.custom_status.as_ref().map(|json| json.text().to_owned());
        if total.as_deref() == Some("7") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(said(&world.status("counts").await), ["Ready=True Started", "Started=True Started"]);

    world.wish("counts", &json!({"desiredState": "Suspended"}));
    let suspended = world.reason("counts", "Suspended").await;
    assert_eq!(said(&suspended), ["Ready=True Suspended", "Started=True Started", "Suspended=True Suspended"]);
    world.wish("counts", &json!({"desiredState": "Running"}));
    world.reason("counts", "Started").await;
    world.hub().await.suspend("counts", Some("by hand")).await.unwrap();
    let by_other = world.reason("counts", "SuspendedByOther").await;
    assert_eq!(
        said(&by_other),
        ["Ready=False SuspendedByOther", "Started=True Started", "Suspended=True SuspendedByOther", "Reconciling=True SuspendedByOther"]
    );
    world.hub().await.resume("counts", None).await.unwrap();
    world.reason("counts", "Started").await;
    world.wish("counts", &json!({"desiredState": "Terminated"}));
    world.reason("counts", "Terminated").await;
    world.events_are("counts", &["Resuming", "SuspendedByOther", "Suspending", "Terminating"]).await;

    world.run("stops", "Counter", json!({"readyWhen": "Started"}));
    world.reason("stops", "Started").await;
    world.hub().await.raise_event("stops", "stop", None).await.unwrap();
    let completed = world.reason("stops", "Completed").await;
    assert_eq!(said(&completed), ["Ready=True Completed", "Started=True Started", "Complete=True Completed"]);
}
