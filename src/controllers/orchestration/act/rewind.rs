//! Rewinding, in a way that a crash at any point only interrupts (product.md 3.4, rule 8).
//!
//! The library's rewind is resumable; here is decided whether it is still the
//! same one. Invariant: a rewind that was recorded once is never begun anew after
//! the run it woke has failed again: the time of the end, which the status keeps
//! as long as the record stands, tells the two apart.

use durable_taskhub::rewind::{RewindError, RewindRefusal};
use durable_taskhub::{RuntimeStatus, Time};

use super::storage;
use crate::api::v1alpha1::{OrchestrationStatus, RewindResult};
use crate::controllers::failure::Failure;
use crate::controllers::orchestration::describe::Outcome;
use crate::controllers::orchestration::identity::{OWNER_COLUMN, Whose};
use crate::controllers::orchestration::wish::Wish;
use crate::crash_points::{self, at};
use crate::hubs::ReadyHub;

/// How a rewind that may begin stands.
pub enum Standing {
    /// It may begin, or go on.
    Open {
        /// When the run ended that is to be rewound.
        ended: Option<Time>,
    },
    /// It is over before it begins.
    Over(RewindResult, String),
}

/// Looks whether the instance is the object's still, and whether a recorded rewind was done already. One request.
pub async fn standing(hub: &ReadyHub, wish: &Wish, status: &OrchestrationStatus, recorded: bool) -> Result<Standing, Failure> {
    let found = hub.client.get_without_input(wish.identity.instance_id.as_str(), &[OWNER_COLUMN]).await.map_err(storage)?;
    let Some(instance) = found else {
        return Ok(Standing::Over(RewindResult::Rejected, "the instance is no longer in the task hub".to_owned()));
    };
    if wish.identity.whose(&instance) != Whose::Ours {
        return Ok(Standing::Over(RewindResult::Rejected, "the instance is another client's now".to_owned()));
    }
    let ended = status.completed_time.as_ref().map(|time| time.0);
    let failed_again = recorded && instance.runtime_status == RuntimeStatus::Failed && instance.completed_time != ended;
    Ok(if failed_again {
        Standing::Over(RewindResult::Succeeded, String::new())
    } else {
        Standing::Open { ended: instance.completed_time }
    })
}

/// Rewinds.
pub async fn rewind(hub: &ReadyHub, wish: &Wish, recorded: bool) -> Result<Outcome, Failure> {
    let result = hub.client.rewind(wish.identity.instance_id.as_str(), wish.spec.reason.as_deref()).await;
    crash_points::reached(at::REWOUND);
    let (result, message) = match result {
        Ok(_) => (RewindResult::Succeeded, String::new()),
        // It was done before a crash, and the run has gone on since.
        Err(RewindError::Refused { refusal: RewindRefusal::NotFailed(_), .. }) if recorded => (RewindResult::Succeeded, String::new()),
        Err(RewindError::Refused { refusal: RewindRefusal::NotFailed(RuntimeStatus::Terminated), .. }) => {
            (RewindResult::Rejected, "the run was terminated, and only a run that failed can be rewound".to_owned())
        }
        Err(RewindError::Refused { refusal: RewindRefusal::NotFailed(status), .. }) => {
            (RewindResult::NotNeeded, format!("the instance is {status} by its history"))
        }
        Err(error @ RewindError::Refused { .. }) => (RewindResult::Rejected, error.to_string()),
        Err(RewindError::NotFound) => (RewindResult::Rejected, "the instance is no longer in the task hub".to_owned()),
        Err(error @ RewindError::Result { .. }) => (RewindResult::Failed, error.to_string()),
        Err(error @ RewindError::Changed { .. }) => return Err(Failure::new("row_contended", error)),
        Err(error @ RewindError::Storage(_)) => return Err(storage(error)),
    };
    Ok(Outcome::Rewound(result, message))
}
