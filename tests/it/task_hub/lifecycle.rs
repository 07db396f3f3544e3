//! Hubs that are made and deleted with their TaskHub.

use std::time::Duration;

use durable_bed::binaries;
use durable_operator::crash_points::at;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::Entity;
use serde_json::{Value, json};

use super::{HEALED_WITHIN, find, message};
use crate::support::{World, eventually};

/// 128 and the number of SIGABRT, as shells say it.
const ABORTED: i32 = 134;

impl World {
    fn hub_with(&self, name: &str, more: Value) {
        let mut spec = json!({
            "hubName": self.hub_name.as_str(), "connection": {"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}},
            "polling": {"minInterval": "200ms", "maxInterval": "1s"}
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.apply(&json!({"apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": name}, "spec": spec}));
    }

    /// The tables, queues and containers that are left of the hub.
    async fn artifacts(&self) -> Vec<String> {
        let storage = self.storage();
        let name = &self.hub_name;
        let mut found = storage.list_queues(&name.control_queue_prefix()).await.unwrap();
        found.extend(storage.list_queues(&name.work_item_queue()).await.unwrap());
        for table in [name.instances_table(), name.history_table(), name.partitions_table()] {
            if storage.table(&table).query(&Default::default()).await.is_ok() {
                found.push(table);
            }
        }
        for container in [name.app_lease_container(), name.leases_container(), name.large_messages_container()] {
            if storage.container(&container).list("").await.is_ok() {
                found.push(container);
            }
        }
        found
    }

    async fn gone(&self, name: &str, limit: Duration) {
        crate::support::eventually_within(limit, &format!("TaskHub {name} is gone"), async || {
            match self.task_hubs().get_opt(name).await.unwrap() {
                None => Ok(()),
                Some(hub) => Err(format!("{:?}", hub.status)),
            }
        })
        .await;
    }

    fn delete_hub(&self, name: &str) {
        self.kubectl(&["delete", "taskhub", name, "--wait=false"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_made_if_that_is_asked_for_and_a_half_made_one_is_finished() {
    let world = World::without_hub("create_if_missing").await;
    let _operator = world.operator().await;
    world.secret(&world.connection_string());
    world.hub_with("hub", json!({}));
    world.hub_says("hub", "HubNotFound", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, Vec::<String>::new());

    // What a crash in the middle of a creation leaves: lease rows and a queue, no Instances table.
    let storage = world.storage();
    let leases = storage.table(&world.hub_name.partitions_table());
    leases.create_if_missing().await.unwrap();
    leases.insert(&Entity::new("", world.hub_name.control_queue(0).as_str()).with("IsDraining", false)).await.unwrap();
    storage.queue(&world.hub_name.control_queue(0)).create_if_missing().await.unwrap();
    world.hub_says("hub", "UnsupportedHub", HEALED_WITHIN).await;
    world.hub_with("hub", json!({"createIfMissing": true}));
    let status = world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    assert_eq!(status.partition_count, Some(4));
    let events = world.events_about("hub").await;
    assert!(events.iter().any(|(reason, _, _)| reason == "HubCreated"), "{events:?}");
    let hub = world.hub().await;
    assert_eq!((hub.partition_count(), hub.partitions().await.unwrap().len()), (PartitionCount::DEFAULT, 4));
    let _worker = world.worker().await;
    world.orchestration("run", "Echo", json!({"input": {"value": 1}}));
    world.reason("run", "Completed").await;

    // Queues alone are a hub whose tables are elsewhere, and stay as they are.
    let other = World::without_hub("separate_store").await;
    let _operator = other.operator().await;
    let storage = other.storage();
    storage.queue(&other.hub_name.control_queue(0)).create_if_missing().await.unwrap();
    other.secret(&other.connection_string());
    other.hub_with("hub", json!({"createIfMissing": true}));
    other.hub_says("hub", "UnsupportedHub", HEALED_WITHIN).await;
    assert_eq!(other.artifacts().await, [other.hub_name.control_queue(0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_task_hub_leaves_the_hub_unless_the_policy_says_otherwise() {
    let world = World::new("delete_retains").await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    let before = world.artifacts().await;
    assert!(world.task_hubs().get("hub").await.unwrap().metadata.finalizers.is_none());
    world.delete_hub("hub");
    world.gone("hub", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, before);

    // A policy that is taken back takes the finalizer back.
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub"}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    let finalizers = || async { world.task_hubs().get("hub").await.unwrap().metadata.finalizers.unwrap_or_default() };
    assert_eq!(finalizers().await, ["durable-operator.dev/finalizer"]);
    world.hub_with("hub", json!({"deletionPolicy": "Retain"}));
    eventually("the finalizer goes", async || if finalizers().await.is_empty() { Ok(()) } else { Err("it is there".to_owned()) }).await;

    // What was never connected to is left alone.
    world.apply(&json!({
        "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": "never"},
        "spec": {
            "hubName": world.hub_name.as_str(), "deletionPolicy": "DeleteHub",
            "connection": {"connectionStringSecretRef": {"name": "no-such", "key": "k"}}
        }
    }));
    world.hub_says("never", "SecretNotFound", HEALED_WITHIN).await;
    world.delete_hub("never");
    world.gone("never", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, before);
    let events = world.events_about("never").await;
    assert!(events.iter().any(|(reason, _, _)| reason == "HubRetained"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_deleted_only_when_nobody_works_with_it() {
    let world = World::new("delete_hub").await;
    let worker = world.worker().await;
    let _operator = world.operator().await;
    world.secret(&world.connection_string());
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub"}));
    world.hub_with("second", json!({}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    world.hub_says("second", "Connected", HEALED_WITHIN).await;
    world.orchestration("sleeps", "Sleep", json!({"input": {"value": 10}}));
    world.reason("sleeps", "Running").await;
    world.delete_hub("hub");
    let held = world.hub_says("hub", "UnfinishedOrchestrations", HEALED_WITHIN).await;
    assert!(message(&held).contains(&format!("{}/sleeps", world.namespace)), "{held:?}");
    assert_eq!(find(&held.conditions, "WorkersActive").unwrap().status, "True");
    // It can finish meanwhile.
    world.reason("sleeps", "Completed").await;
    let held = world.hub_says("hub", "HubShared", HEALED_WITHIN).await;
    assert!(message(&held).contains(&format!("TaskHub {}/second", world.namespace)), "{held:?}");
    world.kubectl(&["delete", "taskhub", "second"]);
    let held = world.hub_says("hub", "HubInUse", HEALED_WITHIN).await;
    assert!(message(&held).contains("stop the app"), "{held:?}");
    assert!(!world.artifacts().await.is_empty());
    assert!(worker.stop(Duration::from_secs(20)).unwrap().success());
    world.gone("hub", Duration::from_secs(60)).await;
    assert_eq!(world.artifacts().await, Vec::<String>::new());
    let mut reasons: Vec<String> = world.events_about("hub").await.into_iter().map(|(reason, _, _)| reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["HubDeleted", "HubInUse", "HubShared", "UnfinishedOrchestrations"]);
    // What it had settled stays.
    assert!(world.status("sleeps").await.settled);
}

/// What another namespace has begun, or may begin, holds the deletion; what it may not begin does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_use_a_hub_can_hold_its_deletion() {
    let (world, guest) = (World::new("delete_shared").await, World::without_hub("guest_of_deletion").await);
    let namespaces = format!("{},{}", world.namespace, guest.namespace);
    let operator = world.start_operator(&binaries::operator().unwrap(), &[("DURABLE_WATCH_NAMESPACE", &namespaces)]);
    operator.until_ready().await;
    world.secret(&world.connection_string());
    let reference = json!({"taskHubRef": {"name": "hub", "namespace": world.namespace}});
    guest.orchestration("intruder", "Echo", reference);
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub"}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    world.delete_hub("hub");
    world.gone("hub", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, Vec::<String>::new());

    world.create_hub().await;
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub", "allowedNamespaces": {"from": "All"}}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    world.delete_hub("hub");
    let held = world.hub_says("hub", "UnfinishedOrchestrations", HEALED_WITHIN).await;
    assert!(message(&held).contains(&format!("{}/intruder", guest.namespace)), "{held:?}");
    guest.kubectl(&["delete", "orchestration", "intruder", "--wait=false"]);
    world.gone("hub", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_without_a_secret_uses_the_last_client_or_says_what_holds_it() {
    let world = World::new("delete_without_secret").await;
    let operator = world.operator().await;
    world.secret(&world.connection_string());
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub"}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    world.kubectl(&["delete", "secret", "storage"]);
    world.hub_says("hub", "SecretNotFound", HEALED_WITHIN).await;
    world.delete_hub("hub");
    world.gone("hub", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, Vec::<String>::new());

    // After a restart nobody has a client: the TaskHub stays and says so, until a person lets it go.
    world.create_hub().await;
    world.secret(&world.connection_string());
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub"}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    operator.process.stop(Duration::from_secs(10)).unwrap();
    world.kubectl(&["delete", "secret", "storage"]);
    world.delete_hub("hub");
    let _operator = world.operator().await;
    let held = world.hub_says("hub", "SecretNotFound", HEALED_WITHIN).await;
    assert!(message(&held).contains("set spec.deletionPolicy to Retain"), "{held:?}");
    let before = world.artifacts().await;
    assert!(!before.is_empty());
    world.kubectl(&["patch", "taskhub", "hub", "--type=merge", "--patch", r#"{"spec":{"deletionPolicy":"Retain"}}"#]);
    world.gone("hub", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, before);
}

async fn dies_at(point: &'static str) {
    let world = World::new(&format!("at_{}", point.replace('-', "_"))).await;
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.start_operator(&program, &[("DURABLE_CRASH_AT", point)]);
    operator.until_ready().await;
    world.secret(&world.connection_string());
    world.hub_with("hub", json!({"deletionPolicy": "DeleteHub"}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    world.delete_hub("hub");
    let ended =
        eventually(&format!("{point}: the operator dies"), async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    assert_eq!(ended.code(), Some(ABORTED), "{point}: {}", operator.process.output());
    assert_eq!(world.artifacts().await.is_empty(), point != at::BEFORE_HUB_DELETE, "{point}");
    let left = world.task_hubs().get("hub").await.unwrap();
    assert!(left.metadata.finalizers.is_some_and(|names| names.len() == 1), "{point}: the TaskHub went before its hub");
    let operator = world.start_operator(&program, &[]);
    operator.until_ready().await;
    world.gone("hub", HEALED_WITHIN).await;
    assert_eq!(world.artifacts().await, Vec::<String>::new(), "{point}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_cut_off_is_finished() {
    binaries::operator_with_crash_points().unwrap();
    let [first, second, third] = at::OF_HUB_DELETION;
    tokio::join!(dies_at(first), dies_at(second), dies_at(third));
}
