//! The operator dies around the sending of an event: it arrives once at most, and its phase says what is known.
//!
//! How many arrived is told by the hub's queue and history.

use durable_bed::binaries;
use durable_operator::api::v1alpha1::EventPhase;
use durable_operator::crash_points::at_event;
use serde_json::json;

use crate::support::runs::Runs;
use crate::support::{World, eventually};

/// 128 and the number of SIGABRT, as shells say it.
const ABORTED: i32 = 134;

async fn dies_at(point: &'static str) {
    let world = World::new(&point.replace('-', "_")).await;
    let worker = world.worker().await;
    world.started("i", "Approval").await;
    // Nobody takes the event from its queue, so that what the crash leaves can be counted.
    drop(worker);
    let nothing = Runs::read(&world).await.messages();
    assert_eq!(nothing, 0, "{point}");
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.start_operator(&program, &[("DURABLE_CRASH_AT", point)]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.event("event", json!({"instanceId": "i", "payload": {"value": "once"}}));
    let ended =
        eventually(&format!("{point}: the operator dies"), async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    assert_eq!(ended.code(), Some(ABORTED), "{point}: {}", operator.process.output());
    assert!(operator.process.output().contains(&format!("crash point {point} reached")), "{}", operator.process.output());

    let (phase, sent, ends, arrives) = match point {
        at_event::BEFORE_SENDING => (None, 0, EventPhase::Sent, 1),
        at_event::SENDING_WRITTEN => (Some(EventPhase::Sending), 0, EventPhase::Unknown, 0),
        at_event::EVENT_SENT => (Some(EventPhase::Sending), 1, EventPhase::Unknown, 1),
        at_event::SENT_WRITTEN => (Some(EventPhase::Sent), 1, EventPhase::Sent, 1),
        other => panic!("no expectation for the crash point {other}"),
    };
    let left = world.event_status("event").await;
    assert_eq!(left.phase, phase, "{point}: {left:?}");
    assert_eq!(Runs::read(&world).await.messages(), sent, "{point}");

    let operator = world.start_operator(&program, &[]);
    operator.until_ready().await;
    eventually(&format!("{point}: the event ends"), async || {
        let status = world.event_status("event").await;
        if status.phase == Some(ends) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    // Another event goes after it: the operator is at work, and has left the first one alone.
    world.event("marker", json!({"entity": {"name": "counter", "key": "a"}, "operation": "reset"}));
    world.event_reason("marker", "Sent").await;
    assert_eq!(Runs::read(&world).await.messages(), arrives + 1, "{point}");
    if ends == EventPhase::Unknown {
        world.told("event", "Unknown").await;
    }
    assert_eq!(world.event_status("event").await.phase, Some(ends), "{point}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_sending_was_cut_off_arrives_once_at_most() {
    binaries::operator_with_crash_points().unwrap();
    binaries::worker().unwrap();
    let [a, b, c, d] = at_event::ALL;
    tokio::join!(dies_at(a), dies_at(b), dies_at(c), dies_at(d));
}
