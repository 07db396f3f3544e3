//! Changing one field of an object's metadata.
//!
//! Invariant: each change names the `uid` and `resourceVersion` of the copy that
//! was decided upon, so that a stale copy changes nothing.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use super::failure::Failure;
use super::status::Written;
use crate::api::{Envelope, FIELD_MANAGER, Kind};

/// kube has no time-out of its own.
const PATCH_TIME_OUT: Duration = Duration::from_secs(10);

/// Gives `field` the value.
///
/// # Errors
/// [`Failure`] if the API server does not take it for another reason than a newer copy.
pub async fn patch<K: Kind>(client: &Client, object: &Envelope<K>, field: &str, value: Value) -> Result<Written<K>, Failure> {
    let api: Api<Envelope<K>> = Api::namespaced(client.clone(), object.namespace());
    let mut patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": object.meta().resource_version}});
    patch["metadata"][field] = value;
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(PATCH_TIME_OUT, api.patch(object.name(), &parameters, &Patch::Merge(&patch))).await {
        Ok(Ok(copy)) => Ok(Written::New(Box::new(copy))),
        Ok(Err(kube::Error::Api(answer))) if answer.is_conflict() || answer.is_not_found() => Ok(Written::Stale),
        Ok(Err(error)) => Err(Failure::new("api_server", error)),
        Err(_) => Err(Failure::of("api_server_timeout")),
    }
}
