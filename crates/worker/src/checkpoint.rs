//! Writes what an episode led to, in the engine's order (task-hub.md 5.6): messages, history, row, blobs of a replaced
//! execution. Each blob goes before what refers to it.
//!
//! A crash on the way repeats the episode, which every receiver stands (see the table at [the crate](crate)).

use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::message::Sender;
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Condition, Entity, StorageError};

use crate::history::{self, History, HistoryError};
use crate::hub::Hub;
use crate::instance_row::instance_row;
use crate::plan::{Execution, Plan};

/// The longest delay of a message; a timer beyond it is put back again when it comes (task-hub.md 3.2).
const LONGEST_DELAY: Duration = Duration::from_secs(6 * 24 * 3600);

/// A checkpoint was not written, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A message, a blob or the Instances row could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The history could not be written.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// How long a timer's message stays invisible: whole seconds, cut, so that a timer may be early by less than one.
pub fn timer_delay(fire_at: Time, now: Time) -> Duration {
    Duration::from_secs(fire_at.since(now).as_secs()).min(LONGEST_DELAY)
}

/// Carries out `plan`, which followed from `history`, under the history's lock.
///
/// With `mend_row` the row gets what the whole history says and not only the new events: a start that comes again may mean
/// that a crash kept the row of the first episode from being written, which for a child is the whole row.
///
/// # Errors
/// [`CheckpointError`]; the triggering messages must then be put back.
pub async fn write(hub: &Hub, plan: Plan, history: History, mend_row: bool) -> Result<(), CheckpointError> {
    for (execution, message) in plan.to_instances {
        let delay = match message.event.kind {
            EventKind::TimerFired { fire_at, .. } => timer_delay(fire_at, Time::now()),
            _ => Duration::ZERO,
        };
        hub.send_to_instance(&hub.number(message, sender(execution)), delay).await?;
    }
    for (execution, message) in plan.work_items {
        hub.send_work_item(&hub.number(message, sender(execution))).await?;
    }
    let Execution { instance_id, execution_id } = &plan.execution;
    let key = escape_key(instance_id);
    let mut rows: Vec<Entity> =
        (plan.known..).zip(&plan.events).map(|(ordinal, event)| event.to_row(&key, ordinal as u64, execution_id)).collect();
    for row in &mut rows {
        hub.large.move_out(row).await?;
    }
    history::append(&hub.history, &key, execution_id, &rows, history.sentinel).await?;
    let past = history.events.iter().zip(&history.rows).filter(|_| mend_row && !plan.replaced);
    merge_row(hub, &plan.execution, past.chain(plan.events.iter().zip(&rows)), plan.custom_status, Time::now(), true).await?;
    if plan.replaced
        && let Err(error) = hub.large.delete_of(&history.rows).await
    {
        // The checkpoint stands; to repeat the episode for this would be worse than a blob too many.
        tracing::warn!(instance = instance_id, %error, "blobs of the execution before are left over");
    }
    Ok(())
}

/// Merges what `events` mean into the Instances row; a repair leaves the generation alone (task-hub.md 4.6).
///
/// # Errors
/// Storage failed.
pub async fn merge_row<'a>(
    hub: &Hub,
    execution: &Execution,
    events: impl IntoIterator<Item = (&'a Event, &'a Entity)>,
    custom_status: Option<String>,
    completed_time: Time,
    with_generation: bool,
) -> Result<(), StorageError> {
    let mut row = instance_row(hub.name.as_str(), execution, events, custom_status, completed_time, |name| hub.large.url_of(name));
    if !with_generation {
        row.columns.remove("Generation");
    }
    hub.instances.merge(&row, Condition::Upsert).await?;
    Ok(())
}

fn sender(Execution { instance_id, execution_id }: Execution) -> Sender {
    Sender { instance_id: Some(instance_id), execution_id: Some(execution_id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::parse("2026-11-23T07:29:00Z").unwrap().saturating_add(Duration::from_millis(milliseconds))
    }

    #[test]
    fn delays_of_timers_are_cut_to_seconds_and_bounded() {
        assert_eq!(timer_delay(at(15_900), at(1000)), Duration::from_secs(14));
        assert_eq!(timer_delay(at(0), at(1000)), Duration::ZERO);
        assert_eq!(timer_delay(at(30 * 24 * 3600 * 1000), at(0)), LONGEST_DELAY);
    }
}
