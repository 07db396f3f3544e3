//! Carries out a decision in the task hub, and says what came of it.
//!
//! Knows no status and no condition. Invariant: the row is written before its
//! message (the types of `durable_taskhub::start` keep it), and a row that is
//! already there is never overwritten.

use durable_taskhub::start::{PreparedStart, StartError, StartRequest, StartWritten};
use durable_taskhub::{Instance, TaskHub};

use super::decide::{Hold, Refusal, Wish};
use super::describe::{Outcome, Row};
use super::identity::{OWNER_COLUMN, Whose};
use crate::controllers::failure::Failure;
use crate::crash_points::{self, at};
use crate::hubs::ReadyHub;

/// Outputs beyond this are not fetched to be described.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;

/// Starts the instance, or finds out whose the one of its ID is. Two requests if it is new.
pub async fn start(hub: &ReadyHub, wish: &Wish) -> Result<Outcome, Failure> {
    let request = StartRequest {
        instance_id: wish.identity.instance_id.clone(),
        execution_id: wish.identity.execution_id.clone(),
        input: wish.input.as_ref().and_then(|input| input_text(input.text.as_deref().unwrap_or_default())),
        columns: vec![(OWNER_COLUMN.to_owned(), wish.identity.owner.clone())],
        ..StartRequest::new(wish.function_name.as_str())
    };
    let prepared = match PreparedStart::new(request) {
        Ok(prepared) => prepared,
        Err(StartError::TooLarge { bytes }) => return Ok(too_large(bytes)),
        Err(StartError::InvalidInput(why)) => return Ok(refused("InputInvalid", format!("spec.input.value is not JSON: {why}"))),
        Err(error) => return Err(Failure::new("storage", error)),
    };
    if prepared.needs_blobs(&hub.client) {
        return Ok(too_large(0));
    }
    crash_points::reached(at::BEFORE_ROW);
    match prepared.write(&hub.client).await {
        Ok(written) => {
            crash_points::reached(at::ROW_WRITTEN);
            send(&hub.client, &written).await?;
            Ok(accepted(wish, &written))
        }
        Err(StartError::AlreadyExists) => taken(hub, wish).await,
        Err(error) => Err(Failure::new("storage", error)),
    }
}

/// The ID is taken: by an earlier attempt of ours, or by another.
async fn taken(hub: &ReadyHub, wish: &Wish) -> Result<Outcome, Failure> {
    let id = wish.identity.instance_id.as_str();
    let Some(instance) = hub.client.get(id).await.map_err(|error| Failure::new("storage", error))? else {
        // Purged between the insert and the read: the next attempt inserts.
        return Err(Failure::of("instance_vanished"));
    };
    match wish.identity.whose(&instance) {
        Whose::Ours => {
            if instance.has_started {
                return row(hub, instance.into()).await;
            }
            // Died after the row, or the answer of the insert was lost. The message may have been sent: a second one is swallowed.
            let written = send_for(hub, &instance).await?;
            Ok(accepted(wish, &written))
        }
        Whose::OfObject(owner) => Ok(Outcome::Conflict { instance_id: id.to_owned(), status: instance.runtime_status, owner: Some(owner) }),
        Whose::Foreign => Ok(Outcome::Conflict { instance_id: id.to_owned(), status: instance.runtime_status, owner: None }),
    }
}

/// Sends the start message of a row that has waited too long. Two requests: the message needs the row's input.
pub async fn send_again(hub: &ReadyHub, instance_id: &str) -> Result<(), Failure> {
    let found = hub.client.get(instance_id).await.map_err(|error| Failure::new("storage", error))?;
    match found {
        Some(instance) if !instance.has_started => send_for(hub, &instance).await.map(drop),
        // A worker took it up, or somebody purged it, since it was seen: the next read shows it.
        Some(_) | None => Ok(()),
    }
}

/// Sends the start message that the row stands for.
async fn send_for(hub: &ReadyHub, instance: &Instance) -> Result<StartWritten, Failure> {
    let written = StartWritten::again(&hub.client, instance).await.map_err(|error| Failure::new("row_incomplete", error))?;
    send(&hub.client, &written).await?;
    Ok(written)
}

/// The row with its output, which may lie in a blob.
pub async fn row(hub: &ReadyHub, instance: std::sync::Arc<Instance>) -> Result<Outcome, Failure> {
    use durable_taskhub::payload::PayloadError;
    let output = match instance.output.as_ref().filter(|_| instance.runtime_status.is_terminal()) {
        None => None,
        Some(payload) => match hub.client.fetch(payload, MAX_OUTPUT_BYTES).await {
            Ok(text) => Some(Ok(text)),
            Err(PayloadError::Storage(error)) => return Err(Failure::new("storage", error)),
            Err(error) => Some(Err(error.to_string())),
        },
    };
    Ok(Outcome::Row(Row { instance, output, workers_active: hub.workers_active }))
}

async fn send(hub: &TaskHub, written: &StartWritten) -> Result<(), Failure> {
    written.send(hub).await.map_err(|error| Failure::new("storage", error))?;
    crash_points::reached(at::MESSAGE_SENT);
    Ok(())
}

fn accepted(wish: &Wish, written: &StartWritten) -> Outcome {
    Outcome::Accepted {
        instance_id: wish.identity.instance_id.as_str().to_owned(),
        execution_id: wish.identity.execution_id.clone(),
        created_time: written.created_time(),
    }
}

fn too_large(bytes: usize) -> Outcome {
    let message = format!(
        "the input has {bytes} bytes and does not fit into a message and a row of the task hub, which take about 30,000 characters: \
         put the large part where the function can fetch it, and pass a reference"
    );
    refused("InputTooLarge", message)
}

fn refused(reason: &'static str, message: String) -> Outcome {
    Outcome::Held(Hold::Refused(Refusal { reason, message }))
}

/// The text that goes to the hub.
fn input_text(_: &str) -> Option<String> {
    None
}
