//! The fixtures of the health checks are objects that the operator has written, not what somebody thinks that it writes.
//!
//! Each state is made with the API server, the emulator, the operator and, where one is needed, the worker; the object is then
//! compared with its fixture in `gitops/argocd/durable-operator.dev/<Kind>/testdata`. Times, IDs and names that differ from run
//! to run are replaced by fixed ones, counts and backlog of a TaskHub are left out.
//!
//! With `UPDATE_EXPECTED=1` the fixtures are written instead; `health_test.yaml` beside them is written by `tests/wire/gitops.rs`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use durable_bed::binaries;
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::Condition;
use serde_json::{Value, json};

use super::manifest;
use crate::support::{World, eventually};

const TIME: &str = "2026-11-25T12:00:00Z";
const UID: &str = "5f0c1c0e-7d0a-4f43-9f5e-3f2f4f1f0a01";
/// Ahead of any run of the tests; kept as it is.
const START_AT: &str = "2099-01-01T00:00:00Z";

/// The object without what differs from run to run.
fn normal(world: &World, mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    if metadata.get("annotations").is_some_and(|annotations| annotations.as_object().is_some_and(serde_json::Map::is_empty)) {
        metadata.remove("annotations");
    }
    // How much there is to do, and what was learnt of the engine, depends on when one looks.
    if let Some(status) = object["status"].as_object_mut() {
        for counted in ["orchestrations", "backlog", "engine"] {
            status.remove(counted);
        }
    }
    walk(world, "", &mut object);
    object
}

fn walk(world: &World, key: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| walk(world, key, value)),
        Value::Array(items) => items.iter_mut().for_each(|item| walk(world, key, item)),
        Value::String(text) => {
            let fixed = match key {
                "uid" | "orchestrationUid" => Some(UID),
                "resourceVersion" | "credentialVersion" => Some("1"),
                "executionId" => Some("0123456789abcdef0123456789abcdef"),
                "messageId" | "popReceipt" => Some("of-the-queue"),
                _ if is_time(text) && text != START_AT => Some(TIME),
                _ => None,
            };
            *text = fixed.map_or_else(|| named(world, text), str::to_owned);
        }
        _ => {}
    }
}

fn is_time(text: &str) -> bool {
    text.len() >= TIME.len() && text.ends_with('Z') && text.parse::<k8s_openapi::jiff::Timestamp>().is_ok()
}

fn named(world: &World, text: &str) -> String {
    // The names of queues are those of the hub in lower case.
    let hub = world.hub_name.as_str();
    text.replace(hub, "OrdersHub").replace(&hub.to_lowercase(), "ordershub").replace(&world.namespace, "shop")
}

/// Where the fixture is.
fn file_of(kind: &str, file: &str) -> PathBuf {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "gitops/argocd/durable-operator.dev", kind, "testdata"].iter().collect();
    folder.join(format!("{file}.yaml"))
}

fn is_written_anew() -> bool {
    std::env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1")
}

fn expected(kind: &str, file: &str) -> Value {
    let path = file_of(kind, file);
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; write it with UPDATE_EXPECTED=1", path.display()));
    serde_saphyr::from_str(&text).unwrap()
}

/// Compares the object with its fixture, or writes it.
fn is_fixture(world: &World, kind: &str, file: &str, object: Value) {
    let found = normal(world, object);
    if is_written_anew() {
        std::fs::write(file_of(kind, file), serde_saphyr::to_string(&found).unwrap()).unwrap();
        return;
    }
    let shown = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    assert_eq!(shown(&found), shown(&expected(kind, file)), "{file} has drifted; if that is wanted, write it anew with UPDATE_EXPECTED=1");
}

impl World {
    /// Waits until `Ready` has this reason, and compares. The reason may be there a moment before the rest, for example the time of
    /// the row's last change, which is seen at the next look.
    async fn fixture(&self, kind: &str, name: &str, reason: &str, file: &str) {
        const REST: Duration = Duration::from_secs(15);
        let mut object = self.object_says(kind, name, reason).await;
        let begun = Instant::now();
        while !is_written_anew() && normal(self, object.clone()) != expected(kind, file) && begun.elapsed() < REST {
            tokio::time::sleep(Duration::from_millis(100)).await;
            object = self.object(kind, name);
        }
        is_fixture(self, kind, file, object);
    }

    fn hub_of(&self, name: &str, hub_name: &str, secret: &str) {
        let connection = json!({"connectionStringSecretRef": {"name": secret, "key": "connectionString"}});
        let polling = json!({"minInterval": "200ms", "maxInterval": "500ms"});
        self.apply(&manifest("TaskHub", name, json!({"hubName": hub_name, "connection": connection, "polling": polling})));
    }

    /// An Orchestration whose instance has its name.
    fn run_of(&self, name: &str, function: &str, more: Value) {
        let mut spec = json!({"taskHubRef": {"name": "hub"}, "functionName": function, "instanceId": name});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.apply(&manifest("Orchestration", name, spec));
    }

    fn event_of(&self, name: &str, instance: &str, more: Value) {
        let mut spec = json!({"taskHubRef": {"name": "hub"}, "instanceId": instance, "name": "Approval"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.apply(&manifest("OrchestrationEvent", name, spec));
    }

    fn patch(&self, kind: &str, name: &str, spec: Value) {
        let kind = format!("{}.durable-operator.dev", kind.to_lowercase());
        self.kubectl(&["patch", &kind, name, "--type=merge", "--patch", &json!({"spec": spec}).to_string()]);
    }
}

const ORCHESTRATION: &str = "Orchestration";
const EVENT: &str = "OrchestrationEvent";
const TASK_HUB: &str = "TaskHub";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fixtures_are_what_the_operator_writes_with_workers() {
    let world = World::new("gitops_states").await;
    let worker = world.worker().await;
    world.secret(&world.connection_string());

    // Nobody has looked yet: the moment after each apply.
    world.hub_of("unseen", world.hub_name.as_str(), "storage");
    world.run_of("unseen", "Echo", json!({}));
    world.event_of("unseen", "unseen", json!({}));
    for kind in [ORCHESTRATION, EVENT, TASK_HUB] {
        is_fixture(&world, kind, "progressing_unseen", world.object(kind, "unseen"));
        world.kubectl(&["delete", &format!("{}.durable-operator.dev", kind.to_lowercase()), "unseen"]);
    }

    let _operator = world.operator().await;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broken"}, "stringData": {"connectionString": "broken"}});
    world.apply(&secret);
    world.hub_of("secret-not-found", "OrdersHub", "absent");
    world.hub_of("invalid-connection-string", "OrdersHub", "broken");
    world.hub_of("hub-not-found", "NoSuchHub", "storage");
    world.hub_of("hub", world.hub_name.as_str(), "storage");
    world.fixture(TASK_HUB, "secret-not-found", "SecretNotFound", "progressing_secret_not_found").await;
    world.fixture(TASK_HUB, "invalid-connection-string", "InvalidConnectionString", "degraded_invalid_connection_string").await;
    world.fixture(TASK_HUB, "hub-not-found", "HubNotFound", "progressing_hub_not_found").await;
    world.kubectl(&["wait", "--for=condition=WorkersActive", "taskhub/hub", "--timeout=60s"]);
    world.fixture(TASK_HUB, "hub", "Connected", "healthy_connected").await;

    // Long enough that it is looked for before, and passed when the runs below have been looked at.
    world.event_of("expired", "absent", json!({"deadlineSeconds": 10}));
    world.started_by_another("conflict", "Approval").await;
    // The conflict names the state of that instance, once and for all.
    world.until_it_runs("conflict").await;
    for (name, function, more) in [
        ("completed", "Echo", json!({"input": {"value": {"order": 4711}}})),
        ("failed", "Fail", json!({"input": {"value": "no stock left for order 4711"}})),
        ("deadline-exceeded", "Approval", json!({"activeDeadlineSeconds": 1})),
        ("conflict", "Echo", json!({})),
        ("input-invalid", "Echo", json!({"input": {"text": "{"}})),
        ("input-not-found", "Echo", json!({"input": {"valueFrom": {"configMapKeyRef": {"name": "absent", "key": "input"}}}})),
        ("task-hub-not-found", "Echo", json!({"taskHubRef": {"name": "absent"}})),
        ("task-hub-not-ready", "Echo", json!({"taskHubRef": {"name": "secret-not-found"}})),
        ("waiting-for-start-at", "Echo", json!({"startAt": START_AT})),
        ("never-started", "Echo", json!({"startAt": START_AT, "desiredState": "Terminated"})),
        ("not-created", "Echo", json!({"desiredState": "Suspended"})),
        ("instance-not-found", "Echo", json!({"startPolicy": "Adopt"})),
        ("running", "Approval", json!({})),
        ("started", "Approval", json!({"readyWhen": "Started"})),
        ("suspended", "Approval", json!({})),
        ("suspended-by-other", "Approval", json!({})),
        ("terminated", "Approval", json!({})),
        ("terminated-by-other", "Approval", json!({})),
        ("new-generation", "Approval", json!({})),
    ] {
        world.run_of(name, function, more);
    }
    for name in ["suspended", "suspended-by-other", "terminated", "terminated-by-other", "new-generation"] {
        world.object_says(ORCHESTRATION, name, "Running").await;
    }
    world.patch(ORCHESTRATION, "suspended", json!({"desiredState": "Suspended"}));
    world.patch(ORCHESTRATION, "terminated", json!({"desiredState": "Terminated"}));
    world.hub().await.suspend("suspended-by-other", None).await.unwrap();
    world.hub().await.terminate("terminated-by-other", None).await.unwrap();
    world.kubectl(&["annotate", "orchestration", "new-generation", "durable-operator.dev/paused=true"]);
    world.patch(ORCHESTRATION, "new-generation", json!({"desiredState": "Terminated"}));
    is_fixture(&world, ORCHESTRATION, "progressing_new_generation", world.object(ORCHESTRATION, "new-generation"));

    for (name, reason, health) in [
        ("completed", "Completed", "healthy"),
        ("failed", "OrchestrationFailed", "degraded"),
        ("deadline-exceeded", "DeadlineExceeded", "degraded"),
        ("conflict", "Conflict", "degraded"),
        ("input-invalid", "InputInvalid", "degraded"),
        ("input-not-found", "InputNotFound", "progressing"),
        ("task-hub-not-found", "TaskHubNotFound", "progressing"),
        ("task-hub-not-ready", "TaskHubNotReady", "progressing"),
        ("waiting-for-start-at", "WaitingForStartAt", "progressing"),
        ("never-started", "Terminated", "healthy"),
        ("not-created", "NotCreated", "progressing"),
        ("instance-not-found", "InstanceNotFound", "progressing"),
        ("running", "Running", "progressing"),
        ("started", "Started", "healthy"),
        ("suspended", "Suspended", "suspended"),
        ("suspended-by-other", "SuspendedByOther", "progressing"),
        ("terminated", "Terminated", "healthy"),
        ("terminated-by-other", "Terminated", "degraded"),
    ] {
        world.fixture(ORCHESTRATION, name, reason, &format!("{health}_{}", name.replace('-', "_"))).await;
    }
    world.patch(ORCHESTRATION, "terminated", json!({"desiredState": "Running"}));
    world.fixture(ORCHESTRATION, "terminated", "AlreadyTerminated", "degraded_already_terminated").await;
    world.patch(ORCHESTRATION, "terminated-by-other", json!({"desiredState": "Rewound", "rewindToken": "2026-11-25"}));
    world.fixture(ORCHESTRATION, "terminated-by-other", "RewindRejected", "degraded_rewind_rejected").await;

    world.event_of("sent", "running", json!({"name": "Other"}));
    world.event_of("instance-finished", "completed", json!({}));
    world.event_of("payload-invalid", "running", json!({"payload": {"text": "{"}}));
    world.event_of("instance-not-found", "absent", json!({}));
    for (name, reason, health) in [
        ("sent", "Sent", "healthy"),
        ("instance-finished", "InstanceFinished", "degraded"),
        ("payload-invalid", "PayloadInvalid", "degraded"),
        ("instance-not-found", "InstanceNotFound", "progressing"),
        ("expired", "Expired", "degraded"),
    ] {
        world.fixture(EVENT, name, reason, &format!("{health}_{}", name.replace('-', "_"))).await;
    }

    // Nobody takes the message that ends the run, so the deletion waits.
    world.run_of("deleting", "Approval", json!({"deletionPolicy": "Terminate"}));
    world.object_says(ORCHESTRATION, "deleting", "Running").await;
    drop(worker);
    world.kubectl(&["delete", "orchestration", "deleting", "--wait=false"]);
    let deleting = eventually("the deletion waits for the end of the run", async || {
        let object = world.object(ORCHESTRATION, "deleting");
        if object["status"]["pending"]["phase"] == "Sent" { Ok(object) } else { Err(object.to_string()) }
    })
    .await;
    is_fixture(&world, ORCHESTRATION, "progressing_deleting", deleting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fixtures_are_what_the_operator_writes_without_workers() {
    let world = World::new("gitops_waits").await;
    let operator = world.operator().await;
    world.secret(&world.connection_string());
    world.hub_of("hub", world.hub_name.as_str(), "storage");
    world.fixture(TASK_HUB, "hub", "Connected", "healthy_no_workers").await;
    world.run_of("waits", "Echo", json!({}));
    world.run_of("missing", "Echo", json!({}));
    world.event_of("waiting-for-start", "waits", json!({}));
    world.fixture(ORCHESTRATION, "waits", "Enqueued", "progressing_enqueued").await;
    world.fixture(EVENT, "waiting-for-start", "WaitingForStart", "progressing_waiting_for_start").await;

    // 30 s become 1.5 s.
    drop(operator);
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", "20")]);
    operator.until_ready().await;
    world.fixture(ORCHESTRATION, "waits", "NoActiveWorkers", "progressing_no_active_workers").await;
    // Its row has been read, too.
    world.object_says(ORCHESTRATION, "missing", "NoActiveWorkers").await;
    let rows = world.storage().table(&world.hub_name.instances_table());
    assert!(rows.delete(&escape_key("missing"), "", Condition::Any).await.unwrap());
    world.fixture(ORCHESTRATION, "missing", "InstanceMissing", "degraded_instance_missing").await;

    world.patch(TASK_HUB, "hub", json!({"deletionPolicy": "DeleteHub"}));
    eventually("the TaskHub has its finalizer", async || {
        let hub = world.object(TASK_HUB, "hub");
        if hub["metadata"]["finalizers"].is_array() { Ok(()) } else { Err(hub["metadata"].to_string()) }
    })
    .await;
    world.kubectl(&["delete", "taskhub", "hub", "--wait=false"]);
    let held = eventually("the deletion of the TaskHub is held", async || {
        let hub = world.object(TASK_HUB, "hub");
        if super::ready(&hub) == "UnfinishedOrchestrations" { Ok(hub) } else { Err(hub["status"].to_string()) }
    })
    .await;
    is_fixture(&world, TASK_HUB, "progressing_deleting", held);
}
