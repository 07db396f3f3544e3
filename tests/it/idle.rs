//! An operator with nothing to do does next to nothing.

use std::time::Duration;

use kube::api::ListParams;
use serde_json::json;

use crate::support::growth::growth;
use crate::support::{World, bed, eventually};

const OBJECTS: usize = 20;
/// Looks at who serves the hub: every 30 s.
const MAX_STORAGE_REQUESTS: usize = 4;
const WINDOW: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settled_objects_cost_nothing() {
    let world = World::new("idle").await;
    let proxy = bed().azurite.proxy().unwrap();
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.secret(&proxy.connection_string());
    world.task_hub();
    let objects: Vec<_> = (0..OBJECTS)
        .map(|number| {
            let function = ["Echo", "Fail"][number % 2];
            json!({
                "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": format!("run-{number}")},
                "spec": {"taskHubRef": {"name": "hub"}, "functionName": function, "input": {"value": number.to_string()}}
            })
        })
        .collect();
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    eventually("all settle", async || {
        let list = world.orchestrations().list(&ListParams::default()).await.unwrap();
        let settled = list.items.iter().filter(|object| object.status.as_ref().is_some_and(|status| status.settled)).count();
        if settled == OBJECTS { Ok(()) } else { Err(format!("{settled} settled")) }
    })
    .await;
    // What its TaskHub shows of them comes a moment later.
    eventually("the TaskHub has counted them", async || {
        let status = world.task_hubs().get("hub").await.unwrap().status.unwrap_or_default();
        let ended = status.orchestrations.as_ref().map(|counts| counts.completed + counts.failed);
        let counted = ended == Some(i64::try_from(OBJECTS).unwrap()) && status.backlog.is_none();
        if counted { Ok(()) } else { Err(format!("{:?} {:?}", status.orchestrations, status.backlog)) }
    })
    .await;
    operator.process.stop(Duration::from_secs(10)).unwrap();

    // A new operator has to look at all of them once, and asks the hub for none.
    proxy.clear();
    let operator = world.operator().await;
    eventually("each object was looked at, and the hub", async || {
        let labels = ["kind=\"Orchestration\"", "outcome=\"ok\""];
        let looked = operator.counter("durable_operator_reconciles_total", &labels).await;
        let hub = operator.counter("durable_operator_reconciles_total", &["kind=\"TaskHub\"", "outcome=\"ok\""]).await;
        let probed = proxy.requests().iter().any(|request| request.path.contains("Partitions"));
        if looked >= OBJECTS as u64 && hub > 0 && probed { Ok(()) } else { Err(format!("{looked} reconciles, {hub} of the hub")) }
    })
    .await;
    let paths: Vec<String> = proxy.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    assert!(!paths.iter().any(|path| path.contains("PartitionKey=") || path.contains("/messages")), "{paths:?}");
    assert!(!proxy.requests().iter().any(durable_bed::proxy::Recorded::is_write), "{paths:?}");
    assert_eq!(operator.api_writes().await.values().sum::<u64>(), 0, "{:?}", operator.api_writes().await);

    proxy.clear();
    let writes = operator.api_writes().await;
    // The window is what is measured.
    tokio::time::sleep(WINDOW).await;
    let paths: Vec<String> = proxy.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    assert!(!paths.is_empty(), "the hub was not looked at in {WINDOW:?}: the requests do not pass the proxy");
    assert!(paths.len() <= MAX_STORAGE_REQUESTS, "{paths:?}");
    assert_eq!(growth(&writes, &operator.api_writes().await), Default::default());
    println!("{} storage requests in {WINDOW:?}: {paths:?}", paths.len());
}
