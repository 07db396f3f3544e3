//! Starting an instance: row first, then the message (task-hub.md 7.3).
//!
//! Two writes, no read. The row is *inserted*: an ID that is taken is an error
//! and nothing is overwritten. .NET sends the message first, which loses control
//! messages for 2 s (engine-experiments.md 5.5, 5.6) and reports success for
//! lost races (4.7). Invariant, kept by the types: no message is sent before its
//! row was written, and message and row have the same execution ID, creation
//! time and generation.
//!
//! A crash between the two writes leaves a `Pending` row without a message.
//! [`StartWritten::again`] sends it, with what the row says; that is harmless if
//! it was sent before (4.4, 4.5).

use crate::event::{ExecutionStarted, OrchestrationInstance};
use crate::hub::TaskHub;
use crate::instance::Instance;
use crate::message::{MAX_INLINE_BYTES, Message, TooLargeForQueue};
use crate::names::{InstanceId, escape_key};
use crate::payload::Payload;
use crate::storage::{Entity, StorageError};
use crate::time::Time;

/// More than this many UTF-16 bytes do not fit into a column (task-hub.md 4.5).
const MAX_COLUMN_UTF16_BYTES: usize = 60 * 1024;

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
    /// Input as JSON text, which arrives as it is given here. None is no input.
    pub input: Option<String>,
    /// Columns of the caller's own, which the engine keeps (task-hub.md 4.2).
    pub columns: Vec<(String, String)>,
}

/// Why an instance could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ID is taken. Nothing was written.
    #[error("an instance of this ID is in the hub already")]
    AlreadyExists,
    /// The input fits neither a message nor a column.
    #[error("{0}")]
    TooLarge(#[from] TooLarge),
    /// The input is no JSON.
    #[error("the input is not JSON: {0}")]
    InvalidInput(serde_json::Error),
    /// The storage account did not answer as needed. The row may have been written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The input is larger than what goes inline; large inputs are not yet supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// The input as a column.
    #[error("the input has {characters} UTF-16 characters; at most {} fit", MAX_COLUMN_UTF16_BYTES / 2)]
    Column {
        /// The input's size.
        characters: usize,
    },
    /// The message around the input.
    #[error("the start message with the input has {bytes} bytes; at most {MAX_INLINE_BYTES} fit")]
    Message {
        /// The message's size.
        bytes: usize,
    },
}

impl From<TooLargeForQueue> for StartError {
    fn from(TooLargeForQueue { bytes }: TooLargeForQueue) -> StartError {
        StartError::TooLarge(TooLarge::Message { bytes })
    }
}

/// A start that was checked, and not yet written.
#[derive(Debug, Clone)]
pub struct PreparedStart {
    row: Entity,
    written: StartWritten,
}

/// A start whose row is in the hub: its message may be sent.
#[derive(Debug, Clone)]
pub struct StartWritten {
    instance_id: String,
    created: Time,
    text: String,
}

/// A row that nobody can start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStartable {
    /// A worker took it up already.
    #[error("the instance has started")]
    HasStarted,
    /// It lacks what the message needs.
    #[error("the instance's row has no execution ID, no creation time or no inline input")]
    Incomplete,
}

impl PreparedStart {
    /// Checks the request and builds row and message from it. No request.
    ///
    /// # Errors
    /// [`StartError::InvalidInput`] and [`StartError::TooLarge`].
    pub fn new(hub: &TaskHub, request: StartRequest) -> Result<PreparedStart, StartError> {
        let created = Time::now();
        if let Some(input) = &request.input {
            serde_json::from_str::<serde::de::IgnoredAny>(input).map_err(StartError::InvalidInput)?;
            let characters = input.encode_utf16().count();
            if characters * 2 > MAX_COLUMN_UTF16_BYTES {
                return Err(TooLarge::Column { characters }.into());
            }
        }
        let started = ExecutionStarted {
            name: request.name.clone(),
            version: request.version.clone(),
            input: request.input.clone(),
            ..top_level(request.instance_id.as_str(), &request.execution_id, 0)
        };
        let text = Message::start(started, created, hub.next_start_number()).encode()?;
        let mut row = Entity::new(escape_key(request.instance_id.as_str()), "")
            .with("Name", request.name)
            .with("CreatedTime", created)
            .with("LastUpdatedTime", Time::now())
            .with("RuntimeStatus", "Pending")
            .with("TaskHubName", hub.name().as_str())
            .with("ExecutionId", request.execution_id)
            .with("Generation", 0)
            .with("Tags", "null");
        for (name, value) in [("Version", request.version), ("Input", request.input)] {
            if let Some(value) = value {
                row.set(name, value);
            }
        }
        for (name, value) in request.columns {
            row.set(&name, value);
        }
        Ok(PreparedStart { row, written: StartWritten { instance_id: request.instance_id.as_str().to_owned(), created, text } })
    }

    /// Inserts the row. One request.
    ///
    /// # Errors
    /// [`StartError::AlreadyExists`] if the ID is taken, also by an earlier attempt of the same start whose answer was lost:
    /// compare the row's execution ID.
    pub async fn write(self, hub: &TaskHub) -> Result<StartWritten, StartError> {
        match hub.instances().insert(&self.row).await {
            Ok(_) => Ok(self.written),
            Err(error) if error.is_already_exists() => Err(StartError::AlreadyExists),
            Err(error) => Err(error.into()),
        }
    }
}

impl StartWritten {
    /// The start message of a row that was written earlier, made from what the row says. No request.
    ///
    /// # Errors
    /// [`NotStartable`] if the row shows that the start was consumed, or cannot say what it was.
    pub fn again(hub: &TaskHub, instance: &Instance) -> Result<StartWritten, NotStartable> {
        if instance.has_started {
            return Err(NotStartable::HasStarted);
        }
        let input = match &instance.input {
            None => None,
            Some(Payload::Inline(text)) => Some(text.clone()),
            Some(Payload::Blob(_)) => return Err(NotStartable::Incomplete),
        };
        let (execution_id, created) = instance.execution_id.as_deref().zip(instance.created_time).ok_or(NotStartable::Incomplete)?;
        let started = ExecutionStarted {
            name: instance.name.clone(),
            version: instance.version.clone(),
            input,
            ..top_level(&instance.id, execution_id, instance.generation)
        };
        let text = Message::start(started, created, hub.next_start_number()).encode().map_err(|_| NotStartable::Incomplete)?;
        Ok(StartWritten { instance_id: instance.id.clone(), created, text })
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
        hub.control_queue_of(&self.instance_id).put(&self.text, std::time::Duration::ZERO).await?;
        Ok(())
    }
}

impl TaskHub {
    /// Starts an instance: inserts its row, then sends its message. Two requests.
    ///
    /// # Errors
    /// [`StartError`]. After [`StartError::Storage`] call it again with the same request: if the row is there with the
    /// request's execution ID, the message is sent (again), which costs one more read.
    pub async fn start(&self, request: StartRequest) -> Result<(), StartError> {
        let (id, execution_id) = (request.instance_id.clone(), request.execution_id.clone());
        let written = match PreparedStart::new(self, request)?.write(self).await {
            Ok(written) => written,
            Err(StartError::AlreadyExists) => match self.get(id.as_str()).await? {
                Some(row) if row.execution_id.as_deref() == Some(&execution_id) => match StartWritten::again(self, &row) {
                    Ok(written) => written,
                    Err(NotStartable::HasStarted) => return Ok(()),
                    Err(NotStartable::Incomplete) => return Err(StartError::AlreadyExists),
                },
                _ => return Err(StartError::AlreadyExists),
            },
            Err(error) => return Err(error),
        };
        Ok(written.send(self).await?)
    }
}

/// The event of a start that no orchestration made.
fn top_level(instance_id: &str, execution_id: &str, generation: i32) -> ExecutionStarted {
    ExecutionStarted {
        instance: OrchestrationInstance { instance_id: instance_id.to_owned(), execution_id: Some(execution_id.to_owned()) },
        parent: None,
        name: String::new(),
        version: None,
        input: None,
        tags: None,
        correlation: None,
        parent_trace_context: None,
        scheduled_start_time: None,
        generation: Some(generation),
        generate_new_trace: false,
    }
}
