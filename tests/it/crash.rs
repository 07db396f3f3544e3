//! The operator dies, at any point and at any time: started again, there is one run of each object, and its status arrives.
//!
//! Whether there is one run is told by the hub's history and queues, not by the operator.

use std::time::Duration;

use durable_bed::binaries;
use durable_bed::guard::Signal;
use durable_operator::api::v1alpha1::{OrchestrationStatus, RuntimeStatus};
use durable_operator::crash_points::at;
use kube::api::ListParams;
use serde_json::json;

use crate::support::runs::Runs;
use crate::support::{PATIENCE, World, eventually};

/// 128 and the number of SIGABRT, as shells say it.
const ABORTED: i32 = 134;

/// What runs, so that the operator gets to the point, and how it ends.
struct Case {
    function: &'static str,
    input: serde_json::Value,
    reason: &'static str,
    status: &'static str,
    activities: usize,
}

impl Case {
    fn of(point: &str) -> Case {
        match point {
            // Long enough to be seen running.
            at::RUNNING_WRITTEN => {
                Case { function: "Sleep", input: json!({"value": 8}), reason: "Completed", status: "Completed", activities: 0 }
            }
            // A failure is told by an Event after the status.
            at::SETTLED_WRITTEN => {
                Case { function: "Fail", input: json!({"value": "x"}), reason: "OrchestrationFailed", status: "Failed", activities: 0 }
            }
            _ => Case { function: "HelloSequence", input: json!({"value": 1}), reason: "Completed", status: "Completed", activities: 3 },
        }
    }
}

async fn dies_at(point: &'static str) {
    let case = Case::of(point);
    let world = World::new(&format!("at_{}", point.replace('-', "_"))).await;
    // Up to the first status nobody works on the hub, so that what the crash leaves can be looked at.
    let runs_before = matches!(point, at::RUNNING_WRITTEN | at::SETTLED_WRITTEN);
    let mut worker = if runs_before { Some(world.worker().await) } else { None };
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.start_operator(&program, &[("DURABLE_CRASH_AT", point)]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", case.function, json!({"input": case.input}));
    // Without blocking: other points are at work in the same task, with time-outs of their own.
    let ended =
        eventually(&format!("{point}: the operator dies"), async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    assert_eq!(ended.code(), Some(ABORTED), "{point}: {}", operator.process.output());
    let said = format!("crash point {point} reached");
    assert_eq!(operator.process.output().lines().filter(|line| **line == said).count(), 1, "{point}: {}", operator.process.output());

    what_is_left(&world, point).await;

    let operator = world.start_operator(&program, &[]);
    operator.until_ready().await;
    if worker.is_none() {
        // The restarted operator mends before there is a worker: nothing else may make the run start.
        let instance_has_message = async || if Runs::read(&world).await.messages() > 0 { Ok(()) } else { Err("no message".to_owned()) };
        eventually(&format!("{point}: the start message is there"), instance_has_message).await;
        worker = Some(world.worker().await);
    }
    let status = world.reason("run", case.reason).await;
    assert!(status.settled, "{point}: {status:?}");
    let object = world.orchestrations().get("run").await.unwrap();
    Runs::at_rest(&world).await.assert_ran_once(&object, case.status, case.activities);
    drop(worker);
}

/// Hub and object between the crash and the restart.
async fn what_is_left(world: &World, point: &str) {
    let status = world.status("run").await;
    let runs = Runs::read(world).await;
    let instances = runs.instances();
    let [row, message, accepted] = match point {
        at::BEFORE_ROW => [false, false, false],
        at::ROW_WRITTEN => [true, false, false],
        at::MESSAGE_SENT => [true, true, false],
        at::ACCEPTED_WRITTEN => [true, true, true],
        at::RUNNING_WRITTEN => {
            assert_eq!(status.runtime_status, Some(RuntimeStatus::Running), "{status:?}");
            return;
        }
        at::SETTLED_WRITTEN => {
            assert!(status.settled && status.runtime_status == Some(RuntimeStatus::Failed), "{status:?}");
            return;
        }
        other => panic!("no expectation for the crash point {other}"),
    };
    assert_eq!(instances.len(), usize::from(row), "{point}: {instances:?}");
    assert_eq!(runs.messages(), u64::from(message), "{point}");
    assert_eq!(status.execution_id.is_some(), accepted, "{point}: {status:?}");
    if !accepted {
        assert_eq!(status, OrchestrationStatus { observed_generation: Some(-1), ..OrchestrationStatus::default() }, "{point}");
    }
    for id in instances {
        assert_eq!(runs.column(&id, "RuntimeStatus").as_deref(), Some("Pending"), "{point}");
        let owner = runs.column(&id, "KubernetesOwner").unwrap();
        assert!(owner.starts_with(&format!("{}/run/", world.namespace)), "{point}: {owner}");
    }
}

/// Two tests, so that they run side by side; together they have all points.
const WITHOUT_WORKER: [&str; 4] = [at::BEFORE_ROW, at::ROW_WRITTEN, at::MESSAGE_SENT, at::ACCEPTED_WRITTEN];
const WITH_WORKER: [&str; 2] = [at::RUNNING_WRITTEN, at::SETTLED_WRITTEN];

#[test]
fn every_crash_point_has_its_test() {
    assert_eq!([&WITHOUT_WORKER[..], &WITH_WORKER[..]].concat(), at::ALL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_cut_off_is_finished_once() {
    binaries::operator_with_crash_points().unwrap();
    binaries::worker().unwrap();
    tokio::join!(dies_at(WITHOUT_WORKER[0]), dies_at(WITHOUT_WORKER[1]), dies_at(WITHOUT_WORKER[2]), dies_at(WITHOUT_WORKER[3]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_under_way_or_over_is_only_shown() {
    binaries::operator_with_crash_points().unwrap();
    binaries::worker().unwrap();
    tokio::join!(dies_at(WITH_WORKER[0]), dies_at(WITH_WORKER[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_feature_the_variable_does_nothing() {
    let world = World::new("no_crash_points").await;
    let operator = world.start_operator(&binaries::operator().unwrap(), &[("DURABLE_CRASH_AT", at::BEFORE_ROW)]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", "HelloSequence", json!({}));
    world.reason("run", "Enqueued").await;
    assert_eq!(Runs::read(&world).await.messages(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_time_no_run_is_lost_and_none_doubled() {
    const RUNS: usize = 50;
    const KILLS: usize = 10;
    let world = World::new("killed").await;
    let program = binaries::operator().unwrap();
    let operator = world.operator().await;
    world.ready_hub().await;
    let _worker = world.worker().await;
    let objects: Vec<_> = (0..RUNS)
        .map(|number| {
            json!({
                "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": format!("run-{number}")},
                "spec": {"taskHubRef": {"name": "hub"}, "functionName": "HelloSequence"}
            })
        })
        .collect();
    let settled = async || {
        let list = world.orchestrations().list(&ListParams::default()).await.unwrap();
        list.items.into_iter().filter(|object| object.status.as_ref().is_some_and(|status| status.settled)).collect::<Vec<_>>()
    };
    // Killed as soon as it has begun, so that almost all is left to its successors.
    drop(operator);
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    let mut kills = Vec::new();
    while kills.len() < KILLS && settled().await.len() < RUNS {
        let mut operator = world.start_operator(&program, &[]);
        operator.until_ready().await;
        // A random moment within the work: the wait is the fault that is injected, nothing relies on its length.
        let moment = Duration::from_millis(random() % 1000);
        tokio::time::sleep(moment).await;
        operator.process.signal(Signal::Kill);
        operator.process.wait(PATIENCE).unwrap();
        kills.push(format!("{moment:?}: {} started, {} settled", Runs::read(&world).await.instances().len(), settled().await.len()));
    }
    assert!(kills.len() > 2, "all had settled before the third kill: {kills:?}");
    let _operator = world.operator().await;
    let objects = eventually(&format!("all settle after {kills:?}"), async || {
        let settled = settled().await;
        if settled.len() == RUNS { Ok(settled) } else { Err(format!("{} settled", settled.len())) }
    })
    .await;
    let runs = Runs::at_rest(&world).await;
    assert_eq!(runs.instances().len(), RUNS, "{kills:?}");
    for object in &objects {
        runs.assert_ran_once(object, "Completed", 3);
    }
    println!("kills after ready: {kills:#?}");
}

/// Not from a seed: each run of the test kills at other moments, and prints them.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
