//! What an object shows of a run's payloads, and what it does not.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::said;
use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_outputs_are_referred_to_and_omitted_ones_are_nowhere() {
    let world = World::new("output_shown").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;

    world.orchestration("big", "BigOutput", json!({"input": {"value": 100}}));
    let big = world.reason("big", "Completed").await;
    let reference = big.output_ref.clone().unwrap();
    let instance = world.instance(big.instance_id.as_ref().unwrap()).await.unwrap();
    let text = world.hub().await.fetch(instance.output.as_ref().unwrap(), 1 << 20).await.unwrap();
    assert!(text.len() > 100 * 1024 && big.output.is_none(), "{big:?}");
    assert_eq!(reference.bytes, i64::try_from(text.len()).unwrap());
    assert_eq!(reference.sha256, hex::encode(Sha256::digest(text.as_bytes())));
    assert_eq!(reference.preview, text[..1024]);

    // Not a word of it where a reader of the object or of the log could find it.
    const MARK: &str = "geheim-4711";
    let run = |name: &str, function: &str| {
        world.orchestration(name, function, json!({"instanceId": name, "outputPolicy": "Omit", "input": {"value": MARK}}));
    };
    run("omit-echo", "Echo");
    run("omit-status", "CustomStatus");
    run("omit-fail", "Fail");
    world.orchestration("omit-big", "BigOutput", json!({"outputPolicy": "Omit", "input": {"value": 100}}));
    for (name, reason) in
        [("omit-echo", "Completed"), ("omit-status", "Completed"), ("omit-big", "Completed"), ("omit-fail", "OrchestrationFailed")]
    {
        let status = world.reason(name, reason).await;
        assert!(status.output.is_none() && status.output_ref.is_none() && status.custom_status.is_none(), "{status:?}");
        assert!(status.failure.is_none() && status.settled, "{status:?}");
    }
    assert!(world.row("omit-echo").await.text("Output").unwrap().contains(MARK), "the hub has it");
    assert!(world.row("omit-fail").await.text("Output").unwrap().contains(MARK), "the hub has it");
    for name in ["omit-echo", "omit-status", "omit-fail"] {
        assert!(!world.everything(name).contains(MARK), "{name}: {}", world.everything(name));
    }
    assert!(!operator.process.output().contains(MARK), "a payload is in the log");

    world.limits(json!({"maxInlineOutputBytes": 16})).await;
    for (name, input, is_shown) in [("fits", "x".repeat(14), true), ("does-not", "x".repeat(15), false)] {
        world.orchestration(name, "Echo", json!({"input": {"value": input}}));
        let status = world.reason(name, "Completed").await;
        assert_eq!((status.output.is_some(), status.output_ref.is_some()), (is_shown, !is_shown), "{name}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_type_of_a_failure_is_shown_where_the_engine_recorded_it() {
    let world = World::new("output_failure").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    for id in ["with-details", "with-bad-details"] {
        world.start_by_another(id, "Fail", "\"no stock left\"").await;
        world.instance_ends(id).await;
    }
    // As an engine with failure details on leaves it (engine-experiments.md 8.14); the sample worker has them off.
    let details = r#"{"ErrorType":"Shop.OutOfStockException","ErrorMessage":"no stock left","StackTrace":null,"InnerFailure":null,"IsNonRetriable":false}"#;
    for (id, details) in [("with-details", details), ("with-bad-details", "no JSON")] {
        let row = world.history_row(id, "ExecutionCompleted").await.with("FailureDetails", details);
        world.storage().table(&world.hub_name.history_table()).replace(&row, durable_taskhub::storage::Condition::Any).await.unwrap();
        world.orchestration(id, "Fail", json!({"startPolicy": "Adopt", "instanceId": id}));
    }
    for (id, kind) in [("with-details", Some("Shop.OutOfStockException")), ("with-bad-details", None)] {
        let status = world.reason(id, "OrchestrationFailed").await;
        assert_eq!(said(&status)[1], "Started=True Adopted");
        let failure = status.failure.unwrap();
        assert_eq!(failure.type_.as_deref(), kind, "{id}");
        assert!(failure.message.unwrap().contains("no stock left"), "{id}");
    }
    world.orchestration("type-only", "Fail", json!({"startPolicy": "Adopt", "instanceId": "with-details", "outputPolicy": "Omit"}));
    let failure = world.reason("type-only", "OrchestrationFailed").await.failure.unwrap();
    assert_eq!((failure.message, failure.type_.as_deref()), (None, Some("Shop.OutOfStockException")));
}
