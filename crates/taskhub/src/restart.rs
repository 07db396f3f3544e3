//! Starting a run again with the input that it had (task-hub.md 6.9).

use crate::hub::TaskHub;
use crate::names::{InstanceId, InvalidInstanceId};
use crate::payload::PayloadError;
use crate::start::{Overwrite, StartError, StartRequest};

/// Where the new run goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartAs {
    /// A new instance of this ID, for example [`InstanceId::random`]; the old one stays.
    New(InstanceId),
    /// The same ID: the old run must be over, and is replaced.
    Same,
}

/// Why a run was not started again.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The hub has no instance of this ID.
    #[error("the task hub has no instance of this ID")]
    NotFound,
    /// Clients may not start an instance of this ID: entities and sub-orchestrations may have others.
    #[error(transparent)]
    InvalidId(#[from] InvalidInstanceId),
    /// The input that it had cannot be had.
    #[error("the input of the run: {0}")]
    Input(#[from] PayloadError),
    /// The start itself.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl TaskHub {
    /// Starts the function of `instance_id` again with the same input text. Three requests; five if the ID is the same.
    ///
    /// Version and tags are not carried over, as in the original. Nothing links the two runs.
    ///
    /// # Errors
    /// [`RestartError`]; a run that is not over is never replaced.
    pub async fn restart(&self, instance_id: &str, restart_as: RestartAs) -> Result<InstanceId, RestartError> {
        const MAX_INPUT_BYTES: u64 = 32 * 1024 * 1024;
        let before = self.get(instance_id).await.map_err(StartError::from)?.ok_or(RestartError::NotFound)?;
        let input = match &before.input {
            Some(payload) => Some(self.fetch(payload, MAX_INPUT_BYTES).await?),
            None => None,
        };
        let (id, overwrite) = match restart_as {
            RestartAs::New(id) => (id, Overwrite::Never),
            RestartAs::Same => (InstanceId::new(instance_id)?, Overwrite::Finished),
        };
        self.start(StartRequest { instance_id: id.clone(), input, overwrite, ..StartRequest::new(before.name) }).await?;
        Ok(id)
    }
}
