//! Conditions and fields for each outcome.

use std::sync::Arc;

use durable_taskhub::storage::Entity;

use super::*;
use crate::api::v1alpha1::{Action, DesiredState, OrchestrationSpec, Phase, ReadyWhen};
use crate::connection::NotReady;
use crate::controllers::orchestration::identity::Identity;
use crate::controllers::orchestration::notice::notices;
use crate::controllers::orchestration::wish::Refusal;

const MAX_INLINE_BYTES: usize = 8192;

fn now() -> Time {
    Time::parse("2026-11-24T12:00:00Z").unwrap()
}

fn entity(status: &str) -> Entity {
    Entity::new("order-1", "")
        .with("RuntimeStatus", status)
        .with("ExecutionId", "E")
        .with("CreatedTime", Time::parse("2026-11-24T11:59:00.1234567Z").unwrap())
        .with("LastUpdatedTime", Time::parse("2026-11-24T11:59:30Z").unwrap())
}

fn row(entity: Entity, output: Option<&str>, workers_active: bool) -> Outcome {
    changed(entity, output, workers_active, Change::Keep)
}

fn changed(entity: Entity, output: Option<&str>, workers_active: bool, change: Change) -> Outcome {
    let instance = Arc::new(Instance::from_row(entity, ""));
    let row = Row {
        status: super::super::wish::runtime_status(instance.runtime_status),
        has_started: instance.has_started,
        instance,
        output: output.map(|text| Ok(text.to_owned())),
        failure_type: None,
        workers_active,
        adopted: false,
    };
    Outcome::Row(row, change)
}

fn wish_with(change: impl FnOnce(&mut OrchestrationSpec)) -> Wish {
    let mut spec = serde_json::from_value(serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo"})).unwrap();
    change(&mut spec);
    Wish { identity: Identity::new("shop", "order", "0f8fad5b-d9cb-469f-a165-70867728950e", None).unwrap(), spec, trace: None }
}

fn wants(desired: DesiredState) -> Wish {
    wish_with(|spec| spec.desired_state = desired)
}

fn about(wish: &Wish, generation: i64) -> About<'_> {
    About { wish: Some(wish), generation, requested_at: None, max_inline_bytes: MAX_INLINE_BYTES, now: now() }
}

fn of(outcome: &Outcome) -> OrchestrationStatus {
    describe(&OrchestrationStatus::default(), outcome, &about(&wish_with(|_| {}), 3))
}

fn said(status: &OrchestrationStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
}

fn pending(action: Action, phase: Phase) -> Pending {
    Pending { action, phase, issued_at: HubTime(now()), queue: None, message_id: Some("m".to_owned()), pop_receipt: None }
}

#[test]
fn every_outcome_says_ready_and_what_kstatus_reads() {
    let hold = |hold: Hold| Outcome::Held(hold);
    let cases: Vec<(Outcome, &[&str])> = vec![
        (hold(Hold::TaskHubNotFound), &["Ready=False TaskHubNotFound", "Started=False NotCreated", "Reconciling=True TaskHubNotFound"]),
        (
            hold(Hold::TaskHubNotReady(NotReady::new("Unreachable", "check it"))),
            &["Ready=False TaskHubNotReady", "Started=False NotCreated", "Reconciling=True TaskHubNotReady"],
        ),
        (
            hold(Hold::Refused(Refusal { reason: "InputTooLarge", message: "too large".to_owned() })),
            &["Ready=False InputTooLarge", "Started=False NotCreated", "Stalled=True InputTooLarge"],
        ),
        (
            Outcome::Accepted { instance_id: "order-1".to_owned(), execution_id: "E".to_owned(), created_time: now() },
            &["Ready=False Enqueued", "Started=False Enqueued", "Reconciling=True Enqueued"],
        ),
        (row(entity("Pending"), None, true), &["Ready=False Enqueued", "Started=False Enqueued", "Reconciling=True Enqueued"]),
        (
            row(entity("Pending"), None, false),
            &["Ready=False NoActiveWorkers", "Started=False NoActiveWorkers", "Reconciling=True NoActiveWorkers"],
        ),
        // Rewound by somebody: Pending, and it runs.
        (
            row(entity("Pending").with("CustomStatus", "null"), None, true),
            &["Ready=False Running", "Started=True Started", "Reconciling=True Running"],
        ),
        (row(entity("Running"), None, true), &["Ready=False Running", "Started=True Started", "Reconciling=True Running"]),
        (row(entity("ContinuedAsNew"), None, true), &["Ready=False Running", "Started=True Started", "Reconciling=True Running"]),
        (
            row(entity("Suspended"), Some("a reason"), true),
            &[
                "Ready=False SuspendedByOther",
                "Started=True Started",
                "Suspended=True SuspendedByOther",
                "Reconciling=True SuspendedByOther",
            ],
        ),
        (row(entity("Completed"), Some("1"), true), &["Ready=True Completed", "Started=True Started", "Complete=True Completed"]),
        (
            row(entity("Failed"), Some("no"), true),
            &[
                "Ready=False OrchestrationFailed",
                "Started=True Started",
                "Failed=True OrchestrationFailed",
                "Stalled=True OrchestrationFailed",
            ],
        ),
        (
            row(entity("Terminated"), Some("no"), true),
            &["Ready=False Terminated", "Started=True Started", "Failed=True Terminated", "Stalled=True Terminated"],
        ),
        (
            row(entity("Canceled"), None, true),
            &["Ready=False Canceled", "Started=True Started", "Failed=True Canceled", "Stalled=True Canceled"],
        ),
        (
            Outcome::Conflict { instance_id: "order-1".to_owned(), what: "Running".to_owned(), owner: None },
            &["Ready=False Conflict", "Started=False Conflict", "Stalled=True Conflict"],
        ),
        (Outcome::Replaced { owner: None }, &["Ready=False Replaced", "Started=False InstanceNotFound", "Stalled=True Replaced"]),
        (
            Outcome::Missing,
            &[
                "Ready=False InstanceMissing",
                "Started=False InstanceNotFound",
                "Failed=True InstanceMissing",
                "Stalled=True InstanceMissing",
            ],
        ),
    ];
    for (outcome, expected) in cases {
        let status = of(&outcome);
        assert_eq!(said(&status), expected, "{outcome:?}");
        assert_eq!(status.observed_generation, Some(3));
        assert!(status.conditions.iter().all(|condition| !condition.message.is_empty()));
        let over = ["Completed", "Failed", "Terminated", "Canceled"]
            .iter()
            .any(|end| matches!(&outcome, Outcome::Row(row, _) if row.instance.runtime_status.name() == *end));
        assert_eq!(
            status.settled,
            over || matches!(outcome, Outcome::Conflict { .. } | Outcome::Replaced { .. } | Outcome::Missing),
            "{outcome:?}"
        );
        assert_eq!(
            describe(
                &status,
                &outcome,
                &About { now: now().saturating_add(std::time::Duration::from_secs(5)), ..about(&wish_with(|_| {}), 3) }
            ),
            status,
            "described again, nothing is new"
        );
    }
}

#[test]
fn times_are_the_hubs_to_the_tick() {
    let status = of(&row(entity("Running"), None, true));
    let text = serde_json::to_value(&status).unwrap();
    assert_eq!(text["createdTime"], "2026-11-24T11:59:00.1234567Z");
    assert_eq!(text["lastUpdatedTime"], "2026-11-24T11:59:30Z");
    // The row of a rewound run keeps the time of its first end.
    let rewound = row(entity("Running").with("CompletedTime", now()), None, true);
    assert_eq!(of(&rewound).completed_time, None);
}

#[test]
fn outputs_are_shown_as_they_are_up_to_the_limit() {
    let output = |text: &str| of(&row(entity("Completed"), Some(text), true));
    for text in ["null", "1.10", r#"{"b":1,"a":null}"#, "12345678901234567890"] {
        assert_eq!(output(text).output.unwrap().text(), text);
    }
    assert_eq!(output("not JSON").output.unwrap().text(), r#""not JSON""#);
    assert_eq!(of(&row(entity("Completed"), None, true)).output, None);

    let largest = format!("\"{}\"", "x".repeat(MAX_INLINE_BYTES - 2));
    assert!(output(&largest).output.is_some());
    let larger = format!("\"{}\"", "ü".repeat(MAX_INLINE_BYTES / 2));
    let status = output(&larger);
    assert!(status.output.is_none());
    let reference = status.output_ref.unwrap();
    assert_eq!(reference.bytes, i64::try_from(larger.len()).unwrap());
    assert!(reference.preview.len() <= 1024 && larger.starts_with(&reference.preview));
    assert_eq!(reference.sha256.len(), 64);
}

#[test]
fn what_nests_too_deep_could_not_be_read_back_and_is_referred_to() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(of(&row(entity("Completed"), Some(&nested(64)), true)).output.is_some());
    assert!(of(&row(entity("Completed"), Some(&nested(65)), true)).output_ref.is_some());
    // Brackets in strings are no levels.
    let text = format!("\"{}\\\"{}\"", "[".repeat(100), "{".repeat(100));
    assert!(of(&row(entity("Completed"), Some(&text), true)).output.is_some());
    let deep = row(entity("Running").with("CustomStatus", nested(65)), None, true);
    assert!(of(&deep).custom_status.unwrap().text().starts_with("\"[[["));
}

#[test]
fn what_the_api_server_would_refuse_or_change_is_referred_to() {
    for text in ["1e400", r#"{"a":[-1e999]}"#, r#""\ud800""#] {
        let status = of(&row(entity("Completed"), Some(text), true));
        assert_eq!(status.output_ref.unwrap().preview, text);
        assert_eq!(status.output, None);
        let running = of(&row(entity("Running").with("CustomStatus", text), None, true));
        assert!(running.custom_status.unwrap().text().starts_with('"'), "{text} as a text");
    }
    assert!(of(&row(entity("Completed"), Some("1e308"), true)).output.is_some());
}

#[test]
fn an_instance_taken_over_before_its_start_stays_adopted() {
    use crate::api::v1alpha1::StartPolicy;
    for (policy, execution, reason) in [
        (StartPolicy::Adopt, "theirs", "Adopted"),
        (StartPolicy::CreateOrAdopt, "theirs", "Adopted"),
        (StartPolicy::Create, "theirs", "Started"),
    ] {
        let wish = wish_with(|spec| spec.start_policy = policy);
        let waits = row(entity("Pending").with("ExecutionId", execution), None, true);
        let before = describe(&OrchestrationStatus::default(), &waits, &about(&wish, 1));
        assert_eq!(said(&before)[1], "Started=False Enqueued");
        let runs = row(entity("Running").with("ExecutionId", "continued"), None, true);
        let after = describe(&before, &runs, &about(&wish, 1));
        assert_eq!(said(&after)[1], format!("Started=True {reason}"), "{policy:?}");
    }
    // Its own start, continued as new.
    let wish = wish_with(|spec| spec.start_policy = StartPolicy::CreateOrAdopt);
    let waits = row(entity("Pending").with("ExecutionId", wish.identity.execution_id.clone()), None, true);
    let before = describe(&OrchestrationStatus::default(), &waits, &about(&wish, 1));
    let runs = row(entity("Running").with("ExecutionId", "continued"), None, true);
    assert_eq!(said(&describe(&before, &runs, &about(&wish, 1)))[1], "Started=True Started");
}

#[test]
fn a_failure_has_the_hubs_text_and_no_output() {
    let status = of(&row(entity("Failed"), Some("Orchestrator function 'X' failed: no"), true));
    assert_eq!(status.failure.unwrap().message.unwrap(), "Orchestrator function 'X' failed: no");
    assert_eq!(status.output, None);
    let long = of(&row(entity("Failed"), Some(&"é".repeat(10_000)), true));
    assert_eq!(long.failure.unwrap().message.unwrap().len(), MAX_FAILURE_BYTES);
}

#[test]
fn the_largest_status_stays_within_its_budget() {
    // 16 KiB is the object's budget (product.md 3.5). JSON escapes can double a text; the fields alone are counted.
    let row = row(
        entity("Completed").with("CustomStatus", format!("\"{}\"", "c".repeat(MAX_CUSTOM_STATUS_BYTES - 2))),
        Some(&format!("\"{}\"", "o".repeat(MAX_INLINE_BYTES - 2))),
        true,
    );
    let size = serde_json::to_vec(&of(&row)).unwrap().len();
    assert!(size <= 16 * 1024, "{size}");
}

#[test]
fn a_person_is_told_once_of_what_she_would_want_to_know() {
    let before = of(&row(entity("Running"), None, true));
    let failed = of(&row(entity("Failed"), Some("no"), true));
    let wish = wish_with(|_| {});
    let told = notices(&before, &failed, Some(&wish));
    assert_eq!((told.len(), told[0].is_warning, told[0].reason), (1, true, "OrchestrationFailed"));
    assert!(!told[0].note.contains("no\n"), "no payload in Events");
    assert_eq!(notices(&failed, &failed, Some(&wish)), []);
    let completed = of(&row(entity("Completed"), Some("1"), true));
    assert_eq!(notices(&before, &completed, Some(&wish)), [], "an ordinary end is shown by conditions");

    // A control action is told when its message is sent, once.
    let issued = describe(
        &before,
        &changed(entity("Running"), None, true, Change::Set(Pending { message_id: None, ..pending(Action::Suspend, Phase::Issued) })),
        &about(&wish, 3),
    );
    assert_eq!(notices(&before, &issued, Some(&wish)), []);
    let sent =
        describe(&issued, &changed(entity("Running"), None, true, Change::Set(pending(Action::Suspend, Phase::Sent))), &about(&wish, 3));
    assert_eq!(notices(&issued, &sent, Some(&wish)).iter().map(|notice| notice.reason).collect::<Vec<_>>(), ["Suspending"]);
    let taken =
        describe(&sent, &changed(entity("Running"), None, true, Change::Set(pending(Action::Suspend, Phase::Taken))), &about(&wish, 3));
    assert_eq!(notices(&sent, &taken, Some(&wish)), []);

    // A wish that comes after the end is told to be late.
    let suspend = wants(DesiredState::Suspended);
    let late = describe(&completed, &Outcome::Unchanged, &about(&suspend, 4));
    assert_eq!(notices(&completed, &late, Some(&suspend)).iter().map(|notice| notice.reason).collect::<Vec<_>>(), ["TooLate"]);
    assert_eq!(said(&late), said(&completed));
    assert_eq!(late.observed_generation, Some(4));
}

#[test]
fn an_annotation_is_echoed_whatever_came_of_it() {
    let before = of(&row(entity("Completed"), Some("1"), true));
    let wish = wish_with(|_| {});
    let asked = About { requested_at: Some("2026-11-24T12:00:00Z"), ..about(&wish, 3) };
    let after = describe(&before, &Outcome::Unchanged, &asked);
    assert_eq!(after.last_handled_reconcile_at.as_deref(), Some("2026-11-24T12:00:00Z"));
    assert_eq!(OrchestrationStatus { last_handled_reconcile_at: None, ..after }, before);
}

#[test]
fn a_state_that_was_asked_for_is_ready_when_it_is_reached() {
    let suspended = row(entity("Suspended"), None, true);
    let of = |wish: &Wish, outcome: &Outcome| describe(&OrchestrationStatus::default(), outcome, &about(wish, 1));
    assert_eq!(
        said(&of(&wants(DesiredState::Suspended), &suspended)),
        ["Ready=True Suspended", "Started=True Started", "Suspended=True Suspended"]
    );
    let terminated = row(entity("Terminated"), Some("no longer needed"), true);
    assert_eq!(
        said(&of(&wants(DesiredState::Terminated), &terminated)),
        ["Ready=True Terminated", "Started=True Started", "Complete=True Terminated"]
    );
    assert_eq!(
        said(&of(&wants(DesiredState::Terminated), &Outcome::Missing)),
        ["Ready=True Terminated", "Started=False InstanceNotFound", "Complete=True Terminated"]
    );
    let eternal = wish_with(|spec| spec.ready_when = ReadyWhen::Started);
    assert_eq!(said(&of(&eternal, &row(entity("Running"), None, true))), ["Ready=True Started", "Started=True Started"]);
    let never = Outcome::Held(Hold::NeverStarted);
    let status = of(&wants(DesiredState::Terminated), &never);
    assert_eq!(said(&status), ["Ready=True Terminated", "Started=False NotCreated", "Complete=True Terminated"]);
    assert!(status.settled);
    let wish = wants(DesiredState::Running);
    assert_eq!(
        said(&describe(&status, &Outcome::Unchanged, &about(&wish, 2))),
        ["Ready=False AlreadyTerminated", "Started=False NotCreated", "Failed=True Terminated", "Stalled=True AlreadyTerminated"]
    );
}

#[test]
fn a_termination_says_who_asked_for_it() {
    let terminated = || row(entity("Terminated"), None, true);
    let before = describe(
        &OrchestrationStatus::default(),
        &changed(entity("Running"), None, true, Change::Set(pending(Action::Terminate, Phase::Sent))),
        &about(&wants(DesiredState::Running), 1),
    );
    let overdue = wish_with(|spec| spec.active_deadline_seconds = Some(10));
    let reasons = |status: &OrchestrationStatus| said(status).into_iter().filter(|said| !said.starts_with("Started")).collect::<Vec<_>>();
    let by_deadline = describe(&before, &terminated(), &about(&overdue, 1));
    assert_eq!(reasons(&by_deadline), ["Ready=False DeadlineExceeded", "Failed=True DeadlineExceeded", "Stalled=True DeadlineExceeded"]);
    assert_eq!(describe(&by_deadline, &terminated(), &about(&overdue, 1)), by_deadline);
    let by_other = describe(&OrchestrationStatus::default(), &terminated(), &about(&overdue, 1));
    assert_eq!(reasons(&by_other), ["Ready=False Terminated", "Failed=True Terminated", "Stalled=True Terminated"]);

    // Asked for, and then something else is.
    let wish = wants(DesiredState::Terminated);
    let asked = describe(&before, &terminated(), &about(&wish, 2));
    assert_eq!(reasons(&asked), ["Ready=True Terminated", "Complete=True Terminated"]);
    let wish = wants(DesiredState::Running);
    let back = describe(&asked, &Outcome::Unchanged, &about(&wish, 3));
    assert_eq!(reasons(&back), ["Ready=False AlreadyTerminated", "Failed=True Terminated", "Stalled=True AlreadyTerminated"]);
    assert_eq!(describe(&back, &Outcome::Unchanged, &about(&wish, 3)), back);
}

#[test]
fn an_action_under_way_is_said_until_its_effect_shows() {
    let wish = wants(DesiredState::Suspended);
    let status = describe(
        &OrchestrationStatus::default(),
        &changed(entity("Running"), None, true, Change::Set(pending(Action::Suspend, Phase::Sent))),
        &about(&wish, 1),
    );
    assert_eq!(said(&status), ["Ready=False Suspending", "Started=True Started", "Reconciling=True Suspending"]);
    assert!(status.pending.is_some());
    let status = describe(&status, &row(entity("Suspended"), None, true), &about(&wish, 1));
    assert_eq!(said(&status), ["Ready=True Suspended", "Started=True Started", "Suspended=True Suspended"]);
    assert!(status.pending.is_none());
    // The wish changes: the suspension stays ours, so that it is taken back.
    let wish = wants(DesiredState::Running);
    let status = describe(&status, &row(entity("Suspended"), None, true), &about(&wish, 2));
    assert_eq!(said(&status), ["Ready=False Resuming", "Started=True Started", "Suspended=True Suspended", "Reconciling=True Resuming"]);
}

#[test]
fn a_token_is_used_up_at_whatever_moment_it_arrives() {
    let token = |token: Option<&str>| {
        wish_with(|spec| {
            spec.desired_state = DesiredState::Rewound;
            spec.rewind_token = token.map(str::to_owned);
        })
    };
    let result = |status: &OrchestrationStatus| status.last_rewind.as_ref().map(|last| last.result);
    let wish = token(Some("a"));
    let accepted = Outcome::Accepted { instance_id: "order-1".to_owned(), execution_id: "E".to_owned(), created_time: now() };
    for outcome in
        [accepted, Outcome::Held(Hold::TaskHubNotFound), row(entity("Running"), None, true), row(entity("Completed"), None, true)]
    {
        let status = describe(&OrchestrationStatus::default(), &outcome, &about(&wish, 1));
        assert_eq!(result(&status), Some(RewindResult::NotNeeded), "{outcome:?}");
    }
    for outcome in [row(entity("Terminated"), None, true), Outcome::Missing, Outcome::Replaced { owner: None }] {
        let status = describe(&OrchestrationStatus::default(), &outcome, &about(&wish, 1));
        assert_eq!(result(&status), Some(RewindResult::Rejected), "{outcome:?}");
    }
    // Of a run that has failed, the rewind itself decides.
    let failed = describe(&OrchestrationStatus::default(), &row(entity("Failed"), Some("no"), true), &about(&wish, 1));
    assert_eq!(result(&failed), None);
    let rejected = describe(&failed, &Outcome::Rewound(RewindResult::Rejected, "timers".to_owned()), &about(&wish, 1));
    assert_eq!(
        said(&rejected),
        ["Ready=False RewindRejected", "Started=True Started", "Failed=True OrchestrationFailed", "Stalled=True RewindRejected"]
    );
    assert!(rejected.conditions[0].message.contains("timers"));
    let rewinding = describe(&failed, &Outcome::Rewinding(pending(Action::Rewind, Phase::Issued), Some(now())), &about(&wish, 1));
    assert_eq!(said(&rewinding), ["Ready=False Rewinding", "Started=True Started", "Reconciling=True Rewinding"]);
    assert!(!rewinding.settled);
    let rewound = describe(&rewinding, &Outcome::Rewound(RewindResult::Succeeded, String::new()), &about(&wish, 1));
    assert_eq!(said(&rewound), ["Ready=False Rewinding", "Started=True Started", "Reconciling=True Rewinding"]);
    assert!(rewound.pending.is_none() && rewound.failure.is_none() && !rewound.settled);
    assert_eq!(rewound.last_rewind.as_ref().and_then(|last| last.token.as_deref()), Some("a"));
    // Failed again, the same token does nothing more.
    let again = describe(&rewound, &row(entity("Failed"), Some("no"), true), &about(&wish, 1));
    assert!(!wish.asks_for_rewind(&again));
    assert_eq!(again.conditions[0].reason, "OrchestrationFailed");

    // Without a token it can be asked for again after another state was.
    let bare = token(None);
    let once = describe(&failed, &Outcome::Rewound(RewindResult::Succeeded, String::new()), &about(&bare, 1));
    assert!(!bare.asks_for_rewind(&once));
    let other = describe(&once, &row(entity("Failed"), Some("no"), true), &about(&wants(DesiredState::Running), 2));
    assert!(bare.asks_for_rewind(&other));
}

#[test]
fn with_omit_nothing_that_a_worker_returned_is_shown() {
    let omit = wish_with(|spec| spec.output_policy = OutputPolicy::Omit);
    for state in ["Completed", "Failed"] {
        let outcome = row(entity(state).with("CustomStatus", "\"secret\""), Some("\"secret\""), true);
        let status = describe(&OrchestrationStatus::default(), &outcome, &about(&omit, 1));
        let text = serde_json::to_string(&status).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!((status.output_ref, status.custom_status), (None, None));
    }
}

#[test]
fn what_holds_an_accepted_object_leaves_its_start_said() {
    let running = of(&row(entity("Running"), None, true));
    let refusal = Refusal { reason: "NamespaceNotAllowed", message: "allow it".to_owned() };
    let wish = wish_with(|_| {});
    let held = describe(&running, &Outcome::Held(Hold::Waits(refusal)), &about(&wish, 3));
    assert_eq!(said(&held), ["Ready=False NamespaceNotAllowed", "Started=True Started", "Reconciling=True NamespaceNotAllowed"]);
}
