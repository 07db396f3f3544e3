//! Hubs as wholes: made, looked at, deleted.

use std::time::Duration;

use azure_core::credentials::Secret;
use azure_core::hmac::hmac_sha256;
use durable_bed::azurite::Azurite;
use durable_bed::azurite::{ACCOUNT, ACCOUNT_KEY};
use durable_bed::recording::{Snapshot, difference};
use durable_taskhub::artifacts::EngineLine;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Condition, Entity, Service};
use durable_taskhub::{ConnectError, TaskHub, Time};

use crate::support::{World, random_name, recording, storage};

/// The lines of a snapshot that are about artifacts, without what is in them but leases.
fn artifacts(snapshot: &Snapshot, hub: &str) -> Vec<String> {
    let mut lines = snapshot.normalised(hub);
    let of_artifacts = |line: &String| {
        line.starts_with("blob") || line.starts_with("container") || line.starts_with("table <Hub>Partitions") || line.starts_with("queue")
    };
    lines.retain(|line| of_artifacts(line) && !line.contains("message"));
    // The time of the creation.
    for line in &mut lines {
        if let Some(at) = line.find("\"CreatedAt\"") {
            let end = line[at..].find(",").unwrap() + at;
            line.replace_range(at..end, "\"CreatedAt\":<time>");
        }
    }
    lines
}

#[tokio::test]
async fn a_new_hub_is_what_the_clients_of_its_line_make() {
    for (path, line) in [("hub/ext__durable__start_hello", EngineLine::Line2), ("hub-1x/dtfx1x__dtfx1x__start_hello", EngineLine::Line1)] {
        let storage = storage(&Azurite::of_process().unwrap().connection_string());
        let hub = TaskHub::create(storage.clone(), random_name(), PartitionCount::DEFAULT, line).await.unwrap();
        let recording = recording(path);
        let expected = artifacts(recording.snapshot("queued").unwrap(), &recording.hub);
        let found = Snapshot::take(&storage, hub.name(), "new").await.unwrap();
        assert_eq!(difference(&expected, &artifacts(&found, hub.name().as_str())), None, "{path}");

        // Again, with another count: nothing changes, and the hub is found as it was made.
        TaskHub::create(storage.clone(), hub.name().clone(), PartitionCount::DEFAULT, line).await.unwrap();
        let again = Snapshot::take(&storage, hub.name(), "again").await.unwrap();
        assert_eq!(artifacts(&found, hub.name().as_str()), artifacts(&again, hub.name().as_str()));
        let connected = TaskHub::connect(storage, hub.name().clone(), None).await.unwrap();
        assert_eq!(connected.partition_count(), PartitionCount::DEFAULT);
    }
}

#[tokio::test]
async fn a_deleted_hub_leaves_nothing_of_either_line_and_nothing_else_is_touched() {
    let storage = storage(&Azurite::of_process().unwrap().connection_string());
    let name = random_name();
    let neighbour = durable_taskhub::names::HubName::new(&format!("{name}X")).unwrap();
    TaskHub::create(storage.clone(), neighbour.clone(), PartitionCount::DEFAULT, EngineLine::Line1).await.unwrap();
    TaskHub::create(storage.clone(), name.clone(), PartitionCount::new(2).unwrap(), EngineLine::Line1).await.unwrap();
    let hub = TaskHub::create(storage.clone(), name.clone(), PartitionCount::DEFAULT, EngineLine::Line2).await.unwrap();
    let world = World { hub: hub.clone() };
    world.instance("i", "Running", 3).await;
    world.blob("i/history-x.json.gz").await;
    let before = Snapshot::take(&storage, &neighbour, "before").await.unwrap().normalised(neighbour.as_str());

    let deleted = hub.delete().await.unwrap();
    assert_eq!(deleted.artifacts.len(), 4 + 1 + 3 + 3, "{deleted:?}");
    assert!(!deleted.lease_broken);
    assert!(storage.list_queues(&name.to_string().to_lowercase()).await.unwrap().iter().all(|queue| queue.contains("x-")));
    let error = TaskHub::connect(storage.clone(), name, None).await.unwrap_err();
    assert!(matches!(error, ConnectError::HubNotFound { .. }), "{error}");
    let after = Snapshot::take(&storage, &neighbour, "after").await.unwrap().normalised(neighbour.as_str());
    assert_eq!(difference(&before, &after), None);
    // What is gone is no error.
    assert_eq!(hub.delete().await.unwrap().artifacts, [""; 0]);
}

#[tokio::test]
async fn the_state_of_a_hub_says_who_serves_it_and_what_waits() {
    let world = World::new().await;
    let info = world.hub.info().await.unwrap();
    assert_eq!((info.engine_line, info.partitions.len(), info.has_active_workers()), (None, 4, false));
    assert_eq!((info.work_items.messages, info.work_items.oldest), (Some(0), None));

    let queue = world.hub.name().control_queue(2);
    let lease = |expires: Time| {
        Entity::new("", queue.as_str()).with("CurrentOwner", "worker-1").with("ExpiresAt", expires).with("OwnedSince", Time::now())
    };
    world.table("Partitions").merge(&lease(Time::now().saturating_add(Duration::from_secs(30))), Condition::Any).await.unwrap();
    world.hub.storage().queue(&queue).put("{}", Duration::ZERO).await.unwrap();
    world.hub.storage().queue(&queue).put("{}", Duration::from_secs(600)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let info = world.hub.info().await.unwrap();
    let partition = &info.partitions[2];
    assert!(info.has_active_workers() && partition.is_served);
    assert_eq!((partition.owner.as_deref(), partition.queue.messages), (Some("worker-1"), Some(2)));
    let age = partition.queue.oldest.unwrap();
    assert!(age >= Duration::from_secs(1) && age < Duration::from_secs(60), "{age:?}");

    world.table("Partitions").merge(&lease(Time::now()), Condition::Any).await.unwrap();
    assert!(!world.hub.info().await.unwrap().has_active_workers());
}

#[tokio::test]
async fn the_engine_s_line_is_read_from_the_history() {
    for (path, label, line) in [
        ("hub/ext__durable__rewind_parent_child", "failed", Some(EngineLine::Line2)),
        ("hub-1x/dtfx1x__dtfx1x__rewind_parent_child", "failed", Some(EngineLine::Line1)),
    ] {
        let world = World::of(&recording(path), label).await;
        assert_eq!(world.hub.engine_line().await.unwrap(), line, "{path}");
    }
}

/// Takes a lease, as the app's host does; `path` is a container, or a blob in one.
async fn lease(world: &World, path: &str, is_container: bool) {
    let (permissions, services, resources, expiry, version) = ("rwdl", "b", "sco", "2099-01-01T00:00:00Z", "2019-07-07");
    let text = format!("{ACCOUNT}\n{permissions}\n{services}\n{resources}\n\n{expiry}\n\nhttps,http\n{version}\n");
    let signature = hmac_sha256(&text, &Secret::new(ACCOUNT_KEY)).unwrap().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let kind = if is_container { "restype=container&" } else { "" };
    let endpoint = world.hub.storage().account().endpoint(Service::Blob);
    let url = format!(
        "{endpoint}/{path}?{kind}comp=lease&sv={version}&ss={services}&srt={resources}&sp={permissions}&se={}&spr=https,http&sig={signature}",
        expiry.replace(':', "%3A")
    );
    // reqwest wants one, even for plain http; another test may have been faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.put(url).header("x-ms-lease-action", "acquire").header("x-ms-lease-duration", "-1").header("content-length", "0");
    let response = request.header("x-ms-version", version).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 201, "{}", response.text().await.unwrap());
}

#[tokio::test]
async fn an_app_s_lease_does_not_keep_a_hub() {
    let world = World::new().await;
    let container = world.hub.name().app_lease_container();
    lease(&world, &container, true).await;
    // The container cannot be deleted like that.
    world.hub.storage().container(&container).delete_container().await.unwrap_err();
    let deleted = world.hub.delete().await.unwrap();
    assert!(deleted.lease_broken && deleted.artifacts.contains(&container), "{deleted:?}");
    // Also what cannot be connected to any more.
    let storage = world.hub.storage();
    storage.container(&container).create_if_missing().await.unwrap();
    assert_eq!(TaskHub::delete_artifacts(storage, world.hub.name()).await.unwrap().artifacts, [container]);
}

#[tokio::test]
async fn a_hub_managed_by_blob_is_served_if_its_ownership_is_leased() {
    let storage = storage(&Azurite::of_process().unwrap().connection_string());
    let hub = TaskHub::create(storage.clone(), random_name(), PartitionCount::DEFAULT, EngineLine::Line1).await.unwrap();
    let world = World { hub };
    let info = world.hub.info().await.unwrap();
    assert!(!info.has_active_workers() && info.created_at.is_some());
    let leases = world.hub.name().leases_container();
    let queue = world.hub.name().control_queue(1);
    let owned = format!("{{\"PartitionId\":\"{queue}\",\"Owner\":\"worker-1\",\"Token\":\"x\",\"Epoch\":1}}");
    storage.container(&leases).put(&format!("ownership/{queue}"), owned.into_bytes(), true).await.unwrap();
    lease(&world, &format!("{leases}/ownership/{queue}"), false).await;
    // An intent alone serves nothing.
    lease(&world, &format!("{leases}/intent/{}", world.hub.name().control_queue(2)), false).await;
    let info = world.hub.info().await.unwrap();
    let served: Vec<bool> = info.partitions.iter().map(|partition| partition.is_served).collect();
    assert_eq!((served, info.partitions[1].owner.as_deref()), (vec![false, true, false, false], Some("worker-1")));
    // The short way says the same, from now on in one request, until the hub is gone.
    let proxy = Azurite::of_process().unwrap().proxy().unwrap();
    let behind = TaskHub::connect(self::storage(&proxy.connection_string()), world.hub.name().clone(), None).await.unwrap();
    assert_eq!(behind.served_partitions().await.unwrap(), Some(1));
    proxy.clear();
    assert_eq!(behind.served_partitions().await.unwrap(), Some(1));
    assert_eq!(proxy.requests().len(), 1, "{:?}", proxy.requests());
    world.hub.delete().await.unwrap();
    assert_eq!(behind.served_partitions().await.unwrap(), None);
}
