//! Deterministic replay of an orchestrator's code over its history.
//!
//! The code is an async function that waits only for what its [`Context`]
//! gives it. Each event of the history, then each new one, is applied in order,
//! and the code runs on after each. What it asks for is numbered; what the
//! history already scheduled under that number is checked against it, the rest
//! is what the episode has to do. Nothing here reads a clock or storage.
//!
//! While the instance is suspended, events are held back from the code, and
//! what it asked for in the episode of the suspension is not done before it is
//! resumed (task-hub.md 6.7). Rows that a rewind rewrote are skipped, so that
//! what they scheduled is asked for again under the same number (6.11).

use std::collections::BTreeMap;
use std::task::{Poll, Waker};

use durable_taskhub::event::{Event, EventKind, OrchestrationStatus};

use crate::context::{Action, Code, Context, Failure, Orchestrator};

/// The end of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// How it ended.
    pub status: OrchestrationStatus,
    /// The output, the failure's text, the reason, or the input of the next execution.
    pub result: Option<String>,
}

/// What an episode came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is to be done, by task id.
    pub actions: BTreeMap<i32, Action>,
    /// How the execution ended, if it did.
    pub completion: Option<Completion>,
    /// The task id that the next request, or the completion, takes.
    pub next_id: i32,
    /// The custom status, a text of JSON.
    pub custom_status: Option<String>,
    /// The external events that nobody took; an execution that continues as new keeps them.
    pub unprocessed: Vec<Event>,
}

/// Runs the code over `events`: the history and the episode's own events up to the present.
///
/// `find` gives the orchestrator of a name, or the failure that the instance ends with.
pub fn replay<'a>(
    instance_id: &str,
    events: impl IntoIterator<Item = &'a Event>,
    find: impl Fn(&str) -> Result<Orchestrator, Failure>,
) -> Outcome {
    let mut replay = Replay {
        context: Context::new(instance_id),
        name: String::new(),
        called: BTreeMap::new(),
        code: None,
        completion: None,
        held_back: None,
    };
    for event in events {
        replay.take(event, &find);
    }
    let is_suspended = replay.held_back.is_some();
    let mut state = replay.context.state();
    Outcome {
        actions: if is_suspended { BTreeMap::new() } else { std::mem::take(&mut state.actions) },
        completion: replay.completion.take().filter(|_| !is_suspended),
        next_id: state.next_id,
        custom_status: state.custom_status.clone(),
        unprocessed: std::mem::take(&mut state.external_events).into(),
    }
}

struct Replay<'a> {
    context: Context,
    name: String,
    /// Names of the activities and orchestrators that the history called, by task id.
    called: BTreeMap<i32, String>,
    code: Option<Code>,
    completion: Option<Completion>,
    /// While the instance is suspended: the events that wait for its resumption.
    held_back: Option<Vec<&'a Event>>,
}

impl<'a> Replay<'a> {
    fn take(&mut self, event: &'a Event, find: &impl Fn(&str) -> Result<Orchestrator, Failure>) {
        match (&event.kind, &mut self.held_back) {
            (EventKind::OrchestratorStarted, _) => self.context.state().now = event.timestamp,
            (EventKind::ExecutionSuspended { .. }, None) => self.held_back = Some(Vec::new()),
            (EventKind::ExecutionResumed { .. }, Some(_)) => {
                for event in self.held_back.take().unwrap_or_default() {
                    self.apply(event, find);
                }
            }
            (EventKind::ExecutionTerminated { input }, held_back) => {
                if held_back.take().is_some() {
                    // What was asked for in the suspension was never done; nor did the code end.
                    self.context.state().actions.clear();
                    self.completion = None;
                }
                self.complete(Completion { status: OrchestrationStatus::Terminated, result: input.clone() });
            }
            (_, Some(held_back)) => held_back.push(event),
            (_, None) => self.apply(event, find),
        }
    }

    fn apply(&mut self, event: &Event, find: &impl Fn(&str) -> Result<Orchestrator, Failure>) {
        match &event.kind {
            EventKind::ExecutionStarted(started) => {
                self.context.state().input = started.input.clone();
                self.name = started.name.clone();
                match find(&started.name) {
                    Ok(orchestrator) => self.code = Some(orchestrator(self.context.clone())),
                    Err(failure) => self.fail(&failure),
                }
                self.run();
            }
            EventKind::TaskScheduled { name, .. } => {
                self.called.insert(event.event_id, name.clone());
                self.confirm(event.event_id, |action| matches!(action, Action::ScheduleTask { name: asked, .. } if asked == name));
            }
            EventKind::SubOrchestrationInstanceCreated { name, instance_id: id, .. } => {
                self.called.insert(event.event_id, name.clone());
                let same = |action: &Action| matches!(action, Action::CallOrchestrator { name: asked, instance_id, .. } if (asked, instance_id) == (name, id));
                self.confirm(event.event_id, same);
            }
            EventKind::TimerCreated { .. } => {
                self.confirm(event.event_id, |action| matches!(action, Action::CreateTimer { .. }));
            }
            EventKind::TaskCompleted { task_scheduled_id: id, result }
            | EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: id, result } => self.resolve(*id, Ok(result.clone())),
            EventKind::TaskFailed { task_scheduled_id: id, reason, .. } => {
                self.resolve(*id, Err(self.failure_of_called(*id, reason.as_deref(), "activity", "Activity")));
            }
            EventKind::SubOrchestrationInstanceFailed { task_scheduled_id: id, reason, .. } => {
                self.resolve(*id, Err(self.failure_of_called(*id, reason.as_deref(), "orchestrator", "Orchestrator")));
            }
            EventKind::TimerFired { timer_id, .. } => self.resolve(*timer_id, Ok(None)),
            EventKind::EventRaised { .. } => {
                self.context.raise(event.clone());
                self.run();
            }
            _ => {}
        }
    }

    /// The history scheduled this: the code must have asked for it as well.
    fn confirm(&mut self, id: i32, same: impl Fn(&Action) -> bool) {
        if self.completion.is_some() {
            return;
        }
        let asked = self.context.state().actions.remove(&id);
        if !asked.as_ref().is_some_and(same) {
            self.fail(&Failure(format!(
                "Non-Deterministic workflow detected: the history scheduled something under sequence number {id} that the orchestrator did not ask for"
            )));
        }
    }

    fn resolve(&mut self, id: i32, result: Result<Option<String>, Failure>) {
        self.context.resolve(id, result);
        self.run();
    }

    /// What the orchestrator sees of a failed function: the extension's words around the exception's message (task-hub.md 9.2).
    fn failure_of_called(&self, id: i32, reason: Option<&str>, kind: &str, capitalised: &str) -> Failure {
        let reason = reason.unwrap_or_default();
        let Some(name) = self.called.get(&id) else { return Failure(reason.to_owned()) };
        let message = reason.strip_prefix(&format!("{capitalised} function '{name}' failed: ")).unwrap_or(reason);
        Failure(format!("The {kind} function '{name}' failed: \"{message}\". See the function execution logs for additional details."))
    }

    fn run(&mut self) {
        let Some(code) = self.code.as_mut() else { return };
        // Futures that were combined keep wakers of their own; the root is asked again anyway.
        let Poll::Ready(result) = code.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())) else { return };
        let next = self.context.state().continue_as_new.take();
        match (result, next) {
            (Ok(_), Some(input)) => self.complete(Completion { status: OrchestrationStatus::ContinuedAsNew, result: input }),
            (Ok(result), None) => self.complete(Completion { status: OrchestrationStatus::Completed, result }),
            (Err(failure), _) => self.fail(&failure),
        }
    }

    /// As the in-process extension words it (task-hub.md 9.2).
    fn fail(&mut self, Failure(message): &Failure) {
        let result = Some(format!("Orchestrator function '{}' failed: {message}", self.name));
        self.complete(Completion { status: OrchestrationStatus::Failed, result });
    }

    fn complete(&mut self, completion: Completion) {
        self.code = None;
        self.completion.get_or_insert(completion);
    }
}

#[cfg(test)]
mod tests;
