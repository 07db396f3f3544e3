//! Puts the worker together: partitions by their leases, one task per control queue, one for activities.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Storage, StorageError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::hub::Hub;
use crate::lease::{self, Leases};
use crate::samples::activities::Markers;
use crate::{activity, control, poll};

/// How long a stop waits for what is at work.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A worker of one hub.
pub struct Worker {
    hub: Arc<Hub>,
    worker_id: String,
    serving: BTreeMap<String, (watch::Sender<bool>, JoinHandle<()>)>,
}

/// The worker cannot serve the hub.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No lease rows, or more than an engine has.
    #[error("task hub {hub} has {rows} partitions in its Partitions table, expected 1 to 16; --create-hub makes a hub")]
    NoHub {
        /// The hub's name.
        hub: String,
        /// How many rows there are.
        rows: usize,
    },
}

impl Worker {
    /// A worker for the existing hub `name`: the number of partitions is that of its lease rows. `markers` are those of the
    /// sample activities.
    ///
    /// # Errors
    /// [`WorkerError`] if there is no such hub, or storage cannot be reached.
    pub async fn open(storage: &Storage, name: HubName, worker_id: String, markers: Markers) -> Result<Worker, WorkerError> {
        let rows = match lease::rows(&storage.table(&name.partitions_table())).await {
            Ok(rows) => rows.len(),
            Err(error) if error.is_container_not_found() => 0,
            Err(error) => return Err(error.into()),
        };
        let partitions = u32::try_from(rows).ok().and_then(PartitionCount::new);
        let partitions = partitions.ok_or_else(|| WorkerError::NoHub { hub: name.to_string(), rows })?;
        let hub = Arc::new(Hub::new(storage, name, partitions, markers));
        Ok(Worker { hub, worker_id, serving: BTreeMap::new() })
    }

    /// Serves the hub until `stop` is true; finishes what is at work, and gives the leases back.
    ///
    /// # Errors
    /// Storage failed while the leases were given back.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), WorkerError> {
        let activities = tokio::spawn(activity::serve(self.hub.clone(), stop.clone()));
        let mut leases = Leases::new(self.hub.leases.clone(), self.worker_id.clone());
        while !*stop.borrow() {
            let mut pause = lease::LOOK_OUT;
            match leases.update().await {
                Ok(changes) => {
                    changes.lost.iter().for_each(|queue| self.end(queue));
                    changes.taken.iter().for_each(|queue| self.begin(queue));
                    if changes.complete {
                        pause = lease::RENEWAL;
                    }
                }
                Err(error) => tracing::warn!(%error, "leases cannot be renewed"),
            }
            leases.expired().iter().for_each(|queue| self.end(queue));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = poll::stopped(&mut stop) => {}
            }
        }
        let mut tasks = vec![activities];
        for (_, (end, task)) in std::mem::take(&mut self.serving) {
            end.send_replace(true);
            tasks.push(task);
        }
        if tokio::time::timeout(STOP_WITHIN, futures::future::join_all(tasks)).await.is_err() {
            tracing::warn!("work was still going on; its messages come back after five minutes");
        }
        leases.release().await?;
        Ok(())
    }

    fn begin(&mut self, queue: &str) {
        let Some(index) = self.hub.control.iter().position(|(control, _)| control.name() == queue) else { return };
        tracing::info!(queue, "partition taken");
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(control::serve(self.hub.clone(), index, ended));
        self.serving.insert(queue.to_owned(), (end, task));
    }

    /// The task ends by itself after the batch at hand; the history's lock guards that one.
    fn end(&mut self, queue: &str) {
        if let Some((end, _)) = self.serving.remove(queue) {
            tracing::warn!(queue, "partition lost");
            end.send_replace(true);
        }
    }
}
