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
