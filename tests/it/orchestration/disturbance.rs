//! Restarts, an API server that goes away, and objects of another version.

use std::time::Duration;

use durable_bed::assets;
use durable_bed::control_plane::ControlPlane;
use durable_bed::guard::Signal;
use durable_operator::api::v1alpha1::OrchestrationStatus;
use serde_json::json;

use super::find;
use crate::support::{Server, World, bed, eventually, install};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_operator_runs_nothing_twice_and_reads_nothing_that_is_settled() {
    let world = World::new("restarted_operator").await;
    let _worker = world.worker().await;
    let mut operator = world.operator().await;
    world.quick_hub().await;
    for name in ["settled-1", "settled-2"] {
        world.orchestration(name, "Echo", json!({"instanceId": name}));
        world.reason(name, "Completed").await;
    }
    world.orchestration("running", "Sleep", json!({"instanceId": "running", "input": {"value": 10}}));
    world.reason("running", "Running").await;
    for signal in [Signal::Term, Signal::Kill] {
        operator.process.signal(signal);
        let ended = operator.process.wait(Duration::from_secs(20)).unwrap();
        assert_eq!(ended.success(), signal == Signal::Term, "{ended}");
        operator = world.operator().await;
    }
    world.reason("running", "Completed").await;
    for name in ["settled-1", "settled-2", "running"] {
        assert_eq!(world.times_started(name).await, 1, "{name}");
    }

    operator.process.signal(Signal::Term);
    operator.process.wait(Duration::from_secs(20)).unwrap();
    let before = world.kubectl(&["get", "orchestrations", "--output=jsonpath={.items[*].metadata.resourceVersion}"]);
    let operator = world.operator().await;
    eventually("every object was looked at", async || {
        match operator.counter("durable_operator_reconciles_total", &["kind=\"Orchestration\"", "outcome=\"ok\""]).await {
            3.. => Ok(()),
            fewer => Err(format!("{fewer} of 3")),
        }
    })
    .await;
    assert_eq!(operator.counter("durable_operator_poller_reads_total", &[]).await, 0);
    assert_eq!(operator.counter("durable_operator_storage_requests_total", &["operation=\"table.get\""]).await, 0);
    assert_eq!(operator.counter("durable_operator_storage_requests_total", &["operation=\"table.insert\""]).await, 0);
    assert_eq!(world.kubectl(&["get", "orchestrations", "--output=jsonpath={.items[*].metadata.resourceVersion}"]), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_arrive_although_the_api_server_goes_away() {
    let world = world_with_own_control_plane("api_server_goes_away").await;
    let _worker = world.worker().await;
    let mut operator = world.operator().await;
    world.quick_hub().await;
    for number in 0..5 {
        world.orchestration(
            &format!("sleeps-{number}"),
            "Sleep",
            json!({"instanceId": format!("sleeps-{number}"), "input": {"value": 15}}),
        );
    }
    world.orchestration("fails", "Fail", json!({}));
    world.reason("sleeps-4", "Running").await;
    world.control_plane.change(ControlPlane::interrupt_api_server);
    // The runs end while nobody can be told.
    for number in 0..5 {
        world.instance_ends(&format!("sleeps-{number}")).await;
    }
    world.control_plane.change(ControlPlane::resume_api_server).unwrap();
    for number in 0..5 {
        let name = format!("sleeps-{number}");
        world.reason(&name, "Completed").await;
        assert_eq!(world.times_started(&name).await, 1);
    }
    world.reason("fails", "OrchestrationFailed").await;
    assert!(operator.process.ended().is_none(), "the operator has ended: {}", operator.process.output());
    world.orchestration("after", "Echo", json!({}));
    world.reason("after", "Completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_a_newer_version_says_so_and_others_go_on() {
    let world = world_with_own_control_plane("newer_version").await;
    const POLICY: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/startPolicy";
    // What a newer version's CRD may allow and this version does not know.
    let newer = json!([
        {"op": "replace", "path": format!("{POLICY}/enum"), "value": ["Create", "Later"]},
        {"op": "remove", "path": format!("{POLICY}/x-kubernetes-validations")}
    ]);
    world.kubectl(&["patch", "crd", "orchestrations.durable-operator.dev", "--type=json", "--patch", &newer.to_string()]);
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    eventually("the newer schema is served", async || {
        let answer = world.try_apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": "newer"},
            "spec": {"taskHubRef": {"name": "hub"}, "functionName": "Echo", "startPolicy": "Later", "input": {"value": "do not show"}}
        }));
        if answer.success { Ok(()) } else { Err(answer.errors) }
    })
    .await;
    world.orchestration("old", "Echo", json!({}));
    world.reason("old", "Completed").await;
    // Not with the types of this version, which cannot read it either.
    let invalid: OrchestrationStatus = eventually("the object says so", async || {
        let text = world.kubectl(&["get", "orchestration", "newer", "--output=jsonpath={.status}"]);
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text:?}"))
    })
    .await;
    assert_eq!(find(&invalid, "Ready").unwrap().reason, "InvalidSpec");
    let message = &find(&invalid, "Ready").unwrap().message;
    assert!(message.contains("unknown variant `Later`") && message.contains("upgrade the operator"), "{message}");
    assert!(!message.contains("do not show") && invalid.instance_id.is_none() && find(&invalid, "Stalled").is_some(), "{invalid:?}");
    assert_eq!(world.kubectl(&["get", "events", "--output=jsonpath={.items[*].reason}"]), "InvalidSpec");

    // Mended, it runs.
    world.orchestration("newer", "Echo", json!({"startPolicy": "Create", "input": {"value": "do not show"}}));
    world.reason("newer", "Completed").await;
}

pub(super) async fn world_with_own_control_plane(test: &str) -> World {
    let control_plane = tokio::task::spawn_blocking(|| {
        let control_plane = ControlPlane::start(&assets::ensure().unwrap()).unwrap();
        install(&control_plane);
        control_plane
    });
    let world = World::on(test, Server::own(control_plane.await.unwrap()), Server::Shared(bed().azurite));
    world.create_hub().await;
    world
}
