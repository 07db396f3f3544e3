//! Messages that wait: one at a time, withdrawn when something else is wished, never left for an instance that is gone.
//!
//! No worker: the tests play it, so that each moment lasts as long as it is looked at.

use durable_operator::api::v1alpha1::{Action, OrchestrationStatus, Phase};
use durable_taskhub::Time;
use serde_json::json;

use super::find;
use crate::support::runs::Runs;
use crate::support::{World, eventually};

impl World {
    /// An object whose instance runs, as its row says, and empty queues.
    async fn seems_to_run(&self, name: &str) {
        self.run(name, "Approval", json!({}));
        eventually(&format!("{name} is accepted"), async || {
            let status = self.status(name).await;
            if status.execution_id.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        self.clear_queues().await;
        self.checkpoint(name, "Running").await;
        self.reason(name, "Running").await;
    }

    async fn checkpoint(&self, name: &str, status: &str) {
        let row = self.row(name).await.with("RuntimeStatus", status).with("CustomStatus", "1").with("LastUpdatedTime", Time::now());
        self.replace_row(&row).await;
    }

    /// Waits until this is under way, and it is all that is.
    async fn under_way(&self, name: &str, action: Action, phase: Phase) -> OrchestrationStatus {
        eventually(&format!("{action:?} of {name} is {phase:?}"), async || {
            let status = self.status(name).await;
            let is_so = status.pending.as_ref().is_some_and(|pending| pending.action == action && pending.phase == phase);
            if is_so { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_is_withdrawn_when_something_else_is_wished() {
    let world = World::new("queue_withdrawn").await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.seems_to_run("run").await;
    world.wish("run", &json!({"desiredState": "Suspended"}));
    let status = world.under_way("run", Action::Suspend, Phase::Sent).await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "Suspending");
    assert_eq!(find(&status, "Reconciling").unwrap().reason, "Suspending");
    let pending = status.pending.unwrap();
    assert!(pending.message_id.is_some() && pending.pop_receipt.is_some());
    assert!(pending.queue.unwrap().contains("-control-0"));
    assert_eq!(world.control_messages().await, ["ExecutionSuspendedEvent"]);

    // A new reason does not send it again.
    world.wish("run", &json!({"reason": "a new one"}));
    eventually("the new spec is seen", async || {
        let status = world.status("run").await;
        if status.observed_generation == Some(3) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(world.status("run").await.pending.unwrap().message_id, pending.message_id);
    assert_eq!(world.control_messages().await, ["ExecutionSuspendedEvent"]);

    world.wish("run", &json!({"desiredState": "Terminated"}));
    let status = world.under_way("run", Action::Terminate, Phase::Sent).await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "Terminating");
    assert_eq!(world.control_messages().await, ["ExecutionTerminatedEvent"]);

    world.wish("run", &json!({"desiredState": "Running"}));
    let status = world.handled("run").await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "Running");
    assert_eq!(Runs::read(&world).await.messages(), 0);
    world.events_are("run", &["Suspending", "Terminating"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_a_worker_has_is_waited_for() {
    let world = World::new("queue_taken").await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.seems_to_run("run").await;
    world.wish("run", &json!({"desiredState": "Suspended"}));
    let pending = world.under_way("run", Action::Suspend, Phase::Sent).await.pending.unwrap();
    let queue = world.storage().queue(pending.queue.as_deref().unwrap());
    let taken = queue.receive(1, std::time::Duration::from_secs(300)).await.unwrap().remove(0);
    world.wish("run", &json!({"desiredState": "Running"}));
    let status = world.under_way("run", Action::Suspend, Phase::Taken).await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "Suspending");
    assert_eq!(Runs::read(&world).await.messages(), 1, "no second message");

    // Its effect is undone, as the suspension was the object's.
    world.checkpoint("run", "Suspended").await;
    assert!(queue.delete(&taken.id, &taken.pop_receipt).await.unwrap());
    let status = world.under_way("run", Action::Resume, Phase::Sent).await;
    assert_eq!(find(&status, "Suspended").unwrap().reason, "Suspended");
    assert_eq!(world.control_messages().await, ["ExecutionResumedEvent"]);
    world.clear_queues().await;
    world.checkpoint("run", "Running").await;
    let status = world.handled("run").await;
    assert_eq!(find(&status, "Ready").unwrap().reason, "Running");
    assert_eq!(Runs::read(&world).await.messages(), 0);
}

/// It would come back every five minutes, and end the next instance of the ID (engine-experiments.md 3.5, 5.17).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminate_is_not_left_for_an_instance_that_was_purged() {
    let world = World::new("queue_purged").await;
    // 30 s become 1.5 s.
    let _operator = world.fast_operator("20").await;
    world.quick_hub().await;
    world.seems_to_run("run").await;
    world.wish("run", &json!({"desiredState": "Terminated"}));
    world.under_way("run", Action::Terminate, Phase::Sent).await;
    world.delete_row("run").await;
    let status = world.reason("run", "Terminated").await;
    assert!(status.settled && status.pending.is_none(), "{status:?}");
    assert_eq!(find(&status, "Ready").unwrap().status, "True");
    assert_eq!(Runs::read(&world).await.messages(), 0);

    // The same of one that somebody else has started anew meanwhile.
    world.seems_to_run("again").await;
    world.wish("again", &json!({"desiredState": "Terminated"}));
    world.under_way("again", Action::Terminate, Phase::Sent).await;
    let mut theirs = world.row("again").await.with("ExecutionId", "theirs");
    theirs.columns.remove("KubernetesOwner");
    world.replace_row(&theirs).await;
    world.reason("again", "Replaced").await;
    assert_eq!(Runs::read(&world).await.messages(), 0, "the terminate would end another client's run");
}
