//! Carries out decisions in the task hub, and says what came of them.
//!
//! Knows no status and no condition. Invariants: the row is written before its
//! message (the types of `durable_taskhub::start` keep it); a row that is already
//! there is never overwritten; nothing is sent that was not recorded before.

pub mod control;
pub mod rewind;

use std::sync::Arc;

use durable_taskhub::column::ColumnSet;
use durable_taskhub::end::Ending;
use durable_taskhub::payload::{Payload, PayloadError};
use durable_taskhub::start::{PreparedStart, StartError, StartRequest, StartWritten};
use durable_taskhub::{Instance, RuntimeStatus, TaskHub};
use kube::Client;

use super::decide::{Hold, SEND_AGAIN_AFTER};
use super::describe::{Change, Outcome, Row};
use super::identity::{OWNER_COLUMN, Whose};
use super::same_json::same_json;
use super::wish::{Refusal, Wish, is_terminal, runtime_status};
use crate::api::v1alpha1::{RuntimeStatus as Status, StartPolicy};
use crate::controllers::failure::Failure;
use crate::controllers::payload::{self, Unusable};
use crate::crash_points::{self, at, scaled};
use crate::hubs::ReadyHub;

/// Outputs beyond this are not fetched to be described.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;

/// Inputs of others are not fetched beyond this to be compared: ours cannot be larger.
const MAX_INPUT_BYTES: u64 = 32 * 1024 * 1024;

/// How often a claim that somebody else's write prevented is tried at once.
const CLAIMS: u32 = 3;

/// A failure of the storage account.
pub fn storage(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new("storage", error)
}

/// Starts the instance, or finds out whose the one of its ID is. Two requests if it is new.
pub async fn start(client: &Client, hub: &ReadyHub, namespace: &str, wish: &Wish) -> Result<Outcome, Failure> {
    let input = match input(client, hub, namespace, wish).await? {
        Ok(input) => input,
        Err(hold) => return Ok(Outcome::Held(hold)),
    };
    let spec = &wish.spec;
    let tags = spec.tags.iter().flat_map(|tags| tags.0.iter().map(|(name, value)| (name.clone(), value.clone()))).collect();
    let request = StartRequest {
        instance_id: wish.identity.instance_id.clone(),
        execution_id: wish.identity.execution_id.clone(),
        version: spec.version.clone(),
        input: input.clone(),
        tags,
        trace_parent: wish.trace.map(|trace| trace.parent),
        columns: vec![(OWNER_COLUMN.to_owned(), wish.identity.owner.clone())],
        ..StartRequest::new(spec.function_name.as_deref().unwrap_or_default())
    };
    let prepared = match PreparedStart::new(request) {
        Ok(prepared) => prepared,
        Err(StartError::TooLarge { bytes }) => {
            return Ok(refused("InputTooLarge", format!("the input has {bytes} bytes, more than a task hub takes")));
        }
        Err(StartError::InvalidInput(why)) => return Ok(refused("InputInvalid", format!("the input is not JSON: {why}"))),
        Err(error @ (StartError::InvalidTag { .. } | StartError::TooFarAhead)) => return Ok(refused("InvalidSpec", error.to_string())),
        Err(error) => return Err(storage(error)),
    };
    crash_points::reached(at::BEFORE_ROW);
    match prepared.write(&hub.client).await {
        Ok(written) => {
            crash_points::reached(at::ROW_WRITTEN);
            send(&hub.client, &written).await?;
            Ok(accepted(wish, &written))
        }
        Err(StartError::AlreadyExists) => taken(hub, wish, input.as_deref()).await,
        Err(error) => Err(storage(error)),
    }
}

async fn input(client: &Client, hub: &ReadyHub, namespace: &str, wish: &Wish) -> Result<Result<Option<String>, Hold>, Failure> {
    let Some(input) = &wish.spec.input else { return Ok(Ok(None)) };
    let refusal = |reason, message: String| Refusal { reason, message: format!("spec.input: {message}") };
    Ok(match payload::text(client, namespace, input, hub.limits.max_input_bytes).await? {
        Ok(text) => Ok(text),
        Err(Unusable::NotFound(why)) => Err(Hold::Waits(refusal("InputNotFound", why))),
        Err(Unusable::Invalid(why)) => Err(Hold::Refused(refusal("InputInvalid", why))),
        Err(Unusable::TooLarge(why)) => Err(Hold::Refused(refusal("InputTooLarge", why))),
    })
}

/// The ID is taken: by an earlier attempt of ours, or by another.
async fn taken(hub: &ReadyHub, wish: &Wish, input: Option<&str>) -> Result<Outcome, Failure> {
    let id = wish.identity.instance_id.as_str();
    for _ in 0..CLAIMS {
        let Some(instance) = hub.client.get(id).await.map_err(storage)? else {
            // Purged between the insert and the read: the next attempt inserts.
            return Err(Failure::of("instance_vanished"));
        };
        let owner = match wish.identity.whose(&instance) {
            Whose::Ours => return ours(hub, wish, instance).await,
            Whose::OfObject(owner) => Some(owner),
            Whose::Foreign => None,
        };
        if wish.spec.start_policy != StartPolicy::CreateOrAdopt {
            return Ok(conflict(id, instance.runtime_status.to_string(), owner));
        }
        if let Some(differs) = difference(hub, wish, &instance, input).await? {
            return Ok(conflict(id, format!("{}, {differs}", instance.runtime_status), owner));
        }
        if let Some(outcome) = claim(hub, wish, instance).await? {
            return Ok(outcome);
        }
    }
    Err(Failure::of("row_contended"))
}

/// Our row. If it has not started we died after it, or the answer of the insert was lost. The message may have been sent: a
/// second one is swallowed.
async fn ours(hub: &ReadyHub, wish: &Wish, instance: Instance) -> Result<Outcome, Failure> {
    if instance.has_started {
        let adopted =
            wish.spec.start_policy != StartPolicy::Create && instance.execution_id.as_deref() != Some(&wish.identity.execution_id);
        let row = Row { adopted, ..row(hub, Some(wish), instance.into()).await? };
        return Ok(Outcome::Row(row, Change::Keep));
    }
    let written = send_for(hub, &instance, wish).await?;
    Ok(accepted(wish, &written))
}

/// In what the instance is not the one that the object asks for.
async fn difference(hub: &ReadyHub, wish: &Wish, instance: &Instance, input: Option<&str>) -> Result<Option<String>, Failure> {
    if wish.spec.function_name.as_deref() != Some(instance.name.as_str()) {
        return Ok(Some(format!("of another function, {}", instance.name)));
    }
    let theirs = match &instance.input {
        None => None,
        Some(payload) => match hub.client.fetch(payload, MAX_INPUT_BYTES).await {
            Ok(text) => Some(text),
            Err(PayloadError::Storage(error)) => return Err(storage(error)),
            Err(error) => return Ok(Some(format!("of an input that cannot be read: {error}"))),
        },
    };
    let value = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("null").to_owned();
    let same = same_json(&value(theirs.as_deref()), &value(input));
    Ok((!same).then(|| "with another input".to_owned()))
}

/// Takes the instance over; none if somebody else changed the row meanwhile.
async fn claim(hub: &ReadyHub, wish: &Wish, instance: Instance) -> Result<Option<Outcome>, Failure> {
    let Some(etag) = instance.etag.clone() else { return Ok(None) };
    crash_points::reached(at::BEFORE_CLAIM);
    match hub.client.set_column(&instance.id, OWNER_COLUMN, &wish.identity.owner, &etag).await.map_err(storage)? {
        ColumnSet::Set(_) => {
            crash_points::reached(at::CLAIMED);
            let row = Row { adopted: true, ..row(hub, Some(wish), instance.into()).await? };
            Ok(Some(Outcome::Row(row, Change::Keep)))
        }
        ColumnSet::Changed | ColumnSet::Gone => Ok(None),
    }
}

/// Looks for the instance of another client, and claims it. Two requests once it is there.
pub async fn adopt(hub: &ReadyHub, wish: &Wish) -> Result<Outcome, Failure> {
    let id = wish.identity.instance_id.as_str();
    for _ in 0..CLAIMS {
        let found = hub.client.get_without_input(id, &[OWNER_COLUMN]).await.map_err(storage)?;
        let Some(instance) = found else { return Ok(Outcome::Held(Hold::InstanceNotFound)) };
        if wish.identity.whose(&instance) == Whose::Ours {
            let row = Row { adopted: true, ..row(hub, Some(wish), instance.into()).await? };
            return Ok(Outcome::Row(row, Change::Keep));
        }
        // What it runs is known only now.
        if let Err(why) = hub.access.function(&instance.name) {
            return Ok(Outcome::Held(Hold::Waits(Refusal { reason: why.reason, message: why.message })));
        }
        if wish.spec.function_name.as_ref().is_some_and(|name| *name != instance.name) {
            return Ok(conflict(id, format!("{}, of another function, {}", instance.runtime_status, instance.name), None));
        }
        if let Some(outcome) = claim(hub, wish, instance).await? {
            return Ok(outcome);
        }
    }
    Err(Failure::of("row_contended"))
}

/// Before it is said that nothing was started: an operator that died may have left our row, and what `CreateOrAdopt` would
/// take over runs already and has to be brought into the state that is asked for. One request if there is nothing.
pub async fn look_before(client: &Client, hub: &ReadyHub, namespace: &str, wish: &Wish, hold: Hold) -> Result<Outcome, Failure> {
    let Some(instance) = hub.client.get(wish.identity.instance_id.as_str()).await.map_err(storage)? else {
        return Ok(Outcome::Held(hold));
    };
    if wish.identity.whose(&instance) == Whose::Ours {
        return ours(hub, wish, instance).await;
    }
    if wish.spec.start_policy != StartPolicy::CreateOrAdopt {
        return Ok(Outcome::Held(hold));
    }
    match input(client, hub, namespace, wish).await? {
        Ok(input) => taken(hub, wish, input.as_deref()).await,
        Err(hold) => Ok(Outcome::Held(hold)),
    }
}

/// Sends the start message of a row that has waited too long. Two requests: the message needs the row's input.
pub async fn send_again(hub: &ReadyHub, wish: &Wish, instance_id: &str) -> Result<(), Failure> {
    match hub.client.get(instance_id).await.map_err(storage)? {
        Some(instance) if !instance.has_started => send_for(hub, &instance, wish).await.map(drop),
        // A worker took it up, or somebody purged it, since it was seen: the next read shows it.
        Some(_) | None => Ok(()),
    }
}

/// Sends the start message that the row stands for.
async fn send_for(hub: &ReadyHub, instance: &Instance, wish: &Wish) -> Result<StartWritten, Failure> {
    let written = StartWritten::again(&hub.client, instance, wish.trace.map(|trace| trace.parent))
        .await
        .map_err(|error| Failure::new("row_incomplete", error))?;
    send(&hub.client, &written).await?;
    Ok(written)
}

async fn send(hub: &TaskHub, written: &StartWritten) -> Result<(), Failure> {
    written.send(hub).await.map_err(storage)?;
    crash_points::reached(at::MESSAGE_SENT);
    Ok(())
}

/// The row with its output, which may lie in a blob; a status that the row cannot prove is the history's. No request, or one
/// or two at the end of a run.
pub async fn row(hub: &ReadyHub, wish: Option<&Wish>, instance: Arc<Instance>) -> Result<Row, Failure> {
    let mut row = Row {
        status: runtime_status(instance.runtime_status),
        has_started: instance.has_started,
        output: None,
        failure_type: None,
        workers_active: hub.workers_active,
        adopted: false,
        instance: instance.clone(),
    };
    if !instance.runtime_status.is_terminal() {
        return Ok(row);
    }
    let mut output = instance.output.clone();
    if needs_history(wish, &instance) {
        match hub.client.end_of(&instance.id).await.map_err(storage)? {
            Ending::Ended(end) => {
                row.status = runtime_status(end.status);
                row.failure_type = end.failure.and_then(|failure| failure.error_type);
                if end.status != RuntimeStatus::Failed && end.status != RuntimeStatus::Terminated {
                    output = end.result;
                }
            }
            // Somebody marked the row, and the run goes on (engine-experiments.md 5.8, 5.10).
            Ending::Open { .. } if instance.runtime_status == RuntimeStatus::Terminated => row.status = Status::Running,
            // Terminated before its start was taken up: if its message is there yet, it runs all the same (5.1, 5.3).
            Ending::NoHistory if instance.runtime_status == RuntimeStatus::Terminated && may_start_yet(hub, &instance).await? => {
                row.status = Status::Pending;
                row.has_started = false;
            }
            Ending::Open { .. } | Ending::NoHistory => {}
        }
    }
    if !is_terminal(row.status) {
        return Ok(row);
    }
    row.output = match output {
        None => None,
        Some(payload) => fetch(hub, &payload).await?,
    };
    Ok(row)
}

/// A terminate marks the row before the history has an end, a failure's type is in the history alone, and the output of a
/// completed run may be the reason of a control message (engine-experiments.md 5.15).
fn needs_history(wish: Option<&Wish>, instance: &Instance) -> bool {
    match instance.runtime_status {
        RuntimeStatus::Terminated | RuntimeStatus::Failed => true,
        RuntimeStatus::Completed => instance.output.as_ref().and_then(Payload::inline).is_some_and(|text| {
            let is_reason = wish.and_then(|wish| wish.spec.reason.as_deref()) == Some(text.trim_end());
            is_reason || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
        }),
        _ => false,
    }
}

/// True if the start message may be there yet: something is in the queue, and the mark is not minutes old.
async fn may_start_yet(hub: &ReadyHub, instance: &Instance) -> Result<bool, Failure> {
    let marked = instance.completed_time.or(instance.last_updated_time);
    let is_old = marked.is_none_or(|marked| durable_taskhub::Time::now().since(marked) >= scaled(SEND_AGAIN_AFTER));
    Ok(!is_old && hub.client.control_backlog(&instance.id).await.map_err(storage)? > 0)
}

async fn fetch(hub: &ReadyHub, payload: &Payload) -> Result<Option<Result<String, String>>, Failure> {
    match hub.client.fetch(payload, MAX_OUTPUT_BYTES).await {
        Ok(text) => Ok(Some(Ok(text))),
        Err(PayloadError::Storage(error)) => Err(storage(error)),
        Err(error) => Ok(Some(Err(error.to_string()))),
    }
}

fn accepted(wish: &Wish, written: &StartWritten) -> Outcome {
    Outcome::Accepted {
        instance_id: wish.identity.instance_id.as_str().to_owned(),
        execution_id: wish.identity.execution_id.clone(),
        created_time: written.created_time(),
    }
}

fn conflict(id: &str, what: String, owner: Option<String>) -> Outcome {
    Outcome::Conflict { instance_id: id.to_owned(), what, owner }
}

fn refused(reason: &'static str, message: String) -> Outcome {
    Outcome::Held(Hold::Refused(Refusal { reason, message }))
}
