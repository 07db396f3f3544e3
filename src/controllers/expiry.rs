//! When an object whose work is done deletes itself (`ttlSecondsAfterFinished`), and the deletion.
//!
//! Invariant: an object that a GitOps tool keeps in existence is never deleted:
//! it would be created again, and a new run with it.

use std::time::Duration;

use durable_taskhub::Time;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, Resource};

use super::failure::Failure;
use crate::api::{Envelope, Kind, gitops};

/// kube has no time-out of its own.
const DELETE_TIME_OUT: Duration = Duration::from_secs(10);

/// When an object goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Never by itself.
    Never,
    /// Never, since this tool would create it again.
    RefusedFor(&'static str),
    /// After this time.
    In(Duration),
    /// Now.
    Now,
}

/// When an object that finished at `finished` goes.
pub fn expiry<K: Kind>(object: &Envelope<K>, ttl_seconds: Option<i64>, finished: Option<Time>, now: Time) -> Expiry {
    let (Some(ttl), Some(finished)) = (ttl_seconds, finished) else { return Expiry::Never };
    if let Some(tool) = gitops::kept_by(object.meta()) {
        return Expiry::RefusedFor(tool);
    }
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or_default());
    match ttl.checked_sub(now.since(finished)) {
        Some(left) if !left.is_zero() => Expiry::In(left),
        _ => Expiry::Now,
    }
}

/// Deletes this very copy of the object; one that has changed, or is gone, is left alone.
///
/// # Errors
/// [`Failure`] if the API server does not take it.
pub async fn delete<K: Kind>(client: &Client, object: &Envelope<K>) -> Result<(), Failure> {
    let api: Api<Envelope<K>> = Api::namespaced(client.clone(), object.namespace());
    let preconditions = Preconditions { uid: Some(object.uid().to_owned()), resource_version: object.meta().resource_version.clone() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match tokio::time::timeout(DELETE_TIME_OUT, api.delete(object.name(), &parameters)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
        Ok(Err(error)) => Err(Failure::new("api_server", error)),
        Err(_) => Err(Failure::of("api_server_timeout")),
    }
}
