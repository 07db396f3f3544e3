//! Events from `kubectl apply` to what the hub shows of them. What arrived is told by the hub's queues and histories alone.

mod crash;
mod faults;
mod signals;

use durable_bed::assets;
use durable_bed::control_plane::ControlPlane;
use durable_operator::api::v1alpha1::{EventPhase, OrchestrationEvent, OrchestrationEventStatus};
use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;
use kube::Api;
use serde_json::{Value, json};

use crate::support::runs::Runs;
use crate::support::{Server, World, bed, eventually, install};

impl World {
    fn events(&self) -> Api<OrchestrationEvent> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// An event of this spec, which needs no `taskHubRef` and no `name`: `hub` and `Approval`.
    fn event(&self, name: &str, spec: Value) {
        let mut all = spec;
        if all.get("orchestrationRef").is_none() {
            all["taskHubRef"] = json!({"name": "hub"});
        }
        if all.get("entity").is_none() {
            all["name"] = json!("Approval");
        }
        self.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "OrchestrationEvent", "metadata": {"name": name}, "spec": all
        }));
    }

    async fn event_status(&self, name: &str) -> OrchestrationEventStatus {
        self.events().get(name).await.unwrap().status.unwrap_or_default()
    }

    /// Waits until `Ready` has this reason.
    async fn event_reason(&self, name: &str, reason: &str) -> OrchestrationEventStatus {
        eventually(&format!("event {name} is {reason}"), async || {
            let status = self.event_status(name).await;
            let is_it = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.reason == reason);
            if is_it { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Another client starts an instance.
    async fn start(&self, id: &str, function: &str) {
        let request = StartRequest {
            instance_id: InstanceId::new(id).unwrap(),
            execution_id: format!("execution-of-{id}"),
            ..StartRequest::new(function)
        };
        self.hub().await.start(request).await.unwrap();
    }

    /// The same, and waits until a worker has taken it up.
    async fn started(&self, id: &str, function: &str) {
        self.start(id, function).await;
        eventually(&format!("instance {id} runs"), async || {
            let instance = self.hub().await.get(id).await.unwrap().unwrap();
            if instance.has_started { Ok(()) } else { Err(format!("{instance:?}")) }
        })
        .await;
    }

    /// How many events the instance's history has, once nothing is on its way.
    async fn arrived(&self, id: &str) -> usize {
        Runs::at_rest(self).await.history(id).get("EventRaised").copied().unwrap_or_default()
    }

    /// Waits until the instance has this output.
    async fn output(&self, id: &str, output: &str) {
        eventually(&format!("instance {id} ends with {output}"), async || {
            let instance = self.hub().await.get(id).await.unwrap();
            let found = instance.as_ref().and_then(|instance| instance.output.as_ref()?.inline().map(str::to_owned));
            if found.as_deref() == Some(output) { Ok(()) } else { Err(format!("{instance:?}")) }
        })
        .await;
    }

    /// The reasons of the Events about the event, without repetition.
    async fn told(&self, name: &str, reason: &str) {
        let selector = format!("regarding.kind=OrchestrationEvent,regarding.name={name}");
        eventually(&format!("an Event tells that {name} is {reason}"), async || {
            let arguments = ["get", "events.events.k8s.io", "--field-selector", &selector, "--output=jsonpath={.items[*].reason}"];
            let found = self.kubectl(&arguments);
            if found == reason { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

fn said(status: &OrchestrationEventStatus) -> Vec<String> {
    status.conditions.iter().map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason)).collect()
}

fn message(status: &OrchestrationEventStatus) -> &str {
    &status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_an_orchestration_waits_for_it_and_goes_with_it() {
    let world = World::new("event_owned").await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    world.event("early", json!({"orchestrationRef": {"name": "order"}, "payload": {"value": {"by": "me"}}}));
    let status = world.event_reason("early", "OrchestrationNotFound").await;
    assert_eq!(said(&status), ["Ready=False OrchestrationNotFound", "Reconciling=True OrchestrationNotFound"]);
    assert_eq!(status.phase, Some(EventPhase::Waiting));
    world.orchestration("order", "Approval", json!({}));
    world.event_reason("early", "WaitingForStart").await;
    let _worker = world.worker().await;
    let status = world.event_reason("early", "Sent").await;
    assert_eq!((status.phase, said(&status)), (Some(EventPhase::Sent), vec!["Ready=True Sent".to_owned()]));
    assert!(status.sent_at.is_some(), "{status:?}");

    world.reason("order", "Completed").await;
    let orchestration = world.orchestrations().get("order").await.unwrap();
    let (uid, shown) = (orchestration.metadata.uid.unwrap(), orchestration.status.unwrap());
    assert_eq!((status.instance_id, status.orchestration_uid), (shown.instance_id.clone(), Some(uid.clone())));
    world.output(&shown.instance_id.clone().unwrap(), r#"{"by":"me"}"#).await;
    assert_eq!(world.arrived(&shown.instance_id.unwrap()).await, 1);
    let event = world.events().get("early").await.unwrap();
    let owners = event.metadata.owner_references.unwrap();
    let [owner] = owners.as_slice() else { panic!("{owners:?}") };
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Orchestration", "order", uid.as_str()));
    assert_eq!((owner.controller, owner.block_owner_deletion), (Some(false), Some(false)));
    assert!(event.metadata.finalizers.is_none());
    assert_eq!(world.kubectl(&["get", "events", "--output=name"]), "", "an ordinary delivery is not worth an Event");

    let late = world.event_after_the_end().await;
    assert!(late.contains("is Completed already"), "{late}");
}

impl World {
    async fn event_after_the_end(&self) -> String {
        self.event("late", json!({"orchestrationRef": {"name": "order"}}));
        let status = self.event_reason("late", "InstanceFinished").await;
        assert_eq!((status.phase, status.sent_at.is_none()), (Some(EventPhase::Rejected), true));
        assert_eq!(said(&status), ["Ready=False InstanceFinished", "Stalled=True InstanceFinished"]);
        self.told("late", "InstanceFinished").await;
        message(&status).to_owned()
    }
}

/// A control plane of its own: this one has a garbage collector.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_the_orchestration_takes_its_events_along() {
    let mut control_plane = ControlPlane::start(&assets::ensure().unwrap()).unwrap();
    install(&control_plane);
    control_plane.start_controllers().unwrap();
    let world = World::on("event_collected", Server::own(control_plane), Server::Shared(bed().azurite));
    let _operator = world.operator().await;
    world.orchestration("order", "Approval", json!({}));
    world.event("owned", json!({"orchestrationRef": {"name": "order"}}));
    world.event("other", json!({"instanceId": "i"}));
    world.event_reason("owned", "TaskHubNotFound").await;
    world.event_reason("other", "TaskHubNotFound").await;
    world.kubectl(&["delete", "orchestration", "order", "--timeout=30s"]);
    eventually("the event went with its Orchestration", async || {
        let left = world.kubectl(&["get", "orchestrationevents", "--output=jsonpath={.items[*].metadata.name}"]);
        if left == "other" { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_never_goes_to_a_namesake_or_to_the_instance_of_another() {
    let world = World::new("event_bound").await;
    let worker = world.worker().await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    // Nobody takes it up: the event waits, bound to the first.
    drop(worker);
    world.orchestration("order", "Approval", json!({}));
    world.event("bound", json!({"orchestrationRef": {"name": "order"}}));
    world.event_reason("bound", "WaitingForStart").await;
    // Without the owner, as after a deletion that orphans, the status still knows.
    world.kubectl(&["patch", "orchevent", "bound", "--type=merge", "--patch", r#"{"metadata":{"ownerReferences":null}}"#]);
    world.kubectl(&["delete", "orchestration", "order"]);
    world.orchestration("order", "Approval", json!({}));
    let status = world.event_reason("bound", "Replaced").await;
    assert_eq!(status.phase, Some(EventPhase::Rejected));
    assert!(message(&status).contains("was deleted and made anew"), "{}", message(&status));
    world.told("bound", "Replaced").await;

    // An instance whose row is another's: the Orchestration has a Conflict, and the event has nobody.
    let _worker = world.worker().await;
    world.started("taken", "Approval").await;
    world.orchestration("loser", "Approval", json!({"instanceId": "taken"}));
    world.reason("loser", "Conflict").await;
    world.event("refused", json!({"orchestrationRef": {"name": "loser"}}));
    let status = world.event_reason("refused", "Replaced").await;
    assert!(message(&status).contains("another client's"), "{}", message(&status));
    assert_eq!(world.arrived("taken").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_gets_what_each_kind_of_payload_says() {
    let world = World::new("event_payloads").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    world.apply(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}, "data": {"good": "{\"n\": 1.0}", "bad": "{"}}),
    );
    let from_map = |key: &str| json!({"valueFrom": {"configMapKeyRef": {"name": "texts", "key": key}}});
    let sent = [
        ("value", Some(json!({"value": {"a": "<b> & c"}})), r#"{"a":"<b> & c"}"#),
        ("text", Some(json!({"text": "{\"n\": 1.0}"})), "{\"n\": 1.0}"),
        ("map", Some(from_map("good")), "{\"n\": 1.0}"),
        ("secret", Some(json!({"valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}})), "\"hidden\""),
    ];
    for (name, payload, _) in &sent {
        world.started(name, "Approval").await;
        world.event(name, json!({"instanceId": name, "payload": payload}));
    }
    let waiting = world.event_reason("secret", "PayloadNotFound").await;
    assert!(message(&waiting).contains("Secret late with key k does not exist in this namespace: create it"), "{}", message(&waiting));
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"k": "\"hidden\""}}));
    for (name, _, output) in &sent {
        let status = world.event_reason(name, "Sent").await;
        assert_eq!(status.instance_id.as_deref(), Some(*name));
        world.output(name, output).await;
        assert_eq!(world.arrived(name).await, 1, "{name}");
    }

    // What cannot be sent is refused at once if it stands in the object, and says what to change.
    world.started("unlucky", "Approval").await;
    for (name, payload, reason, part) in [
        ("not-json", json!({"text": "{"}), "PayloadInvalid", "it is not JSON"),
        ("not-json-elsewhere", from_map("bad"), "PayloadInvalid", "it is not JSON"),
        ("too-large", json!({"text": format!("\"{}\"", "x".repeat(70_000))}), "PayloadTooLarge", "limits.maxInputBytes is 65536"),
    ] {
        world.event(name, json!({"instanceId": "unlucky", "payload": payload}));
        let status = world.event_reason(name, reason).await;
        assert_eq!(status.phase, Some(EventPhase::Rejected));
        assert!(message(&status).contains(part), "{}", message(&status));
        world.told(name, reason).await;
    }
    world.event("not-json-early", json!({"instanceId": "nobody", "payload": {"text": "{"}}));
    world.event_reason("not-json-early", "PayloadInvalid").await;
    assert_eq!(world.arrived("unlucky").await, 0);
    // No payload is not the payload null.
    world.event("nothing", json!({"instanceId": "unlucky"}));
    world.event_reason("nothing", "Sent").await;
    assert_eq!(world.arrived("unlucky").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_waits_for_comes_or_the_deadline_does() {
    let world = World::new("event_waits").await;
    let operator = world.operator().await;
    world.event("hub-first", json!({"instanceId": "a"}));
    let status = world.event_reason("hub-first", "TaskHubNotFound").await;
    let expected = format!("there is no TaskHub {}/hub: create it", world.namespace);
    assert!(message(&status).contains(&expected), "{}", message(&status));
    world.task_hub();
    let status = world.event_reason("hub-first", "TaskHubNotReady").await;
    assert!(message(&status).contains("SecretNotFound"), "{}", message(&status));
    world.ready_hub().await;
    world.event_reason("hub-first", "InstanceNotFound").await;
    world.event("expires", json!({"instanceId": "never", "deadlineSeconds": 2}));
    world.event_reason("expires", "InstanceNotFound").await;

    // The instance exists, and nobody has started it.
    world.start("a", "Approval").await;
    let before = world.event_reason("hub-first", "WaitingForStart").await;
    assert!(message(&before).contains("check that the app runs"), "{}", message(&before));
    let messages = Runs::read(&world).await.messages();
    world.event("exists", json!({"instanceId": "a", "waitFor": "Exists", "payload": {"value": "first"}}));
    world.event_reason("exists", "Sent").await;
    assert_eq!(Runs::read(&world).await.messages(), messages + 1);
    assert_eq!(world.event_status("hub-first").await.phase, Some(EventPhase::Waiting));

    let status = world.event_reason("expires", "Expired").await;
    assert_eq!(said(&status), ["Ready=False Expired", "Stalled=True Expired"]);
    assert!(message(&status).contains("InstanceNotFound"), "{}", message(&status));
    world.told("expires", "Expired").await;
    world.start("never", "Approval").await;

    let _worker = world.worker().await;
    // Start and event are received together, or the engine drops the event: then the instance waits, and this one ends it.
    let status = eventually("the event that waited is sent, or too late", async || {
        let status = world.event_status("hub-first").await;
        if matches!(status.phase, Some(EventPhase::Sent | EventPhase::Rejected)) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    world.output("a", if status.phase == Some(EventPhase::Sent) && world.arrived("a").await == 1 { "null" } else { "\"first\"" }).await;
    assert_eq!(world.arrived("never").await, 0, "an expired event is never sent");
    assert_eq!(world.event_status("expires").await.phase, Some(EventPhase::Expired));
    drop(operator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_events_go_when_their_time_has_come() {
    let world = World::new("event_ttl").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    world.started("i", "Approval").await;
    let event = |name: &str, labels: Value, more: Value| {
        let mut spec = json!({"taskHubRef": {"name": "hub"}, "instanceId": "i", "name": "Other", "ttlSecondsAfterFinished": 0});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "OrchestrationEvent",
            "metadata": {"name": name, "labels": labels}, "spec": spec
        }));
    };
    event("sent", json!({}), json!({}));
    event("rejected", json!({}), json!({"payload": {"text": "{"}}));
    event("kept", json!({}), json!({"ttlSecondsAfterFinished": 3600}));
    event("of-flux", json!({"kustomize.toolkit.fluxcd.io/name": "apps"}), json!({}));
    world.event_reason("of-flux", "Sent").await;
    world.told("of-flux", "TTLRefused").await;
    world.event_reason("kept", "Sent").await;
    eventually("the others are gone", async || {
        let left = world.kubectl(&["get", "orchevent", "--output=jsonpath={.items[*].metadata.name}"]);
        if left == "kept of-flux" { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(world.arrived("i").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_can_be_paused_and_hurried() {
    let world = World::new("event_annotations").await;
    let _operator = world.operator().await;
    world.secret(&world.connection_string());
    // Without being asked, an event that waits would read its instance in an hour.
    world.apply(&json!({
        "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": "hub"},
        "spec": {
            "hubName": world.hub_name.as_str(), "connection": {"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}},
            "polling": {"minInterval": "1h", "maxInterval": "1h"}
        }
    }));
    world.hub_reason("Connected").await;
    let worker = world.worker().await;
    world.event("hurried", json!({"instanceId": "i"}));
    world.event_reason("hurried", "InstanceNotFound").await;
    world.apply(&json!({
        "apiVersion": "durable-operator.dev/v1alpha1", "kind": "OrchestrationEvent",
        "metadata": {"name": "paused", "annotations": {"durable-operator.dev/paused": "true"}},
        "spec": {"taskHubRef": {"name": "hub"}, "instanceId": "i", "name": "Approval"}
    }));
    world.started("i", "Approval").await;
    world.kubectl(&["annotate", "orchestrationevent/hurried", "durable-operator.dev/reconcile-requested-at=now"]);
    let status = world.event_reason("hurried", "Sent").await;
    assert_eq!(status.last_handled_reconcile_at.as_deref(), Some("now"));
    let unseen = OrchestrationEventStatus { observed_generation: Some(-1), ..OrchestrationEventStatus::default() };
    assert_eq!(world.event_status("paused").await, unseen);
    assert_eq!(world.arrived("i").await, 1);
    drop(worker);
}
