//! Tables of decisions: every cell of product.md 3.3, each phase of an action, and: after each prefix of the effects,
//! deciding on what is visible leads to the same end.

use durable_taskhub::storage::Entity;

use super::*;
use crate::api::conditions::{READY as READY_CONDITION, SUSPENDED};
use crate::api::v1alpha1::{DeletionPolicy, HubTime, LastRewind, OrchestrationSpec, RewindResult, RuntimeStatus as Status, StartPolicy};
use crate::controllers::orchestration::identity::{Identity, OWNER_COLUMN};

const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn spec(change: impl FnOnce(&mut OrchestrationSpec)) -> OrchestrationSpec {
    let mut spec: OrchestrationSpec =
        serde_json::from_value(serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo"})).unwrap();
    change(&mut spec);
    spec
}

fn wish_with(change: impl FnOnce(&mut OrchestrationSpec)) -> Wish {
    Wish { identity: Identity::new("shop", "order", UID, None).unwrap(), spec: spec(change), trace: None }
}

fn wish() -> Wish {
    wish_with(|_| {})
}

fn wants(desired: DesiredState) -> Wish {
    wish_with(|spec| spec.desired_state = desired)
}

fn now() -> Time {
    Time::parse("2026-11-24T12:00:00Z").unwrap()
}

fn ago(seconds: i64) -> Time {
    let at = 43200 - seconds;
    Time::parse(&format!("2026-11-24T{:02}:{:02}:{:02}Z", at / 3600, at / 60 % 60, at % 60)).unwrap()
}

/// A row of the object's own, `age` seconds old.
fn row(age: i64, change: impl FnOnce(Entity) -> Entity) -> Seen {
    let wish = wish();
    let entity = Entity::new(wish.identity.instance_id.as_str(), "")
        .with("Name", "Echo")
        .with("RuntimeStatus", "Pending")
        .with("ExecutionId", wish.identity.execution_id)
        .with("CreatedTime", ago(age))
        .with(OWNER_COLUMN, wish.identity.owner);
    Seen::Row(Arc::new(Instance::from_row(change(entity), "")))
}

fn in_state(state: &str) -> Seen {
    row(10, |row| row.with("RuntimeStatus", state))
}

fn without_owner(mut row: Entity) -> Entity {
    row.columns.remove(OWNER_COLUMN);
    row
}

fn accepted() -> OrchestrationStatus {
    let identity = wish().identity;
    OrchestrationStatus {
        instance_id: Some(identity.instance_id.as_str().to_owned()),
        execution_id: Some(identity.execution_id),
        runtime_status: Some(Status::Pending),
        ..OrchestrationStatus::default()
    }
}

fn settled(state: Status) -> OrchestrationStatus {
    OrchestrationStatus { settled: true, runtime_status: Some(state), ..accepted() }
}

fn condition(kind: &str, reason: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
    serde_json::from_value(serde_json::json!({
        "type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-11-24T11:00:00Z"
    }))
    .unwrap()
}

fn suspended_by_us() -> OrchestrationStatus {
    OrchestrationStatus { conditions: vec![condition(SUSPENDED, "Suspended")], ..accepted() }
}

fn hands_off(reason: &str) -> OrchestrationStatus {
    OrchestrationStatus { conditions: vec![condition(READY_CONDITION, reason)], ..settled(Status::Running) }
}

fn pending(action: Action, phase: Phase, age: i64) -> OrchestrationStatus {
    let pending = Pending { action, phase, issued_at: HubTime(ago(age)), queue: None, message_id: None, pop_receipt: None };
    OrchestrationStatus { pending: Some(pending), ..accepted() }
}

const READY: Hub = Hub::Ready { workers_active: true };
const WITHOUT_WORKERS: Hub = Hub::Ready { workers_active: false };

/// What is decided, in a few words.
fn decided(status: &OrchestrationStatus, hub: Hub, seen: Seen) -> String {
    with_wish(&wish(), status, hub, seen)
}

fn with_wish(wish: &Wish, status: &OrchestrationStatus, hub: Hub, seen: Seen) -> String {
    word(&decide(&Facts { hub, seen, ..facts(wish, status) }))
}

fn facts<'a>(wish: &'a Wish, status: &'a OrchestrationStatus) -> Facts<'a> {
    Facts { status, wish: Ok(wish), hub: READY, seen: Seen::Nothing, asked: false, has_finalizer: false, last_sent: None, now: now() }
}

fn word(decision: &Decision) -> String {
    match decision {
        Decision::Wait => "wait",
        Decision::Rest => "rest",
        Decision::Hold(hold) => return hold_word(hold).to_owned(),
        Decision::LookBeforeHold(hold) => return format!("look, {}", hold_word(hold)),
        Decision::AddFinalizer => "add finalizer",
        Decision::RemoveFinalizer => "remove finalizer",
        Decision::Start => "start",
        Decision::Adopt => "adopt",
        Decision::Follow => "follow",
        Decision::SendAgain(_) => "send again",
        Decision::Issue(action, _) => return format!("issue {action:?}"),
        Decision::Resolve { wanted, .. } => return format!("resolve, {}", if *wanted { "wanted" } else { "unwanted" }),
        Decision::Withdraw(_) => "withdraw",
        Decision::Rewind => "rewind",
        Decision::Show(_) => "show",
        Decision::Replaced(_) => "replaced",
        Decision::Missing => "missing",
    }
    .to_owned()
}

fn hold_word(hold: &Hold) -> &'static str {
    match hold {
        Hold::Refused(_) => "refused",
        Hold::Waits(_) => "not allowed",
        Hold::TaskHubNotFound => "hub not found",
        Hold::TaskHubNotReady(_) => "hub not ready",
        Hold::StartAt(_) => "start later",
        Hold::NotWanted => "not created",
        Hold::NeverStarted => "never started",
        Hold::InstanceNotFound => "instance not found",
    }
}

fn not_ready() -> Hub {
    Hub::NotReady(NotReady::new("Unreachable", "check it"))
}

fn refuses() -> Hub {
    Hub::Refuses(Refusal { reason: "NamespaceNotAllowed", message: "allow it".to_owned() })
}

#[test]
fn what_was_not_accepted_waits_for_its_hub_and_then_starts() {
    let new = OrchestrationStatus::default();
    for (hub, expected) in [
        (Hub::Unknown, "wait"),
        (Hub::NotFound, "hub not found"),
        (not_ready(), "hub not ready"),
        (refuses(), "not allowed"),
        (READY, "start"),
        (WITHOUT_WORKERS, "start"),
    ] {
        assert_eq!(decided(&new, hub.clone(), Seen::Nothing), expected, "{hub:?}");
    }
}

/// The first line of product.md 3.3, and the start policies.
#[test]
fn what_is_not_created_yet_is_made_when_it_is_wished_and_due() {
    let later = HubTime(now().saturating_add(Duration::from_secs(60)));
    type Change = Box<dyn Fn(&mut OrchestrationSpec)>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|_| {}), "start"),
        (Box::new(|spec| spec.desired_state = DesiredState::Rewound), "start"),
        (Box::new(|spec| spec.desired_state = DesiredState::Suspended), "look, not created"),
        (Box::new(|spec| spec.desired_state = DesiredState::Terminated), "look, never started"),
        (
            Box::new({
                let later = later.clone();
                move |spec| spec.start_at = Some(later.clone())
            }),
            "start later",
        ),
        (
            Box::new({
                let later = later.clone();
                move |spec| {
                    spec.start_at = Some(later.clone());
                    spec.desired_state = DesiredState::Terminated;
                }
            }),
            "look, never started",
        ),
        (Box::new(|spec| spec.start_at = Some(HubTime(ago(1)))), "start"),
        (Box::new(|spec| spec.start_policy = StartPolicy::CreateOrAdopt), "start"),
        (Box::new(|spec| spec.start_policy = StartPolicy::Adopt), "adopt"),
        (
            Box::new(|spec| {
                spec.start_policy = StartPolicy::Adopt;
                spec.desired_state = DesiredState::Terminated;
            }),
            "adopt",
        ),
        (Box::new(|spec| spec.deletion_policy = DeletionPolicy::Purge), "add finalizer"),
        (Box::new(|spec| spec.deletion_policy = DeletionPolicy::Terminate), "add finalizer"),
    ];
    for (change, expected) in cases {
        let wish = wish_with(|spec| change(spec));
        assert_eq!(with_wish(&wish, &OrchestrationStatus::default(), READY, Seen::Nothing), expected, "{:?}", wish.spec);
    }
    let purged = wish_with(|spec| spec.deletion_policy = DeletionPolicy::Purge);
    let status = OrchestrationStatus::default();
    assert_eq!(word(&decide(&Facts { has_finalizer: true, ..facts(&purged, &status) })), "start");
}

#[test]
fn nothing_is_concluded_from_a_hub_that_cannot_be_asked() {
    for hub in [Hub::Unknown, Hub::NotFound, not_ready()] {
        for seen in [Seen::Nothing, Seen::Absent, Seen::Missing, row(1, |row| row)] {
            assert_eq!(decided(&accepted(), hub.clone(), seen), "wait", "{hub:?}");
        }
    }
    assert_eq!(decided(&accepted(), refuses(), in_state("Running")), "not allowed", "a permission that is taken back ends control");
}

#[test]
fn what_was_accepted_is_followed_to_its_end() {
    for (seen, expected) in [
        (Seen::Nothing, "follow"),
        (Seen::Absent, "follow"),
        (Seen::Missing, "missing"),
        (row(1, |row| row), "show"),
        (in_state("Completed"), "show"),
        (row(1, |row| row.with(OWNER_COLUMN, "shop/order/another-uid")), "replaced"),
        (row(1, without_owner), "replaced"),
    ] {
        assert_eq!(decided(&accepted(), READY, seen.clone()), expected, "{seen:?}");
    }
}

/// Table 3.3 but for its first line: what is observed, and what is done for each state that may be asked for.
#[test]
fn each_cell_of_observed_against_desired() {
    use DesiredState::{Rewound, Running, Suspended, Terminated};
    let accepted = accepted();
    let ours = suspended_by_us();
    let rows: Vec<(&OrchestrationStatus, Seen, [&str; 4])> = vec![
        (&accepted, row(1, |row| row), ["show", "show", "show", "show"]),
        (&accepted, in_state("Running"), ["show", "issue Suspend", "issue Terminate", "show"]),
        (&accepted, in_state("ContinuedAsNew"), ["show", "issue Suspend", "issue Terminate", "show"]),
        // Rewound by somebody: Pending, and it runs (engine-experiments.md 7.19).
        (&accepted, row(1, |row| row.with("CustomStatus", "null")), ["show", "issue Suspend", "issue Terminate", "show"]),
        (&accepted, in_state("Suspended"), ["show", "show", "issue Terminate", "show"]),
        (&ours, in_state("Suspended"), ["issue Resume", "show", "issue Terminate", "issue Resume"]),
        (&accepted, in_state("Completed"), ["show", "show", "show", "show"]),
        (&accepted, in_state("Failed"), ["show", "show", "show", "add finalizer"]),
        (&accepted, in_state("Terminated"), ["show", "show", "show", "show"]),
        (&accepted, in_state("Canceled"), ["show", "show", "show", "show"]),
        (&accepted, Seen::Missing, ["missing", "missing", "missing", "missing"]),
        (&accepted, row(1, without_owner), ["replaced", "replaced", "replaced", "replaced"]),
    ];
    for (status, seen, expected) in rows {
        for (desired, expected) in [Running, Suspended, Terminated, Rewound].into_iter().zip(expected) {
            assert_eq!(with_wish(&wants(desired), status, READY, seen.clone()), expected, "{seen:?} {desired:?}");
        }
    }
}

#[test]
fn a_run_that_is_over_is_rewound_once_per_token() {
    let failed = settled(Status::Failed);
    let last = |token: Option<&str>| {
        let last = LastRewind { token: token.map(str::to_owned), result: RewindResult::Rejected, at: HubTime(ago(5)), message: None };
        OrchestrationStatus { last_rewind: Some(last), ..settled(Status::Failed) }
    };
    let with_token = |token: Option<&str>| {
        wish_with(|spec| {
            spec.desired_state = DesiredState::Rewound;
            spec.rewind_token = token.map(str::to_owned);
        })
    };
    for (status, token, expected) in [
        (&failed, None, "rewind"),
        (&failed, Some("a"), "rewind"),
        (&last(None), None, "remove finalizer"),
        (&last(Some("a")), Some("a"), "remove finalizer"),
        (&last(Some("a")), Some("b"), "rewind"),
        (&last(None), Some("b"), "rewind"),
        // The token is used up first; then the finalizer goes.
        (&settled(Status::Completed), Some("b"), "rest"),
        (&settled(Status::Terminated), Some("b"), "rest"),
        (&hands_off("Replaced"), Some("b"), "rest"),
    ] {
        let wish = with_token(token);
        let facts = Facts { has_finalizer: true, ..facts(&wish, status) };
        let decision = word(&decide(&facts));
        assert_eq!(decision, expected, "{status:?} {token:?}");
    }
}

#[test]
fn a_rewind_has_the_finalizer_first_and_goes_on_after_a_crash() {
    let rewound = wants(DesiredState::Rewound);
    let failed = settled(Status::Failed);
    assert_eq!(word(&decide(&facts(&rewound, &failed))), "add finalizer");
    let recorded = OrchestrationStatus { settled: false, ..pending(Action::Rewind, Phase::Issued, 1) };
    assert_eq!(word(&decide(&facts(&rewound, &recorded))), "add finalizer");
    assert_eq!(word(&decide(&Facts { has_finalizer: true, ..facts(&rewound, &recorded) })), "rewind");
    // Whatever is wished meanwhile: half a rewind is worse than either.
    let running = wish();
    assert_eq!(word(&decide(&Facts { has_finalizer: true, ..facts(&running, &recorded) })), "rewind");
    assert_eq!(word(&decide(&Facts { has_finalizer: true, hub: not_ready(), ..facts(&running, &recorded) })), "wait");
}

#[test]
fn a_message_under_way_is_waited_for_withdrawn_or_found_out_about() {
    use Action::{Resume, Suspend, Terminate};
    use DesiredState::{Running, Suspended, Terminated};
    use Phase::{Issued, Sent, Taken};
    for (action, phase, age, seen, desired, expected) in [
        // No effect yet.
        (Suspend, Sent, 1, "Running", Suspended, "show"),
        (Suspend, Taken, 1, "Running", Suspended, "resolve, wanted"),
        (Suspend, Issued, 1, "Running", Suspended, "resolve, wanted"),
        (Suspend, Sent, 299, "Running", Suspended, "show"),
        (Suspend, Sent, 300, "Running", Suspended, "resolve, wanted"),
        (Terminate, Sent, 1, "Running", Terminated, "show"),
        (Resume, Sent, 1, "Suspended", Running, "show"),
        // Its effect is there: the next status has no record of it.
        (Suspend, Sent, 1, "Suspended", Suspended, "show"),
        (Suspend, Issued, 1, "Suspended", Suspended, "show"),
        (Suspend, Sent, 1, "Completed", Suspended, "show"),
        (Terminate, Taken, 1, "Terminated", Terminated, "show"),
        (Resume, Issued, 1, "Running", Running, "show"),
        // Something else is wished.
        (Suspend, Sent, 1, "Running", Running, "withdraw"),
        (Suspend, Sent, 1, "Running", Terminated, "withdraw"),
        (Suspend, Issued, 1, "Running", Running, "resolve, unwanted"),
        (Suspend, Taken, 1, "Running", Running, "resolve, unwanted"),
        (Terminate, Sent, 1, "Running", Running, "withdraw"),
    ] {
        let status = pending(action, phase, age);
        let status = if action == Resume { OrchestrationStatus { conditions: suspended_by_us().conditions, ..status } } else { status };
        let decision = with_wish(&wants(desired), &status, READY, in_state(seen));
        assert_eq!(decision, expected, "{action:?} {phase:?} {age} {seen} {desired:?}");
    }
    let old = pending(Suspend, Sent, 3000);
    assert_eq!(with_wish(&wants(Suspended), &old, WITHOUT_WORKERS, in_state("Running")), "show", "nobody takes messages");
}

#[test]
fn a_run_that_is_overdue_is_terminated_whatever_is_wished() {
    let overdue = |desired| {
        wish_with(|spec| {
            spec.desired_state = desired;
            spec.active_deadline_seconds = Some(10);
        })
    };
    for (age, expected) in [(9, "show"), (10, "issue Terminate")] {
        let seen = row(age, |row| row.with("RuntimeStatus", "Running"));
        assert_eq!(with_wish(&overdue(DesiredState::Running), &accepted(), READY, seen), expected);
    }
    let seen = row(11, |row| row.with("RuntimeStatus", "Suspended"));
    assert_eq!(with_wish(&overdue(DesiredState::Suspended), &suspended_by_us(), READY, seen), "issue Terminate");
    // A terminate before the start is taken up would be undone by it.
    assert_eq!(with_wish(&overdue(DesiredState::Running), &accepted(), READY, row(11, |row| row)), "show");
}

#[test]
fn the_finalizer_follows_the_deletion_policy() {
    let purge = wish_with(|spec| spec.deletion_policy = DeletionPolicy::Purge);
    let retain = wish();
    for (wish, status, has_finalizer, expected) in [
        (&purge, accepted(), false, "add finalizer"),
        (&purge, settled(Status::Completed), false, "add finalizer"),
        (&purge, settled(Status::Completed), true, "rest"),
        (&purge, hands_off("Conflict"), false, "rest"),
        (&purge, hands_off("Replaced"), true, "remove finalizer"),
        (&retain, accepted(), true, "remove finalizer"),
        (&retain, settled(Status::Completed), true, "remove finalizer"),
        (&retain, pending(Action::Rewind, Phase::Issued, 1), true, "rewind"),
    ] {
        assert_eq!(word(&decide(&Facts { has_finalizer, ..facts(wish, &status) })), expected, "{status:?}");
    }
}

#[test]
fn a_start_is_sent_again_only_if_it_can_have_been_lost() {
    let wish = wish();
    let status = accepted();
    let scheduled = |at: Time| row(3000, |row| row.with("ScheduledStartTime", at));
    for (seen, hub, last_sent, expected) in [
        (row(299, |row| row), READY, None, "show"),
        (row(300, |row| row), READY, None, "send again"),
        // Nobody takes messages: that this one waits proves nothing.
        (row(3000, |row| row), WITHOUT_WORKERS, None, "show"),
        (row(3000, |row| row), READY, Some(ago(299)), "show"),
        (row(3000, |row| row), READY, Some(ago(300)), "send again"),
        (scheduled(now().saturating_add(Duration::from_secs(60))), READY, None, "show"),
        // A rewound instance is Pending while it runs.
        (row(3000, |row| row.with("CustomStatus", "null")), READY, None, "show"),
        (in_state("Running"), READY, None, "show"),
    ] {
        let decision = decide(&Facts { hub, seen: seen.clone(), last_sent, ..facts(&wish, &status) });
        assert_eq!(word(&decision), expected, "{seen:?} {last_sent:?}");
    }
}

#[test]
fn what_is_settled_stays_as_it_is_whatever_is_seen() {
    for hub in [Hub::Unknown, Hub::NotFound, not_ready(), refuses(), READY] {
        for seen in [Seen::Nothing, Seen::Absent, Seen::Missing, in_state("Failed"), row(1, without_owner)] {
            assert_eq!(decided(&settled(Status::Completed), hub.clone(), seen), "rest");
        }
    }
}

#[test]
fn somebody_may_ask_to_look_at_what_is_settled() {
    let wish = wish();
    for (status, hub, seen, expected) in [
        (settled(Status::Completed), READY, Seen::Nothing, "follow"),
        (settled(Status::Completed), READY, in_state("Completed"), "show"),
        (settled(Status::Completed), READY, row(1, without_owner), "rest"),
        (settled(Status::Completed), READY, Seen::Missing, "rest"),
        (settled(Status::Completed), Hub::NotFound, Seen::Nothing, "rest"),
        (settled(Status::Completed), Hub::Unknown, Seen::Nothing, "wait"),
        // Another's instance is not looked at.
        (hands_off("Conflict"), READY, Seen::Nothing, "rest"),
    ] {
        assert_eq!(word(&decide(&Facts { hub, seen, asked: true, ..facts(&wish, &status) })), expected);
    }
}

#[test]
fn a_refused_spec_is_refused_without_a_hub() {
    let refusal = Refusal { reason: "InvalidSpec", message: "change it".to_owned() };
    let (wish, status) = (wish(), OrchestrationStatus::default());
    assert_eq!(word(&decide(&Facts { wish: Err(&refusal), hub: Hub::Unknown, ..facts(&wish, &status) })), "refused");
    let over = settled(Status::Completed);
    assert_eq!(word(&decide(&Facts { wish: Err(&refusal), ..facts(&wish, &over) })), "rest");
}

/// The hub and the object as a start leaves them when it dies after each of its effects; the engine swallows a second
/// message of the same execution.
#[test]
fn after_each_prefix_of_a_start_the_same_run_is_reached() {
    for died_after in 0..=3 {
        let (mut row, mut messages, mut is_accepted) = (died_after >= 1, usize::from(died_after >= 2), died_after >= 3);
        // What a reconcile does with what is left, until it only follows.
        for _ in 0..3 {
            let status = if is_accepted { accepted() } else { OrchestrationStatus::default() };
            match decided(&status, READY, Seen::Nothing).as_str() {
                "start" => {
                    // The insert meets our own row: its message is sent (again), with the row's execution ID.
                    row = true;
                    messages += 1;
                    is_accepted = true;
                }
                "follow" => break,
                other => panic!("{other}"),
            }
        }
        assert!(row && is_accepted, "died after {died_after}");
        assert!((1..=2).contains(&messages), "died after {died_after}: {messages} messages");
    }
}

/// A suspend that dies after each of its effects, with a worker that takes messages in between or not: in the end the
/// instance is suspended, nothing is recorded, and no message is left.
#[test]
fn after_each_prefix_of_an_action_its_effect_is_reached() {
    #[derive(Clone, Debug)]
    struct World {
        record: Option<Phase>,
        queued: usize,
        suspended: bool,
        sent: usize,
    }
    for died_after in 0..=3 {
        for worker_first in [false, true] {
            let mut world = World {
                record: match died_after {
                    0 => None,
                    1 | 2 => Some(Phase::Issued),
                    _ => Some(Phase::Sent),
                },
                queued: usize::from(died_after >= 2),
                suspended: false,
                sent: usize::from(died_after >= 2),
            };
            for step in 0..6 {
                if worker_first || step > 2 {
                    world.suspended |= world.queued > 0;
                    world.queued = 0;
                }
                let status = match world.record {
                    Some(phase) => pending(Action::Suspend, phase, 1),
                    None => accepted(),
                };
                let seen = in_state(if world.suspended { "Suspended" } else { "Running" });
                match with_wish(&wants(DesiredState::Suspended), &status, READY, seen).as_str() {
                    "issue Suspend" => {
                        world.record = Some(Phase::Sent);
                        world.queued += 1;
                        world.sent += 1;
                    }
                    // As `resolve` decides: an empty queue without the effect proves that nothing was sent.
                    "resolve, wanted" if world.queued == 0 => {
                        world.record = Some(Phase::Sent);
                        world.queued += 1;
                        world.sent += 1;
                    }
                    "resolve, wanted" => {}
                    // The effect shows: the record goes with the next status.
                    "show" if world.suspended => world.record = None,
                    "show" => {}
                    other => panic!("{other}"),
                }
            }
            assert!(world.suspended && world.record.is_none() && world.queued == 0, "died after {died_after}: {world:?}");
            assert_eq!(world.sent, 1, "died after {died_after}: {world:?}");
        }
    }
}
