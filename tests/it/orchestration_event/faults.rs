//! The storage account fails while an event is sent, and two operators want to send it: it arrives once at most.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use durable_bed::binaries;
use durable_bed::proxy::{Fault, Recorded, Service};
use durable_operator::api::v1alpha1::EventPhase;
use kube::api::ListParams;
use serde_json::json;

use super::message;
use crate::support::{World, bed, eventually};

fn is_put(request: &Recorded) -> bool {
    request.service == Service::Queue && request.method == "POST" && request.path.ends_with("/messages")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_unknown_and_a_refusal_is_tried_again() {
    for (name, fault, phase, arrives) in [
        // The message is in the queue, and nobody hears of it: another try would deliver it twice.
        ("lost", Fault::CutAfter, EventPhase::Unknown, 1),
        ("cut", Fault::CutBefore, EventPhase::Unknown, 0),
        ("failed", Fault::Answer(500, "InternalError"), EventPhase::Unknown, 0),
        ("busy", Fault::Answer(503, "ServerBusy"), EventPhase::Sent, 1),
        ("forbidden", Fault::Answer(403, "AuthorizationFailure"), EventPhase::Sent, 1),
    ] {
        let world = World::new(&format!("event_{name}")).await;
        let proxy = bed().azurite.proxy().unwrap();
        let worker = world.worker().await;
        world.started("i", "Approval").await;
        let _operator = world.operator().await;
        world.secret(&proxy.connection_string());
        world.task_hub();
        world.hub_reason("Connected").await;
        let broken = Arc::new(AtomicBool::new(false));
        proxy.rule({
            let (broken, fault) = (broken.clone(), fault.clone());
            move |request| if is_put(request) && !broken.swap(true, Ordering::Relaxed) { fault.clone() } else { Fault::Pass }
        });
        world.event("event", json!({"instanceId": "i"}));
        let status = eventually(&format!("{name}: the event ends"), async || {
            let status = world.event_status("event").await;
            let ends = matches!(status.phase, Some(EventPhase::Sent | EventPhase::Unknown | EventPhase::Rejected));
            if ends { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await;
        assert_eq!(status.phase, Some(phase), "{name}: {status:?}");
        assert!(broken.load(Ordering::Relaxed), "{name}: nothing was broken");
        if phase == EventPhase::Unknown {
            assert!(message(&status).contains("Look at the instance's history"), "{}", message(&status));
            world.told("event", "Unknown").await;
        }
        assert_eq!(world.arrived("i").await, arrives, "{name}");
        let puts = proxy.requests().iter().filter(|request| is_put(request)).count();
        assert_eq!(puts, if phase == EventPhase::Sent { 2 } else { 1 }, "{name}");
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_operators_one_sends_each_event() {
    const EVENTS: usize = 20;
    let world = World::new("event_two_operators").await;
    let _worker = world.worker().await;
    world.started("i", "Approval").await;
    let program = binaries::operator().unwrap();
    let operators = [world.start_operator(&program, &[]), world.start_operator(&program, &[])];
    for operator in &operators {
        operator.until_ready().await;
    }
    let objects: Vec<_> = (0..EVENTS)
        .map(|number| {
            json!({
                "apiVersion": "durable-operator.dev/v1alpha1", "kind": "OrchestrationEvent", "metadata": {"name": format!("event-{number}")},
                "spec": {"taskHubRef": {"name": "hub"}, "instanceId": "i", "name": format!("Other{number}")}
            })
        })
        .collect();
    world.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
    world.ready_hub().await;
    let ended = eventually("all end", async || {
        let list = world.events().list(&ListParams::default()).await.unwrap();
        let phases: Vec<_> = list.items.iter().filter_map(|event| event.status.as_ref()?.phase).collect();
        let ends = phases.iter().filter(|phase| matches!(phase, EventPhase::Sent | EventPhase::Unknown)).count();
        if ends == EVENTS { Ok(phases) } else { Err(format!("{phases:?}")) }
    })
    .await;
    let sent = ended.iter().filter(|phase| **phase == EventPhase::Sent).count();
    let arrived = world.arrived("i").await;
    assert!(arrived <= EVENTS && arrived >= sent, "{arrived} of {EVENTS} arrived, {sent} are Sent");
    // The history shows which: none of them twice.
    let rows = durable_bed::recording::Snapshot::take(&world.storage(), &world.hub_name, "now").await.unwrap();
    let names: Vec<String> = rows
        .rows("History")
        .iter()
        .filter(|row| row.get("EventType").is_some_and(|cell| cell.value == "EventRaised"))
        .filter_map(|row| Some(row.get("Name")?.value.as_str()?.to_owned()))
        .collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    println!("{sent} of {EVENTS} are Sent, {arrived} arrived");
}
