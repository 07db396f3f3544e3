//! Starting an instance: row first, then the message (task-hub.md 7.3).
//!
//! Two writes, no read. The row is *inserted*: an ID that is taken is an error
//! and nothing is overwritten. .NET sends the message first, which loses control
//! messages for 2 s (engine-experiments.md 5.5, 5.6) and reports success for
//! lost races (4.7). Invariant, kept by the types: no message is sent before its
//! row was written, no row before the blobs that it refers to; message and row
//! have the same execution ID, creation time and generation.
//!
//! A crash between the two writes leaves a `Pending` row without a message.
//! [`StartWritten::again`] sends it, with what the row says; that is harmless if
//! it was sent before (4.4, 4.5).

use std::time::Duration;

use uuid::Uuid;

use crate::event::{ExecutionStarted, TraceContext};
use crate::hub::TaskHub;
use crate::instance::Instance;
use crate::message::Message;
use crate::names::{InstanceId, escape_key};
use crate::outgoing::{LargeMessage, gzip, wrapper};
use crate::payload::{Payload, PayloadError};
use crate::storage::{Condition, Entity, StorageError};
use crate::time::Time;
use crate::trace::TraceParent;

/// More than this many UTF-16 code units do not fit into a column (task-hub.md 4.5).
const MAX_COLUMN_CHARACTERS: usize = 30 * 1024;

/// The queue service hides a message for at most seven days (task-hub.md 3.2).
const MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Inputs beyond this are refused: no engine could replay them in reasonable time.
const MAX_INPUT_BYTES: usize = 32 * 1024 * 1024;

/// Members that Newtonsoft.Json does not take for entries of a dictionary; the engine reads `$type` as the name of a class to make.
const METADATA_NAMES: [&str; 5] = ["$id", "$ref", "$type", "$value", "$values"];

/// What shall be started.
#[derive(Debug, Clone)]
pub struct StartRequest {
    /// Name of the orchestrator function, exactly as the app registers it.
    pub name: String,
    /// ID of the new instance.
    pub instance_id: InstanceId,
    /// ID of the execution: any unique text. The same one again makes a repeated start harmless.
    pub execution_id: String,
    /// Version of the orchestrator.
    pub version: Option<String>,
    /// Input as JSON text, which arrives as it is given here. None is no input. At most 32 MiB; what does not fit into a
    /// message or a column goes through the hub's blobs.
    pub input: Option<String>,
    /// Tags of the engine, in their order.
    pub tags: Vec<(String, String)>,
    /// When the run shall begin, at most seven days ahead. It cannot be canceled by a terminate (engine-experiments.md 5.1),
    /// only by a purge (4.13).
    pub scheduled_start_time: Option<Time>,
    /// The trace that the run's spans belong to; it is no part of what makes two starts the same.
    pub trace_parent: Option<TraceParent>,
    /// What if the ID was used before.
    pub overwrite: Overwrite,
    /// Columns of the caller's own, which the engine keeps (task-hub.md 4.2).
    pub columns: Vec<(String, String)>,
}

/// What if an ID was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// The start is refused.
    #[default]
    Never,
    /// A run that is over is replaced, with the next generation. One that is not over is never replaced: .NET can do that, and
    /// the old run is just gone (engine-experiments.md 4.9).
    Finished,
}

impl StartRequest {
    /// A start of `name` with a random instance ID, without input.
    pub fn new(name: impl Into<String>) -> StartRequest {
        StartRequest {
            name: name.into(),
            instance_id: InstanceId::random(),
            execution_id: Uuid::new_v4().simple().to_string(),
            version: None,
            input: None,
            tags: Vec::new(),
            scheduled_start_time: None,
            trace_parent: None,
            overwrite: Overwrite::Never,
            columns: Vec::new(),
        }
    }
}

/// Why an instance could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ID is taken. Nothing was written.
    #[error("an instance of this ID is in the hub already")]
    AlreadyExists,
    /// The input is too large even for a blob.
    #[error("the input has {bytes} bytes; at most {MAX_INPUT_BYTES} are accepted")]
    TooLarge {
        /// The input's size.
        bytes: usize,
    },
    /// The input is no JSON.
    #[error("the input is not JSON: {0}")]
    InvalidInput(String),
    /// Two tags of one name, or a name that .NET's JSON reader takes for an instruction: the engine could not read the message.
    #[error("the tag {name:?} is given twice, or is one of $id, $ref, $type, $value, $values, which the engine cannot read")]
    InvalidTag {
        /// The tag's name.
        name: String,
    },
    /// The start lies further ahead than the queue service can hide a message.
    #[error("a start can be scheduled at most seven days ahead")]
    TooFarAhead,
    /// The storage account did not answer as needed. The row may have been written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A start that was checked, and not yet written.
#[derive(Debug, Clone)]
pub struct PreparedStart {
    request: StartRequest,
    created: Time,
}

/// Row, message and blobs of a start in one generation.
struct Parts {
    row: Entity,
    message: Text,
    blobs: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Text {
    Inline(String),
    Large(LargeMessage),
}

/// A start whose row is in the hub: its message may be sent.
#[derive(Debug, Clone)]
pub struct StartWritten {
    instance_id: String,
    created: Time,
    text: String,
    scheduled_start_time: Option<Time>,
}

/// A row that nobody can start from.
#[derive(Debug, thiserror::Error)]
pub enum NotStartable {
    /// A worker took it up already.
    #[error("the instance has started")]
    HasStarted,
    /// It lacks what the message needs.
    #[error("the instance's row has no execution ID or no creation time")]
    Incomplete,
    /// Its large input cannot be had.
    #[error(transparent)]
    Input(#[from] PayloadError),
}

impl PreparedStart {
    /// Checks the request. No request to the hub.
    ///
    /// # Errors
    /// [`StartError::InvalidInput`], [`StartError::TooLarge`], [`StartError::InvalidTag`], [`StartError::TooFarAhead`].
    pub fn new(request: StartRequest) -> Result<PreparedStart, StartError> {
        if let Some(input) = &request.input {
            if input.len() > MAX_INPUT_BYTES {
                return Err(StartError::TooLarge { bytes: input.len() });
            }
            serde_json::from_str::<serde::de::IgnoredAny>(input).map_err(|error| StartError::InvalidInput(error.to_string()))?;
        }
        for (index, (name, _)) in request.tags.iter().enumerate() {
            if METADATA_NAMES.contains(&name.as_str()) || request.tags[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(StartError::InvalidTag { name: name.clone() });
            }
        }
        let created = Time::now();
        if request.scheduled_start_time.is_some_and(|scheduled| scheduled.since(created) > MAX_DELAY) {
            return Err(StartError::TooFarAhead);
        }
        Ok(PreparedStart { request, created })
    }

    /// True if the input goes through blobs of the hub, since it fits neither a message nor a column.
    pub fn needs_blobs(&self, hub: &TaskHub) -> bool {
        // Whatever its number: this message is not sent.
        let parts = self.parts(hub, 0, 0);
        matches!(parts.message, Text::Large(_)) || !parts.blobs.is_empty()
    }

    /// Writes the row. One request; one more for each blob of a large input, and two more to replace a finished run.
    ///
    /// # Errors
    /// [`StartError::AlreadyExists`] if the ID is taken, also by an earlier attempt of the same start whose answer was lost:
    /// compare the row's execution ID.
    pub async fn write(self, hub: &TaskHub) -> Result<StartWritten, StartError> {
        let number = hub.next_start_number();
        let parts = self.parts(hub, 0, number);
        parts.upload(hub).await?;
        match hub.instances().insert(&parts.row).await {
            Ok(_) => Ok(self.written(&parts)),
            Err(error) if !error.is_already_exists() => Err(error.into()),
            Err(_) if self.request.overwrite == Overwrite::Never => Err(StartError::AlreadyExists),
            Err(_) => self.replace(hub, number).await,
        }
    }

    /// Replaces a run that is over, if it still is as it was read.
    async fn replace(self, hub: &TaskHub, number: i64) -> Result<StartWritten, StartError> {
        let id = self.request.instance_id.as_str();
        let Some(before) = hub.get_without_input(id, &[]).await? else { return Err(StartError::AlreadyExists) };
        let Some(etag) = before.etag.filter(|_| before.runtime_status.is_terminal()) else { return Err(StartError::AlreadyExists) };
        let parts = self.parts(hub, before.generation.saturating_add(1), number);
        parts.upload(hub).await?;
        match hub.instances().replace(&parts.row, Condition::Match(etag)).await {
            Ok(_) => Ok(self.written(&parts)),
            // Another client was faster, or purged it: nothing of ours was sent.
            Err(error) if error.is_precondition_failed() || error.is_not_found() => Err(StartError::AlreadyExists),
            Err(error) => Err(error.into()),
        }
    }

    fn written(&self, parts: &Parts) -> StartWritten {
        let text = match &parts.message {
            Text::Inline(text) => text.clone(),
            Text::Large(large) => large.wrapper(),
        };
        let StartRequest { instance_id, scheduled_start_time, .. } = &self.request;
        StartWritten {
            instance_id: instance_id.as_str().to_owned(),
            created: self.created,
            text,
            scheduled_start_time: *scheduled_start_time,
        }
    }

    fn parts(&self, hub: &TaskHub, generation: i32, number: i64) -> Parts {
        let StartRequest {
            name,
            instance_id,
            execution_id,
            version,
            input,
            tags,
            scheduled_start_time,
            trace_parent,
            overwrite: _,
            columns,
        } = &self.request;
        let started = ExecutionStarted {
            version: version.clone(),
            tags: Some(tags.clone()).filter(|tags| !tags.is_empty()),
            parent_trace_context: trace_parent.as_ref().map(trace_context),
            scheduled_start_time: *scheduled_start_time,
            generation: Some(generation),
            ..ExecutionStarted::new(instance_id.as_str(), execution_id, name, input.clone())
        };
        let message = Message::start(started, self.created, number);
        let message = message.encode().map_or_else(|_| Text::Large(LargeMessage::new(&message)), Text::Inline);

        let mut blobs = Vec::new();
        let mut row = Entity::new(escape_key(instance_id.as_str()), "")
            .with("Name", name.as_str())
            .with("CreatedTime", self.created)
            .with("LastUpdatedTime", Time::now())
            .with("RuntimeStatus", "Pending")
            .with("TaskHubName", hub.name().as_str())
            .with("ExecutionId", execution_id.as_str())
            .with("Generation", generation);
        if let Some(version) = version {
            row.set("Version", version.as_str());
        }
        if let Some(time) = scheduled_start_time {
            row.set("ScheduledStartTime", *time);
        }
        match (&message, input) {
            // The row refers to the message's blob, which holds the input (task-hub.md 4.5).
            (Text::Large(large), Some(_)) => row.set("Input", hub.large_message_url(&large.blob_name)),
            (_, Some(input)) => set_column(&mut row, "Input", input, &mut blobs),
            (_, None) => {}
        }
        let tags = if tags.is_empty() { "null".to_owned() } else { tags_text(tags) };
        set_column(&mut row, "Tags", &tags, &mut blobs);
        for (name, value) in columns {
            row.set(name, value.as_str());
        }
        Parts { row, message, blobs }
    }
}

/// What a start would write, for [`crate::inspection`].
pub(crate) fn written_by(start: &PreparedStart, hub: &TaskHub) -> (Entity, String, Vec<(String, Vec<u8>)>) {
    let Parts { row, message, mut blobs } = start.parts(hub, 0, 1);
    let text = match message {
        Text::Inline(text) => text,
        Text::Large(large) => {
            blobs.push((large.blob_name.clone(), large.content().to_vec()));
            large.wrapper()
        }
    };
    (row, text, blobs)
}

impl Parts {
    async fn upload(&self, hub: &TaskHub) -> Result<(), StorageError> {
        if let Text::Large(large) = &self.message {
            large.upload(hub).await?;
        }
        for (name, content) in &self.blobs {
            hub.upload(name, content.clone()).await?;
        }
        Ok(())
    }
}

/// The text itself, or an empty column and a companion that names a blob, as the engine's client writes it (task-hub.md 4.5).
fn set_column(row: &mut Entity, column: &str, text: &str, blobs: &mut Vec<(String, Vec<u8>)>) {
    if text.encode_utf16().count() <= MAX_COLUMN_CHARACTERS {
        row.set(column, text);
        return;
    }
    let random = Uuid::new_v4().as_fields().0;
    let name = format!("{}/history--{column}-{random:08X}-{column}.json.gz", row.partition_key);
    row.set(column, "");
    row.set(&format!("{column}BlobName"), name.as_str());
    blobs.push((name, gzip(text.as_bytes())));
}

fn trace_context(parent: &TraceParent) -> TraceContext {
    TraceContext { trace_parent: Some(parent.to_string()), trace_state: None, id: None, span_id: None, activity_start_time: None }
}

/// A JSON object of the tags, in their order.
fn tags_text(tags: &[(String, String)]) -> String {
    let text = |text: &str| crate::event::newtonsoft(&serde_json::Value::from(text));
    let pairs: Vec<String> = tags.iter().map(|(name, value)| format!("{}:{}", text(name), text(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

impl StartWritten {
    /// The start message of a row that was written earlier, made from what the row says, which is everything but the trace. No
    /// request, one for a large input.
    ///
    /// # Errors
    /// [`NotStartable`] if the row shows that the start was consumed, or cannot say what it was.
    pub async fn again(hub: &TaskHub, instance: &Instance, trace_parent: Option<TraceParent>) -> Result<StartWritten, NotStartable> {
        if instance.has_started {
            return Err(NotStartable::HasStarted);
        }
        let (execution_id, created) = instance.execution_id.as_deref().zip(instance.created_time).ok_or(NotStartable::Incomplete)?;
        let written =
            |text| StartWritten { instance_id: instance.id.clone(), created, text, scheduled_start_time: instance.scheduled_start_time };
        let input = match &instance.input {
            None => None,
            Some(Payload::Inline(text)) => Some(text.clone()),
            Some(Payload::Blob(blob)) => match blob.start_message() {
                Some(name) => return Ok(written(wrapper(name))),
                None => Some(hub.fetch(&Payload::Blob(blob.clone()), MAX_INPUT_BYTES as u64).await?),
            },
        };
        let started = ExecutionStarted {
            version: instance.version.clone(),
            tags: Some(instance.tags.clone()).filter(|tags| !tags.is_empty()),
            parent_trace_context: trace_parent.as_ref().map(trace_context),
            scheduled_start_time: instance.scheduled_start_time,
            generation: Some(instance.generation),
            ..ExecutionStarted::new(&instance.id, execution_id, &instance.name, input)
        };
        let message = Message::start(started, created, hub.next_start_number());
        // What went inline once goes inline again: the row's input is not larger than it was.
        Ok(written(message.encode().map_err(|_| NotStartable::Incomplete)?))
    }

    /// The creation time that the row has.
    pub fn created_time(&self) -> Time {
        self.created
    }

    /// Sends the start message. One request. Sending it twice is harmless.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not take it.
    pub async fn send(&self, hub: &TaskHub) -> Result<(), StorageError> {
        let delay = self.scheduled_start_time.map_or(Duration::ZERO, |scheduled| scheduled.since(Time::now()));
        hub.control_queue_of(&self.instance_id).put(&self.text, delay).await?;
        Ok(())
    }
}

impl TaskHub {
    /// Starts an instance: inserts its row, then sends its message. Two requests; a large input costs one more for its blob.
    ///
    /// # Errors
    /// [`StartError`]. After [`StartError::Storage`] call it again with the same request: if the row is there with the
    /// request's execution ID, the message is sent (again), which costs one more read.
    pub async fn start(&self, request: StartRequest) -> Result<(), StartError> {
        let (id, execution_id, trace_parent) = (request.instance_id.clone(), request.execution_id.clone(), request.trace_parent);
        let written = match PreparedStart::new(request)?.write(self).await {
            Ok(written) => written,
            Err(StartError::AlreadyExists) => match self.get(id.as_str()).await? {
                Some(row) if row.execution_id.as_deref() == Some(&execution_id) => {
                    match StartWritten::again(self, &row, trace_parent).await {
                        Ok(written) => written,
                        Err(NotStartable::HasStarted) => return Ok(()),
                        Err(NotStartable::Input(PayloadError::Storage(error))) => return Err(error.into()),
                        Err(NotStartable::Incomplete | NotStartable::Input(_)) => return Err(StartError::AlreadyExists),
                    }
                }
                _ => return Err(StartError::AlreadyExists),
            },
            Err(error) => return Err(error),
        };
        Ok(written.send(self).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_written_as_the_engines_clients_write_it() {
        let parent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(
            trace_context(&parent).to_json(true).to_string(),
            r#"{"$type":"DurableTask.Core.Tracing.DistributedTraceContext","TraceParent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","TraceState":null,"Id":null,"SpanId":null,"ActivityStartTime":null}"#
        );
    }
}
