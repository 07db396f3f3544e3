//! Putting our finalizer on an object, and taking it off.
//!
//! Invariant: each change names the `resourceVersion` of the copy that was
//! decided upon, so that a stale copy changes nothing; other finalizers stay.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use super::failure::Failure;
use super::status::Written;
use crate::api::{Envelope, FIELD_MANAGER, FINALIZER, Kind};

/// kube has no time-out of its own.
const PATCH_TIME_OUT: Duration = Duration::from_secs(10);

/// Puts the finalizer on.
///
/// # Errors
/// [`Failure`] if the API server does not take it for another reason than a newer copy.
pub async fn add<K: Kind>(client: &Client, object: &Envelope<K>) -> Result<Written<K>, Failure> {
    let others = object.meta().finalizers.clone().unwrap_or_default();
    set(client, object, others.into_iter().chain([FINALIZER.to_owned()]).collect()).await
}

/// Takes the finalizer off; an object that is being deleted goes with that.
///
/// # Errors
/// As [`add`].
pub async fn remove<K: Kind>(client: &Client, object: &Envelope<K>) -> Result<Written<K>, Failure> {
    let others = object.meta().finalizers.clone().unwrap_or_default();
    set(client, object, others.into_iter().filter(|name| name != FINALIZER).collect()).await
}

async fn set<K: Kind>(client: &Client, object: &Envelope<K>, finalizers: Vec<String>) -> Result<Written<K>, Failure> {
    let api: Api<Envelope<K>> = Api::namespaced(client.clone(), object.namespace());
    let patch = json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.meta().resource_version, "finalizers": finalizers
    }});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(PATCH_TIME_OUT, api.patch(object.name(), &parameters, &Patch::Merge(&patch))).await {
        Ok(Ok(copy)) => Ok(Written::New(Box::new(copy))),
        Ok(Err(kube::Error::Api(answer))) if answer.is_conflict() || answer.is_not_found() => Ok(Written::Stale),
        Ok(Err(error)) => Err(Failure::new("api_server", error)),
        Err(_) => Err(Failure::of("api_server_timeout")),
    }
}
