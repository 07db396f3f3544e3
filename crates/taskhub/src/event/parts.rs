//! The structured values inside events: who, from where, with which tags and failures.
//!
//! Each is written with `$type` members in messages and without in table
//! columns (task-hub.md 3.3, 3.5, 5.4), in one fixed order of members.

use serde_json::{Map, Value};

use super::EventError;
use super::json::{Members, newtonsoft};

/// Tags of an instance, in the order in which they were written.
pub type Tags = Vec<(String, String)>;

/// One execution of an instance (task-hub.md 3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrchestrationInstance {
    /// The instance's ID, raw.
    pub instance_id: String,
    /// The execution; none in control messages, which reach whatever execution is current.
    pub execution_id: Option<String>,
}

/// The orchestration that called a sub-orchestration (task-hub.md 3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentInstance {
    /// The parent orchestrator's name.
    pub name: Option<String>,
    /// The parent itself.
    pub instance: OrchestrationInstance,
    /// The task id under which the parent waits.
    pub task_schedule_id: i32,
    /// The parent orchestrator's version.
    pub version: Option<String>,
}

/// A W3C trace context (task-hub.md 3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The `traceparent` text.
    pub trace_parent: Option<String>,
    /// The `tracestate` text; the engine drops it when longer than 513 characters.
    pub trace_state: Option<String>,
    /// The .NET activity's id.
    pub id: Option<String>,
    /// The span.
    pub span_id: Option<String>,
    /// When the activity began, as text with an offset.
    pub activity_start_time: Option<String>,
}

/// A failure with its causes (task-hub.md 5.4).
#[derive(Debug, Clone, PartialEq)]
pub struct FailureDetails {
    /// Full name of the error type.
    pub error_type: Option<String>,
    /// The message.
    pub error_message: Option<String>,
    /// The stack trace.
    pub stack_trace: Option<String>,
    /// The cause. The depth is bounded by the JSON reader (128).
    pub inner_failure: Option<Box<FailureDetails>>,
    /// Whether a retry makes no sense.
    pub is_non_retriable: bool,
    /// Further properties: the JSON text of an object. What is no object is not written.
    pub properties: Option<String>,
}

/// The status of an execution (task-hub.md 4.3): a name in tables, a number in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrchestrationStatus {
    /// 0
    Running,
    /// 1
    Completed,
    /// 2
    ContinuedAsNew,
    /// 3
    Failed,
    /// 4: never written by the engine in normal operation.
    Canceled,
    /// 5
    Terminated,
    /// 6
    Pending,
    /// 7
    Suspended,
}

impl OrchestrationStatus {
    /// All, by their number.
    pub const ALL: [OrchestrationStatus; 8] = [
        OrchestrationStatus::Running,
        OrchestrationStatus::Completed,
        OrchestrationStatus::ContinuedAsNew,
        OrchestrationStatus::Failed,
        OrchestrationStatus::Canceled,
        OrchestrationStatus::Terminated,
        OrchestrationStatus::Pending,
        OrchestrationStatus::Suspended,
    ];

    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            OrchestrationStatus::Running => "Running",
            OrchestrationStatus::Completed => "Completed",
            OrchestrationStatus::ContinuedAsNew => "ContinuedAsNew",
            OrchestrationStatus::Failed => "Failed",
            OrchestrationStatus::Canceled => "Canceled",
            OrchestrationStatus::Terminated => "Terminated",
            OrchestrationStatus::Pending => "Pending",
            OrchestrationStatus::Suspended => "Suspended",
        }
    }

    /// The status of a table's name; none for a name that the engine does not know either.
    pub fn from_name(name: &str) -> Option<OrchestrationStatus> {
        OrchestrationStatus::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// The number in messages.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The status of a message's number.
    pub fn from_number(number: i32) -> Option<OrchestrationStatus> {
        OrchestrationStatus::ALL.into_iter().find(|status| status.number() == number)
    }

    /// Whether an execution in this status has ended.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            OrchestrationStatus::Completed | OrchestrationStatus::Failed | OrchestrationStatus::Canceled | OrchestrationStatus::Terminated
        )
    }
}

impl OrchestrationInstance {
    pub(crate) fn to_json(&self, typed: bool) -> Value {
        let mut members = object(typed, "DurableTask.Core.OrchestrationInstance");
        members.insert("InstanceId".into(), Value::from(self.instance_id.as_str()));
        members.insert("ExecutionId".into(), text(&self.execution_id));
        Value::Object(members)
    }

    pub(crate) fn from_json(value: &Value) -> Result<OrchestrationInstance, EventError> {
        let members = Members::of(value, "OrchestrationInstance")?;
        Ok(OrchestrationInstance {
            instance_id: members.text("InstanceId")?.ok_or(EventError::Missing("InstanceId"))?,
            execution_id: members.text("ExecutionId")?,
        })
    }
}

impl ParentInstance {
    pub(crate) fn to_json(&self, typed: bool) -> Value {
        let mut members = object(typed, "DurableTask.Core.ParentInstance");
        members.insert("Name".into(), text(&self.name));
        members.insert("OrchestrationInstance".into(), self.instance.to_json(typed));
        members.insert("TaskScheduleId".into(), self.task_schedule_id.into());
        members.insert("Version".into(), text(&self.version));
        Value::Object(members)
    }

    pub(crate) fn from_json(value: &Value) -> Result<ParentInstance, EventError> {
        let members = Members::of(value, "ParentInstance")?;
        Ok(ParentInstance {
            name: members.text("Name")?,
            instance: OrchestrationInstance::from_json(
                members.get("OrchestrationInstance").ok_or(EventError::Missing("OrchestrationInstance"))?,
            )?,
            task_schedule_id: members.int("TaskScheduleId")?.ok_or(EventError::Missing("TaskScheduleId"))?,
            version: members.text("Version")?,
        })
    }
}

impl TraceContext {
    pub(crate) fn to_json(&self, typed: bool) -> Value {
        let mut members = object(typed, "DurableTask.Core.Tracing.DistributedTraceContext");
        members.insert("TraceParent".into(), text(&self.trace_parent));
        members.insert("TraceState".into(), text(&self.trace_state));
        members.insert("Id".into(), text(&self.id));
        members.insert("SpanId".into(), text(&self.span_id));
        members.insert("ActivityStartTime".into(), text(&self.activity_start_time));
        Value::Object(members)
    }

    pub(crate) fn from_json(value: &Value) -> Result<TraceContext, EventError> {
        let members = Members::of(value, "ParentTraceContext")?;
        Ok(TraceContext {
            trace_parent: members.text("TraceParent")?,
            trace_state: members.text("TraceState")?,
            id: members.text("Id")?,
            span_id: members.text("SpanId")?,
            activity_start_time: members.text("ActivityStartTime")?,
        })
    }
}

impl FailureDetails {
    pub(crate) fn to_json(&self, typed: bool) -> Value {
        let mut members = object(typed, "DurableTask.Core.FailureDetails");
        members.insert("ErrorType".into(), text(&self.error_type));
        members.insert("ErrorMessage".into(), text(&self.error_message));
        members.insert("StackTrace".into(), text(&self.stack_trace));
        members.insert("InnerFailure".into(), self.inner_failure.as_ref().map_or(Value::Null, |inner| inner.to_json(typed)));
        members.insert("IsNonRetriable".into(), self.is_non_retriable.into());
        members.insert("Properties".into(), self.properties_to_json());
        Value::Object(members)
    }

    pub(crate) fn from_json(value: &Value) -> Result<FailureDetails, EventError> {
        let members = Members::of(value, "FailureDetails")?;
        Ok(FailureDetails {
            error_type: members.text("ErrorType")?,
            error_message: members.text("ErrorMessage")?,
            stack_trace: members.text("StackTrace")?,
            inner_failure: members.get("InnerFailure").map(FailureDetails::from_json).transpose()?.map(Box::new),
            is_non_retriable: members.boolean("IsNonRetriable")?.unwrap_or(false),
            properties: members.get("Properties").filter(|value| value.is_object()).map(Value::to_string),
        })
    }

    fn properties_to_json(&self) -> Value {
        let value = self.properties.as_deref().and_then(|text| serde_json::from_str(text).ok());
        value.filter(Value::is_object).unwrap_or_default()
    }
}

/// Tags are written without a `$type`: a host that lacks the named dictionary type could not read the message (task-hub.md 3.5).
pub(crate) fn tags_to_json(tags: &Tags) -> Value {
    Value::Object(tags.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect())
}

/// The text of the `Tags` column, on Instances and History rows alike; `null` for none (task-hub.md 4.2).
pub fn tags_to_text(tags: Option<&Tags>) -> String {
    newtonsoft(&tags.map_or(Value::Null, tags_to_json))
}

pub(crate) fn tags_from_json(value: &Value) -> Result<Tags, EventError> {
    let members = value.as_object().ok_or(EventError::NotAnObject("Tags"))?;
    members
        .iter()
        .filter(|(name, _)| *name != "$type")
        .map(|(name, value)| match value {
            Value::String(value) => Ok((name.clone(), value.clone())),
            _ => Err(EventError::Malformed { member: "Tags", expected: "an object of texts" }),
        })
        .collect()
}

fn object(typed: bool, type_name: &str) -> Map<String, Value> {
    let mut members = Map::new();
    if typed {
        members.insert("$type".into(), type_name.into());
    }
    members
}

fn text(value: &Option<String>) -> Value {
    value.as_deref().map_or(Value::Null, Value::from)
}
