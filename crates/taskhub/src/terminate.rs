//! Terminating an instance (task-hub.md 6.5): a read, a message, and a look back.
//!
//! A terminate for a missing row returns every five minutes for ever, and ends
//! the next instance of that ID (engine-experiments.md 3.5, 5.17). So the row is
//! read before, and read again after: if it has gone in between, the message is
//! withdrawn.

use std::collections::{BTreeMap, HashSet, VecDeque};

use crate::control::{ControlError, Reachable, SentControl, safe_reason};
use crate::event::EventKind;
use crate::history::{HistoryError, HistoryEvent, HistoryOptions};
use crate::hub::TaskHub;
use crate::storage::StorageError;

/// What became of a terminate.
#[derive(Debug, Clone)]
pub enum Terminating {
    /// The message is on its way. The end shows in the history; the row alone does not prove it (5.8).
    Sent(SentControl),
    /// The instance was purged meanwhile; the message was taken back.
    Withdrawn,
    /// The instance was purged meanwhile, and a worker has the message: it returns every five minutes until somebody deletes
    /// it from the queue, and would end a new instance of the same ID.
    Stranded(SentControl),
}

/// What became of each instance of a tree.
#[derive(Debug)]
pub struct TerminatedTree {
    /// The instances, parents before their children, and what became of each. A child that had ended meanwhile, or that no
    /// worker has taken up yet, is refused here and harms nothing.
    pub instances: Vec<(String, Result<Terminating, ControlError>)>,
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

/// The most instances that one call terminates.
pub const MAX_INSTANCES: usize = 10_000;

impl TaskHub {
    /// Ends a run and the sub-orchestrations that it waits for, which the engine would let run on (5.20). Parents first, so
    /// that none of them reacts to the end of a child. Three requests per instance, and two or more for its history.
    ///
    /// # Errors
    /// [`TerminateTreeError`].
    pub async fn terminate_tree(&self, instance_id: &str, reason: Option<&str>) -> Result<TerminatedTree, TerminateTreeError> {
        let root = self.terminate(instance_id, reason).await?;
        let mut instances = vec![(instance_id.to_owned(), Ok(root))];
        let mut waiting = VecDeque::from([instance_id.to_owned()]);
        let mut seen = HashSet::from([instance_id.to_owned()]);
        while let Some(parent) = waiting.pop_front() {
            let children = self.unfinished_children(&parent).await;
            let children = children.map_err(|error| TerminateTreeError::History { instance_id: parent, error })?;
            for child in children.into_iter().filter(|child| seen.insert(child.clone())).collect::<Vec<_>>() {
                if instances.len() >= MAX_INSTANCES {
                    return Err(TerminateTreeError::TooLarge);
                }
                let result = self.terminate(&child, reason).await;
                instances.push((child.clone(), result));
                waiting.push_back(child);
            }
        }
        Ok(TerminatedTree { instances })
    }

    /// The sub-orchestrations that the history names without an end.
    async fn unfinished_children(&self, instance_id: &str) -> Result<Vec<String>, HistoryError> {
        let options = HistoryOptions { inputs: false, outputs: false, ..HistoryOptions::default() };
        let mut open: BTreeMap<i32, String> = BTreeMap::new();
        let mut position = None;
        loop {
            let page = self.history(instance_id, &options, position.as_ref()).await?;
            for HistoryEvent { event, .. } in page.events {
                match event.kind {
                    EventKind::SubOrchestrationInstanceCreated { instance_id: child, .. } => drop(open.insert(event.event_id, child)),
                    EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id, .. }
                    | EventKind::SubOrchestrationInstanceFailed { task_scheduled_id, .. } => drop(open.remove(&task_scheduled_id)),
                    _ => {}
                }
            }
            match page.next {
                Some(next) => position = Some(next),
                None => return Ok(open.into_values().collect()),
            }
        }
    }

    /// Ends a run. Activities under way are not canceled, sub-orchestrations run on. Three requests.
    ///
    /// # Errors
    /// [`ControlError`]. A start that waits cannot be terminated: it would run all the same (5.1, 5.3). Wait until it has
    /// started, or purge it.
    pub async fn terminate(&self, instance_id: &str, reason: Option<&str>) -> Result<Terminating, ControlError> {
        let instance = Reachable::find(self, instance_id).await?;
        let sent = instance.send(self, EventKind::ExecutionTerminated { input: reason.map(safe_reason) }).await?;
        Ok(self.look_back(instance_id, sent).await?)
    }

    async fn look_back(&self, instance_id: &str, sent: SentControl) -> Result<Terminating, StorageError> {
        if self.get_without_input(instance_id, &[]).await?.is_some() {
            return Ok(Terminating::Sent(sent));
        }
        Ok(if sent.withdraw().await? { Terminating::Withdrawn } else { Terminating::Stranded(sent) })
    }
}
