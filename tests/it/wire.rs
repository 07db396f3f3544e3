//! What a start writes and what a run costs, counted where the requests pass.

use std::path::PathBuf;

use durable_bed::proxy::{Recorded, Service, StorageProxy};
use durable_bed::recording::{Recording, Snapshot, difference};
use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::{TaskHub, Time};
use serde_json::json;

use crate::support::growth::growth;
use crate::support::runs::Runs;
use crate::support::{World, bed, eventually};

/// One request in a few words.
fn short(request: &Recorded) -> String {
    let Recorded { service, method, path, status, .. } = request;
    format!("{service:?} {method} {} {}", path.trim_start_matches("/devstoreaccount1/"), status.unwrap_or_default())
}

fn shorts(proxy: &StorageProxy) -> Vec<String> {
    proxy.requests().iter().map(short).collect()
}

/// What passed for runs: a look at who serves the hub, every 30 s, may fall into any time.
fn of_runs(proxy: &StorageProxy) -> Vec<Recorded> {
    let of_hub = |request: &Recorded| request.path.contains("Partitions") || request.path.contains("-leases");
    proxy.requests().into_iter().filter(|request| !of_hub(request)).collect()
}

/// The two requests of a start of this world: the row, then the message.
fn is_start(world: &World, requests: &[Recorded]) -> bool {
    let [insert, put, ..] = requests else { return false };
    let hub = &world.hub_name;
    let queue = format!("/devstoreaccount1/{}", hub.control_queue_prefix());
    insert.service == Service::Table
        && insert.method == "POST"
        && insert.path == format!("/devstoreaccount1/{}", hub.instances_table())
        && insert.status == Some(204)
        && put.service == Service::Queue
        && put.method == "POST"
        && put.path.starts_with(&queue)
        && put.path.ends_with("/messages")
        && put.status == Some(201)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_costs_two_writes_and_no_read() {
    let world = World::new("start_costs").await;
    let proxy = bed().azurite.proxy().unwrap();
    let operator = world.operator().await;
    world.secret(&proxy.connection_string());
    world.task_hub();
    world.hub_reason("Connected").await;
    proxy.clear();
    let before = operator.api_writes().await;

    world.orchestration("run", "HelloSequence", json!({"input": {"value": {"a": 1}}}));
    let row = eventually("the first status poll", async || match of_runs(&proxy).get(2) {
        Some(third) => Ok(third.clone()),
        None => Err(format!("{:?}", shorts(&proxy))),
    })
    .await;
    assert!(is_start(&world, &of_runs(&proxy)), "{:?}", shorts(&proxy));
    assert_eq!(row.method, "GET", "{:?}", shorts(&proxy));
    assert!(row.path.contains("Instances(PartitionKey="), "{:?}", shorts(&proxy));
    world.reason("run", "Enqueued").await;
    assert_eq!(proxy.requests().iter().filter(|request| request.is_write()).count(), 2, "{:?}", shorts(&proxy));

    // The row that waits says nothing that the first status did not say: seen again and again, it is not written.
    after_another(&world).await;
    let mut grown = growth(&before, &operator.api_writes().await);
    // Its counts are the TaskHub's, once in ten seconds at most.
    grown.retain(|series, _| !series.contains("taskhubs/status"));
    assert_eq!(grown.values().sum::<u64>(), 1 + 1, "{grown:?}");
    let (status, row) = (world.status("run").await, Runs::read(&world).await);
    let created = row.column(&status.instance_id.unwrap(), "CreatedTime").unwrap();
    // Compared as times: the table always writes seven digits.
    assert_eq!(status.created_time.unwrap().0, Time::parse(&created).unwrap(), "the status has the row's time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_starts_with_two_requests_and_reads_with_one() {
    let world = World::new("library_costs").await;
    let proxy = bed().azurite.proxy().unwrap();
    let account = Account::from_connection_string(&proxy.connection_string()).unwrap();
    let storage = Storage::new(account, Options::default()).unwrap();
    let hub = TaskHub::connect(storage, world.hub_name.clone(), None).await.unwrap();
    let request = StartRequest {
        instance_id: InstanceId::new("one").unwrap(),
        execution_id: "e1".to_owned(),
        input: Some("1".to_owned()),
        ..StartRequest::new("Echo")
    };
    proxy.clear();
    hub.start(request.clone()).await.unwrap();
    assert!(is_start(&world, &of_runs(&proxy)), "{:?}", shorts(&proxy));
    assert_eq!(proxy.requests().len(), 2, "{:?}", shorts(&proxy));

    proxy.clear();
    assert!(hub.get("one").await.unwrap().is_some());
    assert_eq!(proxy.requests().len(), 1, "{:?}", shorts(&proxy));

    // The same start again: refused insert, one read, the message once more.
    proxy.clear();
    hub.start(request).await.unwrap();
    let methods: Vec<(Service, String, Option<u16>)> =
        proxy.requests().into_iter().map(|request| (request.service, request.method, request.status)).collect();
    let expected = [(Service::Table, "POST", 409), (Service::Table, "GET", 200), (Service::Queue, "POST", 201)];
    assert_eq!(methods, expected.map(|(service, method, status)| (service, method.to_owned(), Some(status))));
}

/// What the operator writes for `HelloSequence` is what the extension's client wrote, and the column of our own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_writes_what_the_extension_writes() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hub/ext__durable__start_hello.json.gz");
    let recording = Recording::read(&file).unwrap();
    let command = recording.commands("start").next().unwrap();
    let id = command["id"].as_str().unwrap();
    let world = World::new("recorded_start").await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    world.orchestration("hello", command["name"].as_str().unwrap(), json!({"instanceId": id}));
    world.reason("hello", "Enqueued").await;

    let mut written = Snapshot::take(&world.storage(), &world.hub_name, "queued").await.unwrap();
    let rows = written.tables.get_mut(&world.hub_name.instances_table()).unwrap();
    let owner = rows[0].remove("KubernetesOwner").expect("the row has no column KubernetesOwner");
    let uid = world.orchestrations().get("hello").await.unwrap().metadata.uid.unwrap();
    assert_eq!((owner.edm.as_str(), owner.value), ("Edm.String", json!(format!("{}/hello/{uid}", world.namespace))));
    let expected = recording.snapshot("queued").unwrap().normalised(&recording.hub);
    let difference = difference(&expected, &written.normalised(world.hub_name.as_str()));
    assert_eq!(difference, None, "\n{}", difference.clone().unwrap_or_default());
}

/// A run that is seen while it runs: three status updates; nothing else is written, no Event among it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_costs_three_status_updates_and_no_other_write() {
    let world = World::new("three_updates").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.ready_hub().await;
    let before = operator.api_writes().await;
    world.orchestration("run", "Sleep", json!({"input": {"value": 8}}));
    world.reason("run", "Running").await;
    world.reason("run", "Completed").await;
    after_another(&world).await;
    let mut grown = growth(&before, &operator.api_writes().await);
    // Counts of a TaskHub are written every ten seconds at most, however many runs there are.
    grown.retain(|series, _| !series.contains("taskhubs/status"));
    // Three of `run`, and one of the object that was applied after it.
    assert_eq!(grown.values().sum::<u64>(), 3 + 1, "{grown:?}");
    assert!(grown.keys().all(|series| is_status_update(series)), "{grown:?}");
}

/// A run that ends before it is first looked at: two status updates, two storage writes, one storage read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_run_costs_two_status_updates_and_three_storage_requests() {
    let world = World::new("two_updates").await;
    let proxy = bed().azurite.proxy().unwrap();
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.secret(&proxy.connection_string());
    world.task_hub_polled("8s");
    world.hub_reason("Connected").await;
    proxy.clear();
    let (api, storage) = (operator.api_writes().await, operator.storage_requests().await);
    world.orchestration("run", "HelloSequence", json!({}));
    world.reason("run", "Completed").await;
    let storage = growth(&storage, &operator.storage_requests().await);
    let passed = shorts(&proxy);
    after_another(&world).await;

    let grown = growth(&api, &operator.api_writes().await);
    assert_eq!(grown.values().sum::<u64>(), 2 + 1, "{grown:?}");
    assert!(grown.keys().all(|series| is_status_update(series)), "{grown:?}");
    assert_eq!(passed.iter().filter(|request| !request.contains("Partitions")).count(), 3, "{passed:?}");
    assert!(is_start(&world, &of_runs(&proxy)), "{passed:?}");
    // The operator's own count is the wire's.
    assert_eq!(storage.values().sum::<u64>(), passed.len() as u64, "{storage:?} {passed:?}");
    let count = |operation: &str| storage.iter().find(|(series, _)| series.contains(operation)).map_or(0, |(_, count)| *count);
    assert_eq!(["table.insert", "queue.put", "table.get"].map(count), [1, 1, 1], "{storage:?}");
}

fn is_status_update(series: &str) -> bool {
    ["verb=\"update\"", "resource=\"orchestrations/status\"", "code=\"200\""].iter().all(|label| series.contains(label))
}

/// One more object, refused without a run: when its status is there, whatever the operator had to write before was written.
async fn after_another(world: &World) {
    let mut spec = json!({"taskHubRef": {"name": "nowhere"}, "functionName": "Echo"});
    spec["input"] = json!({"value": 1});
    world.apply(&json!({
        "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": "another"}, "spec": spec
    }));
    world.reason("another", "TaskHubNotFound").await;
}
