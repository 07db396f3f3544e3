//! Which instance belongs to an object, and whose an instance is.

use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{find, inline, said};
use crate::support::{World, eventually};

impl World {
    /// Another client starts `Echo` with `input`.
    pub(super) async fn start_by_another(&self, id: &str, function: &str, input: &str) {
        let request = StartRequest {
            instance_id: InstanceId::new(id).unwrap(),
            execution_id: format!("execution-of-{id}"),
            input: Some(input.to_owned()),
            ..StartRequest::new(function)
        };
        self.hub().await.start(request).await.unwrap();
    }

    pub(super) async fn number_of_instances(&self) -> usize {
        self.instances().query(&durable_taskhub::storage::Query::default()).await.unwrap().entities.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_its_objects_and_of_nobody_else() {
    let world = World::new("identity_ours").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;

    world.orchestration("derived", "Echo", json!({"input": {"value": 1}}));
    world.orchestration("given", "Echo", json!({"instanceId": "Order 4711: ü%'^", "input": {"value": 1}}));
    for name in ["derived", "given"] {
        let status = world.reason(name, "Completed").await;
        let uid = world.uid(name).await;
        let digest = hex::encode(Sha256::digest(uid.as_bytes()));
        let id = if name == "given" { "Order 4711: ü%'^".to_owned() } else { format!("derived-{}", &digest[..12]) };
        assert_eq!(status.instance_id.as_ref(), Some(&id));
        assert_eq!(status.execution_id.as_deref(), Some(&digest[..32]));
        let instance = world.instance(&id).await.unwrap();
        assert_eq!(instance.column("KubernetesOwner").unwrap(), format!("{}/{name}/{uid}", world.namespace));
        assert_eq!(said(&status), ["Ready=True Completed", "Started=True Started", "Complete=True Completed"]);
    }

    // The same manifest once more starts nothing.
    let (before, instances) = (world.orchestrations().get("derived").await.unwrap(), world.number_of_instances().await);
    world.orchestration("derived", "Echo", json!({"input": {"value": 1}}));
    assert_eq!(world.orchestrations().get("derived").await.unwrap().metadata.resource_version, before.metadata.resource_version);

    // Deleted and applied again is another run, as with a Job.
    world.kubectl(&["delete", "orchestration", "derived"]);
    world.orchestration("derived", "Echo", json!({"input": {"value": 1}}));
    let again = world.reason("derived", "Completed").await;
    assert_ne!(again.instance_id, before.status.unwrap().instance_id);
    assert_eq!(world.number_of_instances().await, instances + 1);

    // Deleted while it runs: the instance goes on, the operator forgets it.
    world.orchestration("deleted", "Sleep", json!({"input": {"value": 12}}));
    let running = world.reason("deleted", "Running").await;
    assert_eq!(operator.counter("durable_operator_poller_tracked_instances", &[]).await, 1);
    world.kubectl(&["delete", "orchestration", "deleted"]);
    eventually("the operator forgets the instance", async || {
        match operator.counter("durable_operator_poller_tracked_instances", &[]).await {
            0 => Ok(()),
            tracked => Err(format!("{tracked} tracked")),
        }
    })
    .await;
    let ended = world.instance_ends(&running.instance_id.unwrap()).await;
    assert_eq!(inline(ended.output.as_ref()), Some("\"slept\""));
    // No finalizer stands in the way of anybody, and an ordinary life is not worth an Event.
    assert!(world.orchestrations().get("given").await.unwrap().metadata.finalizers.is_none());
    assert_eq!(world.kubectl(&["get", "events", "--output=name"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_taken_is_a_conflict_and_never_overwritten() {
    let world = World::new("identity_conflict").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;

    world.orchestration("first", "Echo", json!({"instanceId": "shared", "input": {"value": "first"}}));
    world.reason("first", "Completed").await;
    let first = world.orchestrations().get("first").await.unwrap();
    world.start_by_another("foreign-finished", "Echo", "\"theirs\"").await;
    world.instance_ends("foreign-finished").await;
    world.start_by_another("foreign-running", "Sleep", "60").await;
    eventually("the foreign instance runs", async || {
        let instance = world.instance("foreign-running").await.unwrap();
        if instance.has_started { Ok(()) } else { Err(format!("{instance:?}")) }
    })
    .await;
    for (id, by) in [
        ("shared", format!("Completed, started by Orchestration {}/first", world.namespace)),
        ("foreign-finished", "Completed, started by another client".to_owned()),
        ("foreign-running", "Running, started by another client".to_owned()),
    ] {
        let before = world.row(id).await;
        let name = format!("second-{id}");
        world.orchestration(&name, "Echo", json!({"instanceId": id, "input": {"value": "second"}}));
        let status = world.reason(&name, "Conflict").await;
        assert_eq!(said(&status), ["Ready=False Conflict", "Started=False Conflict", "Stalled=True Conflict"]);
        let message = &find(&status, "Ready").unwrap().message;
        assert!(
            message.contains(&format!("already has an instance {id} ({by})")) && message.contains("use another spec.instanceId"),
            "{message}"
        );
        assert!(
            status.settled && status.output.is_none() && status.runtime_status.is_none() && status.execution_id.is_none(),
            "{status:?}"
        );
        assert_eq!(world.row(id).await, before, "the row was touched");
        let selector = format!("reason=Conflict,regarding.name={name}");
        eventually("one Event tells of it", async || {
            let events = world.kubectl(&["get", "events.events.k8s.io", "--field-selector", &selector, "--output=name"]);
            if events.lines().count() == 1 { Ok(()) } else { Err(events) }
        })
        .await;
        // Deleting the loser is no business of the instance.
        world.kubectl(&["delete", "orchestration", &name]);
        assert_eq!(world.row(id).await, before, "the row was touched");
    }
    let untouched = world.orchestrations().get("first").await.unwrap();
    assert_eq!(untouched.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(world.times_started("shared").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_and_annotations_break_only_themselves() {
    let world = World::new("identity_odd").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "y".repeat(61));
    assert_eq!(longest.len(), 253);
    world.orchestration(&longest, "Echo", json!({}));
    world.orchestration("a", "Echo", json!({"instanceId": "日".repeat(256)}));
    world.orchestration("wide", "Echo", json!({"instanceId": "😀".repeat(256)}));
    let refused = world.reason("wide", "InvalidInstanceId").await;
    assert!(find(&refused, "Ready").unwrap().message.contains("at most 256 characters"), "{refused:?}");
    for name in [longest.as_str(), "a"] {
        world.reason(name, "Completed").await;
    }
    let odd = format!("durable-operator.dev/reconcile-requested-at=\u{1f600}{}", "日".repeat(20_000));
    world.annotate("orchestration/a", &odd);
    world.annotate("orchestration/a", "durable-operator.dev/paused=\u{7}perhaps");
    eventually("what is longer than 256 bytes is echoed cut", async || {
        let status = world.status("a").await;
        let echoed = status.last_handled_reconcile_at.as_ref().map_or(0, String::len);
        if (250..=256).contains(&echoed) && status.settled { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    world.orchestration("normal", "Echo", json!({}));
    world.reason("normal", "Completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_being_deleted_starts_nothing() {
    let world = World::new("identity_deleting").await;
    let _operator = world.operator().await;
    world.orchestration("going", "Echo", json!({"instanceId": "going"}));
    world.reason("going", "TaskHubNotFound").await;
    world.kubectl(&["patch", "orchestration", "going", "--type=merge", "--patch", r#"{"metadata":{"finalizers":["example.org/holds"]}}"#]);
    world.kubectl(&["delete", "orchestration", "going", "--wait=false"]);
    world.quick_hub().await;
    world.orchestration("after", "Echo", json!({}));
    world.reason("after", "Enqueued").await;
    assert!(world.instance("going").await.is_none());
    world.kubectl(&["patch", "orchestration", "going", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);
}
