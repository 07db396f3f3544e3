//! Removing what is left of finished instances (task-hub.md 6.13, 6.14).
//!
//! Blobs by their exact prefixes, then the history, then the row: whatever a
//! purge is interrupted by, the row is still there to be found, and the same
//! purge again finishes it. Shorter prefixes delete the large values of other
//! instances (engine-experiments.md 8.1); a row that goes before its history is
//! made again by the engine (8.8). Invariant: only what has ended by its
//! *history* is purged: an instance that is purged while it works comes back
//! and runs again (8.5).
//!
//! # Requests
//! One instance with `h` rows of history (sentinel included) and `b` blobs costs
//! `1 + (h / 1000 + 1) + 2 + b + ceil(h / 100) + 1`: the row, the history's
//! rows, two listings, the blobs, transactions of 100 deletions, the row. In a hub
//! without a container of large values the listings cost 1. IDs with `/` or `\`
//! cost one more per blob of a message, to see whose it is. A purge by filter
//! costs this per instance and one per page.
//!
//! # Example
//! What completed over a week ago, page by page. To interrupt it at any point does no harm.
//! ```no_run
//! # async fn example(hub: durable_taskhub::TaskHub) -> Result<(), Box<dyn std::error::Error>> {
//! use durable_taskhub::list::Filter;
//! use durable_taskhub::purge::PurgeRequest;
//! use durable_taskhub::{RuntimeStatus, Time};
//! use std::time::{Duration, SystemTime};
//!
//! let week_ago: Time = (SystemTime::now() - Duration::from_secs(7 * 24 * 3600)).into();
//! let filter = Filter { statuses: vec![RuntimeStatus::Completed], updated_to: Some(week_ago), ..Filter::default() };
//! let mut request = PurgeRequest::new(filter);
//! loop {
//!     let page = hub.purge_page(&request).await?;
//!     for (id, reason) in &page.failures {
//!         eprintln!("{id}: {reason}");
//!     }
//!     match page.continuation {
//!         Some(token) => request.continuation = Some(token),
//!         None => break,
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod blobs;
mod cancel;
mod verdict;

use std::collections::HashSet;

use futures::StreamExt;

use crate::history::Rows;
use crate::hub::TaskHub;
use crate::instance::{Instance, RuntimeStatus};
use crate::list::{Filter, ListError, ListOptions};
use crate::names::escape_key;
use crate::storage::{Condition, Entity, Operation, StorageError};
use verdict::Verdict;

/// The most rows of history, over all instances of one call, that a purge holds in memory.
const MAX_ROWS: usize = 200_000;

/// The most instances of one tree of sub-orchestrations.
const MAX_INSTANCES: usize = 10_000;

/// The service takes no more operations in one transaction.
const PER_TRANSACTION: usize = 100;

/// How often a history is read anew because somebody else deletes from it too.
const MAX_ROUNDS: u32 = 5;

const ROW_COLUMNS: [&str; 5] = ["PartitionKey", "RowKey", "RuntimeStatus", "ExecutionId", "CustomStatus"];
const HISTORY_COLUMNS: [&str; 5] = ["EventType", "ExecutionId", "OrchestrationStatus", "InstanceId", "Timestamp"];

/// What a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Instances, sub-orchestrations included.
    pub instances: u64,
    /// Rows of the history.
    pub rows: u64,
    /// Blobs of large values.
    pub blobs: u64,
    /// Blobs that were left. Of IDs with `/`, `\` or control characters: as they are another instance's, nobody can say whose they are, or
    /// no client can name them. Of an instance that never started: the start message's, which may still be in its queue.
    pub blobs_left: u64,
}

impl Purged {
    fn add(&mut self, other: Purged) {
        self.instances += other.instances;
        self.rows += other.rows;
        self.blobs += other.blobs;
        self.blobs_left += other.blobs_left;
    }
}

/// Why an instance is not purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// Neither row nor history.
    #[error("the hub has no instance {instance_id}")]
    NotFound {
        /// Which one.
        instance_id: String,
    },
    /// It has not ended by its history. If it is a sub-orchestration, nothing of its parents was removed either.
    #[error("instance {instance_id} is {status}: only instances that have ended can be purged, others come back; terminate it first")]
    NotTerminal {
        /// Which one.
        instance_id: String,
        /// Its status.
        status: RuntimeStatus,
    },
    /// Its history has ended a moment ago, and its row not: the worker is about to write it.
    #[error("instance {instance_id} has just ended and its row is not yet written: purge it in a minute")]
    Settling {
        /// Which one.
        instance_id: String,
    },
    /// Somebody else changed it meanwhile. Purge it again, which decides anew.
    #[error("instance {instance_id} was changed by somebody else during the purge: nothing of the change is lost; purge it again")]
    Changed {
        /// Which one.
        instance_id: String,
    },
    /// Entities have no end. [`TaskHub::clean_entities`] removes those without state.
    #[error("{instance_id} is an entity: entities are removed by cleaning, once they have no state")]
    Entity {
        /// Which one.
        instance_id: String,
    },
    /// More than what is held in memory: 200,000 rows of history or 10,000 instances.
    #[error(
        "instance {instance_id} is too large to be purged at once: over {MAX_ROWS} rows of history or {MAX_INSTANCES} sub-orchestrations"
    )]
    TooLarge {
        /// Which one.
        instance_id: String,
    },
    /// The storage account did not answer as needed. Purge again to go on.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Which instances to purge, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeRequest {
    /// Which ones. Its statuses must be given, and all be terminal: without them .NET deletes running instances (engine-experiments.md 8.6).
    pub filter: Filter,
    /// With sub-orchestrations, whatever the filter says of them.
    pub children: bool,
    /// Only say which ones.
    pub dry_run: bool,
    /// The most instances of one page, 1 to 1,000.
    pub page_size: u32,
    /// How many instances are purged at the same time, 1 to 64.
    pub parallel: usize,
    /// The token of the page before. Without one it begins anew, which finds what is left.
    pub continuation: Option<String>,
}

impl PurgeRequest {
    /// Pages of 100 instances, 8 at a time, without sub-orchestrations.
    pub fn new(filter: Filter) -> PurgeRequest {
        PurgeRequest { filter, children: false, dry_run: false, page_size: 100, parallel: 8, continuation: None }
    }
}

/// What became of one page.
#[derive(Debug)]
pub struct PurgePage {
    /// The instances that the filter found.
    pub found: Vec<String>,
    /// What was removed; nothing in a dry run.
    pub purged: Purged,
    /// Those that were not purged, and why.
    pub failures: Vec<(String, PurgeError)>,
    /// Token of the next page; none on the last one.
    pub continuation: Option<String>,
}

/// Why a purge by filter does not begin.
#[derive(Debug, thiserror::Error)]
pub enum PurgeFilterError {
    /// No status, or one that does not end a run.
    #[error("a purge needs the statuses to purge, out of Completed, Failed, Terminated and Canceled: without, running instances would go")]
    Statuses,
    /// Entities have no end.
    #[error("entities are not purged by filter: clean them")]
    Entities,
    /// Not 1 to 64.
    #[error("{0} instances at the same time: it must be 1 to 64")]
    Parallel(usize),
    /// The filter cannot be sent, or the list was not answered.
    #[error(transparent)]
    List(#[from] ListError),
}

/// An instance that may go.
struct Target {
    instance_id: String,
    row: Option<Instance>,
    history: Rows,
    /// The status by which the row is repaired before the history goes: without either nobody could tell that the instance had ended.
    repair: Option<RuntimeStatus>,
}

impl TaskHub {
    /// Purges one instance, with its sub-orchestrations if `children`. Requests: see the [module](crate::purge).
    ///
    /// With sub-orchestrations, all of them are looked at before the first is removed, and they go before their parents.
    /// The same call again finishes a purge that was interrupted.
    ///
    /// # Errors
    /// [`PurgeError`].
    pub async fn purge(&self, instance_id: &str, children: bool) -> Result<Purged, PurgeError> {
        let mut targets = Vec::new();
        let mut waiting = vec![instance_id.to_owned()];
        let mut seen: HashSet<String> = waiting.iter().cloned().collect();
        let mut rows = 0;
        while let Some(next) = waiting.pop() {
            match self.target(&next).await {
                Ok(target) => {
                    if children {
                        let of_row = |row: &Entity| row.text("InstanceId").map(str::to_owned);
                        let created = |row: &&Entity| row.text("EventType") == Some("SubOrchestrationInstanceCreated");
                        waiting
                            .extend(target.history.current.iter().filter(created).filter_map(of_row).filter(|id| seen.insert(id.clone())));
                    }
                    rows += target.history.current.len() + target.history.leftovers.len();
                    targets.push(target);
                }
                // An interrupted purge removed it.
                Err(PurgeError::NotFound { .. }) if next != instance_id => {}
                Err(error) => return Err(error),
            }
            if rows > MAX_ROWS || targets.len() > MAX_INSTANCES {
                return Err(PurgeError::TooLarge { instance_id: instance_id.to_owned() });
            }
        }
        let mut purged = Purged::default();
        // Parents were found before their children.
        for target in targets.into_iter().rev() {
            purged.add(self.remove(target).await?);
        }
        Ok(purged)
    }

    /// Purges one page of the instances that a filter finds. Go on with [`PurgePage::continuation`] until there is none.
    ///
    /// An instance that cannot be purged stands in [`PurgePage::failures`] and stops nothing.
    ///
    /// # Errors
    /// [`PurgeFilterError`], before anything is removed.
    pub async fn purge_page(&self, request: &PurgeRequest) -> Result<PurgePage, PurgeFilterError> {
        if request.filter.statuses.is_empty() || !request.filter.statuses.iter().all(|status| status.is_terminal()) {
            return Err(PurgeFilterError::Statuses);
        }
        if request.filter.entities || request.filter.id_prefix.starts_with('@') {
            return Err(PurgeFilterError::Entities);
        }
        if !(1..=64).contains(&request.parallel) {
            return Err(PurgeFilterError::Parallel(request.parallel));
        }
        let options = ListOptions {
            filter: request.filter.clone(),
            page_size: request.page_size,
            show_input: false,
            columns: Vec::new(),
            continuation: request.continuation.clone(),
        };
        let page = self.list(&options).await?;
        let found: Vec<String> = page.instances.into_iter().map(|instance| instance.id).collect();
        let mut result =
            PurgePage { found: found.clone(), purged: Purged::default(), failures: Vec::new(), continuation: page.continuation };
        if request.dry_run {
            return Ok(result);
        }
        let purges = found.into_iter().map(|id| async move {
            let outcome = self.purge(&id, request.children).await;
            (id, outcome)
        });
        let mut outcomes = futures::stream::iter(purges).buffer_unordered(request.parallel);
        while let Some((id, outcome)) = outcomes.next().await {
            match outcome {
                Ok(purged) => result.purged.add(purged),
                // Purged with its parent, or by somebody else.
                Err(PurgeError::NotFound { .. }) => {}
                Err(error) => result.failures.push((id, error)),
            }
        }
        Ok(result)
    }

    /// Removes an entity that has no state, as its row was read: whoever changes it meanwhile keeps it.
    pub(crate) async fn remove_entity(&self, row: Instance) -> Result<(), PurgeError> {
        let instance_id = row.id.clone();
        let history = self.history_rows(&instance_id, &HISTORY_COLUMNS, MAX_ROWS).await?;
        let history = history.ok_or_else(|| PurgeError::TooLarge { instance_id: instance_id.clone() })?;
        // The row was read before: an operation since then has begun another execution.
        if history.execution_id().is_some() && history.execution_id() != row.execution_id.as_deref() {
            return Err(PurgeError::Changed { instance_id });
        }
        self.remove(Target { instance_id, row: Some(row), history, repair: None }).await.map(|_| ())
    }

    /// Reads the instance and decides whether it may go.
    async fn target(&self, instance_id: &str) -> Result<Target, PurgeError> {
        let id = || instance_id.to_owned();
        if instance_id.starts_with('@') {
            return Err(PurgeError::Entity { instance_id: id() });
        }
        let row = self.instances().get(&escape_key(instance_id), "", &ROW_COLUMNS).await?.map(|row| self.instance(row));
        let history = self.history_rows(instance_id, &HISTORY_COLUMNS, MAX_ROWS).await?;
        let history = history.ok_or(PurgeError::TooLarge { instance_id: id() })?;
        match verdict::judge(row.as_ref(), &history) {
            Verdict::Purge { repair } => Ok(Target { instance_id: id(), row, history, repair }),
            Verdict::NotFound => Err(PurgeError::NotFound { instance_id: id() }),
            Verdict::NotTerminal(status) => Err(PurgeError::NotTerminal { instance_id: id(), status }),
            Verdict::Settling => Err(PurgeError::Settling { instance_id: id() }),
        }
    }

    /// Blobs, history, row.
    async fn remove(&self, target: Target) -> Result<Purged, PurgeError> {
        let Target { instance_id, row, history, repair } = target;
        let changed = |error: StorageError| match error.is_precondition_failed() {
            true => PurgeError::Changed { instance_id: instance_id.clone() },
            false => PurgeError::Storage(error),
        };
        let key = escape_key(&instance_id);
        let mut version = row.as_ref().and_then(|row| row.etag.clone()).map_or(Condition::Any, Condition::Match);
        if let Some(status) = repair {
            let repaired = Entity::new(key.as_str(), "").with("RuntimeStatus", status.name());
            version = Condition::Match(self.instances().merge(&repaired, version).await.map_err(changed)?);
        }
        let blobs = blobs::remove(&self.large_messages(), &instance_id, history.is_empty()).await?;
        let rows = self.remove_history(&instance_id, history).await?;
        if row.is_some() {
            self.instances().delete(&key, "", version).await.map_err(changed)?;
        }
        Ok(Purged { instances: 1, rows, ..blobs })
    }

    async fn remove_history(&self, instance_id: &str, mut history: Rows) -> Result<u64, PurgeError> {
        let key = escape_key(instance_id);
        let mut removed = 0;
        for _ in 0..MAX_ROUNDS {
            let ordered = in_order_of_removal(history);
            let mut gone = false;
            for chunk in transactions(&ordered) {
                let delete = |row: &Entity| Operation::Delete {
                    partition_key: key.clone(),
                    row_key: row.row_key.clone(),
                    condition: row.etag.clone().map_or(Condition::Any, Condition::Match),
                };
                let operations: Vec<Operation> = chunk.iter().map(delete).collect();
                match self.history_table().transaction(&operations).await {
                    Ok(_) => removed += chunk.len() as u64,
                    Err(error) if error.is_precondition_failed() => {
                        return Err(PurgeError::Changed { instance_id: instance_id.to_owned() });
                    }
                    // Another purge of the same instance was here, or a try of this one whose answer was lost.
                    Err(error) if error.is_not_found() && !error.is_container_not_found() => {
                        gone = true;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if !gone {
                return Ok(removed);
            }
            let rest = self.history_rows(instance_id, &HISTORY_COLUMNS, MAX_ROWS).await?;
            history = rest.ok_or(PurgeError::TooLarge { instance_id: instance_id.to_owned() })?;
        }
        Err(PurgeError::Changed { instance_id: instance_id.to_owned() })
    }
}

/// What goes together. The short transaction is the first: the last one is to hold both the end and the sentinel.
pub(crate) fn transactions(ordered: &[Entity]) -> impl Iterator<Item = &[Entity]> {
    let (first, others) = ordered.split_at(ordered.len() % PER_TRANSACTION);
    std::iter::once(first).filter(|rows| !rows.is_empty()).chain(others.chunks(PER_TRANSACTION))
}

/// The row that says that the instance has ended goes in the last transaction, and the sentinel with it: an interrupted purge
/// can still tell that it may go on, and so can the engine that a message wakes meanwhile.
pub(crate) fn in_order_of_removal(history: Rows) -> Vec<Entity> {
    let (ends, others): (Vec<Entity>, Vec<Entity>) = history.current.into_iter().partition(verdict::is_end);
    history.leftovers.into_iter().chain(others).chain(ends).chain(history.sentinel).collect()
}
