//! What an episode leads to: new events, messages, and the state of the Instances row. Pure but for the clock.
//!
//! An execution that continues as new ends without a trace in the history: the
//! same checkpoint holds the next execution, which begins at ordinal 0 with the
//! external events that nobody took, and runs at once.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, ExecutionStarted, OrchestrationInstance, OrchestrationStatus, ParentInstance};
use durable_taskhub::message::Message;

use crate::context::Action;
use crate::replay::{Completion, Outcome};

/// How often one episode continues as new before it fails: code that never waits would do so for ever.
const MAX_CONTINUATIONS: usize = 1000;

/// The execution that an episode belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The instance's ID, raw.
    pub instance_id: String,
    /// The execution.
    pub execution_id: String,
}

/// All that an episode leads to.
#[derive(Debug)]
pub struct Plan {
    /// The execution that the events belong to: another one than before if it continued as new.
    pub execution: Execution,
    /// The ordinal of the first of the events: how many the history has before, 0 after a continue-as-new.
    pub known: usize,
    /// The new events: started, incoming, decisions, completed.
    pub events: Vec<Event>,
    /// Messages to other instances and to itself, in the engine's order, each with the execution that sends it.
    pub to_instances: Vec<(Execution, Message)>,
    /// Messages for activities.
    pub work_items: Vec<(Execution, Message)>,
    /// The custom status, a text of JSON.
    pub custom_status: Option<String>,
    /// Whether the old execution was replaced, and its blobs are to be deleted.
    pub replaced: bool,
}

/// Plans what follows from the history `past` and the new `events` (`OrchestratorStarted` and what came in).
///
/// `replay` runs the orchestrator's code over both.
pub fn plan(execution: Execution, past: &[Event], events: Vec<Event>, replay: impl Fn(&[Event], &[Event]) -> Outcome) -> Plan {
    let mut plan = Plan {
        execution,
        known: past.len(),
        events,
        to_instances: Vec::new(),
        work_items: Vec::new(),
        custom_status: None,
        replaced: false,
    };
    let mut past = past;
    let mut continuations = 0;
    loop {
        let outcome = replay(past, &plan.events);
        let started = past.iter().chain(&plan.events).find_map(started_of).cloned();
        let episode = past.iter().chain(&plan.events).filter(|event| matches!(event.kind, EventKind::OrchestratorStarted)).count();
        plan.custom_status = outcome.custom_status;
        let mut children = Vec::new();
        let mut timers = Vec::new();
        for (id, action) in outcome.actions {
            let (event, outgoing) = plan.decide(id, action, started.as_ref());
            let outgoing = (plan.execution.clone(), Message { episode: i32::try_from(episode).ok(), ..outgoing });
            match event.kind {
                EventKind::TaskScheduled { .. } => plan.work_items.push(outgoing),
                EventKind::TimerCreated { .. } => timers.push(outgoing),
                _ => children.push(outgoing),
            }
            plan.events.push(event);
        }
        plan.to_instances.extend(children);
        plan.to_instances.extend(timers);
        match (outcome.completion, started) {
            (Some(Completion { status: OrchestrationStatus::ContinuedAsNew, result: input }), Some(started))
                if continuations < MAX_CONTINUATIONS =>
            {
                continuations += 1;
                plan.continue_as_new(started, input, outcome.unprocessed);
                past = &[];
            }
            (Some(completion), started) => {
                plan.complete(completion, outcome.next_id, started.and_then(|started| started.parent), episode);
                break;
            }
            (None, _) => break,
        }
    }
    // Only the first episode after a continue-as-new has it true (task-hub.md, Appendix D).
    plan.events.push(Event { is_played: plan.replaced, ..Event::new(Time::now(), EventKind::OrchestratorCompleted) });
    plan
}

impl Plan {
    /// The event of a decision, and the message that carries it out.
    fn decide(&self, id: i32, action: Action, started: Option<&ExecutionStarted>) -> (Event, Message) {
        let Execution { instance_id, execution_id } = &self.execution;
        let to_self = |event| Message::new(instance_id, Some(execution_id), event, 0);
        match action {
            Action::ScheduleTask { name, input } => {
                // The recordings have an empty version and no trace (task-hub.md, Appendix D).
                let kind = EventKind::TaskScheduled { name, version: Some(String::new()), input, parent_trace_context: None, tags: None };
                let event = Event::with_id(id, Time::now(), kind);
                (event.clone(), to_self(event))
            }
            Action::CreateTimer { fire_at } => {
                let event = Event::with_id(id, Time::now(), EventKind::TimerCreated { fire_at });
                (event, to_self(Event::new(Time::now(), EventKind::TimerFired { timer_id: id, fire_at })))
            }
            Action::CallOrchestrator { name, instance_id: child, input } => {
                let kind = EventKind::SubOrchestrationInstanceCreated {
                    name: name.clone(),
                    version: None,
                    instance_id: child.clone(),
                    input: input.clone(),
                    tags: None,
                    client_span_id: None,
                };
                let parent = ParentInstance {
                    name: started.map(|started| started.name.clone()),
                    instance: OrchestrationInstance { instance_id: instance_id.clone(), execution_id: Some(execution_id.clone()) },
                    task_schedule_id: id,
                    version: started.and_then(|started| started.version.clone()),
                };
                let event = Event::with_id(id, Time::now(), kind);
                let start = ExecutionStarted {
                    parent: Some(parent),
                    generation: None,
                    ..ExecutionStarted::new(&child, &execution_of_child(execution_id, id), &name, input)
                };
                (event, Message::start(start, Time::now(), 0))
            }
        }
    }

    fn continue_as_new(&mut self, started: ExecutionStarted, input: Option<String>, unprocessed: Vec<Event>) {
        self.execution.execution_id = uuid::Uuid::new_v4().simple().to_string();
        self.known = 0;
        self.replaced = true;
        let Execution { instance_id, execution_id } = self.execution.clone();
        let next = ExecutionStarted {
            instance: OrchestrationInstance { instance_id, execution_id: Some(execution_id) },
            input,
            generation: None,
            scheduled_start_time: None,
            parent_trace_context: None,
            ..started
        };
        let created = Event { is_played: true, ..Event::new(Time::now(), EventKind::ExecutionStarted(Box::new(next))) };
        self.events = vec![Event::new(Time::now(), EventKind::OrchestratorStarted), created];
        self.events.extend(unprocessed);
    }

    fn complete(&mut self, completion: Completion, id: i32, parent: Option<ParentInstance>, episode: usize) {
        let Completion { mut status, mut result } = completion;
        if status == OrchestrationStatus::ContinuedAsNew {
            status = OrchestrationStatus::Failed;
            result = Some(format!("continued as new {MAX_CONTINUATIONS} times without waiting for anything"));
        }
        let kind = EventKind::ExecutionCompleted { status, result: result.clone(), failure_details: None };
        self.events.push(Event::with_id(id, Time::now(), kind));
        let Some(parent) = parent else { return };
        let task_scheduled_id = parent.task_schedule_id;
        let kind = if status == OrchestrationStatus::Completed {
            EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id, result }
        } else {
            EventKind::SubOrchestrationInstanceFailed { task_scheduled_id, reason: result, details: None, failure_details: None }
        };
        let OrchestrationInstance { instance_id, execution_id } = parent.instance;
        let answer = Message::new(&instance_id, execution_id.as_deref(), Event::new(Time::now(), kind), 0);
        self.to_instances.push((self.execution.clone(), Message { episode: i32::try_from(episode).ok(), ..answer }));
    }
}

fn started_of(event: &Event) -> Option<&ExecutionStarted> {
    if let EventKind::ExecutionStarted(started) = &event.kind { Some(started) } else { None }
}

/// The execution ID of a child: the same one when the episode is repeated after a crash, so that the second start is a
/// duplicate of the first. 128 bits of FNV-1a over the parent's execution and the task id.
fn execution_of_child(parent_execution: &str, task_id: i32) -> String {
    const BASIS: u128 = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let bytes = parent_execution.bytes().chain(task_id.to_be_bytes());
    format!("{:032x}", bytes.fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn execution() -> Execution {
        Execution { instance_id: "i".into(), execution_id: "e".into() }
    }

    fn beginning(parent: Option<ParentInstance>) -> Vec<Event> {
        let started = ExecutionStarted { parent, ..ExecutionStarted::new("i", "e", "Test", Some("1".into())) };
        vec![
            Event::new(Time::now(), EventKind::OrchestratorStarted),
            Event::new(Time::now(), EventKind::ExecutionStarted(Box::new(started))),
        ]
    }

    fn ended(status: OrchestrationStatus, result: &str) -> Outcome {
        Outcome { completion: Some(Completion { status, result: Some(result.into()) }), ..Outcome::default() }
    }

    fn types(plan: &Plan) -> Vec<&str> {
        plan.events.iter().map(|event| event.kind.event_type()).collect()
    }

    #[test]
    fn an_execution_that_continues_leaves_only_the_next_one_with_what_nobody_took() {
        let raised = Event {
            is_played: true,
            ..Event::new(Time::now(), EventKind::EventRaised { name: Some("x".into()), input: None, parent_trace_context: None })
        };
        let plan = plan(execution(), &beginning(None), beginning(None)[..1].to_vec(), |past, _| {
            if past.is_empty() {
                Outcome::default()
            } else {
                Outcome { unprocessed: vec![raised.clone()], ..ended(OrchestrationStatus::ContinuedAsNew, "2") }
            }
        });
        assert_eq!(types(&plan), ["OrchestratorStarted", "ExecutionStarted", "EventRaised", "OrchestratorCompleted"]);
        assert_eq!((plan.known, plan.replaced, plan.events[3].is_played), (0, true, true));
        let EventKind::ExecutionStarted(started) = &plan.events[1].kind else { panic!() };
        assert_eq!((started.input.as_deref(), started.generation), (Some("2"), None));
        assert_eq!(started.instance.execution_id.as_deref(), Some(plan.execution.execution_id.as_str()));
        assert_ne!(plan.execution.execution_id, "e");
    }

    #[test]
    fn code_that_continues_for_ever_fails() {
        let plan = plan(execution(), &[], beginning(None), |_, _| ended(OrchestrationStatus::ContinuedAsNew, "1"));
        let EventKind::ExecutionCompleted { status: OrchestrationStatus::Failed, .. } = plan.events[2].kind else {
            panic!("{:?}", plan.events)
        };
    }

    #[test]
    fn a_child_answers_its_parent_and_starts_once_however_often_the_parent_repeats() {
        let instance = OrchestrationInstance { instance_id: "p".into(), execution_id: Some("pe".into()) };
        let parent = ParentInstance { name: Some("P".into()), instance, task_schedule_id: 4, version: None };
        for (status, expected) in [
            (OrchestrationStatus::Completed, "SubOrchestrationInstanceCompleted"),
            (OrchestrationStatus::Failed, "SubOrchestrationInstanceFailed"),
            (OrchestrationStatus::Terminated, "SubOrchestrationInstanceFailed"),
        ] {
            let plan = plan(execution(), &[], beginning(Some(parent.clone())), |_, _| ended(status, "r"));
            let (sender, answer) = &plan.to_instances[0];
            assert_eq!((answer.event.kind.event_type(), sender), (expected, &execution()));
            assert_eq!((answer.instance_id.as_str(), answer.execution_id.as_deref(), answer.episode), ("p", Some("pe"), Some(1)));
        }
        let call = || Outcome {
            actions: BTreeMap::from([(2, Action::CallOrchestrator { name: "C".into(), instance_id: "c".into(), input: None })]),
            ..Outcome::default()
        };
        let child = || plan(execution(), &[], beginning(None), |_, _| call()).to_instances[0].1.execution_id.clone().unwrap();
        assert_eq!((child(), child().len()), (child(), 32));
        assert_ne!(child(), execution_of_child("e", 3));
    }
}
