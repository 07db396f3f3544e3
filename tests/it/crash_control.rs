//! The operator dies between any two effects of what it does to an instance: started again, the same end is reached, and
//! nothing is done twice.
//!
//! What was done is told by the hub's history and queues, not by the operator.

use std::path::PathBuf;

use durable_bed::binaries;
use durable_bed::guard::Process;
use durable_operator::api::v1alpha1::{OrchestrationStatus, RuntimeStatus};
use durable_operator::crash_points::at;
use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;
use serde_json::json;

use crate::support::runs::Runs;
use crate::support::{OperatorProcess, World, eventually};

/// 128 and the number of SIGABRT, as shells say it.
const ABORTED: i32 = 134;

/// A world whose operator dies at a point.
struct Doomed {
    world: World,
    operator: OperatorProcess,
    point: &'static str,
    markers: PathBuf,
}

impl Doomed {
    async fn new(point: &'static str) -> Doomed {
        let world = World::new(&format!("at_{}", point.replace('-', "_"))).await;
        let program = binaries::operator_with_crash_points().unwrap();
        let operator = world.start_operator(&program, &[("DURABLE_CRASH_AT", point)]);
        operator.until_ready().await;
        world.ready_hub().await;
        let markers = world.control_plane.with(|plane| plane.folder().join(format!("markers-{}", world.namespace)));
        std::fs::create_dir_all(&markers).unwrap();
        Doomed { world, operator, point, markers }
    }

    /// A worker whose flaky activities find their markers in this world's folder.
    async fn worker(&self) -> Process {
        self.world.worker_with(&[("FLAKY_DIR", &self.markers.to_string_lossy())]).await
    }

    fn heal(&self, key: &str) {
        std::fs::write(self.markers.join(key), "").unwrap();
    }

    fn patch(&self, name: &str, spec: serde_json::Value) {
        let patch = json!({"spec": spec}).to_string();
        self.world.kubectl(&["patch", "orchestration", name, "--type=merge", "--patch", &patch]);
    }

    fn delete(&self, name: &str) {
        self.world.kubectl(&["delete", "orchestration", name, "--wait=false"]);
    }

    /// Waits for the death, and starts an operator that lives.
    async fn dies_and_comes_back(&mut self) {
        let point = self.point;
        let ended =
            eventually(&format!("{point}: the operator dies"), async || self.operator.process.ended().ok_or_else(|| "it runs".to_owned()))
                .await;
        assert_eq!(ended.code(), Some(ABORTED), "{point}: {}", self.operator.process.output());
        self.operator = self.world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[]);
        self.operator.until_ready().await;
    }

    async fn gone(&self, name: &str) {
        eventually(&format!("{}: {name} is gone", self.point), async || match self.world.orchestrations().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(object) => Err(format!("{object:?}; {}", self.operator.process.output())),
        })
        .await;
    }

    fn finalizers(&self, name: &str) -> String {
        self.world.kubectl(&["get", "orchestration", name, "--output=jsonpath={.metadata.finalizers}"])
    }

    /// How often the history of the instance has an event.
    async fn count(&self, id: &str, event: &str) -> usize {
        Runs::at_rest(&self.world).await.history(id).get(event).copied().unwrap_or_default()
    }
}

async fn running(doomed: &Doomed, name: &str) -> String {
    doomed.world.orchestration(name, "Approval", json!({}));
    doomed.world.reason(name, "Running").await.instance_id.unwrap()
}

/// An instance of another client is taken over once, and not run again.
async fn adopts(point: &'static str) {
    let mut doomed = Doomed::new(point).await;
    let _worker = doomed.worker().await;
    let request =
        StartRequest { instance_id: InstanceId::new("shared").unwrap(), input: Some("[1, 2.0]".to_owned()), ..StartRequest::new("Echo") };
    doomed.world.hub().await.start(request).await.unwrap();
    let wanted = json!({"instanceId": "shared", "startPolicy": "CreateOrAdopt", "input": {"value": [1, 2]}});
    doomed.world.orchestration("run", "Echo", wanted);
    doomed.dies_and_comes_back().await;
    let status = doomed.world.reason("run", "Completed").await;
    let started = status.conditions.iter().find(|condition| condition.type_ == "Started").unwrap();
    assert_eq!(started.reason, "Adopted", "{point}: {status:?}");
    assert_eq!(doomed.count("shared", "ExecutionStarted").await, 1, "{point}");
    let runs = Runs::read(&doomed.world).await;
    assert_eq!(runs.instances(), ["shared"], "{point}");
    assert!(runs.column("shared", "KubernetesOwner").unwrap().starts_with(&format!("{}/run/", doomed.world.namespace)), "{point}");
}

/// The finalizer stands before there is anything to be purged.
async fn holds_first() {
    let mut doomed = Doomed::new(at::FINALIZER_ADDED).await;
    let _worker = doomed.worker().await;
    doomed.world.orchestration("run", "Echo", json!({"deletionPolicy": "Purge"}));
    let held = eventually("the finalizer is on", async || match doomed.finalizers("run") {
        none if none.is_empty() => Err("none".to_owned()),
        finalizers => Ok(finalizers),
    })
    .await;
    assert!(held.contains("durable-operator.dev/finalizer"), "{held}");
    assert_eq!(Runs::read(&doomed.world).await.instances().len(), 0);
    doomed.dies_and_comes_back().await;
    let id = doomed.world.reason("run", "Completed").await.instance_id.unwrap();
    assert_eq!(doomed.count(&id, "ExecutionStarted").await, 1);
    doomed.delete("run");
    doomed.gone("run").await;
    assert_eq!(Runs::read(&doomed.world).await.instances().len(), 0);
}

/// A suspend arrives once, also if the operator died around its message.
async fn suspends(point: &'static str) {
    let mut doomed = Doomed::new(point).await;
    let _worker = doomed.worker().await;
    let id = running(&doomed, "run").await;
    doomed.patch("run", json!({"desiredState": "Suspended", "reason": "maintenance"}));
    doomed.dies_and_comes_back().await;
    let status = doomed.world.reason("run", "Suspended").await;
    assert!(status.pending.is_none(), "{point}: {status:?}");
    assert_eq!(doomed.count(&id, "ExecutionSuspended").await, 1, "{point}");
    doomed.patch("run", json!({"desiredState": "Terminated"}));
    let status = doomed.world.reason("run", "Terminated").await;
    assert!(status.settled, "{point}: {status:?}");
    assert_eq!(doomed.count(&id, "ExecutionTerminated").await, 1, "{point}");
}

/// The same while nobody takes messages: there is one message, whatever the operator went through.
async fn suspends_without_a_worker(point: &'static str) {
    let mut doomed = Doomed::new(point).await;
    let worker = doomed.worker().await;
    let id = running(&doomed, "run").await;
    stop(worker);
    doomed.patch("run", json!({"desiredState": "Suspended"}));
    doomed.dies_and_comes_back().await;
    let is_sent = |status: &OrchestrationStatus| status.pending.as_ref().is_some_and(|pending| pending.message_id.is_some());
    // Before the record names the message nobody can say whether it was sent, but that one is in the queue.
    eventually(&format!("{point}: the message is there"), async || {
        let (messages, status) = (Runs::read(&doomed.world).await.messages(), doomed.world.status("run").await);
        let is_known = point == at::CONTROL_SENT || is_sent(&status);
        if messages == 1 && is_known { Ok(()) } else { Err(format!("{messages} messages, {status:?}")) }
    })
    .await;
    let _worker = doomed.worker().await;
    doomed.world.reason("run", "Suspended").await;
    assert_eq!(doomed.count(&id, "ExecutionSuspended").await, 1, "{point}");
}

fn stop(mut worker: Process) {
    worker.signal(durable_bed::guard::Signal::Kill);
    worker.wait(crate::support::PATIENCE).unwrap();
}

/// A message that is taken back stays away.
async fn withdraws() {
    let mut doomed = Doomed::new(at::WITHDRAWN).await;
    let worker = doomed.worker().await;
    let id = running(&doomed, "run").await;
    stop(worker);
    doomed.patch("run", json!({"desiredState": "Suspended"}));
    eventually("the suspend is sent", async || {
        let status = doomed.world.status("run").await;
        let sent = status.pending.as_ref().is_some_and(|pending| pending.message_id.is_some());
        if sent { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(Runs::read(&doomed.world).await.messages(), 1);
    doomed.patch("run", json!({"desiredState": "Running"}));
    doomed.dies_and_comes_back().await;
    eventually("nothing is under way", async || {
        let status = doomed.world.status("run").await;
        // Withdrawn before the crash, it cannot be withdrawn again: until that is found out it counts as taken.
        let open = status.pending.is_some() && status.pending.as_ref().is_none_or(|pending| pending.message_id.is_some());
        let messages = Runs::read(&doomed.world).await.messages();
        if messages == 0 && !open { Ok(()) } else { Err(format!("{messages} messages, {status:?}")) }
    })
    .await;
    let _worker = doomed.worker().await;
    doomed.world.reason("run", "Running").await;
    assert_eq!(doomed.count(&id, "ExecutionSuspended").await, 0);
}

/// What failed is done again once.
async fn rewinds(point: &'static str) {
    let mut doomed = Doomed::new(point).await;
    let _worker = doomed.worker().await;
    doomed.world.orchestration("run", "Flaky", json!({"input": {"value": "key"}}));
    let id = doomed.world.reason("run", "OrchestrationFailed").await.instance_id.unwrap();
    doomed.heal("key");
    doomed.patch("run", json!({"desiredState": "Rewound", "rewindToken": "once"}));
    doomed.dies_and_comes_back().await;
    let status = doomed.world.reason("run", "Completed").await;
    let last = status.last_rewind.as_ref().unwrap();
    assert_eq!((last.token.as_deref(), last.result), (Some("once"), durable_operator::api::v1alpha1::RewindResult::Succeeded), "{point}");
    assert_eq!(status.runtime_status, Some(RuntimeStatus::Completed));
    // Before, the flaky one, after: each has one result.
    assert_eq!(doomed.count(&id, "TaskCompleted").await, 3, "{point}");
    assert_eq!(doomed.count(&id, "ExecutionCompleted").await, 1, "{point}");
    eventually("the finalizer has gone", async || match doomed.finalizers("run") {
        none if none.is_empty() => Ok(()),
        finalizers => Err(finalizers),
    })
    .await;
}

/// A start that nobody took up goes with its object.
async fn cancels() {
    let mut doomed = Doomed::new(at::CANCELED).await;
    doomed.world.orchestration("run", "Echo", json!({"deletionPolicy": "Purge"}));
    let id = doomed.world.reason("run", "Enqueued").await.instance_id.unwrap();
    doomed.delete("run");
    doomed.dies_and_comes_back().await;
    doomed.gone("run").await;
    let _worker = doomed.worker().await;
    // A start that finds no row is put back and back; nothing runs.
    let runs = Runs::read(&doomed.world).await;
    assert!(runs.instances().is_empty() && runs.history(&id).is_empty(), "{:?}", runs.instances());
}

/// The sub-orchestrations end with the object.
async fn tells_children() {
    let mut doomed = Doomed::new(at::CHILDREN_TOLD).await;
    let _worker = doomed.worker().await;
    let input = json!({"count": 2, "child": "Approval", "childInput": null});
    doomed.world.orchestration("run", "Cascade", json!({"deletionPolicy": "Terminate", "input": {"value": input}}));
    let id = doomed.world.reason("run", "Running").await.instance_id.unwrap();
    let children = [format!("{id}-0"), format!("{id}-1")];
    eventually("the children run", async || {
        let runs = Runs::read(&doomed.world).await;
        let running = children.iter().all(|child| runs.column(child, "CustomStatus").is_some_and(|status| status.contains("waiting")));
        if running { Ok(()) } else { Err(format!("{:?}", runs.instances())) }
    })
    .await;
    doomed.delete("run");
    doomed.dies_and_comes_back().await;
    doomed.gone("run").await;
    let runs = Runs::at_rest(&doomed.world).await;
    for instance in [&id, &children[0], &children[1]] {
        assert_eq!(runs.column(instance, "RuntimeStatus").as_deref(), Some("Terminated"), "{instance}");
        assert_eq!(runs.history(instance).get("ExecutionTerminated"), Some(&1), "{instance}: {:?}", runs.history(instance));
    }
}

/// A purge that was done is not missed.
async fn purges() {
    let mut doomed = Doomed::new(at::PURGED).await;
    let _worker = doomed.worker().await;
    let id = running(&doomed, "run").await;
    doomed.patch("run", json!({"deletionPolicy": "Purge"}));
    eventually("the finalizer is on", async || if doomed.finalizers("run").is_empty() { Err("none".to_owned()) } else { Ok(()) }).await;
    doomed.delete("run");
    doomed.dies_and_comes_back().await;
    doomed.gone("run").await;
    let runs = Runs::at_rest(&doomed.world).await;
    assert!(runs.instances().is_empty() && runs.history(&id).is_empty(), "{:?}", runs.instances());
}

#[test]
fn every_point_has_its_test() {
    let tested = [
        at::BEFORE_CLAIM,
        at::CLAIMED,
        at::FINALIZER_ADDED,
        at::ACTION_RECORDED,
        at::CONTROL_SENT,
        at::ACTION_SENT_WRITTEN,
        at::WITHDRAWN,
        at::REWIND_RECORDED,
        at::REWOUND,
        at::REWOUND_WRITTEN,
        at::CANCELED,
        at::CHILDREN_TOLD,
        at::PURGED,
    ];
    assert_eq!(tested, at::OF_CONTROL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_taken_over_once() {
    tokio::join!(adopts(at::BEFORE_CLAIM), adopts(at::CLAIMED), holds_first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_arrives_once() {
    tokio::join!(suspends(at::ACTION_RECORDED), suspends(at::CONTROL_SENT), suspends(at::ACTION_SENT_WRITTEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_is_one_message_while_nobody_takes_it() {
    tokio::join!(
        suspends_without_a_worker(at::ACTION_RECORDED),
        suspends_without_a_worker(at::CONTROL_SENT),
        suspends_without_a_worker(at::ACTION_SENT_WRITTEN),
        withdraws()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_is_finished_and_not_done_twice() {
    tokio::join!(rewinds(at::REWIND_RECORDED), rewinds(at::REWOUND), rewinds(at::REWOUND_WRITTEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_carried_through() {
    tokio::join!(cancels(), tells_children(), purges());
}
