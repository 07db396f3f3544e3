//! Two operators on the same objects, as when an old leader does not know yet that it is one no more: wasteful, never wrong.

use durable_bed::binaries;
use kube::api::ListParams;
use serde_json::json;

use crate::support::runs::Runs;
use crate::support::{World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_make_one_run_of_each_object() {
    const RUNS: usize = 20;
    let world = World::new("two_leaders").await;
    let _worker = world.worker().await;
    let program = binaries::operator().unwrap();
    let operators = [world.start_operator(&program, &[]), world.start_operator(&program, &[])];
    for operator in &operators {
        operator.until_ready().await;
    }
    world.ready_hub().await;
    let objects: Vec<_> = (0..RUNS)
        .map(|number| {
            let function = ["HelloSequence", "Fail"][number % 2];
            json!({
                "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": format!("run-{number}")},
                "spec": {"taskHubRef": {"name": "hub"}, "functionName": function}
            })
        })
        .collect();
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    let objects = eventually("all settle", async || {
        let list = world.orchestrations().list(&ListParams::default()).await.unwrap();
        let settled: Vec<_> = list.items.into_iter().filter(|object| object.status.as_ref().is_some_and(|status| status.settled)).collect();
        if settled.len() == RUNS { Ok(settled) } else { Err(format!("{} settled", settled.len())) }
    })
    .await;
    let runs = Runs::at_rest(&world).await;
    assert_eq!(runs.instances().len(), RUNS);
    for object in &objects {
        let (status, activities) = if object.spec.function_name.as_deref() == Some("Fail") { ("Failed", 0) } else { ("Completed", 3) };
        runs.assert_ran_once(object, status, activities);
    }
    // Both did try: otherwise the test shows nothing.
    let mut inserts = Vec::new();
    for operator in &operators {
        inserts.push(operator.counter("durable_operator_storage_requests_total", &["operation=\"table.insert\""]).await);
    }
    assert!(inserts.iter().all(|count| *count > 0), "{inserts:?}");
    assert!(inserts.iter().sum::<u64>() > RUNS as u64, "{inserts:?}: no insert met the other's row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_hold_end_and_rewind_each_run_to_the_same_end() {
    let world = World::new("two_in_control").await;
    let markers = world.control_plane.with(|plane| plane.folder().join(format!("markers-{}", world.namespace)));
    std::fs::create_dir_all(&markers).unwrap();
    let _worker = world.worker_with(&[("FLAKY_DIR", &markers.to_string_lossy())]).await;
    let program = binaries::operator().unwrap();
    let operators = [world.start_operator(&program, &[]), world.start_operator(&program, &[])];
    for operator in &operators {
        operator.until_ready().await;
    }
    world.ready_hub().await;
    let cases = [("held", "Approval", "Suspended"), ("ended", "Approval", "Terminated"), ("rewound", "Flaky", "Rewound")];
    let names = |name: &str| (0..4).map(|number| format!("{name}-{number}")).collect::<Vec<_>>();
    for (name, function, _) in cases {
        for object in names(name) {
            world.orchestration(&object, function, json!({"input": {"value": "key"}}));
        }
    }
    for (name, function, _) in cases {
        for object in names(name) {
            world.reason(&object, if function == "Flaky" { "OrchestrationFailed" } else { "Running" }).await;
        }
    }
    std::fs::write(markers.join("key"), "").unwrap();
    for (name, _, desired) in cases {
        for object in names(name) {
            let patch = json!({"spec": {"desiredState": desired}}).to_string();
            world.kubectl(&["patch", "orchestration", &object, "--type=merge", "--patch", &patch]);
        }
    }
    for (name, _, desired) in cases {
        for object in names(name) {
            let status = world.reason(&object, if desired == "Rewound" { "Completed" } else { desired }).await;
            let id = status.instance_id.unwrap();
            let history = Runs::at_rest(&world).await.history(&id);
            let count = |event: &str| history.get(event).copied().unwrap_or_default();
            match desired {
                // A second message of the other operator is recorded, and harmless (engine-experiments.md 5.14).
                "Suspended" => assert!((1..=2).contains(&count("ExecutionSuspended")), "{history:?}"),
                "Terminated" => assert!((1..=2).contains(&count("ExecutionTerminated")) && count("ExecutionCompleted") == 1, "{history:?}"),
                _ => assert!(count("TaskCompleted") == 3 && count("ExecutionCompleted") == 1, "{history:?}"),
            }
        }
    }
    // The suspended ones go on: nothing that was sent twice holds them.
    for object in names("held") {
        world.kubectl(&["patch", "orchestration", &object, "--type=merge", "--patch", r#"{"spec":{"desiredState":"Running"}}"#]);
    }
    for object in names("held") {
        world.reason(&object, "Running").await;
    }
}
