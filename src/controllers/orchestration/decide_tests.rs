//! Tables of decisions, and: after each prefix of the effects of a start, deciding on what is visible leads to one run.

use durable_taskhub::storage::Entity;

use super::*;
use crate::api::v1alpha1::RuntimeStatus;
use crate::controllers::orchestration::identity::OWNER_COLUMN;

const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn wish() -> Wish {
    Wish { identity: Identity::new("shop", "order", UID, None).unwrap(), function_name: "Echo".to_owned(), input: None }
}

fn now() -> Time {
    Time::parse("2026-11-24T12:00:00Z").unwrap()
}

/// A row of the object's own, `age` seconds old.
fn row(age: i64, change: impl FnOnce(Entity) -> Entity) -> Seen {
    let wish = wish();
    let created = Time::parse(&format!("2026-11-24T{:02}:{:02}:{:02}Z", (43200 - age) / 3600, (43200 - age) / 60 % 60, (43200 - age) % 60));
    let entity = Entity::new(wish.identity.instance_id.as_str(), "")
        .with("Name", "Echo")
        .with("RuntimeStatus", "Pending")
        .with("ExecutionId", wish.identity.execution_id)
        .with("CreatedTime", created.unwrap())
        .with(OWNER_COLUMN, wish.identity.owner);
    Seen::Row(Arc::new(Instance::from_row(change(entity), "")))
}

fn accepted() -> OrchestrationStatus {
    let identity = wish().identity;
    OrchestrationStatus {
        instance_id: Some(identity.instance_id.as_str().to_owned()),
        execution_id: Some(identity.execution_id),
        runtime_status: Some(RuntimeStatus::Pending),
        ..OrchestrationStatus::default()
    }
}

fn settled() -> OrchestrationStatus {
    OrchestrationStatus { settled: true, runtime_status: Some(RuntimeStatus::Completed), ..accepted() }
}

const READY: Hub = Hub::Ready { workers_active: true };
const WITHOUT_WORKERS: Hub = Hub::Ready { workers_active: false };

/// What is decided, in a word.
fn decided(status: &OrchestrationStatus, hub: Hub, seen: Seen) -> &'static str {
    decided_when(status, hub, seen, false, None)
}

fn decided_when(status: &OrchestrationStatus, hub: Hub, seen: Seen, asked: bool, last_sent: Option<Time>) -> &'static str {
    let wish = wish();
    word(&decide(&Facts { status, wish: Ok(&wish), hub, seen, asked, deleted: false, last_sent, now: now() }))
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Wait => "wait",
        Decision::Rest => "rest",
        Decision::Hold(Hold::Refused(_)) => "refused",
        Decision::Hold(Hold::TaskHubNotFound) => "hub not found",
        Decision::Hold(Hold::TaskHubNotReady(_)) => "hub not ready",
        Decision::Start => "start",
        Decision::Follow => "follow",
        Decision::SendAgain(_) => "send again",
        Decision::Show(_) => "show",
        Decision::Replaced(_) => "replaced",
        Decision::Missing => "missing",
    }
}

fn not_ready() -> Hub {
    Hub::NotReady(NotReady::new("Unreachable", "check it"))
}

#[test]
fn what_was_not_accepted_waits_for_its_hub_and_then_starts() {
    let new = OrchestrationStatus::default();
    for (hub, expected) in [
        (Hub::Unknown, "wait"),
        (Hub::NotFound, "hub not found"),
        (not_ready(), "hub not ready"),
        (READY, "start"),
        (WITHOUT_WORKERS, "start"),
    ] {
        assert_eq!(decided(&new, hub.clone(), Seen::Nothing), expected, "{hub:?}");
    }
}

#[test]
fn what_is_being_deleted_is_not_started_any_more_and_followed_if_it_was() {
    let wish = wish();
    for (status, expected) in [(OrchestrationStatus::default(), "wait"), (accepted(), "follow")] {
        let facts = Facts {
            status: &status,
            wish: Ok(&wish),
            hub: READY,
            seen: Seen::Nothing,
            asked: false,
            deleted: true,
            last_sent: None,
            now: now(),
        };
        assert_eq!(word(&decide(&facts)), expected);
    }
}

#[test]
fn nothing_is_concluded_from_a_hub_that_cannot_be_asked() {
    for hub in [Hub::Unknown, Hub::NotFound, not_ready()] {
        for seen in [Seen::Nothing, Seen::Absent, Seen::Missing, row(1, |row| row)] {
            assert_eq!(decided(&accepted(), hub.clone(), seen), "wait", "{hub:?}");
        }
    }
}

#[test]
fn what_was_accepted_is_followed_to_its_end() {
    for (seen, expected) in [
        (Seen::Nothing, "follow"),
        (Seen::Absent, "follow"),
        (Seen::Missing, "missing"),
        (row(1, |row| row), "show"),
        (row(1, |row| row.with("RuntimeStatus", "Completed")), "show"),
        (row(1, |row| row.with(OWNER_COLUMN, "shop/order/another-uid")), "replaced"),
        (row(1, without_owner), "replaced"),
    ] {
        assert_eq!(decided(&accepted(), READY, seen.clone()), expected, "{seen:?}");
    }
}

fn without_owner(mut row: Entity) -> Entity {
    row.columns.remove(OWNER_COLUMN);
    row
}

#[test]
fn a_message_is_sent_again_only_if_it_can_have_been_lost() {
    let sent_at = |text: &str| Some(Time::parse(text).unwrap());
    for (seen, hub, last_sent, expected) in [
        (row(299, |row| row), READY, None, "show"),
        (row(300, |row| row), READY, None, "send again"),
        // Nobody takes messages: that this one waits proves nothing.
        (row(3000, |row| row), WITHOUT_WORKERS, None, "show"),
        (row(3000, |row| row), READY, sent_at("2026-11-24T11:55:01Z"), "show"),
        (row(3000, |row| row), READY, sent_at("2026-11-24T11:55:00Z"), "send again"),
        // A rewound instance is Pending while it runs.
        (row(3000, |row| row.with("CustomStatus", "null")), READY, None, "show"),
        (row(3000, |row| row.with("RuntimeStatus", "Running")), READY, None, "show"),
    ] {
        assert_eq!(decided_when(&accepted(), hub, seen.clone(), false, last_sent), expected, "{seen:?} {last_sent:?}");
    }
}

#[test]
fn what_is_settled_stays_as_it_is_whatever_is_seen() {
    for hub in [Hub::Unknown, Hub::NotFound, not_ready(), READY] {
        for seen in [Seen::Nothing, Seen::Absent, Seen::Missing, row(1, |row| row.with("RuntimeStatus", "Failed")), row(1, without_owner)] {
            assert_eq!(decided(&settled(), hub.clone(), seen), "rest");
        }
    }
}

#[test]
fn somebody_may_ask_to_look_at_what_is_settled() {
    for (hub, seen, expected) in [
        (READY, Seen::Nothing, "follow"),
        (READY, row(1, |row| row.with("RuntimeStatus", "Completed")), "show"),
        (READY, row(1, without_owner), "rest"),
        (READY, Seen::Missing, "rest"),
        (Hub::NotFound, Seen::Nothing, "rest"),
        (Hub::Unknown, Seen::Nothing, "wait"),
    ] {
        assert_eq!(decided_when(&settled(), hub, seen, true, None), expected);
    }
    let conflict = OrchestrationStatus { execution_id: None, ..settled() };
    assert_eq!(decided_when(&conflict, READY, Seen::Nothing, true, None), "rest", "another's instance is not looked at");
}

#[test]
fn a_refused_spec_is_refused_without_a_hub() {
    let refusal = Refusal { reason: "InvalidSpec", message: "change it".to_owned() };
    let status = OrchestrationStatus::default();
    let facts = Facts {
        status: &status,
        wish: Err(&refusal),
        hub: Hub::Unknown,
        seen: Seen::Nothing,
        asked: false,
        deleted: false,
        last_sent: None,
        now: now(),
    };
    assert_eq!(word(&decide(&facts)), "refused");
}

/// The hub and the object as a start leaves them when it dies after each of its effects; the engine swallows a second
/// message of the same execution.
#[test]
fn after_each_prefix_of_the_effects_the_same_run_is_reached() {
    #[derive(Default, Clone)]
    struct Left {
        row: bool,
        messages: usize,
        accepted: bool,
    }
    for died_after in 0..=3 {
        let mut left = Left { row: died_after >= 1, messages: usize::from(died_after >= 2), accepted: died_after >= 3 };
        // What a reconcile does with what is left, until it only follows.
        for _ in 0..3 {
            let status = if left.accepted { accepted() } else { OrchestrationStatus::default() };
            match decided(&status, READY, Seen::Nothing) {
                "start" => {
                    // The insert meets our own row: its message is sent (again), with the row's execution ID.
                    left.row = true;
                    left.messages += 1;
                    left.accepted = true;
                }
                "follow" => break,
                other => panic!("{other}"),
            }
        }
        assert!(left.row && left.accepted, "died after {died_after}");
        assert!((1..=2).contains(&left.messages), "died after {died_after}: {} messages", left.messages);
    }
}
