//! Suspend, resume and terminate: one message at a time, recorded before it is sent (product.md 3.4, rules 2 to 6).
//!
//! Invariants: nothing is sent without a record in the object's status; a
//! message is sent again only if the one before is not in its queue any more, or
//! has shown no effect for minutes.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::control::{ControlError, SentControl};
use durable_taskhub::storage::StorageErrorKind;
use durable_taskhub::terminate::Terminating;
use durable_taskhub::{Instance, Time};

use super::{row, storage};
use crate::api::v1alpha1::{Action, HubTime, Pending, Phase};
use crate::controllers::failure::Failure;
use crate::controllers::orchestration::decide::SEND_AGAIN_AFTER;
use crate::controllers::orchestration::describe::{Change, Outcome};
use crate::controllers::orchestration::identity::OWNER_COLUMN;
use crate::controllers::orchestration::wish::{Wish, has_effect, runtime_status};
use crate::crash_points::{self, at, scaled};
use crate::hubs::ReadyHub;

/// A message that was perhaps sent, in a queue that is never empty, is taken for lost after this. A second one is harmless.
const PERHAPS_SENT_FOR: Duration = Duration::from_secs(30);

/// The record of an action that is about to be sent.
pub fn record(action: Action, now: Time) -> Pending {
    Pending { action, phase: Phase::Issued, issued_at: HubTime(now), queue: None, message_id: None, pop_receipt: None }
}

/// Sends the message of a recorded action. Two requests, three for a terminate.
pub async fn send(hub: &ReadyHub, wish: &Wish, action: Action, reason: Option<&str>, instance: Arc<Instance>) -> Result<Outcome, Failure> {
    let id = instance.id.as_str();
    let sent = match action {
        Action::Suspend => hub.client.suspend(id, reason).await,
        Action::Resume => hub.client.resume(id, reason).await,
        Action::Terminate => match hub.client.terminate(id, reason).await {
            Ok(Terminating::Sent(sent)) => Ok(sent),
            Ok(Terminating::Withdrawn) => Err(ControlError::NotFound),
            Ok(Terminating::Stranded(_)) => {
                tracing::warn!(
                    instance = id,
                    "the instance was purged while its terminate was under way: the message comes back every five minutes until it is deleted from the control queue"
                );
                Err(ControlError::NotFound)
            }
            Err(error) => Err(error),
        },
        Action::Rewind => return Err(Failure::of("rewind_is_no_message")),
    };
    match sent {
        Ok(sent) => {
            crash_points::reached(at::CONTROL_SENT);
            let pending = receipt(record(action, Time::now()), &sent);
            Ok(Outcome::Row(row(hub, Some(wish), instance).await?, Change::Set(pending)))
        }
        // What it asks for is so already, or cannot be any more: the row says which.
        Err(ControlError::AlreadySuspended | ControlError::NotSuspended | ControlError::Finished(_) | ControlError::NotStarted) => {
            read_again(hub, wish, instance, Change::Clear).await
        }
        // The poller proves that it is gone.
        Err(ControlError::NotFound) => Ok(Outcome::Row(row(hub, Some(wish), instance).await?, Change::Clear)),
        Err(error) => Err(storage(error)),
    }
}

fn receipt(pending: Pending, sent: &SentControl) -> Pending {
    let (id, receipt) = sent.receipt();
    Pending {
        phase: Phase::Sent,
        queue: Some(sent.queue_name().to_owned()),
        message_id: Some(id.to_owned()),
        pop_receipt: Some(receipt.to_owned()),
        ..pending
    }
}

/// The row as it is now, if it is still there.
async fn read_again(hub: &ReadyHub, wish: &Wish, instance: Arc<Instance>, change: Change) -> Result<Outcome, Failure> {
    let found = hub.client.get_without_input(&instance.id, &[OWNER_COLUMN]).await.map_err(storage)?;
    let instance = found.map_or(instance, Arc::new);
    Ok(Outcome::Row(row(hub, Some(wish), instance).await?, change))
}

/// Takes the message back, since something else is asked for.
pub async fn withdraw(hub: &ReadyHub, wish: &Wish, pending: &Pending, instance: Arc<Instance>) -> Result<Outcome, Failure> {
    let change = if take_back(hub, pending, &instance.id).await? {
        Change::Clear
    } else {
        Change::Set(Pending { phase: Phase::Taken, ..pending.clone() })
    };
    crash_points::reached(at::WITHDRAWN);
    Ok(Outcome::Row(row(hub, Some(wish), instance).await?, change))
}

/// True if the message was in its queue, and is not any more.
async fn take_back(hub: &ReadyHub, pending: &Pending, instance_id: &str) -> Result<bool, Failure> {
    match (&pending.message_id, &pending.pop_receipt) {
        (Some(id), Some(receipt)) => match hub.client.withdraw(instance_id, id, receipt).await {
            Ok(withdrawn) => Ok(withdrawn),
            // Not what the queue service gave us: somebody else wrote the record. It would fail for ever.
            Err(error) if error.kind() == StorageErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(storage(error)),
        },
        _ => Ok(false),
    }
}

/// Takes back what is under way to an instance that is gone, or another client's now: a terminate without its row comes back
/// every five minutes, and ends the next instance of that ID (engine-experiments.md 3.5, 5.17). One request, none without a message.
pub async fn give_up(hub: &ReadyHub, wish: &Wish, pending: Option<&Pending>) -> Result<(), Failure> {
    let Some(pending) = pending.filter(|pending| pending.message_id.is_some()) else { return Ok(()) };
    let instance = wish.identity.instance_id.as_str();
    if !take_back(hub, pending, instance).await? {
        tracing::warn!(instance, action = ?pending.action, "the instance is gone or another's, and its message was taken by a worker, or withdrawn before");
    }
    Ok(())
}

/// What became of a message that was perhaps sent, or that shows no effect.
pub enum Resolved {
    /// It waits, or is being worked on.
    Waits,
    /// It is not there, and had no effect.
    Unsent(Arc<Instance>),
    /// It had its effect.
    Done(Arc<Instance>),
}

/// Finds out. Two or three requests.
pub async fn resolve(hub: &ReadyHub, pending: &Pending, wanted: bool, instance: Arc<Instance>) -> Result<Resolved, Failure> {
    let age = Time::now().since(pending.issued_at.0);
    let withdrawn = pending.phase == Phase::Sent && take_back(hub, pending, &instance.id).await?;
    let is_empty = withdrawn || hub.client.control_backlog(&instance.id).await.map_err(storage)? == 0;
    // Read after the queue: a worker deletes a message after the checkpoint that holds its effect.
    let found = hub.client.get_without_input(&instance.id, &[OWNER_COLUMN]).await.map_err(storage)?;
    let instance = found.map_or(instance, Arc::new);
    if has_effect(pending.action, runtime_status(instance.runtime_status)) {
        return Ok(Resolved::Done(instance));
    }
    let patience = match pending.phase {
        Phase::Issued if wanted => PERHAPS_SENT_FOR,
        Phase::Issued | Phase::Sent | Phase::Taken => SEND_AGAIN_AFTER,
    };
    // That a message waits proves nothing as long as nobody takes any.
    let is_overdue = hub.workers_active && age >= scaled(patience);
    Ok(if is_empty || is_overdue { Resolved::Unsent(instance) } else { Resolved::Waits })
}
