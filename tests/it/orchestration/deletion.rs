//! What becomes of the instance when its object is deleted.

use durable_bed::binaries;
use durable_operator::api::FINALIZER;
use durable_operator::crash_points::at;
use durable_taskhub::RuntimeStatus;
use serde_json::{Value, json};

use super::inline;
use crate::support::runs::Runs;
use crate::support::{World, eventually};

impl World {
    pub(super) fn delete_object(&self, name: &str) {
        self.kubectl(&["delete", "orchestration", name, "--timeout=40s"]);
    }

    /// The names of the hub's blobs that belong to an instance and to no other of a similar ID.
    async fn blobs(&self, id: &str) -> Vec<String> {
        let container = self.storage().container(&format!("{}-largemessages", self.hub_name.as_str().to_lowercase()));
        match container.list(&format!("{id}/")).await {
            Ok(all) => all.into_iter().map(|blob| blob.name).collect(),
            Err(error) if error.is_container_not_found() => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    async fn is_nowhere(&self, id: &str) {
        assert!(self.instance(id).await.is_none(), "{id} has a row");
        assert!(Runs::read(self).await.history(id).is_empty(), "{id} has a history");
        assert_eq!(self.blobs(id).await, [""; 0], "{id} has blobs");
    }
}

/// Two children that wait for ever.
fn cascade() -> Value {
    json!({"value": {"count": 2, "child": "Approval", "childInput": null}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminate_ends_the_run_and_its_children() {
    let world = World::new("deletion_terminate").await;
    let _worker = world.worker().await;
    // The timers of the sleepers stay in the queues: without proof a terminate counts as consumed after 3 s instead of 30.
    let operator = world.fast_operator("10").await;
    world.quick_hub().await;
    let run = |name: &str, function: &str, policy: &str, input: Value| {
        world.orchestration(name, function, json!({"instanceId": name, "deletionPolicy": policy, "input": input}));
    };
    run("waits", "Approval", "Terminate", json!({"value": 1}));
    run("parent", "Cascade", "Terminate", cascade());
    run("parent-of-sleepers", "Cascade", "Terminate", json!({"value": {"count": 2, "child": "Sleep", "childInput": 120}}));
    run("over", "Echo", "Terminate", json!({"value": 1}));
    run("kept", "Cascade", "Retain", cascade());
    run("becomes-kept", "Approval", "Terminate", json!({"value": 1}));
    run("becomes-ended", "Approval", "Retain", json!({"value": 1}));
    for name in ["waits", "parent", "parent-of-sleepers", "kept", "becomes-kept", "becomes-ended"] {
        world.reason(name, "Running").await;
    }
    world.reason("over", "Completed").await;
    for parent in ["parent", "parent-of-sleepers", "kept"] {
        for child in [0, 1] {
            world.until_it_runs(&format!("{parent}-{child}")).await;
        }
    }
    let ours = vec![FINALIZER.to_owned()];
    for (name, finalizers) in [("waits", &ours), ("over", &ours), ("kept", &vec![])] {
        assert_eq!(world.finalizers(name).await, *finalizers, "{name}");
    }
    let over = world.row("over").await;

    // The policy of the moment counts.
    for (name, policy, finalizers) in [("becomes-kept", "Retain", &vec![]), ("becomes-ended", "Terminate", &ours)] {
        world.kubectl(&[
            "patch",
            "orchestration",
            name,
            "--type=merge",
            "--patch",
            &json!({"spec": {"deletionPolicy": policy}}).to_string(),
        ]);
        eventually(&format!("the finalizer of {name} follows"), async || {
            let found = world.finalizers(name).await;
            if found == *finalizers { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    world.kubectl(&["delete", "orchestrations", "--all", "--timeout=60s"]);
    for name in ["waits", "becomes-ended", "parent", "parent-of-sleepers"] {
        let instance = world.instance(name).await.unwrap();
        assert_eq!(instance.runtime_status, RuntimeStatus::Terminated, "{name}");
        let reason = format!("Orchestration {}/{name} was deleted", world.namespace);
        assert_eq!(inline(instance.output.as_ref()), Some(reason.as_str()), "{name}");
    }
    for child in ["parent-0", "parent-1", "parent-of-sleepers-0", "parent-of-sleepers-1"] {
        assert_eq!(world.instance(child).await.unwrap().runtime_status, RuntimeStatus::Terminated, "{child}");
    }
    for kept in ["kept", "kept-0", "kept-1", "becomes-kept"] {
        assert_eq!(world.instance(kept).await.unwrap().runtime_status, RuntimeStatus::Running, "{kept}");
    }
    assert_eq!(world.row("over").await, over, "a run that was over was touched");
    assert_eq!(operator.counter("durable_operator_orchestration_deletions_given_up_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_removes_the_run_and_its_children_and_nothing_of_its_neighbours() {
    let world = World::new("deletion_purge").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;
    let run = |name: &str, function: &str, input: Value| {
        world.orchestration(name, function, json!({"instanceId": name, "deletionPolicy": "Purge", "input": input}));
    };
    run("order-1", "BigOutput", json!({"value": 100}));
    run("order-10", "BigOutput", json!({"value": 100}));
    run("order-1x", "BigOutput", json!({"value": 100}));
    run("live", "Approval", json!({"value": "y".repeat(50_000)}));
    run("over", "HelloSequence", json!({"value": 1}));
    run("failed", "FailInActivity", json!({"value": 1}));
    run("parent", "Cascade", cascade());
    run("parent-over", "Cascade", json!({"value": 2}));
    for name in ["order-1", "order-10", "order-1x", "over", "parent-over"] {
        world.reason(name, "Completed").await;
    }
    world.reason("failed", "OrchestrationFailed").await;
    for id in ["live", "parent", "parent-0", "parent-1"] {
        world.until_it_runs(id).await;
    }
    assert!(!world.blobs("order-1").await.is_empty() && !world.blobs("live").await.is_empty());
    let (neighbour, blobs) = (world.row("order-10").await, world.blobs("order-10").await);

    for name in ["order-1", "live", "over", "failed", "parent", "parent-over"] {
        world.kubectl(&["delete", "orchestration", name, "--wait=false"]);
    }
    for name in ["order-1", "live", "over", "failed", "parent", "parent-over"] {
        world.object_is_gone(name).await;
        world.is_nowhere(name).await;
    }
    for child in ["parent-0", "parent-1", "parent-over-0", "parent-over-1"] {
        world.is_nowhere(child).await;
    }
    assert_eq!(world.row("order-10").await, neighbour);
    assert_eq!(world.blobs("order-10").await, blobs);
    for id in ["order-10", "order-1x"] {
        let output = world.instance(id).await.unwrap().output.unwrap();
        assert!(world.hub().await.fetch(&output, 1 << 20).await.unwrap().len() > 100 * 1024, "{id}");
    }
    // A terminate that outlived its instance would end the next one of the ID.
    assert_eq!(Runs::at_rest(&world).await.instances(), ["order-10", "order-1x"]);
    for name in ["live", "parent"] {
        world.orchestration(name, "Echo", json!({"instanceId": name, "input": {"value": "again"}}));
        world.reason(name, "Completed").await;
    }
    assert_eq!(operator.counter("durable_operator_orchestration_deletions_given_up_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instance_of_another_is_never_touched() {
    let world = World::new("deletion_of_others").await;
    let worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.start_by_another("foreign", "Echo", "1").await;
    world.instance_ends("foreign").await;
    world.orchestration("victim", "Approval", json!({"instanceId": "victim", "input": {"value": 1}}));
    world.reason("victim", "Running").await;
    for id in ["foreign", "victim"] {
        for (policy, start) in [("Purge", "Create"), ("Terminate", "Create"), ("Purge", "CreateOrAdopt")] {
            let (before, name) = (world.row(id).await, format!("{}-{}-{id}", policy.to_lowercase(), start.to_lowercase()));
            let spec = json!({"instanceId": id, "deletionPolicy": policy, "startPolicy": start, "input": {"value": "other"}});
            world.orchestration(&name, "Echo", spec);
            world.reason(&name, "Conflict").await;
            world.delete_object(&name);
            assert_eq!(world.row(id).await, before, "{name}: the row was touched");
        }
    }
    // Taken over by another object, then deleted.
    world.orchestration("before", "Approval", json!({"instanceId": "passed-on", "deletionPolicy": "Purge"}));
    world.reason("before", "Running").await;
    world.orchestration("after", "Approval", json!({"instanceId": "passed-on", "startPolicy": "Adopt", "deletionPolicy": "Purge"}));
    world.reason("after", "Running").await;
    // Not waited for: the hub decides, not what the object says of it.
    world.delete_object("before");
    assert_eq!(world.instance("passed-on").await.unwrap().runtime_status, RuntimeStatus::Running);
    assert_eq!(world.status("after").await.runtime_status, Some(durable_operator::api::v1alpha1::RuntimeStatus::Running));

    // Nobody took the start up: it is taken back, and its message runs nothing.
    drop(worker);
    for (name, policy) in [("unstarted-purge", "Purge"), ("unstarted-terminate", "Terminate")] {
        world.orchestration(name, "Echo", json!({"instanceId": name, "deletionPolicy": policy}));
        world.reason(name, "Enqueued").await;
        world.delete_object(name);
        world.is_nowhere(name).await;
    }
    let _worker = world.worker().await;
    world.orchestration("last", "Echo", json!({}));
    world.reason("last", "Completed").await;
    for name in ["unstarted-purge", "unstarted-terminate"] {
        world.is_nowhere(name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_finalizer_is_there_before_the_row_and_what_was_never_created_is_never_deleted() {
    let world = World::new("deletion_before").await;
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.start_operator(&program, &[("DURABLE_CRASH_AT", at::BEFORE_ROW)]);
    operator.until_ready().await;
    world.quick_hub().await;
    world.orchestration("never", "Echo", json!({"instanceId": "never", "deletionPolicy": "Purge"}));
    eventually("the operator dies", async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    assert_eq!(world.finalizers("never").await, [FINALIZER]);
    assert_eq!(world.number_of_instances().await, 0);

    // Before a successor looks, another client makes an instance of that ID, and the object is deleted.
    world.start_by_another("never", "Echo", "\"theirs\"").await;
    let row = world.row("never").await;
    world.kubectl(&["delete", "orchestration", "never", "--wait=false"]);
    let operator = world.operator().await;
    world.object_is_gone("never").await;
    assert_eq!(world.row("never").await, row, "the row was touched");

    // Nor is there a finalizer as long as nothing is about to be written.
    for (name, spec) in [
        ("later", json!({"startAt": "2126-01-01T00:00:00Z"})),
        ("held", json!({"desiredState": "Suspended"})),
        ("elsewhere", json!({"taskHubRef": {"name": "no-such-hub"}})),
    ] {
        let mut all = json!({"instanceId": name, "deletionPolicy": "Purge"});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        world.orchestration(name, "Echo", all);
    }
    for (name, reason) in [("later", "WaitingForStartAt"), ("held", "NotCreated"), ("elsewhere", "TaskHubNotFound")] {
        world.reason(name, reason).await;
        assert_eq!(world.finalizers(name).await, [""; 0], "{name}");
        world.delete_object(name);
    }
    // Somebody else's finalizer stays, and ours goes.
    world.orchestration("shared", "Echo", json!({"instanceId": "shared", "deletionPolicy": "Purge"}));
    world.reason("shared", "Enqueued").await;
    let both = json!({"metadata": {"finalizers": [FINALIZER, "example.org/holds"]}}).to_string();
    world.kubectl(&["patch", "orchestration", "shared", "--type=merge", "--patch", &both]);
    world.kubectl(&["delete", "orchestration", "shared", "--wait=false"]);
    eventually("ours is gone", async || {
        let found = world.finalizers("shared").await;
        if found == ["example.org/holds"] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    world.is_nowhere("shared").await;
    world.kubectl(&["patch", "orchestration", "shared", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);
    assert_eq!(operator.counter("durable_operator_orchestration_deletions_given_up_total", &[]).await, 0);
}
