//! What an orchestrator's code may use: everything else would not be the same in a replay.
//!
//! A [`Context`] records what the code asks for and hands it what came in. It
//! knows no history: [`crate::replay`] feeds it.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind};

/// An orchestrator: its output is a text of JSON, or none.
pub type Orchestrator = fn(Context) -> Code;

/// The run of an orchestrator.
pub type Code = Pin<Box<dyn Future<Output = Result<Option<String>, Failure>> + Send>>;

/// The most UTF-16 bytes of a custom status (task-hub.md 9.1).
const MAX_CUSTOM_STATUS_BYTES: usize = 16 * 1024;

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
    /// Run another orchestration and wait for it.
    CallOrchestrator {
        /// The orchestrator's name.
        name: String,
        /// The child's instance ID.
        instance_id: String,
        /// A text of JSON.
        input: Option<String>,
    },
    /// Make a durable timer.
    CreateTimer {
        /// When it is due.
        fire_at: Time,
    },
}

/// What an orchestrator may use. Clones are the same context.
#[derive(Clone)]
pub struct Context(Arc<Mutex<State>>);

/// The state behind a [`Context`]: what [`crate::replay`] reads and feeds.
pub(crate) struct State {
    pub(crate) instance_id: String,
    pub(crate) input: Option<String>,
    pub(crate) now: Time,
    pub(crate) next_id: i32,
    pub(crate) actions: BTreeMap<i32, Action>,
    pub(crate) custom_status: Option<String>,
    /// External events that the code has not taken, in order.
    pub(crate) external_events: VecDeque<Event>,
    /// The input of the next execution, once the code wants one.
    pub(crate) continue_as_new: Option<Option<String>>,
    results: BTreeMap<i32, Result<Option<String>, Failure>>,
    wakers: BTreeMap<i32, Waker>,
    event_wakers: Vec<Waker>,
}

impl Context {
    pub(crate) fn new(instance_id: &str) -> Context {
        Context(Arc::new(Mutex::new(State {
            instance_id: instance_id.to_owned(),
            input: None,
            now: Time::from(std::time::SystemTime::UNIX_EPOCH),
            next_id: 0,
            actions: BTreeMap::new(),
            custom_status: None,
            external_events: VecDeque::new(),
            continue_as_new: None,
            results: BTreeMap::new(),
            wakers: BTreeMap::new(),
            event_wakers: Vec::new(),
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result counts; a message that was delivered twice changes nothing.
    pub(crate) fn resolve(&self, id: i32, result: Result<Option<String>, Failure>) {
        let mut state = self.state();
        state.results.entry(id).or_insert(result);
        let waker = state.wakers.remove(&id);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An external event: whoever waits may take it.
    pub(crate) fn raise(&self, event: Event) {
        let mut state = self.state();
        state.external_events.push_back(event);
        let wakers = std::mem::take(&mut state.event_wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
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
    ///
    /// # Errors
    /// If it has more than 16 KiB of UTF-16 (task-hub.md 9.1).
    pub fn set_custom_status(&self, status: String) -> Result<(), Failure> {
        let bytes = status.encode_utf16().count() * 2;
        if bytes > MAX_CUSTOM_STATUS_BYTES {
            return Err(Failure(format!("the custom status has {bytes} bytes of UTF-16; at most {MAX_CUSTOM_STATUS_BYTES} are allowed")));
        }
        self.state().custom_status = Some(status);
        Ok(())
    }

    /// Calls an activity with a text of JSON; its result is one too.
    pub fn call_activity(&self, name: &str, input: Option<String>) -> impl Future<Output = Result<Option<String>, Failure>> + Send + use<> {
        self.request(Action::ScheduleTask { name: name.to_owned(), input })
    }

    /// Runs the orchestrator `name` as the instance `instance_id`; input and result are texts of JSON.
    pub fn call_orchestrator(
        &self,
        name: &str,
        instance_id: &str,
        input: Option<String>,
    ) -> impl Future<Output = Result<Option<String>, Failure>> + Send + use<> {
        self.request(Action::CallOrchestrator { name: name.to_owned(), instance_id: instance_id.to_owned(), input })
    }

    /// Waits for `delay`, counted from [`Context::now`]. A timer that nobody waits for any longer still fires, to no effect.
    pub fn create_timer(&self, delay: Duration) -> impl Future<Output = ()> + Send + use<> {
        let fire_at = self.now().saturating_add(delay);
        let fired = self.request(Action::CreateTimer { fire_at });
        async move {
            // A timer has no result and cannot fail.
            let _ = fired.await;
        }
    }

    /// Waits for the external event `name`, in any letter case (task-hub.md 6.6); its data is a text of JSON. Events that
    /// came before are taken first.
    pub fn wait_for_external_event(&self, name: &str) -> impl Future<Output = Option<String>> + Send + use<> {
        let (context, wanted) = (self.clone(), name.to_lowercase());
        std::future::poll_fn(move |task| {
            let mut state = context.state();
            let at = state
                .external_events
                .iter()
                .position(|event| matches!(&event.kind, EventKind::EventRaised { name: Some(name), .. } if name.to_lowercase() == wanted));
            match at.and_then(|at| state.external_events.remove(at)) {
                Some(Event { kind: EventKind::EventRaised { input, .. }, .. }) => Poll::Ready(input),
                _ => {
                    state.event_wakers.push(task.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// Ends this execution as soon as the code returns, and begins another one with `input`; external events that were not
    /// taken are kept.
    pub fn continue_as_new(&self, input: Option<String>) {
        self.state().continue_as_new = Some(input);
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
