//! Random events of every kind.

use durable_taskhub::Time;
use durable_taskhub::event::{
    Event, EventKind, ExecutionStarted, FailureDetails, OrchestrationInstance, OrchestrationStatus, ParentInstance, Tags, TraceContext,
};

use crate::random::Random;

/// How many kinds of events a message can carry.
pub const KINDS: usize = 19;

fn text(random: &mut Random) -> String {
    random.text(12)
}

pub fn time(random: &mut Random) -> Time {
    let second = |end: usize, random: &mut Random| random.below(end);
    let (year, month, day) = (1 + second(9999, random), 1 + second(12, random), 1 + second(28, random));
    let fraction = second(10_000_000, random);
    Time::parse(&format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:59.{fraction:07}Z", second(24, random), second(60, random))).unwrap()
}

fn number(random: &mut Random) -> i32 {
    *random.one_of(&[0, 1, -1, i32::MIN, i32::MAX, 4711])
}

/// Each name once, and none that begins with `$`: a JSON object can hold no others.
fn tags(random: &mut Random) -> Tags {
    (0..random.below(4)).map(|index| (format!("{index}{}", text(random)), text(random))).collect()
}

fn trace(random: &mut Random) -> TraceContext {
    TraceContext {
        trace_parent: random.maybe(text),
        trace_state: random.maybe(text),
        id: random.maybe(text),
        span_id: random.maybe(text),
        activity_start_time: random.maybe(text),
    }
}

fn failure(random: &mut Random) -> FailureDetails {
    FailureDetails {
        error_type: random.maybe(text),
        error_message: random.maybe(text),
        stack_trace: random.maybe(text),
        inner_failure: if random.below(3) == 0 { Some(Box::new(failure(random))) } else { None },
        is_non_retriable: random.yes(),
        properties: None,
    }
}

fn instance(random: &mut Random) -> OrchestrationInstance {
    OrchestrationInstance { instance_id: text(random), execution_id: random.maybe(text) }
}

fn started(random: &mut Random) -> ExecutionStarted {
    ExecutionStarted {
        instance: instance(random),
        parent: random.maybe(|random| ParentInstance {
            name: random.maybe(text),
            instance: instance(random),
            task_schedule_id: number(random),
            version: random.maybe(text),
        }),
        name: text(random),
        version: random.maybe(text),
        input: random.maybe(text),
        tags: random.maybe(tags),
        correlation: random.maybe(text),
        parent_trace_context: random.maybe(trace),
        scheduled_start_time: random.maybe(time),
        generation: random.maybe(number),
        generate_new_trace: random.yes(),
    }
}

/// The kind of that number, 0 to [`KINDS`], with random fields.
pub fn kind(number_of_kind: usize, random: &mut Random) -> EventKind {
    let status = *random.one_of(&OrchestrationStatus::ALL);
    let task_scheduled_id = number(random);
    match number_of_kind {
        0 => EventKind::ExecutionStarted(Box::new(started(random))),
        1 => EventKind::ExecutionCompleted { status, result: random.maybe(text), failure_details: random.maybe(failure) },
        2 => EventKind::ExecutionTerminated { input: random.maybe(text) },
        3 => EventKind::TaskScheduled {
            name: text(random),
            version: random.maybe(text),
            input: random.maybe(text),
            parent_trace_context: random.maybe(trace),
            tags: random.maybe(tags),
        },
        4 => EventKind::TaskCompleted { task_scheduled_id, result: random.maybe(text) },
        5 => EventKind::TaskFailed {
            task_scheduled_id,
            reason: random.maybe(text),
            details: random.maybe(text),
            failure_details: random.maybe(failure),
        },
        6 => EventKind::SubOrchestrationInstanceCreated {
            name: text(random),
            version: random.maybe(text),
            instance_id: text(random),
            input: random.maybe(text),
            tags: random.maybe(tags),
            client_span_id: random.maybe(text),
        },
        7 => EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id, result: random.maybe(text) },
        8 => EventKind::SubOrchestrationInstanceFailed {
            task_scheduled_id,
            reason: random.maybe(text),
            details: random.maybe(text),
            failure_details: random.maybe(failure),
        },
        9 => EventKind::TimerCreated { fire_at: time(random) },
        10 => EventKind::TimerFired { timer_id: number(random), fire_at: time(random) },
        11 => EventKind::OrchestratorStarted,
        12 => EventKind::OrchestratorCompleted,
        13 => EventKind::EventSent { instance_id: text(random), name: random.maybe(text), input: random.maybe(text) },
        14 => EventKind::EventRaised { name: random.maybe(text), input: random.maybe(text), parent_trace_context: random.maybe(trace) },
        15 => EventKind::ContinueAsNew { status, result: random.maybe(text), failure_details: random.maybe(failure) },
        16 => EventKind::GenericEvent { data: random.maybe(text) },
        17 => EventKind::ExecutionSuspended { reason: random.maybe(text) },
        _ => EventKind::ExecutionResumed { reason: random.maybe(text) },
    }
}

pub fn event(number_of_kind: usize, random: &mut Random) -> Event {
    Event { event_id: number(random), is_played: random.yes(), timestamp: time(random), kind: kind(number_of_kind, random) }
}
