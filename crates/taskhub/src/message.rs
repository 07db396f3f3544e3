//! Queue messages: the envelope `MessageData` around one event (task-hub.md 3).
//!
//! Written with the exact members, order and escaping of the .NET clients, and
//! as padded Base64, which every engine version reads. Read as tolerantly as
//! the engine does, and refused where the engine would put the message back for
//! ever or stall on it. Knows no queue and no blob.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::Time;
use crate::event::{Event, EventError, EventKind, ExecutionStarted, Members, OrchestrationInstance, Tags, newtonsoft};

/// The longest JSON, in UTF-8 bytes, that goes into a queue; longer messages go to a blob (task-hub.md 3.8).
pub const MAX_INLINE_BYTES: usize = 46_080;

/// The longest text that is decoded, in bytes: the limit of the queue service.
pub const MAX_TEXT_BYTES: usize = 65_536;

/// The longest JSON of a message that comes from a blob, in bytes.
pub const MAX_BLOB_BYTES: usize = 64 * 1024 * 1024;

/// The ID of one message: a GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActivityId(Uuid);

impl ActivityId {
    /// All zeros, as wrappers have it.
    pub const NIL: ActivityId = ActivityId(Uuid::nil());

    /// A new one.
    pub fn random() -> ActivityId {
        ActivityId(Uuid::new_v4())
    }

    /// 32 hexadecimal digits without hyphens, as in names of blobs.
    pub fn simple(self) -> String {
        self.0.simple().to_string()
    }
}

/// With hyphens and in lower case, as in messages.
impl fmt::Display for ActivityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for ActivityId {
    type Err = MessageError;

    /// Reads a GUID in any of its forms.
    fn from_str(text: &str) -> Result<ActivityId, MessageError> {
        Uuid::parse_str(text).map(ActivityId).map_err(|_| MessageError::ActivityId)
    }
}

/// One message to an instance, or about one to the work-item queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Random per message; part of the name of a large message's blob.
    pub activity_id: ActivityId,
    /// What it says.
    pub event: Event,
    /// The target instance, raw.
    pub instance_id: String,
    /// The target execution; set on starts and answers, none on control messages (task-hub.md 3.5).
    pub execution_id: Option<String>,
    /// Tags that travel with an activity's message.
    pub execution_tags: Option<Tags>,
    /// Order among messages that were enqueued within one second (task-hub.md 7.6).
    pub sequence_number: i64,
    /// The sender's episode; none from clients.
    pub episode: Option<i32>,
    /// The sending orchestration; empty from clients. Never missing on an event (task-hub.md 3.9 C).
    pub sender: Option<Sender>,
    /// Legacy correlation.
    pub trace_context: Option<String>,
}

/// The orchestration that sent a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sender {
    /// Its instance ID; empty from clients.
    pub instance_id: Option<String>,
    /// Its execution; empty from clients.
    pub execution_id: Option<String>,
}

/// What the text of a queue message holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// The message itself.
    Message(Box<Message>),
    /// The message lies in a blob of the large-message container (task-hub.md 3.8).
    Wrapper {
        /// The blob's name within the container.
        blob_name: String,
    },
}

/// Why a message cannot be read. Holds names of members, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than what the queue service, or this client for blobs, takes.
    #[error("the message is longer than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: usize,
    },
    /// Neither JSON that starts with `{` nor padded standard Base64.
    #[error("the message is neither JSON nor padded Base64")]
    NotBase64,
    /// No JSON object.
    #[error("the message is not a JSON object")]
    NotJson,
    /// `ActivityId` is null or no GUID.
    #[error("ActivityId is not a GUID")]
    ActivityId,
    /// An event without `Sender` stalls its instance (task-hub.md 3.9 C).
    #[error("an event's message needs a Sender")]
    NoSender,
    /// Something inside the envelope cannot be read.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// The JSON is longer than [`MAX_INLINE_BYTES`]: it has to go to a blob, with a wrapper in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message has {bytes} bytes, more than the {MAX_INLINE_BYTES} that fit into a queue")]
pub struct TooLargeForQueue {
    /// The JSON's length in UTF-8 bytes.
    pub bytes: usize,
}

impl Message {
    /// A message as a client sends it: random activity ID, empty sender.
    pub fn new(instance_id: &str, execution_id: Option<&str>, event: Event, sequence_number: i64) -> Message {
        Message {
            activity_id: ActivityId::random(),
            event,
            instance_id: instance_id.to_owned(),
            execution_id: execution_id.map(str::to_owned),
            execution_tags: None,
            sequence_number,
            episode: None,
            sender: Some(Sender { instance_id: Some(String::new()), execution_id: Some(String::new()) }),
            trace_context: None,
        }
    }

    /// The message that starts an execution. `timestamp` must equal the row's `CreatedTime` (task-hub.md 7.3);
    /// `sequence_number` should be low, so that control messages sort after it (task-hub.md 7.6).
    pub fn start(started: ExecutionStarted, timestamp: Time, sequence_number: i64) -> Message {
        let OrchestrationInstance { instance_id, execution_id } = started.instance.clone();
        let event = Event::new(timestamp, EventKind::ExecutionStarted(Box::new(started)));
        Message::new(&instance_id, execution_id.as_deref(), event, sequence_number)
    }

    /// The JSON of the message, exactly as the .NET clients write it (task-hub.md 3.4 to 3.7).
    ///
    /// An [`EventKind::Other`] is written as `null`: it exists in rows alone and is never sent.
    pub fn to_json(&self) -> String {
        let target = OrchestrationInstance { instance_id: self.instance_id.clone(), execution_id: self.execution_id.clone() };
        let mut context = Value::Null;
        if let Some(tags) = &self.execution_tags {
            let mut members = typed("DurableTask.Core.OrchestrationExecutionContext");
            members.insert("OrchestrationTags".into(), crate::event::tags_to_json(tags));
            context = Value::Object(members);
        }
        let mut task = typed("DurableTask.Core.TaskMessage");
        task.insert("Event".into(), self.event.to_json().unwrap_or(Value::Null));
        task.insert("SequenceNumber".into(), 0.into());
        task.insert("OrchestrationInstance".into(), target.to_json(true));
        task.insert("OrchestrationExecutionContext".into(), context);

        let mut data = typed("DurableTask.AzureStorage.MessageData");
        data.insert("ActivityId".into(), self.activity_id.to_string().into());
        data.insert("TaskMessage".into(), Value::Object(task));
        data.insert("CompressedBlobName".into(), Value::Null);
        data.insert("SequenceNumber".into(), self.sequence_number.into());
        if let Some(episode) = self.episode {
            data.insert("Episode".into(), episode.into());
        }
        data.insert("Sender".into(), self.sender.as_ref().map_or(Value::Null, Sender::to_json));
        data.insert("SerializableTraceContext".into(), self.trace_context.as_deref().map_or(Value::Null, Value::from));
        newtonsoft(&Value::Object(data))
    }

    /// The text for the queue: padded Base64 of [`Message::to_json`].
    ///
    /// # Errors
    /// [`TooLargeForQueue`] if the JSON has more than [`MAX_INLINE_BYTES`] bytes.
    pub fn encode(&self) -> Result<String, TooLargeForQueue> {
        let json = self.to_json();
        if json.len() > MAX_INLINE_BYTES {
            return Err(TooLargeForQueue { bytes: json.len() });
        }
        Ok(STANDARD.encode(json))
    }

    /// Reads the text of a queue message: JSON that starts with `{`, else Base64 (task-hub.md 3.1).
    ///
    /// # Errors
    /// [`MessageError`] for whatever the engine cannot read or would stall on (task-hub.md 3.9).
    pub fn decode(text: &str) -> Result<Decoded, MessageError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(MessageError::TooLong { limit: MAX_TEXT_BYTES });
        }
        if text.starts_with('{') {
            return Message::read(text.as_bytes());
        }
        Message::read(&STANDARD.decode(text).map_err(|_| MessageError::NotBase64)?)
    }

    /// Reads the unzipped content of a large message's blob (task-hub.md 3.8).
    ///
    /// # Errors
    /// As [`Message::decode`]; a wrapper inside of a blob is refused.
    pub fn from_blob(json: &[u8]) -> Result<Message, MessageError> {
        if json.len() > MAX_BLOB_BYTES {
            return Err(MessageError::TooLong { limit: MAX_BLOB_BYTES });
        }
        match Message::read(json)? {
            Decoded::Message(message) => Ok(*message),
            Decoded::Wrapper { .. } => Err(EventError::Missing("TaskMessage").into()),
        }
    }

    /// The JSON of the wrapper that stands in the queue for a message in the blob `blob_name` (task-hub.md 3.7).
    pub fn wrapper_json(blob_name: &str) -> String {
        let mut data = typed("DurableTask.AzureStorage.MessageData");
        data.insert("ActivityId".into(), ActivityId::NIL.to_string().into());
        data.insert("TaskMessage".into(), Value::Null);
        data.insert("CompressedBlobName".into(), blob_name.into());
        data.insert("SequenceNumber".into(), 0.into());
        // The wrapper's Sender is null, unlike a message's.
        data.insert("Sender".into(), Value::Null);
        data.insert("SerializableTraceContext".into(), Value::Null);
        newtonsoft(&Value::Object(data))
    }

    fn read(json: &[u8]) -> Result<Decoded, MessageError> {
        let value: Value = serde_json::from_slice(json).map_err(|_| MessageError::NotJson)?;
        let data = Members::of(&value, "MessageData").map_err(|_| MessageError::NotJson)?;
        let activity_id = match data.text("ActivityId")? {
            Some(text) => text.parse()?,
            None if data.has("ActivityId") => return Err(MessageError::ActivityId),
            None => ActivityId::NIL,
        };
        if let Some(blob_name) = data.text("CompressedBlobName")?.filter(|name| !name.is_empty()) {
            return Ok(Decoded::Wrapper { blob_name });
        }
        let task = Members::of(data.get("TaskMessage").ok_or(EventError::Missing("TaskMessage"))?, "TaskMessage")?;
        let event = Event::from_json(task.get("Event").ok_or(EventError::Missing("Event"))?)?;
        let target = task.get("OrchestrationInstance").ok_or(EventError::Missing("OrchestrationInstance"))?;
        let OrchestrationInstance { instance_id, execution_id } = OrchestrationInstance::from_json(target)?;
        let sender = data.get("Sender").map(Sender::from_json).transpose()?;
        if sender.is_none() && matches!(event.kind, EventKind::EventRaised { .. }) {
            return Err(MessageError::NoSender);
        }
        let execution_tags = match task.get("OrchestrationExecutionContext") {
            Some(context) => Members::of(context, "OrchestrationExecutionContext")?
                .get("OrchestrationTags")
                .map(crate::event::tags_from_json)
                .transpose()?,
            None => None,
        };
        Ok(Decoded::Message(Box::new(Message {
            activity_id,
            event,
            instance_id,
            execution_id,
            execution_tags,
            sequence_number: data.int64("SequenceNumber")?.unwrap_or(0),
            episode: data.int("Episode")?,
            sender,
            trace_context: data.text("SerializableTraceContext")?,
        })))
    }
}

impl Sender {
    fn to_json(&self) -> Value {
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        Value::Object(Map::from_iter([
            ("InstanceId".to_owned(), text(&self.instance_id)),
            ("ExecutionId".to_owned(), text(&self.execution_id)),
        ]))
    }

    fn from_json(value: &Value) -> Result<Sender, EventError> {
        let members = Members::of(value, "Sender")?;
        Ok(Sender { instance_id: members.text("InstanceId")?, execution_id: members.text("ExecutionId")? })
    }
}

fn typed(type_name: &str) -> Map<String, Value> {
    Map::from_iter([("$type".to_owned(), Value::from(type_name))])
}

#[cfg(test)]
mod tests;
