//! Which partitions this worker serves: the lease rows of the Partitions table (task-hub.md 1.4).
//!
//! Every change of a row is guarded by its ETag, so a partition never has two
//! owners as long as clocks agree to within the lease; what is left of that
//! risk ends at the history's own lock. There is no balancing: a worker takes
//! each partition that nobody holds.

use std::collections::BTreeMap;
use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::storage::{Condition, ETag, Entity, Query, StorageError, Table};

/// How long a lease lasts after its renewal.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often leases are renewed.
pub const RENEWAL: Duration = Duration::from_secs(10);
/// How often a partition of another worker is looked at.
pub const LOOK_OUT: Duration = Duration::from_secs(2);

/// The leases of one worker.
pub struct Leases {
    table: Table,
    worker_id: String,
    held: BTreeMap<String, Time>,
}

/// What a look at the rows came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Queues that this worker serves from now on.
    pub taken: Vec<String>,
    /// Queues that it must not serve any longer.
    pub lost: Vec<String>,
    /// Whether every partition is held by this worker.
    pub complete: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Take,
    Renew,
    Leave,
}

fn decide(row: &Entity, worker_id: &str, held: bool, now: Time) -> Step {
    let owner = row.text("CurrentOwner").filter(|owner| !owner.is_empty());
    match owner {
        None => Step::Take,
        Some(owner) if owner == worker_id && held => Step::Renew,
        Some(_) if row.time("ExpiresAt").is_none_or(|expires| expires < now) => Step::Take,
        Some(_) => Step::Leave,
    }
}

fn renewed(row: &Entity, worker_id: &str, taken: bool, now: Time) -> Entity {
    let mut row = row.clone();
    row.set("CurrentOwner", worker_id);
    row.set("LastRenewal", now);
    row.set("ExpiresAt", now.saturating_add(LEASE));
    row.set("IsDraining", false);
    if taken {
        row.set("OwnedSince", now);
        row.columns.remove("NextOwner");
    }
    row
}

/// A clean stop leaves the times and takes the owner away (task-hub.md 1.4).
fn released(row: &Entity) -> Entity {
    let mut row = row.clone();
    row.columns.remove("CurrentOwner");
    row
}

impl Leases {
    /// No leases yet.
    pub fn new(table: Table, worker_id: String) -> Leases {
        Leases { table, worker_id, held: BTreeMap::new() }
    }

    /// Takes what is free, renews what is held.
    ///
    /// # Errors
    /// Storage failed on the way; [`Leases::expired`] says what that costs.
    pub async fn update(&mut self) -> Result<Changes, StorageError> {
        let mut changes = Changes { complete: true, ..Changes::default() };
        for row in rows(&self.table).await? {
            let queue = row.row_key.clone();
            let now = Time::now();
            let step = decide(&row, &self.worker_id, self.held.contains_key(&queue), now);
            let won = step != Step::Leave && self.write(&row, renewed(&row, &self.worker_id, step == Step::Take, now)).await?;
            if won {
                if self.held.insert(queue.clone(), now.saturating_add(LEASE)).is_none() {
                    changes.taken.push(queue);
                }
            } else {
                changes.complete = false;
                if self.held.remove(&queue).is_some() {
                    changes.lost.push(queue);
                }
            }
        }
        Ok(changes)
    }

    /// Queues whose lease has run out, because storage could not be reached to renew it.
    pub fn expired(&mut self) -> Vec<String> {
        let now = Time::now();
        let expired: Vec<String> = self.held.iter().filter(|(_, expires)| **expires <= now).map(|(queue, _)| queue.clone()).collect();
        for queue in &expired {
            self.held.remove(queue);
        }
        expired
    }

    /// Gives all leases back.
    ///
    /// # Errors
    /// Storage failed; the leases that are left run out by themselves.
    pub async fn release(self) -> Result<(), StorageError> {
        for row in rows(&self.table).await? {
            if row.text("CurrentOwner") == Some(self.worker_id.as_str()) {
                self.write(&row, released(&row)).await?;
            }
        }
        Ok(())
    }

    /// Replaces `row`; false if somebody else changed it since it was read.
    async fn write(&self, row: &Entity, replacement: Entity) -> Result<bool, StorageError> {
        let etag = row.etag.clone().unwrap_or_else(|| ETag(String::new()));
        match self.table.replace(&replacement, Condition::Match(etag)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_precondition_failed() || error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// All lease rows. At most 16 are read: an engine has no more partitions.
///
/// # Errors
/// Storage failed, or the table does not exist.
pub async fn rows(table: &Table) -> Result<Vec<Entity>, StorageError> {
    let mut query = Query { top: Some(16), ..Query::default() };
    let mut rows = Vec::new();
    // An empty page with a continuation is normal (task-hub.md 10, 35); the bound ends a table that never does.
    for _ in 0..16 {
        let page = table.query(&query).await?;
        rows.extend(page.entities);
        if page.continuation.is_none() {
            break;
        }
        query.continuation = page.continuation;
    }
    rows.truncate(16);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::parse("2026-11-23T07:29:00Z").unwrap().saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn a_lease_goes_from_free_to_taken_to_renewed_to_released() {
        let free = Entity::new("", "h-control-00").with("IsDraining", false);
        assert_eq!(decide(&free, "me", false, at(0)), Step::Take);
        let taken = renewed(&free, "me", true, at(0));
        assert_eq!((taken.time("OwnedSince"), taken.time("ExpiresAt")), (Some(at(0)), Some(at(30))));
        assert_eq!(decide(&taken, "me", true, at(10)), Step::Renew);
        let again = renewed(&taken, "me", false, at(10));
        assert_eq!((again.time("OwnedSince"), again.time("LastRenewal")), (Some(at(0)), Some(at(10))));
        let end = released(&again);
        assert_eq!(end.columns.keys().collect::<Vec<_>>(), ["ExpiresAt", "IsDraining", "LastRenewal", "OwnedSince"]);
        assert_eq!(decide(&end, "other", false, at(11)), Step::Take);
    }

    #[test]
    fn another_workers_lease_is_left_until_it_runs_out() {
        let row = renewed(&Entity::new("", "h-control-00"), "other", true, at(0));
        assert_eq!(decide(&row, "me", false, at(30)), Step::Leave);
        assert_eq!(decide(&row, "me", true, at(29)), Step::Leave);
        assert_eq!(decide(&row, "me", false, at(31)), Step::Take);
    }
}
