//! Deterministic replay of an orchestrator's code over its history.
//!
//! The code is an async function that waits only for what its [`Context`]
//! gives it. Each event of the history, then each new one, is applied in order,
//! and the code runs on after each. What it asks for is numbered; what the
//! history already scheduled under that number is checked against it, the rest
//! is what the episode has to do. Nothing here reads a clock or storage.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, OrchestrationStatus};

/// An orchestrator: its output is a text of JSON, or none.
pub type Orchestrator = fn(Context) -> Pin<Box<dyn Future<Output = Result<Option<String>, Failure>> + Send>>;

/// The message of an exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

/// Something that the orchestrator asked for and that the history does not have yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Run an activity.
    ScheduleTask {
        /// The activity's name.
        name: String,
        /// A text of JSON.
        input: Option<String>,
    },
    /// Make a durable timer.
    CreateTimer {
        /// When it is due.
        fire_at: Time,
    },
}

/// The end of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// How it ended.
    pub status: OrchestrationStatus,
    /// The output, the failure's text, or the reason.
    pub result: Option<String>,
}

/// What an episode came to.
#[derive(Debug)]
pub struct Outcome {
    /// What is to be done, by task id.
    pub actions: BTreeMap<i32, Action>,
    /// How the execution ended, if it did.
    pub completion: Option<Completion>,
    /// The task id that the next request, or the completion, takes.
    pub next_id: i32,
    /// The custom status, a text of JSON.
    pub custom_status: Option<String>,
}

/// What an orchestrator may use: everything else would not be the same in a replay.
#[derive(Clone)]
pub struct Context(Arc<Mutex<State>>);

struct State {
    instance_id: String,
    input: Option<String>,
    now: Time,
    next_id: i32,
    actions: BTreeMap<i32, Action>,
    results: BTreeMap<i32, Result<Option<String>, Failure>>,
    wakers: BTreeMap<i32, Waker>,
    custom_status: Option<String>,
}

impl Context {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance's ID.
    pub fn instance_id(&self) -> String {
        self.state().instance_id.clone()
    }

    /// The input, a text of JSON; none for no input.
    pub fn input(&self) -> Option<String> {
        self.state().input.clone()
    }

    /// The time at which the present episode began: the same in each replay.
    pub fn now(&self) -> Time {
        self.state().now
    }

    /// Sets the custom status, a text of JSON.
    pub fn set_custom_status(&self, status: Option<String>) {
        self.state().custom_status = status;
    }

    /// Calls an activity with a text of JSON; its result is one too.
    pub fn call_activity(&self, name: &str, input: Option<String>) -> impl Future<Output = Result<Option<String>, Failure>> + Send + use<> {
        self.request(Action::ScheduleTask { name: name.to_owned(), input })
    }

    /// Waits for `delay`, counted from [`Context::now`].
    pub fn create_timer(&self, delay: Duration) -> impl Future<Output = ()> + Send + use<> {
        let fire_at = self.now().saturating_add(delay);
        let fired = self.request(Action::CreateTimer { fire_at });
        async move {
            // A timer has no result and cannot fail.
            let _ = fired.await;
        }
    }

    fn request(&self, action: Action) -> impl Future<Output = Result<Option<String>, Failure>> + Send + use<> {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.actions.insert(id, action);
        drop(state);
        let context = self.clone();
        std::future::poll_fn(move |task| {
            let mut state = context.state();
            match state.results.get(&id) {
                Some(result) => Poll::Ready(result.clone()),
                None => {
                    state.wakers.insert(id, task.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}

type Code = Pin<Box<dyn Future<Output = Result<Option<String>, Failure>> + Send>>;

/// Runs the code over `events`: the history and the episode's own events up to the present.
///
/// `find` gives the orchestrator of a name, or the failure that the instance ends with.
pub fn replay<'a>(
    instance_id: &str,
    events: impl IntoIterator<Item = &'a Event>,
    find: impl Fn(&str) -> Result<Orchestrator, Failure>,
) -> Outcome {
    let mut replay = Replay {
        context: Context(Arc::new(Mutex::new(State {
            instance_id: instance_id.to_owned(),
            input: None,
            now: Time::from(std::time::SystemTime::UNIX_EPOCH),
            next_id: 0,
            actions: BTreeMap::new(),
            results: BTreeMap::new(),
            wakers: BTreeMap::new(),
            custom_status: None,
        }))),
        name: String::new(),
        activities: BTreeMap::new(),
        code: None,
        completion: None,
    };
    for event in events {
        replay.apply(event, &find);
    }
    let mut state = replay.context.state();
    Outcome {
        actions: std::mem::take(&mut state.actions),
        completion: replay.completion.clone(),
        next_id: state.next_id,
        custom_status: state.custom_status.clone(),
    }
}

struct Replay {
    context: Context,
    name: String,
    /// Names of the activities that the history scheduled, by task id.
    activities: BTreeMap<i32, String>,
    code: Option<Code>,
    completion: Option<Completion>,
}

impl Replay {
    fn apply(&mut self, event: &Event, find: &impl Fn(&str) -> Result<Orchestrator, Failure>) {
        match &event.kind {
            EventKind::OrchestratorStarted => self.context.state().now = event.timestamp,
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
                self.activities.insert(event.event_id, name.clone());
                self.confirm(event.event_id, |action| matches!(action, Action::ScheduleTask { name: asked, .. } if asked == name));
            }
            EventKind::TimerCreated { .. } => {
                self.confirm(event.event_id, |action| matches!(action, Action::CreateTimer { .. }));
            }
            EventKind::TaskCompleted { task_scheduled_id, result } => self.resolve(*task_scheduled_id, Ok(result.clone())),
            EventKind::TaskFailed { task_scheduled_id, reason, .. } => {
                self.resolve(*task_scheduled_id, Err(self.activity_failure(*task_scheduled_id, reason.as_deref().unwrap_or_default())));
            }
            EventKind::TimerFired { timer_id, .. } => self.resolve(*timer_id, Ok(None)),
            EventKind::ExecutionTerminated { input } => {
                self.complete(Completion { status: OrchestrationStatus::Terminated, result: input.clone() });
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

    /// The first result counts; a message that was delivered twice changes nothing.
    fn resolve(&mut self, id: i32, result: Result<Option<String>, Failure>) {
        let mut state = self.context.state();
        state.results.entry(id).or_insert(result);
        let waker = state.wakers.remove(&id);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.run();
    }

    /// What the orchestrator sees of a failed activity: the extension's words around the exception's message (task-hub.md 9.2).
    fn activity_failure(&self, id: i32, reason: &str) -> Failure {
        let Some(name) = self.activities.get(&id) else { return Failure(reason.to_owned()) };
        let message = reason.strip_prefix(&format!("Activity function '{name}' failed: ")).unwrap_or(reason);
        Failure(format!("The activity function '{name}' failed: \"{message}\". See the function execution logs for additional details."))
    }

    fn run(&mut self) {
        let Some(code) = self.code.as_mut() else { return };
        // Futures that were combined keep wakers of their own; the root is asked again anyway.
        if let Poll::Ready(result) = code.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())) {
            match result {
                Ok(result) => self.complete(Completion { status: OrchestrationStatus::Completed, result }),
                Err(failure) => self.fail(&failure),
            }
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
mod tests {
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
}
