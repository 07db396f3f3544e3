//! Histories as they fail, and what is made of them.

use super::*;

fn row(event_type: &str) -> Entity {
    Entity::new("i", "").with("EventType", event_type)
}
fn scheduled(id: i32) -> Entity {
    row("TaskScheduled").with("EventId", id)
}
fn completed(id: i32) -> Entity {
    row("TaskCompleted").with("TaskScheduledId", id)
}
fn failed(id: i32) -> Entity {
    row("TaskFailed").with("TaskScheduledId", id)
}
fn created(id: i32) -> Entity {
    row("SubOrchestrationInstanceCreated").with("EventId", id).with("InstanceId", format!("child-{id}"))
}
fn child_failed(id: i32) -> Entity {
    row("SubOrchestrationInstanceFailed").with("TaskScheduledId", id)
}
fn end(status: &str) -> Entity {
    row("ExecutionCompleted").with("OrchestrationStatus", status).with("EventId", 9)
}
fn started() -> Entity {
    row("OrchestratorStarted")
}

/// Numbers the rows.
fn history(rows: impl IntoIterator<Item = Entity>) -> Vec<Entity> {
    let number = |(index, mut row): (usize, Entity)| {
        row.row_key = format!("{index:016X}");
        row
    };
    rows.into_iter().enumerate().map(number).collect()
}

/// The rows with the first `number` marks of the plan written.
fn marked(rows: &[Entity], number: usize) -> Vec<Entity> {
    let Ok(Standing::Failed { marks, .. }) = standing(rows) else { panic!("not failed") };
    let mut rows = rows.to_vec();
    for mark in marks.iter().take(number) {
        let Operation::Merge(merged, _) = mark.operation("i") else { panic!() };
        let row = rows.iter_mut().find(|row| row.row_key == merged.row_key).unwrap();
        row.columns.extend(merged.columns);
    }
    rows
}

fn marks(rows: &[Entity]) -> Vec<String> {
    match standing(rows).unwrap() {
        Standing::Failed { marks, .. } => marks.into_iter().map(|mark| format!("{} {}", &mark.row.row_key[15..], mark.was)).collect(),
        other => panic!("{other:?}"),
    }
}

fn refusal(rows: impl IntoIterator<Item = Entity>) -> RewindRefusal {
    standing(&history(rows)).unwrap_err()
}

#[test]
fn marks_are_in_the_order_of_the_official_client_with_the_end_last() {
    let rows = history([started(), scheduled(0), completed(0), scheduled(1), failed(1), end("Failed")]);
    assert_eq!(marks(&rows), ["3 TaskScheduled", "4 TaskFailed", "5 ExecutionCompleted"]);
    let rows = history([scheduled(0), created(1), child_failed(1), failed(0), end("Failed")]);
    let expected = [
        "1 SubOrchestrationInstanceCreated",
        "2 SubOrchestrationInstanceFailed",
        "0 TaskScheduled",
        "3 TaskFailed",
        "4 ExecutionCompleted",
    ];
    assert_eq!(marks(&rows), expected);
    // An orchestrator that throws by itself.
    assert_eq!(marks(&history([started(), end("Failed")])), ["1 ExecutionCompleted"]);
}

#[test]
fn what_was_marked_before_a_crash_is_not_marked_again() {
    let rows = history([scheduled(0), created(1), child_failed(1), failed(0), end("Failed")]);
    let all = marks(&rows);
    for number in 0..all.len() {
        assert_eq!(marks(&marked(&rows, number)), all[number..], "after {number}");
        let Standing::Failed { children, .. } = standing(&marked(&rows, number)).unwrap() else { panic!() };
        assert_eq!(children, [Child { instance_id: "child-1".to_owned(), task_id: 1 }]);
    }
    let Standing::Rewound { is_leaf, is_awake, unanswered } = standing(&marked(&rows, all.len())).unwrap() else { panic!() };
    assert_eq!((is_leaf, is_awake, unanswered.len()), (false, false, 1));
}

#[test]
fn a_rewound_history_knows_what_it_waits_for() {
    let failed_once = history([scheduled(0), failed(0), end("Failed"), row("OrchestratorCompleted")]);
    let rows = marked(&failed_once, 3);
    let of = |rows: &[Entity]| match standing(rows).unwrap() {
        Standing::Rewound { is_leaf, is_awake, unanswered } => (is_leaf, is_awake, unanswered.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&rows), (true, false, 0));
    let woken = [rows.clone(), vec![started(), row("GenericEvent").with("Data", "reason")]].concat();
    assert_eq!(of(&woken), (true, true, 0));

    let parent = history([created(0), created(1), child_failed(0), child_failed(1), end("Failed")]);
    let rows = marked(&parent, 5);
    assert_eq!(of(&rows), (false, false, 2));
    let answer = row("SubOrchestrationInstanceCompleted").with("TaskScheduledId", 1);
    assert_eq!(of(&[rows, vec![started(), answer]].concat()), (false, true, 1));
}

#[test]
fn it_can_fail_again_and_be_rewound_again() {
    let first = marked(&history([scheduled(0), failed(0), end("Failed")]), 3);
    let second = history([first, vec![started(), row("GenericEvent"), scheduled(0), failed(0), end("Failed")]].concat());
    // The newest row of the task alone.
    assert_eq!(marks(&second), ["5 TaskScheduled", "6 TaskFailed", "7 ExecutionCompleted"]);
    // As .NET marks the first end once more.
    let mut by_dotnet = second;
    by_dotnet[2].set("Reason", "Rewound: GenericEvent");
    assert_eq!(marks(&by_dotnet).len(), 3);
}

#[test]
fn what_cannot_work_is_refused() {
    use RewindRefusal::{Damaged, FailureCaught, Outstanding, Timers};
    // A retry, and a failure that was caught (engine-experiments.md 7.10, 7.11).
    assert_eq!(refusal([scheduled(0), failed(0), row("TimerCreated").with("EventId", 1), end("Failed")]), Timers);
    assert_eq!(refusal([scheduled(0), failed(0), scheduled(1), failed(1), end("Failed")]), FailureCaught);
    assert_eq!(refusal([created(0), child_failed(0), row("EventSent"), end("Failed")]), FailureCaught);
    // The same, ruined by .NET before: for good.
    let caught = [scheduled(0), failed(0), scheduled(1), failed(1), end("Failed")];
    let generic = |row: &Entity| {
        let mark = format!("Rewound: {}", event_type(row));
        row.clone().with("Reason", mark).with("EventType", "GenericEvent")
    };
    let ruined: Vec<Entity> = caught.iter().map(generic).chain([started(), scheduled(0), end("Failed")]).collect();
    assert_eq!(refusal(ruined), FailureCaught);
    // Work that was under way.
    assert_eq!(refusal([scheduled(0), scheduled(1), failed(1), end("Failed")]), Outstanding);
    // The same task again, after a rewind, and no result of it.
    let again = marked(&history([scheduled(0), failed(0), end("Failed")]), 3).into_iter().chain([started(), scheduled(0), end("Failed")]);
    assert_eq!(refusal(again), Outstanding);
    assert!(matches!(refusal([failed(3), end("Failed")]), Damaged(_)));
}

#[test]
fn what_did_not_fail_is_told_apart() {
    assert!(matches!(standing(&history([started()])), Ok(Standing::Running)));
    for (status, expected) in [("Completed", RuntimeStatus::Completed), ("Terminated", RuntimeStatus::Terminated)] {
        let rows = history([scheduled(0), failed(0), end(status)]);
        assert!(matches!(standing(&rows), Ok(Standing::Ended { status, .. }) if status == expected));
    }
}
