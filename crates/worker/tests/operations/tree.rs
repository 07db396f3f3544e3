//! Terminating with children, who would run on (5.20).

use std::time::Instant;

use durable_taskhub::RuntimeStatus;
use durable_taskhub::control::ControlError;
use durable_taskhub::end::Ending;
use durable_taskhub::terminate::{TerminateTreeError, Terminating};

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

/// 5.20, by somebody who was killed halfway, or came late: the root and one of its children have been terminated alone.
#[tokio::test]
async fn what_a_terminated_root_left_is_terminated_by_repeating() {
    let served = Served::new("late").await;
    let worker = served.hub.worker();
    served.start("root", "Cascade", Some(INPUT)).await;
    let ids = ["root-0", "root-1", "root-0-0", "root-0-1", "root-1-0", "root-1-1"];
    for id in ids {
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
    }
    served.hub.wait_until_empty().await;
    for id in ["root", "root-0"] {
        served.client.terminate(id, None).await.unwrap();
        served.hub.wait_for(id, &["Terminated"], PATIENCE).await;
    }
    served.hub.wait_until_empty().await;
    let refused = served.client.terminate_tree("root", None).await;
    assert!(matches!(refused, Err(TerminateTreeError::Root(ControlError::Finished(_)))), "{refused:?}");

    let first = served.client.terminate_children("root", Some("enough")).await.unwrap();
    assert_eq!(first.instances.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ids);
    assert_eq!(first.ended().collect::<Vec<_>>(), ["root-0"]);
    assert_eq!(first.sent().collect::<Vec<_>>(), ids[1..]);
    let begin = Instant::now();
    let last = loop {
        let next = served.client.terminate_children("root", Some("enough")).await.unwrap();
        if next.is_over() {
            break next;
        }
        assert!(begin.elapsed() < PATIENCE, "{next:?}");
    };
    // A child that was faster than its parent has told it of its end, and is not looked at any more.
    assert!(last.ended().all(|id| ids.contains(&id)) && last.ended().any(|id| id == "root-0-1"), "{last:?}");
    served.hub.wait_until_empty().await;
    for id in ids {
        assert_eq!(served.get(id).await.runtime_status, RuntimeStatus::Terminated, "{id}");
        assert!(matches!(served.client.end_of(id).await.unwrap(), Ending::Ended(end) if end.status == RuntimeStatus::Terminated), "{id}");
    }
    // What was purged is not waited for.
    served.client.purge("root-1", true).await.unwrap();
    let purged = served.client.terminate_children("root", None).await.unwrap();
    assert!(purged.is_over() && purged.instances.len() == 4, "{purged:?}");
    worker.stop().await;
}
