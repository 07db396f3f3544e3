//! A deletion that cannot be carried into the hub holds nobody up for ever.

use std::time::Instant;

use durable_bed::control_plane::ControlPlane;
use durable_taskhub::RuntimeStatus;
use serde_json::json;

use super::disturbance::world_with_own_control_plane;
use crate::support::{World, eventually};

/// 300 s become 3 s.
const SCALE: &str = "100";
const GIVEN_UP: &str = "durable_operator_orchestration_deletions_given_up_total";

impl World {
    /// Running instances with both policies that hold an object.
    async fn held_runs(&self) {
        for (name, policy) in [("ends", "Terminate"), ("purged", "Purge")] {
            self.orchestration(name, "Approval", json!({"instanceId": name, "deletionPolicy": policy}));
        }
        for name in ["ends", "purged"] {
            self.reason(name, "Running").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_task_hub_a_deletion_is_given_up_and_told() {
    let world = World::new("given_up").await;
    let worker = world.worker().await;
    let operator = world.fast_operator(SCALE).await;
    world.quick_hub().await;
    world.held_runs().await;
    world.orchestration("unserved", "Approval", json!({"instanceId": "unserved", "deletionPolicy": "Purge"}));
    world.reason("unserved", "Running").await;

    // No worker takes the terminate: it cannot end in time.
    drop(worker);
    let begun = Instant::now();
    world.delete_object("unserved");
    // The time of a deletion is cut to whole seconds: of the 3 s, 2 are sure.
    assert!(begun.elapsed().as_secs() >= 2, "given up before its time");
    let note = world.is_told("unserved", "DeletionGivenUp").await;
    assert!(note.contains("did not end, or could not be removed, in time") && note.contains("The instance stays there"), "{note}");
    assert_eq!(operator.counter(GIVEN_UP, &[]).await, 1);
    assert_eq!(world.instance("unserved").await.unwrap().runtime_status, RuntimeStatus::Running);

    // TaskHub and Secret went, and with the process the last client that worked.
    drop(operator);
    world.kubectl(&["delete", "taskhub", "hub", "--timeout=20s"]);
    world.kubectl(&["delete", "secret", "storage"]);
    let operator = world.fast_operator(SCALE).await;
    world.delete_object("ends");
    let note = world.is_told("ends", "DeletionGivenUp").await;
    assert!(note.contains("its TaskHub does not exist"), "{note}");
    // The TaskHub is there, and its Secret is not.
    world.task_hub();
    world.hub_reason("SecretNotFound").await;
    world.delete_object("purged");
    let note = world.is_told("purged", "DeletionGivenUp").await;
    assert!(note.contains("its TaskHub is not ready"), "{note}");
    assert_eq!(operator.counter(GIVEN_UP, &[]).await, 2);
    for id in ["ends", "purged"] {
        assert_eq!(world.instance(id).await.unwrap().runtime_status, RuntimeStatus::Running, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_client_that_worked_still_carries_out_a_deletion() {
    let world = World::new("last_client").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;
    world.held_runs().await;
    world.kubectl(&["delete", "secret", "storage"]);
    world.hub_reason("SecretNotFound").await;
    world.delete_object("purged");
    assert!(world.instance("purged").await.is_none());

    assert_eq!(world.instance("ends").await.unwrap().runtime_status, RuntimeStatus::Running);
    world.delete_object("ends");
    assert_eq!(world.instance("ends").await.unwrap().runtime_status, RuntimeStatus::Terminated);
    assert_eq!(operator.counter(GIVEN_UP, &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_deleted_with_its_instances_or_without() {
    let world = world_with_own_control_plane("deleted_namespace").await;
    world.control_plane.change(ControlPlane::start_controllers).unwrap();
    let worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;
    world.held_runs().await;
    // All at once, in whatever order the namespace's controller takes them.
    world.kubectl(&["delete", "namespace", &world.namespace, "--timeout=60s"]);
    assert_eq!(world.instance("ends").await.unwrap().runtime_status, RuntimeStatus::Terminated);
    assert!(world.instance("purged").await.is_none());
    assert_eq!(operator.counter(GIVEN_UP, &[]).await, 0);
    drop((worker, operator));

    let World { control_plane, azurite, .. } = world;
    let world = World::on("given_up_namespace", control_plane, azurite);
    world.create_hub().await;
    let worker = world.worker().await;
    let operator = world.fast_operator(SCALE).await;
    world.quick_hub().await;
    world.held_runs().await;
    drop((worker, operator));
    world.kubectl(&["delete", "namespace", &world.namespace, "--wait=false"]);
    eventually("TaskHub and Secret have gone first", async || {
        let left = world.kubectl(&["get", "taskhubs,secrets", "--output=name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    // Events are forbidden there by now, and nobody knows the hub.
    let operator = world.fast_operator(SCALE).await;
    eventually("the namespace is gone", async || {
        let found = world.try_kubectl(&["get", "namespace", &world.namespace, "--output=yaml"]);
        if found.success { Err(found.output) } else { Ok(()) }
    })
    .await;
    assert_eq!(operator.counter(GIVEN_UP, &[]).await, 2);
    for id in ["ends", "purged"] {
        assert_eq!(world.instance(id).await.unwrap().runtime_status, RuntimeStatus::Running, "{id}");
    }
}
