//! Terminating with children, who would run on (5.20).

use durable_taskhub::terminate::Terminating;

use crate::served::Served;
use crate::support::PATIENCE;

const INPUT: &str = r#"{"count":2,"child":"Cascade","childInput":{"count":2,"child":"Approval"}}"#;

#[tokio::test]
async fn a_tree_is_terminated_to_its_leaves_parents_first() {
    let served = Served::new("tree").await;
    let worker = served.hub.worker();
    served.start("root", "Cascade", Some(INPUT)).await;
    let ids = ["root", "root-0", "root-1", "root-0-0", "root-0-1", "root-1-0", "root-1-1"];
    for id in ids {
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
    }
    served.hub.wait_until_empty().await;
    let tree = served.client.terminate_tree("root", Some("enough")).await.unwrap();
    let terminated: Vec<&str> = tree.instances.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(terminated, ids);
    assert!(tree.instances.iter().all(|(_, outcome)| matches!(outcome, Ok(Terminating::Sent(_)))), "{tree:?}");
    for id in ids {
        assert_eq!(served.hub.wait_for(id, &["Terminated"], PATIENCE).await.text("Output"), Some("enough"));
        assert!(served.history(id).await.iter().any(|kind| kind == "ExecutionTerminated"), "{id}");
    }
    worker.stop().await;
}

/// 5.20: a plain terminate leaves the children alone.
#[tokio::test]
async fn children_of_a_terminated_parent_run_on() {
    let served = Served::new("children").await;
    let worker = served.hub.worker();
    served.start("root", "Cascade", Some(r#"{"count":1,"child":"Approval"}"#)).await;
    served.hub.wait_for("root-0", &["Running"], PATIENCE).await;
    served.client.terminate("root", None).await.unwrap();
    served.hub.wait_for("root", &["Terminated"], PATIENCE).await;
    served.client.raise_event("root-0", "Approval", Some("1")).await.unwrap();
    assert_eq!(served.hub.wait_for("root-0", &["Completed"], PATIENCE).await.text("Output"), Some("1"));
    worker.stop().await;
}
