//! What a deletion does, for each state of the hub, the policy and the instance.

use durable_taskhub::storage::Entity;

use super::*;
use crate::api::conditions::READY;
use crate::api::v1alpha1::{HubTime, OrchestrationStatus, RuntimeStatus};
use crate::connection::NotReady;
use crate::controllers::orchestration::identity::{Identity, OWNER_COLUMN};
use crate::poller::Seen;

fn now() -> Time {
    Time::parse("2026-11-24T12:00:00Z").unwrap()
}

fn before(seconds: u64) -> Time {
    Time::parse("2026-11-24T11:00:00Z").unwrap().saturating_add(Duration::from_secs(3600 - seconds))
}

fn wish(policy: DeletionPolicy) -> Wish {
    let identity = Identity::new("shop", "order", "0f8fad5b-d9cb-469f-a165-70867728950e", None).unwrap();
    let mut wish = Wish {
        identity,
        spec: serde_json::from_value(serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo"})).unwrap(),
        trace: None,
    };
    wish.spec.deletion_policy = policy;
    wish
}

fn pending(action: Action, phase: Phase, age: u64) -> Pending {
    Pending { action, phase, issued_at: HubTime(before(age)), queue: None, message_id: None, pop_receipt: None }
}

fn instance(state: &str, started: bool) -> Instance {
    let wish = wish(DeletionPolicy::Purge);
    let row = Entity::new(wish.identity.instance_id.as_str(), "").with("RuntimeStatus", state).with(OWNER_COLUMN, wish.identity.owner);
    Instance::from_row(if started { row.with("CustomStatus", "null") } else { row }, "")
}

#[test]
fn nothing_holds_an_object_for_longer_than_its_deadline() {
    let hubs = [
        (Hub::Ready { workers_active: true }, Duty::Instance(DeletionPolicy::Purge)),
        (Hub::NotReady(NotReady::new("SecretNotFound", "create it")), Duty::Wait),
        (Hub::NotFound, Duty::Wait),
        (Hub::Unknown, Duty::Wait),
    ];
    let wish = wish(DeletionPolicy::Purge);
    let status = OrchestrationStatus { runtime_status: Some(RuntimeStatus::Running), ..OrchestrationStatus::default() };
    for (hub, in_time) in hubs {
        let facts = Facts {
            status: &status,
            wish: Ok(&wish),
            hub,
            seen: Seen::Nothing,
            asked: false,
            has_finalizer: true,
            last_sent: None,
            now: now(),
        };
        assert_eq!(duty(&facts, before(299)), in_time);
        let late = duty(&facts, before(300));
        assert!(matches!(&late, Duty::GiveUp(why) if why.contains("stays there")), "{late:?}");
    }
}

#[test]
fn only_what_the_policy_asks_for_is_done() {
    let rewinding = OrchestrationStatus { pending: Some(pending(Action::Rewind, Phase::Issued, 1)), ..OrchestrationStatus::default() };
    let conflict = OrchestrationStatus {
        settled: true,
        conditions: vec![
            serde_json::from_value(serde_json::json!({
                "type": READY, "status": "False", "reason": "Conflict", "message": "", "lastTransitionTime": "2026-11-24T11:00:00Z"
            }))
            .unwrap(),
        ],
        ..OrchestrationStatus::default()
    };
    let plain = OrchestrationStatus::default();
    for (policy, status, expected) in [
        (DeletionPolicy::Retain, &plain, Duty::None),
        (DeletionPolicy::Retain, &rewinding, Duty::Rewind),
        (DeletionPolicy::Purge, &rewinding, Duty::Rewind),
        (DeletionPolicy::Purge, &conflict, Duty::None),
        (DeletionPolicy::Terminate, &plain, Duty::Instance(DeletionPolicy::Terminate)),
    ] {
        let wish = wish(policy);
        let facts = Facts {
            status,
            wish: Ok(&wish),
            hub: Hub::Ready { workers_active: true },
            seen: Seen::Nothing,
            asked: false,
            has_finalizer: true,
            last_sent: None,
            now: now(),
        };
        assert_eq!(duty(&facts, before(1)), expected, "{policy:?} {status:?}");
    }
}

#[test]
fn an_instance_is_ended_before_it_is_removed() {
    use Action::{Resume, Suspend, Terminate};
    use Phase::{Issued, Sent, Taken};
    let purge = wish(DeletionPolicy::Purge);
    let running = instance("Running", true);
    for (row, pending, expected) in [
        (&instance("Pending", false), None, Step::Cancel),
        (&running, None, Step::Terminate),
        (&instance("Suspended", true), None, Step::Terminate),
        (&running, Some(pending(Terminate, Issued, 1)), Step::Resolve),
        (&running, Some(pending(Terminate, Sent, 1)), Step::Await),
        (&running, Some(pending(Terminate, Sent, 31)), Step::Resolve),
        (&running, Some(pending(Suspend, Sent, 1)), Step::Withdraw),
        (&running, Some(pending(Suspend, Issued, 1)), Step::Resolve),
        (&running, Some(pending(Suspend, Taken, 1)), Step::Resolve),
        (&running, Some(pending(Resume, Sent, 1)), Step::Terminate),
        (&instance("Terminated", true), Some(pending(Terminate, Sent, 1)), Step::Children),
        (&instance("Completed", true), None, Step::Children),
    ] {
        assert_eq!(step(&purge, Some(row), pending.as_ref(), now()), expected, "{row:?} {pending:?}");
    }
    // What is not ours, or not there, is left alone; what is left without a row is purged.
    let foreign = Instance::from_row(Entity::new("i", "").with("RuntimeStatus", "Running"), "");
    assert_eq!(step(&purge, Some(&foreign), None, now()), Step::Release);
    assert_eq!(step(&wish(DeletionPolicy::Terminate), None, None, now()), Step::Release);
    assert_eq!(step(&purge, None, None, now()), Step::Children);
}

#[test]
fn nothing_is_purged_while_a_terminate_can_be_queued() {
    for (messages, last_told, expected) in [(0, before(1), true), (1, before(1), false), (1, before(29), false), (1, before(30), true)] {
        assert_eq!(is_consumed(messages, last_told, now()), expected, "{messages} {last_told:?}");
    }
}
