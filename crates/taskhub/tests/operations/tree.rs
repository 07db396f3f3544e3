//! Trees whose root has ended, made by hand: each kind of child that the walk can meet.

use std::collections::BTreeMap;

use durable_taskhub::RuntimeStatus;
use durable_taskhub::Time;
use durable_taskhub::control::ControlError;
use durable_taskhub::event::{Event, EventKind, ExecutionStarted, OrchestrationInstance, OrchestrationStatus, ParentInstance};
use durable_taskhub::message::{Decoded, Message};
use durable_taskhub::partition::partition_of;
use durable_taskhub::storage::{Condition, Entity, Queue};
use durable_taskhub::terminate::{TerminateTreeError, TerminatedTree};

use crate::support::{World, counted};

impl World {
    /// A row, and a history with a parent, open children, and the end that the status says.
    async fn member(&self, id: &str, status: &str, parent: Option<&str>, children: &[&str]) {
        self.instance(id, status, 0).await;
        self.history_of(id, status, parent, children).await;
    }

    async fn history_of(&self, id: &str, status: &str, parent: Option<&str>, children: &[&str]) {
        let of = |id: &str| OrchestrationInstance { instance_id: id.to_owned(), execution_id: Some("E".to_owned()) };
        let parent = parent.map(|id| ParentInstance { name: None, instance: of(id), task_schedule_id: 0, version: None });
        let started = ExecutionStarted { parent, ..ExecutionStarted::new(id, "E", "Cascade", None) };
        let mut events = vec![Event::new(Time::now(), EventKind::ExecutionStarted(Box::new(started)))];
        for (task, child) in children.iter().enumerate() {
            let (name, instance_id) = ("Cascade".to_owned(), (*child).to_owned());
            let kind = EventKind::SubOrchestrationInstanceCreated {
                name,
                version: None,
                instance_id,
                input: None,
                tags: None,
                client_span_id: None,
            };
            let mut event = Event::new(Time::now(), kind);
            event.event_id = i32::try_from(task).unwrap();
            events.push(event);
        }
        if let Some(status) = OrchestrationStatus::from_name(status).filter(|status| status.is_final()) {
            events.push(Event::new(Time::now(), EventKind::ExecutionCompleted { status, result: None, failure_details: None }));
        }
        for (ordinal, event) in events.iter().enumerate() {
            self.table("History").insert(&event.to_row(id, ordinal as u64, "E")).await.unwrap();
        }
        self.table("History").insert(&Entity::new(id, "sentinel").with("ExecutionId", "E")).await.unwrap();
    }

    /// As the engine ends it.
    async fn ends(&self, id: &str, status: OrchestrationStatus) {
        let event = Event::new(Time::now(), EventKind::ExecutionCompleted { status, result: None, failure_details: None });
        self.table("History").insert(&event.to_row(id, 9, "E")).await.unwrap();
        self.table("Instances").merge(&Entity::new(id, "").with("RuntimeStatus", status.as_str()), Condition::Any).await.unwrap();
    }

    fn queue_of(&self, id: &str) -> Queue {
        let partition = partition_of(id, self.hub.partition_count());
        self.hub.storage().queue(&self.hub.name().control_queue(partition))
    }

    async fn queued(&self) -> u64 {
        self.snapshot().await.queues.values().map(|queue| queue.approximate_count).sum()
    }
}

fn outcomes(tree: &TerminatedTree) -> Vec<(&str, String)> {
    let text = |outcome: &Result<_, ControlError>| match outcome {
        Ok(_) => "sent".to_owned(),
        Err(ControlError::Finished(status)) => status.to_string(),
        Err(ControlError::NotStarted) => "not started".to_owned(),
        Err(ControlError::NotFound) => "gone".to_owned(),
        Err(other) => panic!("{other}"),
    };
    tree.instances.iter().map(|(id, outcome)| (id.as_str(), text(outcome))).collect()
}

#[tokio::test]
async fn what_an_ended_root_left_is_terminated_until_nothing_is_left() {
    let world = World::new().await;
    let children = ["running", "queued", "replaced", "ended", "finished", "beginning", "answered"];
    world.member("root", "Terminated", None, &children).await;
    let answer = Event::new(Time::now(), EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: 6, result: None });
    world.table("History").insert(&answer.to_row("root", 10, "E")).await.unwrap();
    world.member("answered", "Completed", Some("root"), &["unasked"]).await;
    world.member("running", "Running", Some("root"), &[]).await;
    // Started by hand, after the child of that ID was purged.
    world.member("replaced", "Running", None, &[]).await;
    world.member("ended", "Terminated", Some("root"), &["grandchild"]).await;
    world.member("grandchild", "Running", Some("ended"), &[]).await;
    world.member("finished", "Completed", Some("root"), &["left by it"]).await;
    // Its first checkpoint is under way.
    world.history_of("beginning", "Running", Some("root"), &[]).await;
    world.queue_of("queued").put("its start", std::time::Duration::ZERO).await.unwrap();

    let (proxy, hub) = world.proxied().await;
    let refused = hub.terminate_tree("root", None).await;
    assert!(matches!(refused, Err(TerminateTreeError::Root(ControlError::Finished(RuntimeStatus::Terminated)))));
    proxy.clear();
    let tree = hub.terminate_children("root", Some("enough")).await.unwrap();
    let expected = [
        ("running", "sent"),
        ("queued", "not started"),
        ("replaced", "gone"),
        ("ended", "Terminated"),
        ("finished", "Completed"),
        ("beginning", "not started"),
        ("grandchild", "sent"),
    ];
    assert_eq!(outcomes(&tree), expected.map(|(id, outcome)| (id, outcome.to_owned())));
    assert!(!tree.is_over());
    assert_eq!(tree.sent().collect::<Vec<_>>(), ["running", "grandchild"]);
    assert_eq!(tree.not_started().collect::<Vec<_>>(), ["queued", "beginning"]);
    assert_eq!(tree.ended().collect::<Vec<_>>(), ["replaced", "ended", "finished"]);
    // Eight histories of two requests, a read before and after each of two messages, two reads of rows that are not there.
    assert_eq!(counted(&proxy.requests()), "1 GET Queue, 22 GET Table, 2 POST Queue");

    world.ends("running", OrchestrationStatus::Terminated).await;
    world.ends("grandchild", OrchestrationStatus::Terminated).await;
    world.instance("beginning", "Running", 0).await;
    let tree = hub.terminate_children("root", Some("enough")).await.unwrap();
    assert_eq!(tree.sent().collect::<Vec<_>>(), ["beginning"]);
    assert_eq!(tree.not_started().collect::<Vec<_>>(), ["queued"]);

    // The start of the last one was dropped, say by a purge: once its queue is empty, it will not come.
    world.ends("beginning", OrchestrationStatus::Terminated).await;
    for id in children {
        world.queue_of(id).clear().await.unwrap();
    }
    world.queue_of("grandchild").clear().await.unwrap();
    proxy.clear();
    let tree = hub.terminate_children("root", None).await.unwrap();
    assert!(tree.is_over(), "{tree:?}");
    assert_eq!((tree.instances.len(), world.queued().await), (7, 0));
    assert!(proxy.requests().iter().all(|request| !request.is_write()));
}

#[tokio::test]
async fn an_instance_without_children_or_history_has_nothing_to_terminate() {
    let world = World::new().await;
    world.member("alone", "Running", None, &[]).await;
    for id in ["alone", "missing"] {
        let tree = world.hub.terminate_children(id, None).await.unwrap();
        assert!(tree.is_over() && tree.instances.is_empty(), "{id}");
    }
    assert_eq!(world.queued().await, 0);
}

/// A worker orders what it receives together by the second of its insertion: a child's answer must not come before its parent's terminate.
#[tokio::test]
async fn each_level_is_told_in_a_later_second() {
    let world = World::new().await;
    world.member("root", "Running", None, &["left", "right"]).await;
    world.member("left", "Running", Some("root"), &["leaf"]).await;
    world.member("right", "Running", Some("root"), &[]).await;
    world.member("leaf", "Running", Some("left"), &[]).await;
    let tree = world.hub.terminate_tree("root", None).await.unwrap();
    assert_eq!(tree.sent().collect::<Vec<_>>(), ["root", "left", "right", "leaf"]);

    let mut told = BTreeMap::new();
    for partition in 0..world.hub.partition_count().get() {
        let queue = world.hub.storage().queue(&world.hub.name().control_queue(partition));
        for queued in queue.peek(32).await.unwrap() {
            let Ok(Decoded::Message(message)) = Message::decode(&queued.text) else { panic!("{}", queued.text) };
            told.insert(message.instance_id, queued.inserted_at.unwrap());
        }
    }
    assert_eq!(told.len(), 4, "{told:?}");
    for (parent, child) in [("root", "left"), ("root", "right"), ("left", "leaf")] {
        assert!(told[parent].unix_seconds() < told[child].unix_seconds(), "{told:?}");
    }
}
