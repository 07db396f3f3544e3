//! What an Orchestration's spec may be, and what of it may change.

use serde_json::{Value, json};

use super::{orchestration, with};
use crate::support::World;

fn base() -> Value {
    json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo"})
}

impl World {
    /// `kubectl create`, which keeps members that are null; client-side apply drops them.
    fn created(&self, object: &Value) -> durable_bed::control_plane::Answer {
        let arguments = ["create", "--namespace", &self.namespace, "--filename=-"];
        self.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object.to_string())).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_identifies_a_run_cannot_be_changed() {
    let world = World::without_hub("schema_immutable").await;
    let full = with(
        &base(),
        json!({
            "taskHubRef": {"name": "hub", "namespace": "shop"}, "instanceId": "order-1", "input": {"value": {"a": {"b": [1, {"c": 2}]}}},
            "version": "1.2", "startAt": "2027-01-01T00:00:00Z", "tags": {"team": "checkout"}, "startPolicy": "CreateOrAdopt"
        }),
    );
    let text = with(&base(), json!({"input": {"text": "1.0"}}));
    let referred = with(&base(), json!({"input": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}}));
    let adopt = json!({"taskHubRef": {"name": "hub"}, "instanceId": "order-1", "startPolicy": "Adopt"});
    for (name, spec) in [("bare", &base()), ("full", &full), ("text", &text), ("referred", &referred), ("adopt", &adopt)] {
        world.apply(&orchestration(name, spec.clone()));
    }
    let input = |value: Value| json!({"input": {"value": value}});
    for (name, spec, field) in [
        ("bare", with(&base(), json!({"functionName": "Other"})), "functionName"),
        ("adopt", with(&adopt, json!({"functionName": "Added"})), "functionName"),
        ("bare", with(&base(), json!({"taskHubRef": {"name": "other"}})), "taskHubRef"),
        ("bare", with(&base(), json!({"taskHubRef": {"name": "hub", "namespace": "shop"}})), "taskHubRef"),
        ("full", with(&full, json!({"taskHubRef": {"name": "hub"}})), "taskHubRef"),
        ("full", with(&full, json!({"taskHubRef": {"name": "hub", "namespace": "other"}})), "taskHubRef"),
        ("bare", with(&base(), json!({"instanceId": "added"})), "instanceId"),
        ("full", with(&full, json!({"instanceId": "changed"})), "instanceId"),
        ("full", with(&full, json!({"instanceId": null})), "instanceId"),
        ("bare", with(&base(), json!({"version": "1"})), "version"),
        ("full", with(&full, json!({"version": "1.3"})), "version"),
        ("full", with(&full, json!({"version": null})), "version"),
        ("bare", with(&base(), json!({"startAt": "2027-01-01T00:00:00Z"})), "startAt"),
        ("full", with(&full, json!({"startAt": "2027-01-01T00:00:01Z"})), "startAt"),
        ("full", with(&full, json!({"startAt": null})), "startAt"),
        ("bare", with(&base(), json!({"tags": {"team": "x"}})), "tags"),
        ("full", with(&full, json!({"tags": {"team": "other"}})), "tags"),
        ("full", with(&full, json!({"tags": {"team": "checkout", "more": ""}})), "tags"),
        ("full", with(&full, json!({"tags": null})), "tags"),
        ("bare", with(&base(), json!({"startPolicy": "CreateOrAdopt"})), "startPolicy"),
        ("full", with(&full, json!({"startPolicy": "Create"})), "startPolicy"),
        // The default is a value as well.
        ("full", with(&full, json!({"startPolicy": null})), "startPolicy"),
        ("bare", with(&base(), input(json!(1))), "input"),
        ("full", with(&full, json!({"input": null})), "input"),
        ("full", with(&full, input(json!({"a": {"b": [1, {"c": 3}]}}))), "input"),
        ("full", with(&full, input(json!({"a": {"b": [1, {"c": 2, "d": 0}]}}))), "input"),
        ("full", with(&full, input(json!({"a": {"b": [{"c": 2}, 1]}}))), "input"),
        ("full", with(&full, input(json!("text"))), "input"),
        ("full", with(&full, json!({"input": {"text": "{\"a\":{\"b\":[1,{\"c\":2}]}}"}})), "input"),
        ("text", with(&text, json!({"input": {"text": "1.00"}})), "input"),
        ("text", with(&text, json!({"input": {"value": 1.0}})), "input"),
        ("text", with(&text, json!({"input": null})), "input"),
        ("referred", with(&referred, json!({"input": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "other"}}}})), "input"),
        ("referred", with(&referred, json!({"input": {"valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}})), "input"),
        ("referred", with(&referred, json!({"input": {"text": "1"}})), "input"),
    ] {
        let message = format!("{field} is immutable");
        world.denied(
            &orchestration(name, spec),
            &[&format!("The Orchestration \"{name}\" is invalid"), &format!("spec.{field}: "), &message],
        );
    }
    // Immutability must not be in the way of those who apply the same again.
    for (name, spec) in [("bare", base()), ("full", full.clone()), ("text", text), ("referred", referred), ("adopt", adopt)] {
        let before = world.json(&["get", "orchestration", name]);
        let answer = world.try_apply(&orchestration(name, spec));
        assert!(answer.success && answer.output.contains("unchanged"), "{answer:?}");
        let after = world.json(&["get", "orchestration", name]);
        assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
        assert_eq!(after["metadata"]["generation"], 1);
    }
    world.kubectl(&["label", "orchestration", "full", "team=checkout"]);
    // What says how the run should be may change, from any state to any other, and back.
    for change in [
        json!({"desiredState": "Terminated", "reason": "no longer needed"}),
        json!({"desiredState": "Running", "readyWhen": "Started", "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 0}),
        json!({"desiredState": "Rewound", "rewindToken": "1", "deletionPolicy": "Purge", "outputPolicy": "Omit"}),
        json!({"desiredState": "Suspended", "deletionPolicy": "Terminate"}),
        json!({}),
    ] {
        world.apply(&orchestration("full", with(&full, change)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_that_no_run_can_have_is_denied() {
    let world = World::without_hub("schema_orchestration").await;
    let characters = "instanceId must not start with @ and must not contain / \\ # ? or control characters";
    let one_of = "exactly one of value, text and valueFrom must be set";
    let one_reference = "exactly one of secretKeyRef and configMapKeyRef must be set";
    let tag_names = "the names of tags must have 1 to 128 characters and must not start with $";
    let secret = json!({"name": "s", "key": "k"});
    let many: serde_json::Map<String, Value> = (0..17).map(|n| (format!("tag-{n}"), json!(""))).collect();
    for (change, message) in [
        (json!({"taskHubRef": null}), "spec.taskHubRef: Required value"),
        (json!({"functionName": null}), "functionName is required unless startPolicy is Adopt"),
        (json!({"functionName": null, "startPolicy": "CreateOrAdopt"}), "functionName is required unless startPolicy is Adopt"),
        (json!({"functionName": ""}), "spec.functionName: Invalid value: \"\": spec.functionName in body should be at least 1"),
        (json!({"functionName": "x".repeat(257)}), "spec.functionName: Too long"),
        (json!({"version": ""}), "spec.version in body should be at least 1"),
        (json!({"version": "x".repeat(257)}), "spec.version: Too long"),
        (json!({"taskHubRef": {"name": ""}}), "should be at least 1"),
        (json!({"taskHubRef": {"name": "x".repeat(254)}}), "spec.taskHubRef.name: Too long"),
        (json!({"taskHubRef": {"name": "hub", "namespace": ""}}), "spec.taskHubRef.namespace in body should be at least 1"),
        (json!({"taskHubRef": {"name": "hub", "namespace": "x".repeat(64)}}), "spec.taskHubRef.namespace: Too long"),
        (json!({"taskHubRef": {"name": "hub", "hubName": "Other"}}), "unknown field \"spec.taskHubRef.hubName\""),
        (json!({"instanceId": ""}), "spec.instanceId in body should be at least 1"),
        (json!({"instanceId": "x".repeat(257)}), "spec.instanceId: Too long"),
        (json!({"instanceId": "@counter@a"}), characters),
        (json!({"instanceId": "a/b"}), characters),
        (json!({"instanceId": "a\\b"}), characters),
        (json!({"instanceId": "a#b"}), characters),
        (json!({"instanceId": "a?b"}), characters),
        (json!({"instanceId": "a\u{1}b"}), characters),
        (json!({"instanceId": "a\u{9f}b"}), characters),
        (json!({"startPolicy": "Adopt"}), "instanceId is required with startPolicy Adopt"),
        (json!({"startPolicy": "Replace"}), "supported values: \"Create\", \"CreateOrAdopt\", \"Adopt\""),
        (json!({"desiredState": "Completed"}), "supported values: \"Running\", \"Suspended\", \"Terminated\", \"Rewound\""),
        (json!({"readyWhen": "Failed"}), "supported values: \"Completed\", \"Started\""),
        (json!({"deletionPolicy": "Delete"}), "supported values: \"Retain\", \"Terminate\", \"Purge\""),
        (json!({"outputPolicy": "Secret"}), "supported values: \"Inline\", \"Omit\""),
        (json!({"input": {}}), "spec.input in body should have at least 1 properties"),
        // Client-side apply drops members that are null: `kubectl create` and `apply --server-side` keep them.
        (json!({"input": {"value": null}}), "spec.input in body should have at least 1 properties"),
        (json!({"input": {"value": 1, "text": "1"}}), one_of),
        (json!({"input": {"value": {"a": 1}, "valueFrom": {"secretKeyRef": secret}}}), one_of),
        (json!({"input": {"text": "1", "valueFrom": {"secretKeyRef": secret}}}), one_of),
        (json!({"input": {"text": ""}}), "spec.input.text in body should be at least 1"),
        (json!({"input": {"text": 1}}), "spec.input.text in body must be of type string"),
        (json!({"input": {"valueFrom": {}}}), one_reference),
        (json!({"input": {"valueFrom": {"secretKeyRef": secret, "configMapKeyRef": secret}}}), one_reference),
        (json!({"input": {"valueFrom": {"secretKeyRef": {"name": "s"}}}}), "spec.input.valueFrom.secretKeyRef.key: Required value"),
        (
            json!({"input": {"valueFrom": {"configMapKeyRef": {"name": "", "key": "k"}}}}),
            "configMapKeyRef.name in body should be at least 1",
        ),
        // A reference to another namespace is the classic confused deputy: there is no such field.
        (
            json!({"input": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "namespace": "kube-system"}}}}),
            "unknown field \"spec.input.valueFrom.secretKeyRef.namespace\"",
        ),
        (
            json!({"input": {"valueFrom": {"configMapKeyRef": {"name": "s", "key": "k", "namespace": "kube-system"}}}}),
            "unknown field \"spec.input.valueFrom.configMapKeyRef.namespace\"",
        ),
        (json!({"inputs": {"value": 1}}), "unknown field \"spec.inputs\""),
        (json!({"tags": {"$team": "x"}}), tag_names),
        (json!({"tags": {"": "x"}}), tag_names),
        (json!({"tags": {"x".repeat(129): "x"}}), tag_names),
        (json!({"tags": {"team": "x".repeat(257)}}), "spec.tags.team: Too long"),
        (json!({"tags": {"team": 1}}), "spec.tags.team in body must be of type string"),
        (json!({"tags": many}), "spec.tags: Too many: 17: must have at most 16 items"),
        (json!({"startAt": "tomorrow"}), "spec.startAt in body must be of type date-time"),
        (json!({"reason": "x".repeat(1025)}), "spec.reason: Too long"),
        (json!({"rewindToken": ""}), "spec.rewindToken in body should be at least 1"),
        (json!({"rewindToken": "x".repeat(257)}), "spec.rewindToken: Too long"),
        (json!({"activeDeadlineSeconds": 0}), "spec.activeDeadlineSeconds in body should be greater than or equal to 1"),
        (json!({"activeDeadlineSeconds": 315_360_001}), "should be less than or equal to 315360000"),
        (json!({"ttlSecondsAfterFinished": -1}), "spec.ttlSecondsAfterFinished in body should be greater than or equal to 0"),
        (json!({"ttlSecondsAfterFinished": 1.5}), "spec.ttlSecondsAfterFinished in body must be of type int64"),
    ] {
        world.denied(&orchestration("refused", with(&base(), change)), &[message]);
    }

    world.apply(&orchestration("accepted", with(&base(), json!({"instanceId": "Auftrag 4711 (ü) %'^:@", "input": {"value": 1}}))));
    let spec = world.json(&["get", "orch", "accepted"])["spec"].clone();
    for (field, default) in [
        ("startPolicy", "Create"),
        ("desiredState", "Running"),
        ("readyWhen", "Completed"),
        ("deletionPolicy", "Retain"),
        ("outputPolicy", "Inline"),
    ] {
        assert_eq!(spec[field], default, "{spec}");
    }
    assert_eq!(spec.as_object().unwrap().len(), 4 + 5, "a default too many: {spec}");
    for (name, change) in [
        ("nulls", json!({"instanceId": "x".repeat(256), "input": {"value": {"any": {"field": [null]}}}})),
        ("adopt", json!({"functionName": null, "startPolicy": "Adopt", "instanceId": "a"})),
        ("longest", json!({"functionName": "x".repeat(256), "version": "x".repeat(256), "tags": {"x".repeat(128): "x".repeat(256)}})),
        ("config", json!({"input": {"valueFrom": {"configMapKeyRef": secret}}})),
        ("at", json!({"startAt": "2027-01-01T01:00:00.123+01:00"})),
    ] {
        world.apply(&orchestration(name, with(&base(), change)));
    }
    // Null is no value, alone or beside another form.
    let null = world.created(&orchestration("null", with(&base(), json!({"input": {"value": null}}))));
    assert!(null.success, "{null:?}");
    let both = world.created(&orchestration("both", with(&base(), json!({"input": {"value": null, "text": "1"}}))));
    assert!(both.success, "{both:?}");
    let added = world.try_kubectl(&["patch", "orchestration", "null", "--type=merge", "--patch", r#"{"spec":{"input":{"text":"1"}}}"#]);
    assert!(!added.success && added.errors.contains("input is immutable"), "{added:?}");
}
