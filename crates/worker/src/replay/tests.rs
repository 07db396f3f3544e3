use std::time::Duration;

use durable_taskhub::Time;

use super::*;

fn event(kind: EventKind) -> Event {
    Event::new(Time::parse("2026-11-23T07:29:00Z").unwrap(), kind)
}

fn started(input: &str) -> [Event; 2] {
    let started = durable_taskhub::event::ExecutionStarted::new("i", "e", "Test", Some(input.to_owned()));
    [event(EventKind::OrchestratorStarted), event(EventKind::ExecutionStarted(Box::new(started)))]
}

fn scheduled(id: i32, name: &str) -> Event {
    let kind = EventKind::TaskScheduled { name: name.into(), version: None, input: None, parent_trace_context: None, tags: None };
    Event { event_id: id, ..event(kind) }
}

fn completed(id: i32, result: &str) -> Event {
    event(EventKind::TaskCompleted { task_scheduled_id: id, result: Some(result.into()) })
}

fn side_by_side(context: Context) -> Code {
    Box::pin(async move {
        // More than thirty, so that join_all asks only those that were woken.
        let calls = (0..40).map(|n| context.call_activity("A", Some(n.to_string())));
        let results = futures::future::join_all(calls).await;
        context.create_timer(Duration::from_secs(5)).await;
        Ok(Some(results.into_iter().filter_map(|result| result.ok().flatten()).collect::<Vec<_>>().concat()))
    })
}

#[test]
fn results_reach_the_code_in_any_order_and_once() {
    let mut events = Vec::from(started("1"));
    let outcome = replay("i", &events, |_| Ok(side_by_side));
    assert_eq!((outcome.actions.len(), outcome.completion, outcome.next_id), (40, None, 40));
    events.extend((0..40).map(|id| scheduled(id, "A")));
    events.extend((0..40).rev().map(|id| completed(id, if id == 7 { "x" } else { "." })));
    events.push(completed(7, "twice"));
    let outcome = replay("i", &events, |_| Ok(side_by_side));
    let fire_at = Time::parse("2026-11-23T07:29:05Z").unwrap();
    assert_eq!(outcome.actions, BTreeMap::from([(40, Action::CreateTimer { fire_at })]));
    events.push(Event { event_id: 40, ..event(EventKind::TimerCreated { fire_at }) });
    events.push(event(EventKind::TimerFired { timer_id: 40, fire_at }));
    let outcome = replay("i", &events, |_| Ok(side_by_side));
    let result = Some(format!("{}x{}", ".".repeat(7), ".".repeat(32)));
    assert_eq!(outcome.completion, Some(Completion { status: OrchestrationStatus::Completed, result }));
    assert_eq!((outcome.actions.len(), outcome.next_id), (0, 41));
}

#[test]
fn code_that_differs_from_its_history_fails() {
    let mut events = Vec::from(started("1"));
    events.push(scheduled(0, "B"));
    let completion = replay("i", &events, |_| Ok(side_by_side)).completion.unwrap();
    assert_eq!(completion.status, OrchestrationStatus::Failed);
    assert!(completion.result.unwrap().starts_with("Orchestrator function 'Test' failed: Non-Deterministic workflow detected"));
}

#[test]
fn a_terminated_execution_ends_with_the_reason() {
    let mut events = Vec::from(started("1"));
    events.push(event(EventKind::ExecutionTerminated { input: Some("enough".into()) }));
    let completion = replay("i", &events, |_| Ok(side_by_side)).completion;
    assert_eq!(completion, Some(Completion { status: OrchestrationStatus::Terminated, result: Some("enough".into()) }));
}

#[test]
fn a_failed_activity_fails_its_caller_in_the_words_of_the_extension() {
    fn one(context: Context) -> Code {
        Box::pin(async move { context.call_activity("ThrowNested", None).await })
    }
    let mut events = Vec::from(started("1"));
    events.push(scheduled(0, "ThrowNested"));
    events.push(event(EventKind::TaskFailed {
        task_scheduled_id: 0,
        reason: Some("Activity function 'ThrowNested' failed: outer: in the activity".into()),
        details: None,
        failure_details: None,
    }));
    let result = Some(
        "Orchestrator function 'Test' failed: The activity function 'ThrowNested' failed: \"outer: in the activity\". See the function execution logs for additional details."
            .to_owned(),
    );
    assert_eq!(replay("i", &events, |_| Ok(one)).completion, Some(Completion { status: OrchestrationStatus::Failed, result }));
}

#[test]
fn an_unknown_function_fails_with_the_given_text() {
    let completion = replay("i", &started("1"), |_| Err(Failure("no such".into()))).completion;
    let result = Some("Orchestrator function 'Test' failed: no such".to_owned());
    assert_eq!(completion, Some(Completion { status: OrchestrationStatus::Failed, result }));
}

fn raised(name: &str, input: &str) -> Event {
    event(EventKind::EventRaised { name: Some(name.into()), input: Some(input.into()), parent_trace_context: None })
}

#[test]
fn external_events_are_kept_until_they_are_wanted_and_match_in_any_letter_case() {
    fn two(context: Context) -> Code {
        Box::pin(async move {
            let first = context.wait_for_external_event("First").await.unwrap_or_default();
            let second = context.wait_for_external_event("second").await.unwrap_or_default();
            Ok(Some(format!("[{first},{second}]")))
        })
    }
    let mut events = Vec::from(started("1"));
    events.extend([raised("SECOND", "2"), raised("other", "0"), raised("first", "1"), raised("first", "3")]);
    let outcome = replay("i", &events, |_| Ok(two));
    assert_eq!(outcome.completion, Some(Completion { status: OrchestrationStatus::Completed, result: Some("[1,2]".into()) }));
    assert_eq!((outcome.unprocessed.len(), outcome.next_id), (2, 0));
}

#[test]
fn a_suspended_instance_does_nothing_before_it_is_resumed() {
    fn one(context: Context) -> Code {
        Box::pin(async move {
            context.call_activity("A", None).await?;
            Ok(context.wait_for_external_event("go").await)
        })
    }
    let suspended = event(EventKind::ExecutionSuspended { reason: None });
    let resumed = event(EventKind::ExecutionResumed { reason: None });
    let mut events = Vec::from(started("1"));
    events.push(suspended.clone());
    assert_eq!(replay("i", &events, |_| Ok(one)).actions.len(), 0);
    // Suspended twice, resumed once (engine-experiments.md 5.14).
    events.extend([suspended, resumed]);
    assert_eq!(replay("i", &events, |_| Ok(one)).actions.len(), 1);
    let mut held = events.clone();
    held.extend([scheduled(0, "A"), event(EventKind::ExecutionSuspended { reason: None }), completed(0, "1"), raised("go", "2")]);
    assert_eq!(replay("i", &held, |_| Ok(one)).completion, None);
    let mut on = held.clone();
    on.push(event(EventKind::ExecutionResumed { reason: None }));
    let done = Some(Completion { status: OrchestrationStatus::Completed, result: Some("2".into()) });
    assert_eq!(replay("i", &on, |_| Ok(one)).completion, done);
    held.push(event(EventKind::ExecutionTerminated { input: None }));
    let ended = Some(Completion { status: OrchestrationStatus::Terminated, result: None });
    assert_eq!(replay("i", &held, |_| Ok(one)).completion, ended);
}

#[test]
fn an_execution_that_continues_as_new_gives_back_what_nobody_took() {
    let mut events = Vec::from(started("1"));
    events.extend([raised("other", "0"), raised("add", "2"), raised("add", "3")]);
    let outcome = replay("i", &events, |_| crate::samples::orchestrator("Counter"));
    assert_eq!(outcome.completion, Some(Completion { status: OrchestrationStatus::ContinuedAsNew, result: Some("3".into()) }));
    assert_eq!(outcome.unprocessed, [raised("other", "0"), raised("add", "3")]);
}

#[test]
fn what_a_rewind_rewrote_is_asked_for_again_under_its_number() {
    fn one(context: Context) -> Code {
        Box::pin(async move { context.call_activity("A", None).await })
    }
    let mut events = Vec::from(started("1"));
    events.extend([0, -1, 1].map(|event_id| Event { event_id, ..event(EventKind::GenericEvent { data: None }) }));
    let outcome = replay("i", &events, |_| Ok(one));
    assert_eq!(outcome.actions, BTreeMap::from([(0, Action::ScheduleTask { name: "A".into(), input: None })]));
    events.extend([scheduled(0, "A"), completed(0, "1")]);
    let outcome = replay("i", &events, |_| Ok(one));
    assert_eq!((outcome.completion.unwrap().result.as_deref(), outcome.next_id), (Some("1"), 1));
}

#[test]
fn a_failed_child_fails_its_parent_in_the_words_of_the_extension() {
    fn one(context: Context) -> Code {
        Box::pin(async move { context.call_orchestrator("Flaky", "c", None).await })
    }
    let kind = EventKind::SubOrchestrationInstanceCreated {
        name: "Flaky".into(),
        version: None,
        instance_id: "c".into(),
        input: None,
        tags: None,
        client_span_id: None,
    };
    let failed = |reason: &str| {
        event(EventKind::SubOrchestrationInstanceFailed {
            task_scheduled_id: 0,
            reason: Some(reason.into()),
            details: None,
            failure_details: None,
        })
    };
    let mut events = Vec::from(started("1"));
    events.extend([Event { event_id: 0, ..event(kind) }, failed("Orchestrator function 'Flaky' failed: x")]);
    let result = replay("i", &events, |_| Ok(one)).completion.unwrap().result.unwrap();
    assert_eq!(
        result,
        "Orchestrator function 'Test' failed: The orchestrator function 'Flaky' failed: \"x\". See the function execution logs for additional details."
    );
}
