//! The CRDs on the real API server, as a user meets them: through kubectl.

mod orchestration;

use serde_json::{Value, json};

use crate::support::{World, eventually};

const VERSION: &str = "durable-operator.dev/v1alpha1";

fn orchestration(name: &str, spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "Orchestration", "metadata": {"name": name}, "spec": spec})
}

fn task_hub(name: &str, spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "TaskHub", "metadata": {"name": name}, "spec": spec})
}

/// `base` with the members of `change`; a member that is null is left out.
fn with(base: &Value, change: Value) -> Value {
    let mut all = base.clone();
    for (key, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(key)),
            value => all[key] = value.clone(),
        }
    }
    all
}

impl World {
    fn denied(&self, object: &Value, messages: &[&str]) {
        let answer = self.try_apply(object);
        assert!(!answer.success, "{object} was accepted: {answer:?}");
        for message in messages {
            assert!(answer.errors.contains(message), "{object}: expected {message:?} in {}", answer.errors);
        }
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--output=json");
        serde_json::from_str(&self.kubectl(&all)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_hub_has_limits_and_defaults() {
    let world = World::without_hub("schema_task_hub").await;
    let base = json!({"hubName": "OrdersHub", "connection": {"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}}});
    let polling = "minInterval must be at least 100ms and at most maxInterval, maxInterval at most 24h";
    for (spec, message) in [
        (with(&base, json!({"hubName": null})), "spec.hubName: Required value"),
        (with(&base, json!({"hubName": "ab"})), "spec.hubName in body should be at least 3"),
        (with(&base, json!({"hubName": "h".repeat(51)})), "spec.hubName: Too long"),
        (with(&base, json!({"hubName": "1abc"})), "spec.hubName in body should match '^[A-Za-z][A-Za-z0-9]{2,49}$'"),
        (with(&base, json!({"hubName": "orders-hub"})), "should match"),
        (with(&base, json!({"hubName": "Hub\nHub"})), "should match"),
        (with(&base, json!({"connection": null})), "spec.connection: Required value"),
        (with(&base, json!({"connection": {}})), "exactly one of connectionStringSecretRef, workloadIdentity and sasSecretRef must be set"),
        (
            with(
                &base,
                json!({"connection": {
                    "sasSecretRef": {"name": "a", "key": "b", "accountName": "orders"}, "workloadIdentity": {"accountName": "orders"}
                }}),
            ),
            "exactly one of connectionStringSecretRef, workloadIdentity and sasSecretRef must be set",
        ),
        (with(&base, json!({"connection": {"workloadIdentity": {}}})), "spec.connection.workloadIdentity.accountName: Required value"),
        (with(&base, json!({"connection": {"workloadIdentity": {"accountName": "Orders"}}})), "accountName in body should match"),
        (
            with(&base, json!({"connection": {"workloadIdentity": {"accountName": "orders", "cloud": "Moon"}}})),
            "Unsupported value: \"Moon\"",
        ),
        (
            with(&base, json!({"connection": {"workloadIdentity": {"accountName": "orders", "tenantId": "../x"}}})),
            "spec.connection.workloadIdentity.tenantId in body should match",
        ),
        (
            with(&base, json!({"connection": {"sasSecretRef": {"name": "a", "key": "b"}}})),
            "spec.connection.sasSecretRef.accountName: Required value",
        ),
        (with(&base, json!({"endpoints": {"blob": "ftp://h"}})), "must be an http or https URL"),
        (with(&base, json!({"endpoints": {"queue": "no url"}})), "must be an http or https URL"),
        (with(&base, json!({"endpoints": {"file": "https://h"}})), "unknown field \"spec.endpoints.file\""),
        (with(&base, json!({"allowedNamespaces": {"from": "Some"}})), "Unsupported value: \"Some\""),
        (with(&base, json!({"allowedNamespaces": {"from": "Selector"}})), "selector is required with from: Selector"),
        (with(&base, json!({"allowedNamespaces": {"from": "All", "selector": {}}})), "and not allowed otherwise"),
        (with(&base, json!({"allowedFunctions": [""]})), "spec.allowedFunctions[0] in body should be at least 1"),
        (with(&base, json!({"limits": {"requestsPerSecond": 0}})), "should be greater than or equal to 1"),
        (with(&base, json!({"limits": {"maxInputBytes": 33_554_433}})), "should be less than or equal to 33554432"),
        (with(&base, json!({"limits": {"maxInlineOutputBytes": 8193}})), "should be less than or equal to 8192"),
        (with(&base, json!({"deletionPolicy": "Delete"})), "Unsupported value: \"Delete\""),
        (with(&base, json!({"createIfMissing": "yes"})), "spec.createIfMissing"),
        (
            with(&base, json!({"connection": {"connectionStringSecretRef": {"name": "a", "key": "b", "namespace": "kube-system"}}})),
            "unknown field \"spec.connection.connectionStringSecretRef.namespace\"",
        ),
        (with(&base, json!({"partitionCount": 0})), "spec.partitionCount in body should be greater than or equal to 1"),
        (with(&base, json!({"partitionCount": 17})), "spec.partitionCount in body should be less than or equal to 16"),
        (with(&base, json!({"partitionCount": 1.5})), "spec.partitionCount"),
        (with(&base, json!({"polling": {"minInterval": "99ms"}})), polling),
        (with(&base, json!({"polling": {"minInterval": "2m"}})), polling),
        (with(&base, json!({"polling": {"maxInterval": "500ms"}})), polling),
        (with(&base, json!({"polling": {"maxInterval": "25h"}})), polling),
        (with(&base, json!({"polling": {"minInterval": "1d"}})), "spec.polling.minInterval in body should match"),
        (with(&base, json!({"polling": {"minInterval": "PT5M"}})), "should match"),
        (with(&base, json!({"polling": {"minInterval": "-5s"}})), "should match"),
        (with(&base, json!({"polling": {"minInterval": 5}})), "spec.polling.minInterval in body must be of type"),
    ] {
        world.denied(&task_hub("refused", spec), &[message]);
    }

    world.apply(&task_hub("bare", base.clone()));
    let counted = with(&base, json!({"partitionCount": 4, "polling": {"maxInterval": "5m"}}));
    world.apply(&task_hub("counted", counted.clone()));
    assert_eq!(world.json(&["get", "hub", "bare"])["spec"]["polling"], json!({"minInterval": "1s", "maxInterval": "60s"}));
    assert_eq!(world.json(&["get", "hub", "counted"])["spec"]["polling"], json!({"minInterval": "1s", "maxInterval": "5m"}));
    let defaults = world.json(&["get", "hub", "bare"])["spec"].clone();
    assert_eq!(defaults["limits"], json!({"requestsPerSecond": 200, "maxInputBytes": 65536, "maxInlineOutputBytes": 8192}));
    assert_eq!(
        (&defaults["allowedNamespaces"], &defaults["createIfMissing"], &defaults["deletionPolicy"]),
        (&json!({"from": "Same"}), &json!(false), &json!("Retain"))
    );
    for (name, spec, message) in [
        ("bare", with(&base, json!({"hubName": "Other"})), "spec.hubName: Invalid value: \"Other\": hubName is immutable"),
        ("bare", with(&base, json!({"partitionCount": 4})), "spec.partitionCount: Invalid value: partitionCount is immutable"),
        ("counted", with(&counted, json!({"partitionCount": 8})), "spec.partitionCount: Invalid value: partitionCount is immutable"),
        ("counted", with(&counted, json!({"partitionCount": null})), "spec.partitionCount: Invalid value: partitionCount is immutable"),
    ] {
        world.denied(&task_hub(name, spec), &[message]);
    }
    // The way to the storage account may change: another Secret, or another pace.
    let moved = json!({"connection": {"connectionStringSecretRef": {"name": "other", "key": "k"}}, "polling": {"minInterval": "2s"}});
    world.apply(&task_hub("bare", with(&base, moved)));
    let answer = world.try_apply(&task_hub("counted", counted));
    assert!(answer.success && answer.output.contains("unchanged"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_explains_lists_and_selects() {
    let world = World::without_hub("schema_kubectl").await;
    for (field, texts) in [
        ("orchestration", &["KIND:       Orchestration", "starts an instance in the task", "spec\t", "status\t"][..]),
        (
            "orchestration.spec",
            &[
                "functionName\t<string>",
                "taskHubRef\t<Object> -required-",
                "enum: Create, CreateOrAdopt, Adopt",
                "enum: Running, Suspended, Terminated",
            ],
        ),
        ("orchestration.spec.input", &["value\t<Object>", "text\t<string>", "valueFrom\t<Object>", "The API server sorts the keys"]),
        ("orchestration.spec.input.valueFrom", &["configMapKeyRef\t<Object>", "secretKeyRef\t<Object>"]),
        ("orchestration.spec.instanceId", &["Give it to have one run per business key"]),
        ("orchestration.status", &["outputRef\t<Object>", "Conditions: Ready, Started", "enum: Pending, Running"]),
        ("orchestration.status.outputRef", &["preview\t<string>", "SHA-256"]),
        ("taskhub.spec", &["hubName\t<string> -required-", "partitionCount\t<integer>"]),
        ("taskhub.spec.connection.connectionStringSecretRef", &["Name of the Secret", "key\t<string> -required-"]),
        ("taskhub.spec.polling", &["minInterval\t<string>", "Shortest time between two reads"]),
        ("taskhub.status", &["accountName\t<string>", "Storage account of the first connection"]),
    ] {
        // The API server publishes the schemas of CRDs a moment after it has established them.
        eventually(&format!("kubectl explain {field}"), async || {
            let answer = world.try_kubectl(&["explain", field]);
            // kubectl wraps lines.
            let flat = answer.output.split_whitespace().collect::<Vec<_>>().join(" ");
            let missing: Vec<_> = texts
                .iter()
                .filter(|text| !answer.output.contains(**text) && !flat.contains(&text.split_whitespace().collect::<Vec<_>>().join(" ")))
                .collect();
            if answer.success && missing.is_empty() { Ok(()) } else { Err(format!("without {missing:?}: {answer:?}")) }
        })
        .await;
    }

    let spec = |function: &str, hub: &str| json!({"taskHubRef": {"name": hub}, "functionName": function});
    let connection = json!({"connectionStringSecretRef": {"name": "s", "key": "k"}});
    world.apply(&task_hub("orders", json!({"hubName": "OrdersHub", "connection": connection})));
    world.apply(&orchestration("a", spec("Echo", "orders")));
    world.apply(&orchestration("b", spec("Echo", "billing")));
    world.apply(&orchestration("c", spec("Fail", "orders")));
    for (name, status) in [
        ("a", json!({"settled": true, "runtimeStatus": "Completed", "instanceId": "i-1"})),
        ("b", json!({"settled": false, "runtimeStatus": "Running", "instanceId": "i-2"})),
        ("c", json!({"settled": true, "runtimeStatus": "Failed", "instanceId": "i-3"})),
    ] {
        let patch = json!({"status": status}).to_string();
        world.kubectl(&["patch", "orchestration", name, "--subresource=status", "--type=merge", "--patch", &patch]);
    }
    for (selector, names) in [
        ("status.settled=true", "a c"),
        ("status.settled=false", "b"),
        ("status.settled!=true", "b"),
        ("spec.functionName=Echo", "a b"),
        ("spec.taskHubRef.name=orders", "a c"),
        ("status.runtimeStatus=Failed", "c"),
        ("status.instanceId=i-2", "b"),
        ("status.settled=true,spec.functionName=Echo", "a"),
    ] {
        let found = world.kubectl(&["get", "orchestrations", "--field-selector", selector, "--output=jsonpath={.items[*].metadata.name}"]);
        assert_eq!(found, names, "{selector}");
    }
    let unknown = world.try_kubectl(&["get", "orchestrations", "--field-selector", "status.output=1"]);
    assert!(!unknown.success && unknown.errors.contains("field label not supported"), "{unknown:?}");

    assert_eq!(world.kubectl(&["get", "orch", "--output=name"]).lines().count(), 3);
    assert_eq!(world.kubectl(&["get", "hub", "--output=name"]), "taskhub.durable-operator.dev/orders\n");
    assert_eq!(world.kubectl(&["get", "durable", "--output=name"]).lines().count(), 4);
}

fn event(name: &str, spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "OrchestrationEvent", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_has_one_target_and_never_changes() {
    let world = World::without_hub("schema_event").await;
    let to_object = json!({"orchestrationRef": {"name": "order"}, "name": "Approval"});
    let to_instance = json!({"taskHubRef": {"name": "hub"}, "instanceId": "i", "name": "Approval"});
    let to_entity = json!({"taskHubRef": {"name": "hub"}, "entity": {"name": "counter", "key": "a"}, "operation": "add"});
    let one_target = "exactly one of orchestrationRef, instanceId and entity must be set";
    let hub = "spec.taskHubRef: Invalid value: taskHubRef is required with instanceId and entity, and not allowed with orchestrationRef";
    let operation = "operation is required with entity, and not allowed without it";
    let name = "name is required for an event, and not allowed with entity: there it is operation";
    let payload = "exactly one of value, text and valueFrom must be set";
    for (spec, message) in [
        (json!({"name": "Approval"}), one_target),
        (with(&to_object, json!({"instanceId": "i"})), one_target),
        (with(&to_instance, json!({"orchestrationRef": {"name": "order"}})), one_target),
        (with(&to_object, json!({"taskHubRef": {"name": "hub"}})), hub),
        (with(&to_instance, json!({"taskHubRef": null})), hub),
        (with(&to_entity, json!({"operation": null})), operation),
        (with(&to_instance, json!({"operation": "add"})), operation),
        (with(&to_object, json!({"name": null})), name),
        (with(&to_entity, json!({"name": "Approval"})), name),
        (with(&to_entity, json!({"waitFor": "Exists"})), "waitFor is not allowed with entity: a signal waits for nothing"),
        (
            with(&to_instance, json!({"waitFor": "Started"})),
            "spec.waitFor: Unsupported value: \"Started\": supported values: \"Running\", \"Exists\"",
        ),
        (with(&to_instance, json!({"instanceId": "@counter@a"})), "instanceId must not start with @: use entity for an entity"),
        (with(&to_entity, json!({"entity": {"name": "a@b", "key": "k"}})), "spec.entity.name in body should match"),
        (with(&to_entity, json!({"entity": {"name": "a", "key": "k/1"}})), "key must not contain / \\ # ? or control characters"),
        (with(&to_object, json!({"name": ""})), "spec.name in body should be at least 1"),
        (with(&to_object, json!({"deadlineSeconds": 0})), "spec.deadlineSeconds in body should be greater than or equal to 1"),
        (with(&to_object, json!({"payload": {"text": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}})), payload),
        (with(&to_object, json!({"payload": {}})), "spec.payload"),
        (
            with(&to_object, json!({"payload": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "namespace": "kube-system"}}}})),
            "unknown field \"spec.payload.valueFrom.secretKeyRef.namespace\"",
        ),
        // Its object is in the same namespace, or the event would be a way into another one.
        (
            with(&to_object, json!({"orchestrationRef": {"name": "o", "namespace": "x"}})),
            "unknown field \"spec.orchestrationRef.namespace\"",
        ),
    ] {
        world.denied(&event("refused", spec), &[message]);
    }

    for (kind, spec) in [("object", to_object), ("instance", to_instance), ("entity", to_entity)] {
        let object = event(kind, with(&spec, json!({"payload": {"value": {"a": [1, null]}}})));
        world.apply(&object);
        let read = world.json(&["get", "orchevent", kind]);
        assert_eq!((&read["spec"]["waitFor"], &read["spec"]["deadlineSeconds"]), (&json!("Running"), &json!(3600)));
        world.denied(
            &event(kind, with(&spec, json!({"payload": {"value": {"a": [1, null, 2]}}}))),
            &["spec is immutable: an event is delivered once; make a new object for another one"],
        );
        world.denied(&event(kind, with(&spec, json!({"ttlSecondsAfterFinished": 5}))), &["spec is immutable"]);
        let answer = world.try_apply(&object);
        assert!(answer.success && answer.output.contains("unchanged"), "{answer:?}");
    }
    let conditions = json!([{
        "type": "Ready", "status": "True", "reason": "Sent", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"
    }]);
    let patch = json!({"status": {"phase": "Sent", "sentAt": "2026-01-01T00:00:00Z", "conditions": conditions}}).to_string();
    world.kubectl(&["patch", "orchevent", "object", "--subresource=status", "--type=merge", "--patch", &patch]);
    let table = world.kubectl(&["get", "orchevent", "--output=wide"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "EVENT", "PHASE", "READY", "REASON", "AGE", "ORCHESTRATION", "INSTANCE", "SENT"], "{table}");
    let object = words.iter().find(|line| line[0] == "object").unwrap();
    assert_eq!((&object[1..5], object[6]), (&["Approval", "Sent", "True", "Sent"][..], "order"), "{table}");
    let found =
        world.kubectl(&["get", "orchestrationevents", "--field-selector=status.phase=Sent", "--output=jsonpath={.items[*].metadata.name}"]);
    assert_eq!(found, "object");
}
