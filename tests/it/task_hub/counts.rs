//! What a TaskHub shows of its Orchestrations, its queues and the engine, and how seldom it is written.

use std::time::{Duration, Instant};

use durable_operator::api::v1alpha1::{OrchestrationCounts, TaskHubStatus};
use durable_taskhub::TaskHub;
use durable_taskhub::artifacts::EngineLine;
use durable_taskhub::partition::PartitionCount;
use serde_json::json;

use super::{HEALED_WITHIN, find};
use crate::support::{World, eventually};

impl World {
    async fn hub_shows(&self, what: &str, shows: impl Fn(&TaskHubStatus) -> bool) -> TaskHubStatus {
        eventually(what, async || {
            let status = self.task_hubs().get("hub").await.unwrap().status.unwrap_or_default();
            if shows(&status) { Ok(status) } else { Err(format!("{:?} {:?} {:?}", status.orchestrations, status.backlog, status.engine)) }
        })
        .await
    }
}

fn counts(running: i64, completed: i64, failed: i64) -> Option<OrchestrationCounts> {
    Some(OrchestrationCounts { running, completed, failed, ..OrchestrationCounts::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_hub_counts_its_orchestrations_and_messages() {
    let world = World::new("counts").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.ready_hub().await;
    let begun = Instant::now();
    let writes = async || operator.counter("durable_operator_api_requests_total", &["verb=\"update\"", "taskhubs"]).await;
    let empty = world.hub_shows("an empty hub", |status| status.orchestrations == counts(0, 0, 0)).await;
    assert_eq!((empty.backlog, empty.engine), (None, None), "nothing has run, nothing waits");

    for number in 0..2 {
        world.orchestration(&format!("sleeps-{number}"), "Sleep", json!({"input": {"value": 25}}));
        world.orchestration(&format!("echo-{number}"), "Echo", json!({"input": {"value": number}}));
    }
    world.orchestration("fails", "Fail", json!({"input": {"value": "x"}}));
    let busy = world.hub_shows("work under way", |status| status.orchestrations == counts(2, 2, 1) && status.engine.is_some()).await;
    assert_eq!(busy.engine.unwrap().line.as_deref(), Some("2.x"));
    let backlog = busy.backlog.unwrap();
    assert_eq!(backlog.control_queues.len(), 4);
    // Two timers wait in the control queues.
    assert!(backlog.control_queues.iter().sum::<i64>() >= 2, "{backlog:?}");

    let ended = world.hub_shows("the end", |status| status.orchestrations == counts(0, 4, 1) && status.backlog.is_none()).await;
    assert_eq!(find(&ended.conditions, "Ready").unwrap().status, "True");
    world.kubectl(&["delete", "orchestration", "fails"]);
    world.hub_shows("one less", |status| status.orchestrations == counts(0, 4, 0)).await;
    let most = 2 + begun.elapsed().as_secs() / 10;
    let written = writes().await;
    assert!((1..=most).contains(&written), "{written} writes in {:?}", begun.elapsed());

    // A new operator finds out what is there before it says anything of it.
    operator.process.stop(Duration::from_secs(10)).unwrap();
    let operator = world.operator().await;
    eventually("the hub was looked at", async || {
        let looked = operator.counter("durable_operator_reconciles_total", &["kind=\"TaskHub\"", "outcome=\"ok\""]).await;
        if looked >= 2 { Ok(()) } else { Err(format!("{looked} reconciles")) }
    })
    .await;
    assert_eq!(operator.api_writes().await.values().sum::<u64>(), 0, "{:?}", operator.api_writes().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_of_the_older_line_says_when_it_was_made() {
    let world = World::without_hub("older_line").await;
    let partitions = PartitionCount::new(3).unwrap();
    TaskHub::create(world.storage(), world.hub_name.clone(), partitions, EngineLine::Line1).await.unwrap();
    let _operator = world.operator().await;
    world.secret(&world.connection_string());
    world.task_hub();
    let status = world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    assert_eq!(status.partition_count, Some(3));
    let age = durable_taskhub::Time::now().since(status.hub_created_at.unwrap().0);
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(find(&status.conditions, "WorkersActive").unwrap().reason, "NoFreshLease");
    assert_eq!(status.engine, None, "who made the hub need not run it");
}
