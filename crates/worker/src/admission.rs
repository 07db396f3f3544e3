//! What becomes of the messages of a batch, decided by the instance's history (task-hub.md 7.1 steps 5 to 7). Pure.

use durable_taskhub::event::{Event, EventKind};

use crate::batch::Received;
use crate::history::History;

/// An answer to an instance that does not exist is dropped at this delivery (task-hub.md 7.1).
const LAST_DELIVERY_WITHOUT_INSTANCE: u64 = 5;

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// All messages are for nobody.
    Discard(&'static str),
    /// The message at this place terminates an instance without history: only its row says so, and a start that comes later
    /// runs all the same (task-hub.md 6.5).
    TerminatePending(usize),
    /// An episode takes in the messages at these places, in order; the others were duplicates.
    Run {
        /// The current execution.
        execution_id: String,
        /// Places in the batch.
        incoming: Vec<usize>,
    },
}

/// What a message answers, by task id.
fn answers(event: &Event) -> Option<i32> {
    match event.kind {
        EventKind::TaskCompleted { task_scheduled_id: id, .. }
        | EventKind::TaskFailed { task_scheduled_id: id, .. }
        | EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: id, .. }
        | EventKind::SubOrchestrationInstanceFailed { task_scheduled_id: id, .. }
        | EventKind::TimerFired { timer_id: id, .. } => Some(id),
        _ => None,
    }
}

/// An answer whose question is not in the history: the checkpoint that asked may still be on its way.
pub fn comes_early(received: &Received, history: &[Event]) -> bool {
    let Some(id) = answers(&received.message.event) else { return false };
    let asked = history.iter().any(|event| {
        event.event_id == id
            && matches!(
                event.kind,
                EventKind::TaskScheduled { .. } | EventKind::TimerCreated { .. } | EventKind::SubOrchestrationInstanceCreated { .. }
            )
    });
    !asked && (!history.is_empty() || received.raw.dequeue_count < LAST_DELIVERY_WITHOUT_INSTANCE)
}

/// Whether the execution has ended, by its history.
pub fn is_finished(history: &[Event]) -> bool {
    history.iter().any(|event| matches!(event.kind, EventKind::ExecutionCompleted { .. }))
}

/// Decides over `messages`, which are for `execution_id` or for whatever execution is current.
pub fn admit(messages: &[Received], execution_id: Option<&str>, history: &History) -> Admission {
    let is_start = |received: &Received| matches!(received.message.event.kind, EventKind::ExecutionStarted(_));
    let started = history.events.iter().any(|event| matches!(event.kind, EventKind::ExecutionStarted(_)));
    if !started && !messages.iter().any(is_start) {
        let terminate = messages.iter().position(|received| matches!(received.message.event.kind, EventKind::ExecutionTerminated { .. }));
        return terminate.map_or(Admission::Discard("no such instance"), Admission::TerminatePending);
    }
    if is_finished(&history.events) {
        return Admission::Discard("the instance is finished");
    }
    let current = if started { history.execution_id.as_deref() } else { execution_id };
    let Some(current) = current else { return Admission::Discard("a start without execution ID") };
    let mut start_seen = started;
    let incoming = messages.iter().enumerate().filter(|(_, received)| {
        // A duplicate of the start leaves an episode without events (task-hub.md 7.1 step 7).
        let duplicate = is_start(received) && std::mem::replace(&mut start_seen, true);
        let foreign = received.message.execution_id.as_deref().is_some_and(|id| id != current);
        !duplicate && !foreign
    });
    Admission::Run { execution_id: current.to_owned(), incoming: incoming.map(|(at, _)| at).collect() }
}

#[cfg(test)]
mod tests {
    use durable_taskhub::Time;
    use durable_taskhub::event::{ExecutionStarted, OrchestrationStatus};
    use durable_taskhub::message::Message;
    use durable_taskhub::storage::QueueMessage;

    use super::*;

    fn received(message: Message, dequeue_count: u64) -> Received {
        let raw = QueueMessage {
            id: String::new(),
            pop_receipt: String::new(),
            text: String::new(),
            dequeue_count,
            inserted_at: None,
            expires_at: None,
            next_visible_at: None,
        };
        Received { raw, message, received_at: Time::now() }
    }

    fn start(execution_id: &str) -> Received {
        received(Message::start(ExecutionStarted::new("i", execution_id, "Echo", None), Time::now(), 1), 1)
    }

    fn message(execution_id: Option<&str>, kind: EventKind, dequeue_count: u64) -> Received {
        received(Message::new("i", execution_id, Event::new(Time::now(), kind), 1), dequeue_count)
    }

    fn history(kinds: Vec<EventKind>) -> History {
        let mut events = vec![start("e").message.event];
        events.extend(kinds.into_iter().map(|kind| Event::with_id(0, Time::now(), kind)));
        History { execution_id: Some("e".into()), events, ..History::default() }
    }

    fn run(incoming: &[usize]) -> Admission {
        Admission::Run { execution_id: "e".into(), incoming: incoming.to_vec() }
    }

    #[test]
    fn a_start_runs_once_and_its_duplicate_leaves_an_empty_episode() {
        assert_eq!(admit(&[start("e"), start("e")], Some("e"), &History::default()), run(&[0]));
        assert_eq!(admit(&[start("e")], Some("e"), &history(Vec::new())), run(&[]));
    }

    #[test]
    fn messages_for_nobody_are_discarded() {
        let terminate = || message(None, EventKind::ExecutionTerminated { input: None }, 1);
        let suspend = || message(None, EventKind::ExecutionSuspended { reason: None }, 1);
        assert_eq!(admit(&[suspend()], None, &History::default()), Admission::Discard("no such instance"));
        assert_eq!(admit(&[suspend(), terminate()], None, &History::default()), Admission::TerminatePending(1));
        let finished = EventKind::ExecutionCompleted { status: OrchestrationStatus::Completed, result: None, failure_details: None };
        assert_eq!(admit(&[terminate()], None, &history(vec![finished])), Admission::Discard("the instance is finished"));
        assert_eq!(admit(&[terminate()], None, &history(Vec::new())), run(&[0]));
        let foreign = message(Some("other"), EventKind::ExecutionTerminated { input: None }, 1);
        assert_eq!(admit(&[foreign, terminate()], None, &history(Vec::new())), run(&[1]));
    }

    #[test]
    fn an_answer_waits_for_its_question_and_not_for_a_missing_instance() {
        let answer = |count| message(Some("e"), EventKind::TaskCompleted { task_scheduled_id: 0, result: None }, count);
        let asked = EventKind::TaskScheduled { name: "A".into(), version: None, input: None, parent_trace_context: None, tags: None };
        assert!(!comes_early(&answer(1), &history(vec![asked]).events));
        assert!(comes_early(&answer(9), &history(Vec::new()).events));
        assert!(comes_early(&answer(4), &[]));
        assert!(!comes_early(&answer(5), &[]));
    }
}
