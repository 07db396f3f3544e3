use durable_taskhub::entity::EntityId;
use durable_taskhub::storage::Entity;

use super::*;
use crate::controllers::orchestration::{Identity, OWNER_COLUMN};
use crate::controllers::orchestration_event::target::Owner;
use crate::hubs::HubKey;

fn hub() -> HubKey {
    HubKey { namespace: "shop".to_owned(), name: "hub".to_owned() }
}

fn at(seconds: u64) -> Time {
    Time::from(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn wish() -> Wish {
    Wish { wait_for: WaitFor::Running, deadline: at(3600), payload_is_elsewhere: false }
}

fn instance() -> Target {
    Target::Instance(Instance { hub: hub(), id: "i".to_owned(), owner: None })
}

fn identity() -> Identity {
    Identity::new("shop", "order", "uid", Some("i")).unwrap()
}

fn owned(has_claimed: bool) -> Target {
    Target::Instance(Instance { hub: hub(), id: "i".to_owned(), owner: Some(Owner { identity: identity(), has_claimed }) })
}

fn entity() -> Target {
    Target::Entity { hub: hub(), id: EntityId::new("counter", "a").unwrap() }
}

fn row(status: &str) -> Entity {
    let row = Entity::new("i", "").with("Name", "F").with("RuntimeStatus", status);
    if status == "Pending" { row } else { row.with("CustomStatus", "null") }
}

fn seen(row: Entity) -> Answer<Option<Arc<durable_taskhub::Instance>>> {
    Answer::Is(Some(Arc::new(durable_taskhub::Instance::from_row(row, ""))))
}

/// Everything holds, and the instance runs.
fn facts<'a>(wish: &'a Wish, target: &'a Target) -> Facts<'a> {
    Facts {
        phase: None,
        remembered: None,
        deleted: false,
        wish: Ok(wish),
        target,
        hub: Hub::Ready,
        namespace: Answer::Is(Ok(())),
        seen: seen(row("Running")),
        function: Answer::Is(Ok(())),
        payload: Answer::Is(Ok(())),
        now: at(100),
    }
}

/// The decision in a few words.
fn said(facts: &Facts<'_>) -> String {
    match decide(facts) {
        Decision::Conclude(Verdict::Held { reason, .. }) => format!("held {reason}"),
        Decision::Conclude(Verdict::Stuck { reason, .. }) => format!("stuck {reason}"),
        Decision::Conclude(Verdict::Rejected { reason, .. }) => format!("rejected {reason}"),
        Decision::Conclude(Verdict::Expired) => "expired".to_owned(),
        Decision::Conclude(Verdict::Sent(_)) => "sent".to_owned(),
        Decision::Conclude(Verdict::Unknown(_)) => "unknown".to_owned(),
        Decision::Ask(question) => format!("ask {question:?}"),
        Decision::Bind { uid, .. } => format!("bind {uid}"),
        decision => format!("{decision:?}").to_lowercase(),
    }
}

/// Says what is decided when `change` is made to facts on which the event would be sent.
fn with(target: &Target, change: impl FnOnce(&mut Facts<'_>)) -> String {
    let wish = wish();
    let mut facts = facts(&wish, target);
    change(&mut facts);
    said(&facts)
}

#[test]
fn what_is_in_sending_is_never_sent_again() {
    for target in [instance(), entity(), Target::Unknown] {
        let in_phase = |phase, remembered: Option<&Verdict>| {
            let wish = wish();
            said(&Facts { phase: Some(phase), remembered, ..facts(&wish, &target) })
        };
        assert_eq!(in_phase(EventPhase::Sending, None), "unknown");
        assert_eq!(in_phase(EventPhase::Sending, Some(&Verdict::Sent(at(7)))), "sent");
        assert_eq!(in_phase(EventPhase::Sending, Some(&hold("WaitingForStart", ""))), "held WaitingForStart");
        assert_eq!(in_phase(EventPhase::Unknown, None), "rest");
        assert_eq!(in_phase(EventPhase::Unknown, Some(&hold("WaitingForStart", ""))), "rest");
        assert_eq!(in_phase(EventPhase::Unknown, Some(&Verdict::Sent(at(7)))), "sent", "the one who sent it knows better");
        for phase in [EventPhase::Sent, EventPhase::Expired, EventPhase::Rejected] {
            assert_eq!(in_phase(phase, None), "rest", "{phase:?}");
            assert_eq!(in_phase(phase, Some(&Verdict::Sent(at(7)))), "rest", "{phase:?}");
        }
    }
}

#[test]
fn what_costs_a_request_is_asked_last_and_in_order() {
    let nothing = |facts: &mut Facts<'_>| {
        facts.namespace = Answer::Open;
        facts.seen = Answer::Open;
        facts.function = Answer::Open;
        facts.payload = Answer::Open;
    };
    for (target, elsewhere, questions) in [
        (instance(), false, &["Namespace", "Payload", "Instance", "Function"][..]),
        (instance(), true, &["Namespace", "Instance", "Function", "Payload"]),
        (entity(), false, &["Namespace", "Payload", "Function"]),
        (entity(), true, &["Namespace", "Function", "Payload"]),
    ] {
        let wish = Wish { payload_is_elsewhere: elsewhere, ..wish() };
        let mut facts = facts(&wish, &target);
        nothing(&mut facts);
        let mut asked = Vec::new();
        while let Decision::Ask(question) = decide(&facts) {
            asked.push(format!("{question:?}"));
            match question {
                Question::Namespace => facts.namespace = Answer::Is(Ok(())),
                Question::Instance => facts.seen = seen(row("Running")),
                Question::Function => facts.function = Answer::Is(Ok(())),
                Question::Payload => facts.payload = Answer::Is(Ok(())),
            }
        }
        assert_eq!(asked, questions);
        assert_eq!(said(&facts), "send");
    }
}

#[test]
fn each_thing_that_is_missing_has_its_reason() {
    let refusal = || Refusal { reason: "NamespaceNotAllowed", message: String::new() };
    let not_ready = || Hub::NotReady(NotReady::new("Unreachable", "m"));
    type Change = Box<dyn Fn(&mut Facts<'_>)>;
    let rows: [(&str, Change); 13] = [
        ("stuck InvalidSpec", Box::new(|facts| facts.wish = Err("no"))),
        ("rest", Box::new(|facts| facts.deleted = true)),
        ("expired", Box::new(|facts| facts.now = at(3600))),
        ("wait", Box::new(|facts| facts.hub = Hub::Unknown)),
        ("held TaskHubNotFound", Box::new(|facts| facts.hub = Hub::NotFound)),
        ("held TaskHubNotReady", Box::new(move |facts| facts.hub = not_ready())),
        ("held NamespaceNotAllowed", Box::new(move |facts| facts.namespace = Answer::Is(Err(refusal())))),
        ("held NamespaceNotAllowed", Box::new(move |facts| facts.function = Answer::Is(Err(refusal())))),
        ("held PayloadNotFound", Box::new(|facts| facts.payload = Answer::Is(Err(Unusable::NotFound(String::new()))))),
        ("rejected PayloadInvalid", Box::new(|facts| facts.payload = Answer::Is(Err(Unusable::Invalid(String::new()))))),
        ("rejected PayloadTooLarge", Box::new(|facts| facts.payload = Answer::Is(Err(Unusable::TooLarge(String::new()))))),
        ("send", Box::new(|facts| facts.now = at(3599))),
        ("send", Box::new(|facts| facts.phase = Some(EventPhase::Waiting))),
    ];
    for (expected, change) in rows {
        for target in [instance(), entity()] {
            assert_eq!(with(&target, &change), expected, "{target:?}");
        }
    }
}

#[test]
fn each_target_that_is_none_has_its_reason() {
    let refused = Target::Refused(Refusal { reason: "Replaced", message: String::new() });
    for (target, expected) in [
        (Target::Unknown, "wait"),
        (Target::NoOrchestration("order".to_owned()), "held OrchestrationNotFound"),
        (Target::Unbound { name: "order".to_owned(), uid: "u".to_owned() }, "bind u"),
        (refused, "rejected Replaced"),
        (Target::Unreadable(String::new()), "stuck InvalidSpec"),
    ] {
        // Nothing is known of the hub of nobody.
        assert_eq!(with(&target, |facts| facts.hub = Hub::Unknown), expected);
        assert_eq!(with(&target, |facts| facts.now = at(5000)), "expired", "{target:?}");
    }
}

#[test]
fn an_instance_gets_it_only_while_it_can() {
    let pending_again = || row("Pending").with("CustomStatus", "null");
    for (seen, running, exists) in [
        (Answer::Is(None), "held InstanceNotFound", "held InstanceNotFound"),
        (seen(row("Pending")), "held WaitingForStart", "send"),
        (seen(pending_again()), "send", "send"),
        (seen(row("Running")), "send", "send"),
        (seen(row("Suspended")), "send", "send"),
        (seen(row("ContinuedAsNew")), "send", "send"),
        (seen(row("Completed")), "rejected InstanceFinished", "rejected InstanceFinished"),
        (seen(row("Failed")), "rejected InstanceFinished", "rejected InstanceFinished"),
        (seen(row("Terminated")), "rejected InstanceFinished", "rejected InstanceFinished"),
        (seen(row("Canceled")), "rejected InstanceFinished", "rejected InstanceFinished"),
    ] {
        for (wait_for, expected) in [(WaitFor::Running, running), (WaitFor::Exists, exists)] {
            let (wish, target) = (Wish { wait_for, ..wish() }, instance());
            assert_eq!(said(&Facts { seen: seen.clone(), ..facts(&wish, &target) }), expected, "{seen:?} {wait_for:?}");
        }
    }
}

#[test]
fn an_orchestrations_event_goes_to_its_own_instance_alone() {
    let ours = || row("Running").with(OWNER_COLUMN, identity().owner);
    let theirs = || row("Running").with(OWNER_COLUMN, "shop/order/another-uid");
    for (row, has_claimed, expected) in [
        (ours(), false, "send"),
        (ours(), true, "send"),
        (theirs(), true, "rejected Replaced"),
        (row("Running"), true, "rejected Replaced"),
        // An Orchestration that adopts has not done so yet.
        (row("Running"), false, "held WaitingForStart"),
        (theirs(), false, "held WaitingForStart"),
        (row("Completed"), false, "held WaitingForStart"),
        (row("Completed").with(OWNER_COLUMN, identity().owner), true, "rejected InstanceFinished"),
    ] {
        assert_eq!(with(&owned(has_claimed), |facts| facts.seen = seen(row.clone())), expected, "{row:?} {has_claimed}");
    }
}

#[test]
fn intervals_grow_from_the_shortest_to_the_longest() {
    let limits = PollingLimits { min: Duration::from_secs(1), max: Duration::from_secs(60) };
    let mut interval = Duration::ZERO;
    let mut passed = Duration::ZERO;
    let mut asked = 0;
    while passed < Duration::from_secs(3600) {
        interval = next_interval(interval, limits);
        assert!(interval >= limits.min && interval <= limits.max);
        passed += interval;
        asked += 1;
    }
    assert_eq!(next_interval(Duration::ZERO, limits), limits.min);
    assert_eq!(interval, limits.max);
    assert!(asked <= 70, "{asked} requests in an hour");
}
