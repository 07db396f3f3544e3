//! `kubectl apply` starts an orchestration and shows its result.

use serde_json::json;

use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_runs_end_as_the_worker_ends_them() {
    let world = World::new("applied_runs_end").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.ready_hub().await;

    world.orchestration("hello", "HelloSequence", json!({}));
    world.kubectl(&["wait", "--for=condition=Complete", "orchestration/hello", "--timeout=30s"]);
    let hello = world.status("hello").await;
    assert_eq!(hello.output.unwrap().text(), r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#);
    assert!(hello.settled);

    world.orchestration("fail", "Fail", json!({"input": {"value": "no stock left"}}));
    let failed = world.reason("fail", "OrchestrationFailed").await;
    assert_eq!(failed.failure.unwrap().message.unwrap(), "Orchestrator function 'Fail' failed: no stock left");
}
