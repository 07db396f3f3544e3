//! Rewinding failed instances, through their sub-orchestrations (task-hub.md 6.11).
//!
//! The plan is made from history alone (module `plan`), for the whole tree, before
//! anything is written: what cannot work is refused while nothing has changed.
//! Then, children before parents, each history is rewritten in transactions whose
//! last one holds the row that ends the execution (until it goes, the engine
//! discards every message, engine-experiments.md 7.5); then the rows become
//! `Pending`; then the leaves are woken. Every write has the ETag of what was read.
//!
//! The rows that a rewind marks `Rewound: …` *are* its record: after a crash the
//! same call walks again and finds what is left to do, also of a rewind that
//! .NET left half done. Invariant: a history that is marked and has no end is
//! never marked anew, and its leaves are woken only until they have woken.
//!
//! # Example
//! ```no_run
//! # async fn example(hub: durable_taskhub::TaskHub) -> Result<(), Box<dyn std::error::Error>> {
//! use durable_taskhub::rewind::{RewindError, Rewound};
//!
//! match hub.rewind("order-4711", Some("the payment service is back")).await {
//!     Ok(Rewound::Done { rewritten, .. }) => println!("rewound: {rewritten:?}"),
//!     Ok(Rewound::UnderWay) => println!("it runs already"),
//!     Err(RewindError::Refused { refusal, .. }) => println!("cannot be rewound: {refusal}"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```

mod plan;

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value as Json;

use crate::event::{Event, EventKind};
use crate::history::{Rows, SENTINEL};
use crate::hub::TaskHub;
use crate::instance::{Instance, RuntimeStatus};
use crate::message::{Message, Sender};
use crate::names::escape_key;
use crate::outgoing::next_number;
use crate::payload::{BlobReference, PayloadError};
use crate::storage::{Condition, ETag, Entity, Operation, StorageError};
use crate::time::Time;
use plan::{Mark, Standing};

/// The most rows of one history that are read to plan a rewind.
const MAX_ROWS: usize = 100_000;
/// The most instances of one tree.
const MAX_INSTANCES: usize = 1_000;
/// The service takes no more operations in one transaction.
const PER_TRANSACTION: usize = 100;
/// The largest output of a child that is handed to its parent, in bytes.
const MAX_RESULT: u64 = 64 * 1024 * 1024;

const ROW_COLUMNS: [&str; 5] = ["PartitionKey", "RowKey", "RuntimeStatus", "ExecutionId", "CustomStatus"];
const HISTORY_COLUMNS: [&str; 8] =
    ["EventType", "EventId", "ExecutionId", "TaskScheduledId", "OrchestrationStatus", "Reason", "InstanceId", "ParentInstance"];

/// What a rewind did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewound {
    /// Something was written: a new rewind, or the rest of one that was interrupted.
    Done {
        /// The instances whose history was rewritten by this call; none if only messages were missing.
        rewritten: Vec<String>,
        /// How many messages were sent.
        messages: usize,
    },
    /// The instance was rewound before and has woken since: there is nothing left to do.
    UnderWay,
}

/// Why an instance cannot be rewound. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewindRefusal {
    /// Only failed runs can be rewound; what counts is the history.
    #[error("the instance is {0}, not Failed")]
    NotFailed(RuntimeStatus),
    /// The orchestrator went on after a failure: a retry, or a caught exception.
    #[error(
        "a failure was retried or caught, and the orchestrator went on: the engine's replay would end in a non-determinism failure, for good"
    )]
    FailureCaught,
    /// The orchestrator used durable timers.
    #[error("the orchestrator used durable timers: one that fired after the failure is lost, and the run would wait for ever")]
    Timers,
    /// Work was under way when the orchestrator failed.
    #[error(
        "activities or sub-orchestrations were still at work when the orchestrator failed: their results are lost, and the run would wait for ever"
    )]
    Outstanding,
    /// Entities do not fail.
    #[error("entities cannot be rewound")]
    Entity,
    /// The history does not hold together.
    #[error("the history lacks {0}")]
    Damaged(&'static str),
    /// The failed sub-orchestration was purged.
    #[error("the failed sub-orchestration {0} is not in the hub any more")]
    ChildMissing(String),
    /// An instance of the sub-orchestration's ID is there, but it is not this parent's.
    #[error("the sub-orchestration {0} was started anew by somebody else")]
    ChildReplaced(String),
    /// The sub-orchestration did not fail: it was terminated, or runs.
    #[error("the sub-orchestration {instance_id} is {status}, not Failed")]
    ChildNotFailed {
        /// Which one.
        instance_id: String,
        /// Its status.
        status: RuntimeStatus,
    },
    /// More than 100,000 rows of history, or 1,000 instances.
    #[error("the instance is too large to be rewound: over {MAX_ROWS} rows of history or {MAX_INSTANCES} sub-orchestrations")]
    TooLarge,
}

/// Why a rewind did not happen, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// The hub has no such instance.
    #[error("the hub has no such instance")]
    NotFound,
    /// It cannot work. Nothing was written.
    #[error("instance {instance_id} cannot be rewound: {refusal}")]
    Refused {
        /// The instance, or the sub-orchestration, that cannot.
        instance_id: String,
        /// Why.
        refusal: RewindRefusal,
    },
    /// Somebody else changed an instance meanwhile. Rewind again, which decides anew and finishes what was begun.
    #[error("instance {instance_id} was changed by somebody else during the rewind: rewind again")]
    Changed {
        /// Which one.
        instance_id: String,
    },
    /// The output of a finished sub-orchestration cannot be read, which its parent waits for.
    #[error("the output of the sub-orchestration {instance_id} cannot be read: {error}")]
    Result {
        /// Which one.
        instance_id: String,
        /// Why.
        error: PayloadError,
    },
    /// The storage account did not answer as needed. Rewind again to go on.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What was read of one instance.
struct Read {
    row: Option<Instance>,
    rows: Rows,
    execution_id: String,
}

/// One instance of the tree.
struct Node {
    instance_id: String,
    /// To be rewritten; empty if that was done before.
    marks: Vec<Mark>,
    /// The row's version, if it is to become `Pending`.
    pending: Option<ETag>,
}

/// A message, after all rows are written.
enum Wake {
    /// To a leaf.
    Leaf(String),
    /// The result of a child that was rewound alone and finished: its parent discarded it (engine-experiments.md 7.14).
    Result { parent: String, parent_execution: String, task_id: i32, child: String, child_execution: String, end: Entity },
}

/// How a child was reached.
#[derive(Clone)]
struct Link {
    parent: String,
    parent_execution: String,
    task_id: i32,
    /// True if the parent's history has been rewritten: then children were before, and what failed since is news.
    parent_is_rewound: bool,
}

#[derive(Default)]
struct Tree {
    nodes: Vec<Node>,
    wakes: Vec<Wake>,
}

impl TaskHub {
    /// Rewinds a failed instance: what failed is done again, results of what succeeded are kept. `reason` goes into the history.
    ///
    /// The same call again finishes a rewind that was interrupted, whoever began it. Reads are two per instance of the tree; writes
    /// one per 100 rows and one row per instance, and a message per leaf. Activities run again: they must be idempotent.
    ///
    /// # Errors
    /// [`RewindError::Refused`] with the reason if it cannot work.
    pub async fn rewind(&self, instance_id: &str, reason: Option<&str>) -> Result<Rewound, RewindError> {
        let tree = self.plan_rewind(instance_id).await?;
        self.apply(tree, reason).await
    }

    /// Whether [`TaskHub::rewind`] would work: the instances that it would rewrite. Reads only.
    ///
    /// # Errors
    /// As [`TaskHub::rewind`].
    pub async fn check_rewind(&self, instance_id: &str) -> Result<Vec<String>, RewindError> {
        let tree = self.plan_rewind(instance_id).await?;
        Ok(tree.nodes.into_iter().filter(|node| !node.marks.is_empty()).map(|node| node.instance_id).collect())
    }

    async fn plan_rewind(&self, instance_id: &str) -> Result<Tree, RewindError> {
        if instance_id.starts_with('@') {
            return Err(refused(instance_id, RewindRefusal::Entity));
        }
        let mut tree = Tree::default();
        let mut waiting: Vec<(String, Option<Link>)> = vec![(instance_id.to_owned(), None)];
        let mut seen = HashSet::from([instance_id.to_owned()]);
        while let Some((id, link)) = waiting.pop() {
            for (child, link) in self.plan_one(&mut tree, &id, link.as_ref()).await? {
                if seen.insert(child.clone()) {
                    waiting.push((child, Some(link)));
                }
            }
            if seen.len() > MAX_INSTANCES {
                return Err(refused(instance_id, RewindRefusal::TooLarge));
            }
        }
        Ok(tree)
    }

    /// Adds what is to be done with one instance; returns the children to look at.
    async fn plan_one(&self, tree: &mut Tree, id: &str, link: Option<&Link>) -> Result<Vec<(String, Link)>, RewindError> {
        let refuse = |refusal| Err(refused(link.map_or(id, |link| &link.parent), refusal));
        let Some(Read { row, rows, execution_id }) = self.read_for_rewind(id).await? else {
            return if link.is_some() { refuse(RewindRefusal::ChildMissing(id.to_owned())) } else { Err(RewindError::NotFound) };
        };
        if let Some(link) = link
            && !is_child_of(&rows, link)
        {
            return refuse(RewindRefusal::ChildReplaced(id.to_owned()));
        }
        // A newer start of the same ID, which no worker has taken up.
        if let Some(row) = row.as_ref().filter(|row| row.execution_id.as_ref().is_some_and(|of_row| *of_row != execution_id)) {
            let status = row.runtime_status;
            return refuse(link.map_or(RewindRefusal::NotFailed(status), |_| RewindRefusal::ChildReplaced(id.to_owned())));
        }
        let standing = plan::standing(&rows.current).map_err(|refusal| refused(id, refusal))?;
        let etag =
            |wanted: &dyn Fn(RuntimeStatus) -> bool| row.as_ref().filter(|row| wanted(row.runtime_status)).and_then(|row| row.etag.clone());
        let (children, is_rewound) = match standing {
            // It failed again, and its parent is about to hear of it.
            Standing::Failed { .. } if link.is_some_and(|link| link.parent_is_rewound) => return Ok(Vec::new()),
            Standing::Failed { marks, children } => {
                if children.is_empty() {
                    tree.wakes.push(Wake::Leaf(id.to_owned()));
                }
                let pending = etag(&|status| status != RuntimeStatus::Pending);
                tree.nodes.push(Node { instance_id: id.to_owned(), marks, pending });
                (children, false)
            }
            Standing::Rewound { is_leaf, is_awake, unanswered } => {
                if is_leaf && !is_awake {
                    tree.wakes.push(Wake::Leaf(id.to_owned()));
                }
                let pending = etag(&|status| status == RuntimeStatus::Failed);
                tree.nodes.push(Node { instance_id: id.to_owned(), marks: Vec::new(), pending });
                (unanswered, true)
            }
            Standing::Ended { status: RuntimeStatus::Completed, end } if link.is_some() => {
                tree.wakes.extend(link.map(|link| Wake::Result {
                    parent: link.parent.clone(),
                    parent_execution: link.parent_execution.clone(),
                    task_id: link.task_id,
                    child: id.to_owned(),
                    child_execution: execution_id,
                    end,
                }));
                return Ok(Vec::new());
            }
            // It goes its way since the rewind, and its parent will hear of it.
            Standing::Ended { .. } | Standing::Running if link.is_some_and(|link| link.parent_is_rewound) => return Ok(Vec::new()),
            Standing::Ended { status, .. } => return refuse(not_failed(id, link, status)),
            Standing::Running => {
                let of_row = row.as_ref().map(|row| row.runtime_status).filter(|status| !status.is_terminal());
                return refuse(not_failed(id, link, of_row.unwrap_or(RuntimeStatus::Running)));
            }
        };
        let link_to =
            |task_id| Link { parent: id.to_owned(), parent_execution: execution_id.clone(), task_id, parent_is_rewound: is_rewound };
        Ok(children.into_iter().map(|child| (child.instance_id, link_to(child.task_id))).collect())
    }

    /// None if there is nothing of it.
    async fn read_for_rewind(&self, id: &str) -> Result<Option<Read>, RewindError> {
        let row = self.instances().get(&escape_key(id), "", &ROW_COLUMNS).await?.map(|row| self.instance(row));
        let rows = self.history_rows(id, &HISTORY_COLUMNS, MAX_ROWS).await?;
        let rows = rows.ok_or_else(|| refused(id, RewindRefusal::TooLarge))?;
        match rows.execution_id().map(str::to_owned) {
            Some(execution_id) if !rows.current.is_empty() => Ok(Some(Read { row, rows, execution_id })),
            // A start that no worker has taken up.
            _ => match row {
                Some(row) => Err(refused(id, RewindRefusal::NotFailed(row.runtime_status))),
                None => Ok(None),
            },
        }
    }

    async fn apply(&self, tree: Tree, reason: Option<&str>) -> Result<Rewound, RewindError> {
        let changed = |instance_id: &str, error: StorageError| match error.is_precondition_failed() || error.is_not_found() {
            true if !error.is_container_not_found() => RewindError::Changed { instance_id: instance_id.to_owned() },
            _ => RewindError::Storage(error),
        };
        let mut rewritten = Vec::new();
        let mut rows = 0;
        // Children stand behind their parents.
        for Node { instance_id, marks, .. } in tree.nodes.iter().rev() {
            let key = escape_key(instance_id);
            for chunk in marks.chunks(PER_TRANSACTION) {
                let operations: Vec<Operation> = chunk.iter().map(|mark| mark.operation(&key)).collect();
                self.history_table().transaction(&operations).await.map_err(|error| changed(instance_id, error))?;
            }
            if !marks.is_empty() {
                rewritten.push(instance_id.clone());
            }
        }
        for Node { instance_id, pending, .. } in tree.nodes.iter().rev() {
            if let Some(etag) = pending {
                let row = Entity::new(escape_key(instance_id), "").with("RuntimeStatus", "Pending").with("LastUpdatedTime", Time::now());
                self.instances().merge(&row, Condition::Match(etag.clone())).await.map_err(|error| changed(instance_id, error))?;
                rows += 1;
            }
        }
        let messages = tree.wakes.len();
        for wake in tree.wakes {
            let message = self.message_of(wake, reason).await?;
            self.deliver(&message, Duration::ZERO).await?;
        }
        Ok(if rewritten.is_empty() && rows == 0 && messages == 0 { Rewound::UnderWay } else { Rewound::Done { rewritten, messages } })
    }

    async fn message_of(&self, wake: Wake, reason: Option<&str>) -> Result<Message, RewindError> {
        Ok(match wake {
            Wake::Leaf(instance_id) => {
                let event = Event::new(Time::now(), EventKind::GenericEvent { data: reason.map(str::to_owned) });
                Message::new(&instance_id, None, event, next_number())
            }
            Wake::Result { parent, parent_execution, task_id, child, child_execution, end } => {
                let result = self.result_of(&child, &end).await?;
                let kind = EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: task_id, result };
                let mut message = Message::new(&parent, Some(&parent_execution), Event::new(Time::now(), kind), next_number());
                message.sender = Some(Sender { instance_id: Some(child), execution_id: Some(child_execution) });
                message
            }
        })
    }

    /// The output of a finished child, from the row that ends its history.
    async fn result_of(&self, child: &str, end: &Entity) -> Result<Option<String>, RewindError> {
        let row = self.history_table().get(&escape_key(child), &end.row_key, &["Result", "ResultBlobName"]).await?;
        let Some(row) = row else { return Err(RewindError::Changed { instance_id: child.to_owned() }) };
        match row.text("ResultBlobName") {
            Some(name) => match BlobReference::named(name).fetch(&self.large_messages(), MAX_RESULT).await {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(RewindError::Result { instance_id: child.to_owned(), error }),
            },
            None => Ok(row.text("Result").map(str::to_owned)),
        }
    }
}

fn refused(instance_id: &str, refusal: RewindRefusal) -> RewindError {
    RewindError::Refused { instance_id: instance_id.to_owned(), refusal }
}

fn not_failed(id: &str, link: Option<&Link>, status: RuntimeStatus) -> RewindRefusal {
    match link {
        Some(_) => RewindRefusal::ChildNotFailed { instance_id: id.to_owned(), status },
        None => RewindRefusal::NotFailed(status),
    }
}

/// True if the execution was started by that task of that parent: only then does its end reach the parent.
fn is_child_of(rows: &Rows, link: &Link) -> bool {
    debug_assert!(rows.current.iter().all(|row| row.row_key != SENTINEL));
    let started = rows.current.iter().find(|row| row.text("EventType") == Some("ExecutionStarted"));
    let parent = started.and_then(|row| row.text("ParentInstance")).and_then(|text| serde_json::from_str::<Json>(text).ok());
    parent.is_some_and(|parent| {
        let instance = &parent["OrchestrationInstance"];
        instance["InstanceId"] == link.parent.as_str()
            && instance["ExecutionId"] == link.parent_execution.as_str()
            && parent["TaskScheduleId"] == link.task_id
    })
}
