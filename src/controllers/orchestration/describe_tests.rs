//! Conditions and fields for each outcome.

use std::sync::Arc;

use durable_taskhub::storage::Entity;

use super::*;
use crate::connection::NotReady;
use crate::controllers::orchestration::decide::Refusal;

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
    let instance = Arc::new(Instance::from_row(entity, ""));
    Outcome::Row(Row { instance, output: output.map(|text| Ok(text.to_owned())), workers_active })
}

fn of(outcome: &Outcome) -> OrchestrationStatus {
    describe(&OrchestrationStatus::default(), outcome, 3, None, now())
}

fn said(status: &OrchestrationStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
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
            Outcome::Conflict { instance_id: "order-1".to_owned(), status: RuntimeStatus::Running, owner: None },
            &["Ready=False Conflict", "Started=False Conflict", "Stalled=True Conflict"],
        ),
        (Outcome::Replaced { owner: None }, &["Ready=False Replaced", "Started=True Started", "Stalled=True Replaced"]),
        (
            Outcome::Missing,
            &["Ready=False InstanceMissing", "Started=True Started", "Failed=True InstanceMissing", "Stalled=True InstanceMissing"],
        ),
    ];
    for (outcome, expected) in cases {
        let status = of(&outcome);
        assert_eq!(said(&status), expected, "{outcome:?}");
        assert_eq!(status.observed_generation, Some(3));
        assert!(status.conditions.iter().all(|condition| !condition.message.is_empty()));
        let over = ["Completed", "Failed", "Terminated", "Canceled"]
            .iter()
            .any(|end| matches!(&outcome, Outcome::Row(row) if row.instance.runtime_status.name() == *end));
        assert_eq!(
            status.settled,
            over || matches!(outcome, Outcome::Conflict { .. } | Outcome::Replaced { .. } | Outcome::Missing),
            "{outcome:?}"
        );
        assert_eq!(
            describe(&status, &outcome, 3, None, now().saturating_add(std::time::Duration::from_secs(5))),
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
fn a_failure_has_the_hubs_text_and_no_output() {
    let status = of(&row(entity("Failed"), Some("Orchestrator function 'X' failed: no"), true));
    assert_eq!(status.failure.unwrap().message, "Orchestrator function 'X' failed: no");
    assert_eq!(status.output, None);
    let long = of(&row(entity("Failed"), Some(&"é".repeat(10_000)), true));
    assert_eq!(long.failure.unwrap().message.len(), MAX_INLINE_BYTES);
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
    let told = notice(&before, &failed).unwrap();
    assert_eq!((told.is_warning, told.reason), (true, "OrchestrationFailed"));
    assert!(!told.note.contains("no\n"), "no payload in Events");
    assert_eq!(notice(&failed, &failed), None);
    let completed = of(&row(entity("Completed"), Some("1"), true));
    assert_eq!(notice(&before, &completed), None, "an ordinary end is shown by conditions");
}

#[test]
fn an_annotation_is_echoed_whatever_came_of_it() {
    let before = of(&row(entity("Completed"), Some("1"), true));
    let after = describe(&before, &Outcome::Unchanged, 3, Some("2026-11-24T12:00:00Z"), now());
    assert_eq!(after.last_handled_reconcile_at.as_deref(), Some("2026-11-24T12:00:00Z"));
    assert_eq!(OrchestrationStatus { last_handled_reconcile_at: None, ..after }, before);
}
