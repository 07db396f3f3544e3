//! The start policies: which instance an object makes, which it takes over, and which it leaves alone.

use durable_operator::api::v1alpha1::OrchestrationStatus;
use serde_json::{Value, json};

use super::{find, inline, said};
use crate::support::{World, eventually};

impl World {
    /// Whose the instance is, by its row.
    async fn owner(&self, id: &str) -> Option<String> {
        self.row(id).await.text("KubernetesOwner").map(str::to_owned)
    }

    async fn owner_of_object(&self, name: &str) -> Option<String> {
        Some(format!("{}/{name}/{}", self.namespace, self.uid(name).await))
    }

    /// Another client starts `function`, and a worker takes it up.
    async fn run_by_another(&self, id: &str, function: &str, input: &str) {
        self.start_by_another(id, function, input).await;
        eventually(&format!("instance {id} has started"), async || {
            let instance = self.instance(id).await.unwrap();
            if instance.has_started { Ok(()) } else { Err(format!("{instance:?}")) }
        })
        .await;
    }

    pub(super) fn desire(&self, name: &str, spec: &Value) {
        self.kubectl(&["patch", "orchestration", name, "--type=merge", "--patch", &json!({"spec": spec}).to_string()]);
    }
}

fn started(status: &OrchestrationStatus) -> &str {
    &find(status, "Started").unwrap().reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_or_adopt_finds_the_run_that_is_there() {
    let world = World::new("policy_create_or_adopt").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let apply = |name: &str, function: &str, id: &str, input: Value| {
        world.orchestration(name, function, json!({"startPolicy": "CreateOrAdopt", "instanceId": id, "input": {"value": input}}));
    };

    // One that is over, with the same input in another notation.
    world.start_by_another("over", "Echo", r#"{ "b": 2.0, "a": [1e0, "\u00e9"] }"#).await;
    world.start_by_another("without-input", "Echo", "null").await;
    world.run_by_another("live", "Approval", "null").await;
    world.instance_ends("over").await;
    world.instance_ends("without-input").await;
    for (name, function, input) in
        [("other-input", "Echo", json!({"a": [1, "é"], "b": 3})), ("other-function", "Sleep", json!({"a": [1, "é"], "b": 2}))]
    {
        let before = world.row("over").await;
        apply(name, function, "over", input);
        let conflict = world.reason(name, "Conflict").await;
        assert_eq!(said(&conflict), ["Ready=False Conflict", "Started=False Conflict", "Stalled=True Conflict"]);
        let message = &find(&conflict, "Ready").unwrap().message;
        let differs = if name == "other-input" { "with another input" } else { "of another function, Echo" };
        assert!(message.contains(differs) && conflict.settled && conflict.output.is_none(), "{conflict:?}");
        assert_eq!(world.row("over").await, before, "the row was touched");
    }
    apply("same", "Echo", "over", json!({"b": 2, "a": [1, "é"]}));
    let same = world.reason("same", "Completed").await;
    assert_eq!(said(&same), ["Ready=True Completed", "Started=True Adopted", "Complete=True Completed"]);
    assert_eq!((same.execution_id.as_deref(), same.settled), (Some("execution-of-over"), true));
    assert!(same.output.is_some(), "{same:?}");
    assert_eq!(world.owner("over").await, world.owner_of_object("same").await);
    world.orchestration("no-input", "Echo", json!({"startPolicy": "CreateOrAdopt", "instanceId": "without-input"}));
    assert_eq!(started(&world.reason("no-input", "Completed").await), "Adopted");

    // A live one; what was taken over is controlled.
    for (state, reason) in [("Suspended", "Suspended"), ("Terminated", "Terminated")] {
        world.orchestration(
            reason.to_lowercase().as_str(),
            "Approval",
            json!({"startPolicy": "CreateOrAdopt", "instanceId": "live", "desiredState": state}),
        );
        let status = world.reason(reason.to_lowercase().as_str(), reason).await;
        assert_eq!((started(&status), find(&status, "Ready").unwrap().status.as_str()), ("Adopted", "True"));
    }
    assert_eq!(world.instance("live").await.unwrap().runtime_status, durable_taskhub::RuntimeStatus::Terminated);

    // None is there: it is made. Deleted and made again the object finds it, and so does one that was restored elsewhere.
    apply("new", "Echo", "new", json!(7));
    assert_eq!(started(&world.reason("new", "Completed").await), "Started");
    let backup = world.kubectl(&["get", "orchestration", "new", "--output=json"]);
    world.kubectl(&["delete", "orchestration", "new"]);
    apply("new", "Echo", "new", json!(7));
    assert_eq!(started(&world.reason("new", "Completed").await), "Adopted");
    let mut restored: Value = serde_json::from_str(&backup).unwrap();
    restored["metadata"] = json!({"name": "restored"});
    world.apply(&restored);
    let status = world.reason("restored", "Completed").await;
    assert_eq!((started(&status), status.output.as_ref().unwrap().text()), ("Adopted", "7"));
    assert_eq!(world.owner("new").await, world.owner_of_object("restored").await);
    // The settled one keeps what it knows.
    assert_eq!(find(&world.status("new").await, "Ready").unwrap().reason, "Completed");
    for id in ["over", "without-input", "new", "live"] {
        assert_eq!(world.times_started(id).await, 1, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_takes_over_and_never_starts() {
    let world = World::new("policy_adopt").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;
    let adopt = |name: &str, id: &str, more: Value| {
        let mut spec = json!({"taskHubRef": {"name": "hub"}, "startPolicy": "Adopt", "instanceId": id});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.apply(
            &json!({"apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": name}, "spec": spec}),
        );
    };

    adopt("waits", "later", json!({}));
    let waits = world.reason("waits", "InstanceNotFound").await;
    assert_eq!(said(&waits), ["Ready=False InstanceNotFound", "Started=False InstanceNotFound", "Reconciling=True InstanceNotFound"]);
    assert!(!waits.settled && waits.runtime_status.is_none());
    assert!(world.instance("later").await.is_none(), "Adopt never starts");

    world.run_by_another("later", "Approval", "null").await;
    adopt("differs", "later", json!({"functionName": "Echo"}));
    let differs = world.reason("differs", "Conflict").await;
    assert!(find(&differs, "Ready").unwrap().message.contains("of another function, Approval"), "{differs:?}");
    let running = world.reason("waits", "Running").await;
    assert_eq!((started(&running), running.execution_id.as_deref()), ("Adopted", Some("execution-of-later")));
    assert_eq!(world.owner("later").await, world.owner_of_object("waits").await);

    // Control of what another client started.
    world.desire("waits", &json!({"desiredState": "Suspended", "reason": "held"}));
    let suspended = world.reason("waits", "Suspended").await;
    assert_eq!(said(&suspended), ["Ready=True Suspended", "Started=True Adopted", "Suspended=True Suspended"]);
    world.desire("waits", &json!({"desiredState": "Running"}));
    world.reason("waits", "Running").await;

    // The last adopter has it.
    adopt("last", "later", json!({"functionName": "Approval", "readyWhen": "Started"}));
    let last = world.reason("last", "Started").await;
    assert_eq!(said(&last), ["Ready=True Started", "Started=True Adopted"]);
    let before = world.reason("waits", "Replaced").await;
    assert!(before.settled && find(&before, "Stalled").is_some(), "{before:?}");
    assert!(find(&before, "Ready").unwrap().message.contains(&format!("Orchestration {}/last", world.namespace)), "{before:?}");
    world.annotate("orchestration/waits", "durable-operator.dev/reconcile-requested-at=again");
    world.desire("waits", &json!({"desiredState": "Terminated"}));
    eventually("the loser looks again", async || {
        let status = world.status("waits").await;
        let handled = status.last_handled_reconcile_at.as_deref() == Some("again") && status.observed_generation == Some(4);
        if handled && find(&status, "Ready").unwrap().reason == "Replaced" { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(world.owner("later").await, world.owner_of_object("last").await);
    world.desire("last", &json!({"desiredState": "Terminated", "reason": "by its owner"}));
    let terminated = world.reason("last", "Terminated").await;
    assert_eq!(said(&terminated), ["Ready=True Terminated", "Started=True Adopted", "Complete=True Terminated"]);
    assert_eq!(inline(world.instance("later").await.unwrap().output.as_ref()), Some("by its owner"));

    // Also one that is over.
    world.start_by_another("over", "Fail", "\"theirs\"").await;
    world.instance_ends("over").await;
    adopt("over", "over", json!({}));
    let failed = world.reason("over", "OrchestrationFailed").await;
    assert_eq!(said(&failed)[1], "Started=True Adopted");
    assert!(failed.failure.unwrap().message.unwrap().contains("theirs"));
    for id in ["later", "over"] {
        assert_eq!(world.times_started(id).await, 1, "{id}");
    }
    assert_eq!(operator.counter("durable_operator_storage_requests_total", &["operation=\"table.insert\""]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_survives_a_new_execution_and_not_a_new_start() {
    let world = World::new("policy_owner").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    for name in ["counts", "replaced"] {
        world.orchestration(name, "Counter", json!({"instanceId": name, "input": {"value": 1}, "readyWhen": "Started"}));
    }
    let first = world.reason("counts", "Started").await;
    world.reason("replaced", "Started").await;
    let hub = world.hub().await;
    for (total, before) in [("6", first.execution_id.clone()), ("11", None)] {
        hub.raise_event("counts", "add", Some("5")).await.unwrap();
        let status = eventually(&format!("the total is {total}"), async || {
            let status = world.status("counts").await;
            let shown = status.custom_status.as_ref().is_some_and(|json| json.text() == total);
            if shown && status.execution_id != before { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await;
        assert_eq!(said(&status), ["Ready=True Started", "Started=True Started"]);
        assert_eq!(world.owner("counts").await, world.owner_of_object("counts").await);
    }
    hub.raise_event("counts", "stop", None).await.unwrap();
    let completed = world.reason("counts", "Completed").await;
    assert_eq!(completed.output.unwrap().text(), "11");
    assert_ne!(completed.execution_id, first.execution_id);

    // Another client starts the ID anew, over the row that is there.
    let row = world.row("replaced").await;
    let mut theirs = row.clone().with("ExecutionId", "theirs").with("Name", "Echo");
    theirs.columns.remove("KubernetesOwner");
    world.replace_row(&theirs).await;
    let replaced = world.reason("replaced", "Replaced").await;
    assert_eq!(said(&replaced), ["Ready=False Replaced", "Started=True Started", "Stalled=True Replaced"]);
    assert!(replaced.settled && replaced.execution_id.as_deref() != Some("theirs"), "{replaced:?}");
    let before = world.row("replaced").await;
    world.desire("replaced", &json!({"desiredState": "Terminated", "deletionPolicy": "Purge"}));
    world.kubectl(&["delete", "orchestration", "replaced", "--timeout=20s"]);
    assert_eq!(world.row("replaced").await, before, "the row was touched");
}
