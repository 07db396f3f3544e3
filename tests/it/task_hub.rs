//! What can be wrong with a TaskHub: each failure says what to change, disturbs nobody else, and heals by itself.

mod connections;
mod counts;
mod lifecycle;
mod workload_identity;

use std::time::{Duration, Instant};

use durable_bed::azurite::{ACCOUNT, ACCOUNT_KEY, Azurite};
use durable_bed::{assets, binaries};
use durable_operator::api::v1alpha1::TaskHubStatus;
use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::support::{Server, World, bed, eventually, eventually_within};

/// What was mended must be seen within this.
const HEALED_WITHIN: Duration = Duration::from_secs(15);

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// kstatus: `Reconciling` and `Stalled` only while true, never with `Ready=True`, and with the reason of `Ready`.
fn follows_kstatus(conditions: &[Condition]) {
    let ready = find(conditions, "Ready").unwrap();
    let further: Vec<_> = ["Reconciling", "Stalled"].iter().filter_map(|kind| find(conditions, kind)).collect();
    assert_eq!(further.len(), usize::from(ready.status == "False"), "{conditions:?}");
    assert!(further.iter().all(|condition| condition.status == "True" && condition.reason == ready.reason), "{conditions:?}");
}

impl World {
    fn named_secret(&self, name: &str, key: &str, text: &str) {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: text}});
        // Replaced, so that a key that is not named any more goes.
        let exists = self.try_kubectl(&["get", "secret", name]).success;
        let verb = if exists { "replace" } else { "create" };
        let arguments = [verb, "--namespace", &self.namespace, "--filename=-"];
        let answer = self.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &secret.to_string())).unwrap();
        assert!(answer.success, "{answer:?}");
    }

    fn named_hub(&self, name: &str, hub_name: &str, secret: &str) {
        self.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": name},
            "spec": {
                "hubName": hub_name, "connection": {"connectionStringSecretRef": {"name": secret, "key": "connectionString"}},
                "polling": {"minInterval": "200ms", "maxInterval": "1s"}
            }
        }));
    }

    /// Waits until `Ready` of the TaskHub has this reason; its conditions must always be as kstatus wants them.
    async fn hub_says(&self, name: &str, reason: &str, limit: Duration) -> TaskHubStatus {
        eventually_within(limit, &format!("TaskHub {name} is {reason}"), async || {
            let status = self.task_hubs().get(name).await.unwrap().status.unwrap_or_default();
            match find(&status.conditions, "Ready") {
                Some(ready) => {
                    follows_kstatus(&status.conditions);
                    if ready.reason == reason { Ok(status) } else { Err(format!("{status:?}")) }
                }
                None => Err("no condition".to_owned()),
            }
        })
        .await
    }

    fn ask(&self, kind_and_name: &str, value: &str) {
        let annotation = format!("durable-operator.dev/reconcile-requested-at={value}");
        self.kubectl(&["annotate", "--overwrite", kind_and_name, &annotation]);
    }

    /// The Events about an object: reason and note, and how often.
    async fn events_about(&self, name: &str) -> Vec<(String, String, i32)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.unwrap();
        let about = all.items.into_iter().filter(|event| event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some(name));
        about
            .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default(), event.series.map_or(1, |series| series.count)))
            .collect()
    }
}

fn message(status: &TaskHubStatus) -> &str {
    &find(&status.conditions, "Ready").unwrap().message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_says_what_to_change_and_disturbs_nobody() {
    let world = World::new("broken_connection").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.ready_hub().await;
    let good = world.connection_string();
    let named = |account: &str, key: &str| good.replace(ACCOUNT_KEY, key).replace(&format!("AccountName={ACCOUNT}"), account);
    let same_account = format!("AccountName={ACCOUNT}");
    // A valid key of nobody, and an address that nobody has.
    let other_key = "bm90IGEga2V5IG9mIGFueWJvZHkncyBhY2NvdW50";
    let elsewhere = good.replace("http://127.0.0.1:", "http://169.254.169.254:");

    world.named_hub("sick", world.hub_name.as_str(), "sick-storage");
    let run = |name: &str, function: &str, input: serde_json::Value| {
        world.orchestration(name, function, json!({"taskHubRef": {"name": "sick"}, "input": {"value": input}}));
    };
    let absent = world.hub_says("sick", "SecretNotFound", HEALED_WITHIN).await;
    assert!(message(&absent).contains("Secret sick-storage does not exist in this namespace: create it"), "{absent:?}");
    run("waits", "Echo", json!("waited"));
    let held = world.reason("waits", "TaskHubNotReady").await;
    let ready = find(&held.conditions, "Ready").unwrap();
    assert!(ready.message.contains("SecretNotFound") && ready.message.contains("create it"), "{ready:?}");
    follows_kstatus(&held.conditions);

    for (index, (key, text, reason, part)) in [
        ("other", good.clone(), "SecretNotFound", "has no key connectionString; it has the keys other"),
        (
            "connectionString",
            other_key.to_owned(),
            "InvalidConnectionString",
            "part 1 of the connection string is not of the form Key=Value",
        ),
        ("connectionString", elsewhere, "EndpointNotAllowed", "--allowed-endpoint-suffix 169.254.169.254"),
        ("connectionString", named(&same_account, other_key), "AuthenticationFailed", "check the account key or SAS in the Secret"),
    ]
    .into_iter()
    .enumerate()
    {
        world.named_secret("sick-storage", key, &text);
        let status = eventually_within(HEALED_WITHIN, &format!("TaskHub sick says {part}"), async || {
            let status = world.hub_says("sick", reason, HEALED_WITHIN).await;
            if message(&status).contains(part) { Ok(status) } else { Err(message(&status).to_owned()) }
        })
        .await;
        let message = message(&status);
        assert!(!message.contains(other_key) && !message.contains(ACCOUNT_KEY), "{message}");
        assert_eq!(status.account_name, None, "an account that never answered is not pinned");
        // Nobody else is disturbed: the healthy neighbour in the same namespace runs meanwhile.
        let neighbour = format!("neighbour-{index}");
        world.orchestration(&neighbour, "Echo", json!({"input": {"value": index}}));
        world.reason(&neighbour, "Completed").await;
        assert_eq!(find(&world.status("waits").await.conditions, "Ready").unwrap().reason, "TaskHubNotReady");
    }

    world.named_secret("sick-storage", "connectionString", &good);
    let healed = world.hub_says("sick", "Connected", HEALED_WITHIN).await;
    assert_eq!(healed.account_name.as_deref(), Some(ACCOUNT));
    let first = healed.connection.clone().unwrap();
    assert_eq!(first.method, "SharedKey");
    assert_eq!(world.reason("waits", "Completed").await.output.unwrap().text(), "\"waited\"");

    // Another account would make every instance look deleted: nothing is concluded from it.
    run("sleeps", "Sleep", json!(15));
    let running = world.reason("sleeps", "Running").await;
    world.named_secret("sick-storage", "connectionString", &named("AccountName=another", ACCOUNT_KEY));
    let changed = world.hub_says("sick", "AccountChanged", HEALED_WITHIN).await;
    assert!(message(&changed).contains("storage account another") && message(&changed).contains(ACCOUNT), "{changed:?}");
    assert_eq!(changed.account_name.as_deref(), Some(ACCOUNT));
    run("refused", "Echo", json!(1));
    world.reason("refused", "TaskHubNotReady").await;
    world.ask("orchestration/sleeps", "1");
    assert_eq!(world.status("sleeps").await.runtime_status, running.runtime_status);
    assert_eq!(world.status("waits").await.output.unwrap().text(), "\"waited\"");

    world.named_secret("sick-storage", "connectionString", &format!("{good}\n"));
    let rotated = world.hub_says("sick", "Connected", HEALED_WITHIN).await;
    assert_ne!(rotated.connection.unwrap().credential_version, first.credential_version);
    world.reason("sleeps", "Completed").await;
    world.reason("refused", "Completed").await;

    // One Event for each change of the reason and for the recovery, and none for the ordinary way.
    let mut told = world.events_about("sick").await;
    told.sort();
    let reasons: Vec<_> = told.iter().map(|(reason, _, _)| reason.as_str()).collect();
    let expected =
        ["AccountChanged", "AuthenticationFailed", "Connected", "EndpointNotAllowed", "InvalidConnectionString", "SecretNotFound"];
    assert_eq!(reasons, expected, "{told:?}");
    assert!(told.iter().all(|(_, _, count)| *count == 1), "{told:?}");
    assert!(told.iter().all(|(_, note, _)| !note.contains(other_key) && !note.contains(ACCOUNT_KEY)), "{told:?}");
    assert_eq!(world.events_about("hub").await, []);
    let log = operator.process.output();
    assert!(!log.contains(other_key) && !log.contains(ACCOUNT_KEY), "the log holds a key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_must_be_allowed_by_the_operators_flags() {
    let world = World::new("endpoint_allowed").await;
    let mut operator = world.start_operator(&binaries::operator().unwrap(), &[("DURABLE_ALLOWED_ENDPOINT_SUFFIX", "")]);
    operator.until_ready().await;
    world.secret(&world.connection_string());
    world.task_hub();
    let status = world.hub_says("hub", "EndpointNotAllowed", HEALED_WITHIN).await;
    assert!(message(&status).contains("start the operator with --allowed-endpoint-suffix 127.0.0.1"), "{status:?}");
    assert_eq!(operator.counter("durable_operator_storage_requests_total", &[]).await, 0, "the credential has left for a foreign host");
    operator.process.signal(durable_bed::guard::Signal::Term);
    operator.process.wait(Duration::from_secs(20)).unwrap();
    let _operator = world.operator().await;
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_goes_away_is_noticed_and_nothing_is_lost() {
    let azurite = Azurite::start(&assets::ensure().unwrap()).unwrap();
    let world = World::on("storage_goes_away", Server::Shared(&bed().control_plane), Server::own(azurite));
    world.create_hub().await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    // A healthy hub in another account's emulator, without workers.
    let healthy = HubName::new(&format!("{}Healthy", world.hub_name)).unwrap();
    let neighbour = World::without_hub("neighbour_of_storage").await;
    durable_worker::create::create_hub(&neighbour.storage(), &healthy, PartitionCount::DEFAULT).await.unwrap();
    world.named_secret("healthy-storage", "connectionString", &neighbour.connection_string());
    world.named_hub("healthy", healthy.as_str(), "healthy-storage");
    world.named_secret("storage", "connectionString", &world.connection_string());
    world.named_hub("hub", world.hub_name.as_str(), "storage");
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    world.hub_says("healthy", "Connected", HEALED_WITHIN).await;

    world.orchestration("sleeps", "Sleep", json!({"input": {"value": 10}}));
    world.reason("sleeps", "Running").await;
    world.azurite.change(Azurite::interrupt);
    world.orchestration("elsewhere", "Echo", json!({"taskHubRef": {"name": "healthy"}}));
    world.reason("elsewhere", "Enqueued").await;
    let status = world.hub_says("hub", "Unreachable", Duration::from_secs(30)).await;
    assert!(message(&status).contains("check the endpoints in the Secret"), "{status:?}");
    world.orchestration("late", "Echo", json!({"input": {"value": "late"}}));
    world.reason("late", "TaskHubNotReady").await;
    let reason = find(&world.status("sleeps").await.conditions, "Ready").unwrap().reason.clone();
    assert_eq!(reason, "Running", "what was seen stays true");

    world.azurite.change(|azurite| azurite.resume()).unwrap();
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    assert_eq!(world.reason("late", "Completed").await.output.unwrap().text(), "\"late\"");
    world.reason("sleeps", "Completed").await;
    assert_eq!(world.events_about("healthy").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_meets_dead_storage_is_made_as_soon_as_it_is_back() {
    let azurite = Azurite::start(&assets::ensure().unwrap()).unwrap();
    let world = World::on("start_meets_dead_storage", Server::Shared(&bed().control_plane), Server::own(azurite));
    world.create_hub().await;
    let worker = world.worker().await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    world.azurite.change(Azurite::interrupt);
    // Nothing is being read, so nobody but this start can notice.
    world.orchestration("late", "Echo", json!({"input": {"value": "late"}}));
    world.hub_says("hub", "Unreachable", Duration::from_secs(20)).await;
    world.reason("late", "TaskHubNotReady").await;
    let begun = Instant::now();
    world.azurite.change(|azurite| azurite.resume()).unwrap();
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    eventually_within(HEALED_WITHIN, "the start is made", async || {
        let status = world.status("late").await;
        if status.execution_id.is_some() { Ok(()) } else { Err(format!("{:?} after {:?}", status, begun.elapsed())) }
    })
    .await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_does_not_exist_is_never_made_and_one_that_is_deleted_is_noticed() {
    let world = World::without_hub("hub_not_found").await;
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", "20")]);
    operator.until_ready().await;
    world.secret(&world.connection_string());
    world.named_hub("hub", world.hub_name.as_str(), "storage");
    let missing = world.hub_says("hub", "HubNotFound", HEALED_WITHIN).await;
    assert!(message(&missing).contains("check the name (with its case) against the app's host.json"), "{missing:?}");
    assert!(world.storage().list_queues(&world.hub_name.control_queue_prefix()).await.unwrap().is_empty(), "the operator made a hub");
    world.create_hub().await;
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;

    world.orchestration("waits", "Echo", json!({}));
    world.reason("waits", "NoActiveWorkers").await;
    let storage = world.storage();
    for table in [world.hub_name.instances_table(), world.hub_name.history_table(), world.hub_name.partitions_table()] {
        storage.table(&table).delete_table().await.unwrap();
    }
    for queue in storage.list_queues(&world.hub_name.control_queue_prefix()).await.unwrap() {
        storage.queue(&queue).delete_queue().await.unwrap();
    }
    world.hub_says("hub", "HubNotFound", HEALED_WITHIN).await;
    // Time goes by in which an instance would count as missing, if the table were there.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(find(&world.status("waits").await.conditions, "Ready").unwrap().reason, "NoActiveWorkers");
    world.orchestration("new", "Echo", json!({}));
    world.reason("new", "TaskHubNotReady").await;

    world.create_hub().await;
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    let gone = world.reason("waits", "InstanceMissing").await;
    assert!(gone.settled);
    world.reason("new", "NoActiveWorkers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_deleted_while_nothing_runs_is_noticed() {
    let world = World::new("hub_deleted_idle").await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    let storage = world.storage();
    for table in [world.hub_name.instances_table(), world.hub_name.history_table(), world.hub_name.partitions_table()] {
        storage.table(&table).delete_table().await.unwrap();
    }
    for queue in storage.list_queues(&world.hub_name.control_queue_prefix()).await.unwrap() {
        storage.queue(&queue).delete_queue().await.unwrap();
    }
    // In place of the next look, half a minute later.
    world.ask("taskhub/hub", "now");
    let status = world.hub_says("hub", "HubNotFound", HEALED_WITHIN).await;
    assert_eq!(status.last_handled_reconcile_at.as_deref(), Some("now"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_and_go_are_shown() {
    let world = World::new("workers_come_and_go").await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    let mut looks = 0;
    let mut workers = async |status: &str, reason: &str| {
        looks += 1;
        let value = looks.to_string();
        world.ask("taskhub/hub", &value);
        eventually(&format!("WorkersActive is {status}"), async || {
            let found = world.task_hubs().get("hub").await.unwrap().status.unwrap_or_default();
            let active = find(&found.conditions, "WorkersActive").cloned();
            assert_eq!(find(&found.conditions, "Ready").unwrap().status, "True", "no worker is no failure of the hub");
            let says = active.is_some_and(|active| active.status == status && active.reason == reason);
            if says && found.last_handled_reconcile_at.as_ref() == Some(&value) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    workers("False", "NoFreshLease").await;
    let worker = world.worker().await;
    workers("True", "LeaseFresh").await;
    assert!(worker.stop(Duration::from_secs(20)).unwrap().success());
    workers("False", "NoFreshLease").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orchestrations_wait_for_their_task_hub() {
    let world = World::new("wait_for_task_hub").await;
    let _operator = world.operator().await;
    world.orchestration("early", "Echo", json!({}));
    let early = world.reason("early", "TaskHubNotFound").await;
    follows_kstatus(&early.conditions);
    assert!(!early.settled && early.instance_id.is_none());
    world.ready_hub().await;
    world.reason("early", "Enqueued").await;

    world.kubectl(&["delete", "taskhub", "hub"]);
    world.orchestration("late", "Echo", json!({}));
    world.reason("late", "TaskHubNotFound").await;
    assert_eq!(find(&world.status("early").await.conditions, "Ready").unwrap().reason, "Enqueued", "what was accepted stays accepted");
    world.ready_hub().await;
    world.reason("late", "Enqueued").await;
}
