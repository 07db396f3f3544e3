//! The history events of an instance, and their two forms: in messages and as
//! rows of the History table (task-hub.md 3.6, 5.4).
//!
//! Each event lists its fields once (`fields`) and is read by one function
//! (`read`); the two forms share both, so that a message and the row made of it
//! cannot drift apart. This module knows no storage requests and no blobs:
//! values that were moved to a blob must be fetched before a row is read.

mod json;
mod parts;
mod row;

use std::collections::BTreeMap;

pub use parts::{FailureDetails, OrchestrationInstance, OrchestrationStatus, ParentInstance, Tags, TraceContext, tags_to_text};

pub(crate) use json::{Members, newtonsoft};
pub(crate) use parts::{tags_from_json, tags_to_json};

use crate::Time;
use crate::storage::Value;

/// One event of an instance's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The task id of what schedules (a task, a timer, a child), the next free one at completion, else -1.
    pub event_id: i32,
    /// True on rows of incoming events (task-hub.md, Appendix D), false in messages.
    pub is_played: bool,
    /// When it happened, by the clock of whoever made it.
    pub timestamp: Time,
    /// What happened.
    pub kind: EventKind,
}

/// What happened: one variant per event type of task-hub.md 3.6.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields bear the names of the specification's members")]
pub enum EventKind {
    /// The start of an execution.
    ExecutionStarted(Box<ExecutionStarted>),
    /// The end of an execution, of whatever status.
    ExecutionCompleted { status: OrchestrationStatus, result: Option<String>, failure_details: Option<FailureDetails> },
    /// A request to terminate; `input` is the reason.
    ExecutionTerminated { input: Option<String> },
    /// An activity was scheduled; `input` is in the message alone.
    TaskScheduled {
        name: String,
        version: Option<String>,
        input: Option<String>,
        parent_trace_context: Option<TraceContext>,
        tags: Option<Tags>,
    },
    /// The result of an activity.
    TaskCompleted { task_scheduled_id: i32, result: Option<String> },
    /// The failure of an activity.
    TaskFailed { task_scheduled_id: i32, reason: Option<String>, details: Option<String>, failure_details: Option<FailureDetails> },
    /// A sub-orchestration was scheduled; `input` is not stored in the row, `client_span_id` by engine 1.x alone.
    SubOrchestrationInstanceCreated {
        name: String,
        version: Option<String>,
        instance_id: String,
        input: Option<String>,
        tags: Option<Tags>,
        client_span_id: Option<String>,
    },
    /// The result of a sub-orchestration.
    SubOrchestrationInstanceCompleted { task_scheduled_id: i32, result: Option<String> },
    /// The failure of a sub-orchestration.
    SubOrchestrationInstanceFailed {
        task_scheduled_id: i32,
        reason: Option<String>,
        details: Option<String>,
        failure_details: Option<FailureDetails>,
    },
    /// A durable timer was made.
    TimerCreated { fire_at: Time },
    /// A durable timer is due.
    TimerFired { timer_id: i32, fire_at: Time },
    /// An episode of the orchestrator begins.
    OrchestratorStarted,
    /// An episode of the orchestrator ends.
    OrchestratorCompleted,
    /// The orchestrator sent an event.
    EventSent { instance_id: String, name: Option<String>, input: Option<String> },
    /// An external event came in; `input` is a text that holds JSON.
    EventRaised { name: Option<String>, input: Option<String>, parent_trace_context: Option<TraceContext> },
    /// The execution ended to begin anew.
    ContinueAsNew { status: OrchestrationStatus, result: Option<String>, failure_details: Option<FailureDetails> },
    /// A wake-up without meaning of its own, as a rewind sends; also what a rewind leaves of failed events.
    GenericEvent { data: Option<String> },
    /// A request to suspend.
    ExecutionSuspended { reason: Option<String> },
    /// A request to resume.
    ExecutionResumed { reason: Option<String> },
    /// A row of a type that is not known here, with all of its own columns. Messages of unknown type are refused.
    Other { event_type: String, columns: BTreeMap<String, Value> },
}

/// The start of an execution (task-hub.md 3.6).
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionStarted {
    /// The instance and its execution.
    pub instance: OrchestrationInstance,
    /// Who called; none for a top-level start, which alone passes the start filter.
    pub parent: Option<ParentInstance>,
    /// The orchestrator's name.
    pub name: String,
    /// The orchestrator's version; the in-process extension sends none.
    pub version: Option<String>,
    /// A text that holds JSON; none for no input.
    pub input: Option<String>,
    /// Tags, in written order.
    pub tags: Option<Tags>,
    /// Legacy correlation.
    pub correlation: Option<String>,
    /// The W3C trace that the start belongs to.
    pub parent_trace_context: Option<TraceContext>,
    /// When it is to begin, if not at once.
    pub scheduled_start_time: Option<Time>,
    /// 0 for a new ID, one more for each replaced run; none on sub-orchestrations.
    pub generation: Option<i32>,
    /// False from clients.
    pub generate_new_trace: bool,
}

/// Why an event cannot be read. Never holds a value of the event, only names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// It is no JSON object.
    #[error("{0} is not a JSON object")]
    NotAnObject(&'static str),
    /// `$type` is missing or not the first member: the engine cannot construct the event (task-hub.md 3.9 A).
    #[error("the event's $type is missing or not its first member")]
    TypeNotFirst,
    /// No event type that the engine reads from a message.
    #[error("unknown event type {0}")]
    UnknownType(String),
    /// A member that the engine needs is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member holds something else than it should.
    #[error("{member} is not {expected}")]
    Malformed {
        /// Which one.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A row whose value lies in a blob that was not fetched before (task-hub.md 5.5).
    #[error("the value of column {0} is in a blob")]
    LargeValue(String),
}

/// One field of an event, as both forms write it.
pub(crate) enum Field<'a> {
    Text(Option<&'a str>),
    Int(Option<i32>),
    Boolean(bool),
    Time(Option<Time>),
    Status(OrchestrationStatus),
    Instance(&'a OrchestrationInstance),
    Parent(Option<&'a ParentInstance>),
    Tags(Option<&'a Tags>),
    Trace(Option<&'a TraceContext>),
    Failure(Option<&'a FailureDetails>),
}

/// Where fields are read from: the members of a message's event, or the columns of a row.
pub(crate) trait Source {
    fn text(&self, name: &'static str) -> Result<Option<String>, EventError>;
    fn int(&self, name: &'static str) -> Result<Option<i32>, EventError>;
    fn boolean(&self, name: &'static str) -> Result<Option<bool>, EventError>;
    fn time(&self, name: &'static str) -> Result<Option<Time>, EventError>;
    fn status(&self, name: &'static str) -> Result<Option<OrchestrationStatus>, EventError>;
    fn object(&self, name: &'static str) -> Result<Option<serde_json::Value>, EventError>;
}

/// Name and number of each event type (task-hub.md 3.6) that a message may have.
const EVENT_TYPES: [(&str, i32); 19] = [
    ("ExecutionStarted", 0),
    ("ExecutionCompleted", 1),
    ("ExecutionTerminated", 3),
    ("TaskScheduled", 4),
    ("TaskCompleted", 5),
    ("TaskFailed", 6),
    ("SubOrchestrationInstanceCreated", 7),
    ("SubOrchestrationInstanceCompleted", 8),
    ("SubOrchestrationInstanceFailed", 9),
    ("TimerCreated", 10),
    ("TimerFired", 11),
    ("OrchestratorStarted", 12),
    ("OrchestratorCompleted", 13),
    ("EventSent", 14),
    ("EventRaised", 15),
    ("ContinueAsNew", 16),
    ("GenericEvent", 17),
    ("ExecutionSuspended", 19),
    ("ExecutionResumed", 20),
];

impl Event {
    /// An event as clients and workers first make it: id -1, not played.
    pub fn new(timestamp: Time, kind: EventKind) -> Event {
        Event { event_id: -1, is_played: false, timestamp, kind }
    }

    /// An event that takes a task id: what schedules, and the completion.
    pub fn with_id(event_id: i32, timestamp: Time, kind: EventKind) -> Event {
        Event { event_id, ..Event::new(timestamp, kind) }
    }
}

impl ExecutionStarted {
    /// A start as the in-process extension makes it: no parent, version, tags, trace or schedule.
    pub fn new(instance_id: &str, execution_id: &str, name: &str, input: Option<String>) -> ExecutionStarted {
        ExecutionStarted {
            instance: OrchestrationInstance { instance_id: instance_id.to_owned(), execution_id: Some(execution_id.to_owned()) },
            parent: None,
            name: name.to_owned(),
            version: None,
            input,
            tags: None,
            correlation: None,
            parent_trace_context: None,
            scheduled_start_time: None,
            generation: Some(0),
            generate_new_trace: false,
        }
    }
}

impl EventKind {
    /// The `EventType` column, and the message's `$type` without `Event` (task-hub.md 3.6).
    pub fn event_type(&self) -> &str {
        match self {
            EventKind::ExecutionStarted(_) => "ExecutionStarted",
            EventKind::ExecutionCompleted { .. } => "ExecutionCompleted",
            EventKind::ExecutionTerminated { .. } => "ExecutionTerminated",
            EventKind::TaskScheduled { .. } => "TaskScheduled",
            EventKind::TaskCompleted { .. } => "TaskCompleted",
            EventKind::TaskFailed { .. } => "TaskFailed",
            EventKind::SubOrchestrationInstanceCreated { .. } => "SubOrchestrationInstanceCreated",
            EventKind::SubOrchestrationInstanceCompleted { .. } => "SubOrchestrationInstanceCompleted",
            EventKind::SubOrchestrationInstanceFailed { .. } => "SubOrchestrationInstanceFailed",
            EventKind::TimerCreated { .. } => "TimerCreated",
            EventKind::TimerFired { .. } => "TimerFired",
            EventKind::OrchestratorStarted => "OrchestratorStarted",
            EventKind::OrchestratorCompleted => "OrchestratorCompleted",
            EventKind::EventSent { .. } => "EventSent",
            EventKind::EventRaised { .. } => "EventRaised",
            EventKind::ContinueAsNew { .. } => "ContinueAsNew",
            EventKind::GenericEvent { .. } => "GenericEvent",
            EventKind::ExecutionSuspended { .. } => "ExecutionSuspended",
            EventKind::ExecutionResumed { .. } => "ExecutionResumed",
            EventKind::Other { event_type, .. } => event_type,
        }
    }

    /// The event's own fields in the order of the message's members, `EventType` and the base left out.
    fn fields(&self) -> Vec<(&'static str, Field<'_>)> {
        use Field::{Boolean, Failure, Instance, Int, Parent, Status, Tags, Text, Trace};
        fn text(value: &Option<String>) -> Field<'_> {
            Text(value.as_deref())
        }
        match self {
            EventKind::ExecutionStarted(started) => vec![
                ("OrchestrationInstance", Instance(&started.instance)),
                ("ParentInstance", Parent(started.parent.as_ref())),
                ("Name", Text(Some(&started.name))),
                ("Version", text(&started.version)),
                ("Input", text(&started.input)),
                ("Tags", Tags(started.tags.as_ref())),
                ("Correlation", text(&started.correlation)),
                ("ParentTraceContext", Trace(started.parent_trace_context.as_ref())),
                ("ScheduledStartTime", Field::Time(started.scheduled_start_time)),
                ("Generation", Int(started.generation)),
                ("GenerateNewTrace", Boolean(started.generate_new_trace)),
            ],
            EventKind::ExecutionCompleted { status, result, failure_details }
            | EventKind::ContinueAsNew { status, result, failure_details } => vec![
                ("OrchestrationStatus", Status(*status)),
                ("Result", text(result)),
                ("FailureDetails", Failure(failure_details.as_ref())),
            ],
            EventKind::ExecutionTerminated { input } => vec![("Input", text(input))],
            EventKind::TaskScheduled { name, version, input, parent_trace_context, tags } => vec![
                ("Name", Text(Some(name))),
                ("Version", text(version)),
                ("Input", text(input)),
                ("ParentTraceContext", Trace(parent_trace_context.as_ref())),
                ("Tags", Tags(tags.as_ref())),
            ],
            EventKind::TaskCompleted { task_scheduled_id, result }
            | EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id, result } => {
                vec![("TaskScheduledId", Int(Some(*task_scheduled_id))), ("Result", text(result))]
            }
            EventKind::TaskFailed { task_scheduled_id, reason, details, failure_details }
            | EventKind::SubOrchestrationInstanceFailed { task_scheduled_id, reason, details, failure_details } => vec![
                ("TaskScheduledId", Int(Some(*task_scheduled_id))),
                ("Reason", text(reason)),
                ("Details", text(details)),
                ("FailureDetails", Failure(failure_details.as_ref())),
            ],
            EventKind::SubOrchestrationInstanceCreated { name, version, instance_id, input, tags, client_span_id } => vec![
                ("Name", Text(Some(name))),
                ("Version", text(version)),
                ("InstanceId", Text(Some(instance_id))),
                ("Input", text(input)),
                ("Tags", Tags(tags.as_ref())),
                ("ClientSpanId", text(client_span_id)),
            ],
            EventKind::TimerCreated { fire_at } => vec![("FireAt", Field::Time(Some(*fire_at)))],
            EventKind::TimerFired { timer_id, fire_at } => {
                vec![("TimerId", Int(Some(*timer_id))), ("FireAt", Field::Time(Some(*fire_at)))]
            }
            EventKind::EventSent { instance_id, name, input } => {
                vec![("InstanceId", Text(Some(instance_id))), ("Name", text(name)), ("Input", text(input))]
            }
            EventKind::EventRaised { name, input, parent_trace_context } => {
                vec![("Name", text(name)), ("Input", text(input)), ("ParentTraceContext", Trace(parent_trace_context.as_ref()))]
            }
            EventKind::GenericEvent { data } => vec![("Data", text(data))],
            EventKind::ExecutionSuspended { reason } | EventKind::ExecutionResumed { reason } => vec![("Reason", text(reason))],
            EventKind::OrchestratorStarted | EventKind::OrchestratorCompleted | EventKind::Other { .. } => Vec::new(),
        }
    }

    /// Reads the fields of an event of the type `event_type`; none if that type is not known here.
    fn read(event_type: &str, source: &dyn Source) -> Result<Option<EventKind>, EventError> {
        let name = || source.text("Name")?.ok_or(EventError::Missing("Name"));
        let task = || source.int("TaskScheduledId")?.ok_or(EventError::Missing("TaskScheduledId"));
        let fire_at = || source.time("FireAt")?.ok_or(EventError::Missing("FireAt"));
        let instance_id = || source.text("InstanceId")?.ok_or(EventError::Missing("InstanceId"));
        let status = || source.status("OrchestrationStatus")?.ok_or(EventError::Missing("OrchestrationStatus"));
        let tags = || source.object("Tags")?.map(|value| parts::tags_from_json(&value)).transpose();
        let trace = || source.object("ParentTraceContext")?.map(|value| TraceContext::from_json(&value)).transpose();
        let failure = || source.object("FailureDetails")?.map(|value| FailureDetails::from_json(&value)).transpose();
        Ok(Some(match event_type {
            "ExecutionStarted" => EventKind::ExecutionStarted(Box::new(ExecutionStarted {
                instance: match source.object("OrchestrationInstance")? {
                    Some(value) => OrchestrationInstance::from_json(&value)?,
                    None => return Err(EventError::Missing("OrchestrationInstance")),
                },
                parent: source.object("ParentInstance")?.map(|value| ParentInstance::from_json(&value)).transpose()?,
                name: name()?,
                version: source.text("Version")?,
                input: source.text("Input")?,
                tags: tags()?,
                correlation: source.text("Correlation")?,
                parent_trace_context: trace()?,
                scheduled_start_time: source.time("ScheduledStartTime")?,
                generation: source.int("Generation")?,
                generate_new_trace: source.boolean("GenerateNewTrace")?.unwrap_or(false),
            })),
            "ExecutionCompleted" => {
                EventKind::ExecutionCompleted { status: status()?, result: source.text("Result")?, failure_details: failure()? }
            }
            "ContinueAsNew" => EventKind::ContinueAsNew { status: status()?, result: source.text("Result")?, failure_details: failure()? },
            "ExecutionTerminated" => EventKind::ExecutionTerminated { input: source.text("Input")? },
            "TaskScheduled" => EventKind::TaskScheduled {
                name: name()?,
                version: source.text("Version")?,
                input: source.text("Input")?,
                parent_trace_context: trace()?,
                tags: tags()?,
            },
            "TaskCompleted" => EventKind::TaskCompleted { task_scheduled_id: task()?, result: source.text("Result")? },
            "TaskFailed" => EventKind::TaskFailed {
                task_scheduled_id: task()?,
                reason: source.text("Reason")?,
                details: source.text("Details")?,
                failure_details: failure()?,
            },
            "SubOrchestrationInstanceCreated" => EventKind::SubOrchestrationInstanceCreated {
                name: name()?,
                version: source.text("Version")?,
                instance_id: instance_id()?,
                input: source.text("Input")?,
                tags: tags()?,
                client_span_id: source.text("ClientSpanId")?,
            },
            "SubOrchestrationInstanceCompleted" => {
                EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: task()?, result: source.text("Result")? }
            }
            "SubOrchestrationInstanceFailed" => EventKind::SubOrchestrationInstanceFailed {
                task_scheduled_id: task()?,
                reason: source.text("Reason")?,
                details: source.text("Details")?,
                failure_details: failure()?,
            },
            "TimerCreated" => EventKind::TimerCreated { fire_at: fire_at()? },
            "TimerFired" => {
                EventKind::TimerFired { timer_id: source.int("TimerId")?.ok_or(EventError::Missing("TimerId"))?, fire_at: fire_at()? }
            }
            "OrchestratorStarted" => EventKind::OrchestratorStarted,
            "OrchestratorCompleted" => EventKind::OrchestratorCompleted,
            "EventSent" => EventKind::EventSent { instance_id: instance_id()?, name: source.text("Name")?, input: source.text("Input")? },
            "EventRaised" => {
                EventKind::EventRaised { name: source.text("Name")?, input: source.text("Input")?, parent_trace_context: trace()? }
            }
            "GenericEvent" => EventKind::GenericEvent { data: source.text("Data")? },
            "ExecutionSuspended" => EventKind::ExecutionSuspended { reason: source.text("Reason")? },
            "ExecutionResumed" => EventKind::ExecutionResumed { reason: source.text("Reason")? },
            _ => return Ok(None),
        }))
    }
}
