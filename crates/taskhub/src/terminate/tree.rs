//! Terminating sub-orchestrations, who run on when their parent is terminated (engine-experiments.md 5.20).
//!
//! Owns the walk through a tree. A parent that was terminated never hears of
//! its children, so that its history alone would have them unfinished for ever:
//! a child's own history decides. Invariants: nothing is sent to an instance
//! that another parent, or somebody by hand, has started under a child's ID;
//! the same call again does what is left, and sends nothing to what has ended.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Terminating;
use crate::control::ControlError;
use crate::event::{EventKind, ParentInstance};
use crate::history::{HistoryError, HistoryEvent, HistoryOptions};
use crate::hub::TaskHub;
use crate::instance::RuntimeStatus;
use crate::storage::StorageError;

/// The most instances that one call terminates.
pub const MAX_INSTANCES: usize = 10_000;

/// How much later than a parent its children are told, at least. A worker orders what it receives together by the second of
/// its insertion, then by number (task-hub.md 7.6), and numbers of workers are lower than ours: an answer of a child in the same
/// second as its parent's terminate would come first, and the parent would fail of it.
const AFTER_PARENT: Duration = Duration::from_secs(1);

/// What became of each instance of a tree.
#[derive(Debug)]
pub struct TerminatedTree {
    /// The instances, parents before their children, and what became of each. A child that has ended is
    /// [`ControlError::Finished`], one that no worker has taken up yet [`ControlError::NotStarted`], one that was purged, or
    /// replaced by an instance of somebody else, [`ControlError::NotFound`]; after [`ControlError::Storage`] nothing is known.
    pub instances: Vec<(String, Result<Terminating, ControlError>)>,
}

impl TerminatedTree {
    /// The instances that a terminate is on its way to.
    pub fn sent(&self) -> impl Iterator<Item = &str> {
        self.of(|outcome| matches!(outcome, Ok(Terminating::Sent(_))))
    }

    /// The instances that no worker has taken up yet. They will run: call again.
    pub fn not_started(&self) -> impl Iterator<Item = &str> {
        self.of(|outcome| matches!(outcome, Err(ControlError::NotStarted)))
    }

    /// The instances that have ended, or are gone.
    pub fn ended(&self) -> impl Iterator<Item = &str> {
        self.of(has_ended)
    }

    /// True if nothing is left: all have ended, or are gone.
    pub fn is_over(&self) -> bool {
        self.instances.iter().all(|(_, outcome)| has_ended(outcome))
    }

    fn of(&self, wanted: impl Fn(&Result<Terminating, ControlError>) -> bool) -> impl Iterator<Item = &str> {
        self.instances.iter().filter(move |(_, outcome)| wanted(outcome)).map(|(id, _)| id.as_str())
    }
}

fn has_ended(outcome: &Result<Terminating, ControlError>) -> bool {
    matches!(outcome, Ok(Terminating::Withdrawn | Terminating::Stranded(_)) | Err(ControlError::Finished(_) | ControlError::NotFound))
}

/// Why a tree was not terminated, or not as a whole: the same call again does what is left.
#[derive(Debug, thiserror::Error)]
pub enum TerminateTreeError {
    /// The root itself; nothing was sent.
    #[error(transparent)]
    Root(#[from] ControlError),
    /// The history of an instance, which names its children, cannot be read.
    #[error("the history of {instance_id}, which names its sub-orchestrations: {error}")]
    History {
        /// The instance.
        instance_id: String,
        /// Why.
        error: HistoryError,
    },
    /// More than [`MAX_INSTANCES`].
    #[error("the tree has more than {MAX_INSTANCES} unfinished instances")]
    TooLarge,
}

/// What the history says of one instance.
#[derive(Default)]
struct Branch {
    /// None if there is no history.
    execution_id: Option<String>,
    parent: Option<ParentInstance>,
    ended: Option<RuntimeStatus>,
    /// By task, the sub-orchestrations without an end.
    open: BTreeMap<i32, String>,
}

/// An instance whose children are to be told.
struct Parent {
    instance_id: String,
    branch: Branch,
    /// When it was told itself; none if it has ended.
    told: Option<Instant>,
}

impl Parent {
    async fn is_ahead(&self) {
        if let Some(told) = self.told {
            tokio::time::sleep_until(told + AFTER_PARENT).await;
        }
    }
}

impl Branch {
    fn add(&mut self, event_id: i32, kind: EventKind) {
        match kind {
            EventKind::ExecutionStarted(started) => self.parent = started.parent,
            EventKind::ExecutionCompleted { status, .. } if status.is_final() => {
                self.ended = Some(RuntimeStatus::from_name(status.as_str()));
            }
            EventKind::SubOrchestrationInstanceCreated { instance_id, .. } => drop(self.open.insert(event_id, instance_id)),
            EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id, .. }
            | EventKind::SubOrchestrationInstanceFailed { task_scheduled_id, .. } => drop(self.open.remove(&task_scheduled_id)),
            _ => {}
        }
    }

    /// True if that execution of that parent started it.
    fn is_child_of(&self, parent: &str, execution_id: Option<&str>) -> bool {
        let of = self.parent.as_ref().map(|parent| &parent.instance);
        of.is_some_and(|of| of.instance_id == parent && (of.execution_id.is_none() || of.execution_id.as_deref() == execution_id))
    }
}

impl TaskHub {
    /// Ends a run and the sub-orchestrations that it waits for, which the engine would let run on (5.20). Parents first, and a
    /// second ahead, so that none of them reacts to the end of a child. Three requests per instance, and two or more for its
    /// history; a second per level.
    ///
    /// Children that have not started cannot be terminated, and a parent that is not yet ended can make new ones: once the root
    /// has ended, call [`TaskHub::terminate_children`] until it says that nothing is left.
    ///
    /// # Errors
    /// [`TerminateTreeError`].
    pub async fn terminate_tree(&self, instance_id: &str, reason: Option<&str>) -> Result<TerminatedTree, TerminateTreeError> {
        let root = self.terminate(instance_id, reason).await?;
        let told = Some(Instant::now());
        let mut tree = TerminatedTree { instances: vec![(instance_id.to_owned(), Ok(root))] };
        self.terminate_below(instance_id, told, reason, &mut tree).await?;
        Ok(tree)
    }

    /// Ends the sub-orchestrations of an instance that have not ended, and theirs, whether or not the instance itself has
    /// ended; it is not touched. Children of what completed or failed by itself are left alone, as the engine leaves them.
    ///
    /// To be repeated until [`TerminatedTree::is_over`], after the instance itself has ended: before, it can make new children.
    /// A child without row and history counts as not started while there are messages in its control queue, also those of others:
    /// in a busy hub, one that was purged can be taken for it. So bound the repetition in time.
    ///
    /// Two or more requests for the instance's history; per child the same, and three if it has not ended; a second for each
    /// level whose parents have not ended.
    ///
    /// # Errors
    /// [`TerminateTreeError`], never [`TerminateTreeError::Root`].
    pub async fn terminate_children(&self, instance_id: &str, reason: Option<&str>) -> Result<TerminatedTree, TerminateTreeError> {
        let mut tree = TerminatedTree { instances: Vec::new() };
        self.terminate_below(instance_id, None, reason, &mut tree).await?;
        Ok(tree)
    }

    async fn terminate_below(
        &self,
        root: &str,
        told: Option<Instant>,
        reason: Option<&str>,
        tree: &mut TerminatedTree,
    ) -> Result<(), TerminateTreeError> {
        let mut seen = HashSet::from([root.to_owned()]);
        let root = Parent { instance_id: root.to_owned(), branch: self.branch(root).await?, told };
        let mut waiting = VecDeque::from([root]);
        while let Some(mut parent) = waiting.pop_front() {
            for child in std::mem::take(&mut parent.branch.open).into_values().filter(|child| seen.insert(child.clone())) {
                if tree.instances.len() >= MAX_INSTANCES {
                    return Err(TerminateTreeError::TooLarge);
                }
                parent.is_ahead().await;
                let branch = self.branch(&child).await?;
                let is_own =
                    branch.execution_id.is_none() || branch.is_child_of(&parent.instance_id, parent.branch.execution_id.as_deref());
                let outcome = if is_own { self.terminate_child(&child, &branch, reason).await } else { Err(ControlError::NotFound) };
                let (goes_on, told) = match &outcome {
                    Ok(_) | Err(ControlError::Storage(_)) => (true, Some(Instant::now())),
                    Err(ControlError::Finished(status)) => (matches!(status, RuntimeStatus::Terminated | RuntimeStatus::Canceled), None),
                    Err(_) => (false, None),
                };
                tree.instances.push((child.clone(), outcome));
                if goes_on {
                    waiting.push_back(Parent { instance_id: child, branch, told });
                }
            }
        }
        Ok(())
    }

    async fn terminate_child(&self, child: &str, branch: &Branch, reason: Option<&str>) -> Result<Terminating, ControlError> {
        if let Some(status) = branch.ended {
            return Err(ControlError::Finished(status));
        }
        match self.terminate(child, reason).await {
            // The first checkpoint of a sub-orchestration writes its history before its row.
            Err(ControlError::NotFound) if branch.execution_id.is_some() || self.may_start(child).await? => Err(ControlError::NotStarted),
            outcome => outcome,
        }
    }

    /// Whether a child without a row may get one. Its start message was sent before the history that names it, and goes after its row was
    /// written: once the queue is empty, a row that is still missing will not come.
    async fn may_start(&self, child: &str) -> Result<bool, StorageError> {
        Ok(self.control_backlog(child).await? > 0 || self.get_without_input(child, &[]).await?.is_some())
    }

    async fn branch(&self, instance_id: &str) -> Result<Branch, TerminateTreeError> {
        let options = HistoryOptions { inputs: false, outputs: false, ..HistoryOptions::default() };
        let mut branch = Branch::default();
        let mut position = None;
        loop {
            let page = self.history(instance_id, &options, position.as_ref()).await;
            let page = page.map_err(|error| TerminateTreeError::History { instance_id: instance_id.to_owned(), error })?;
            branch.execution_id = page.execution_id;
            page.events.into_iter().for_each(|HistoryEvent { event, .. }| branch.add(event.event_id, event.kind));
            match page.next {
                Some(next) => position = Some(next),
                None => return Ok(branch),
            }
        }
    }
}
