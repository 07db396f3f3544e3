//! Writing a status: whole, with PUT on `/status`, and never over a newer one.
//!
//! Invariant: `uid` and `resourceVersion` of the decided-upon copy are in the
//! body, so that a stale cache, a second leader or a namesake gets a 409 and
//! nothing was done (product.md 1). A merge patch would drop nulls inside
//! `output` and mix two values of `customStatus`.

use std::time::Duration;

use kube::api::{ObjectMeta, PostParams, Request};
use kube::{Api, Client, Resource};
use serde::Serialize;

use super::failure::Failure;
use crate::api::v1alpha1::status_metadata;
use crate::api::{Envelope, FIELD_MANAGER, Kind};

/// kube has no time-out for reads: a black-holed write would hang for ever.
const WRITE_TIME_OUT: Duration = Duration::from_secs(10);

/// When an object that was stale is looked at again: the watch has brought the newer copy by then, which alone need not
/// cause a reconcile.
pub const STALE_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What became of a write.
#[derive(Debug)]
pub enum Written<K> {
    /// The API server's copy, as new as the write.
    New(Box<Envelope<K>>),
    /// The object has changed since it was decided upon, or is gone: nothing was done. That is normal and no failure.
    Stale,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a, S> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    status: &'a S,
}

/// Replaces the status of `object`.
///
/// # Errors
/// [`Failure`] if the API server does not take it for another reason than a newer copy.
pub async fn write<K: Kind, S: Serialize>(client: &Client, object: &Envelope<K>, status: &S) -> Result<Written<K>, Failure> {
    let body = Body {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        metadata: status_metadata(object.meta()),
        status,
    };
    let body = serde_json::to_vec(&body).map_err(|error| Failure::new("status", error))?;
    let api: Api<Envelope<K>> = Api::namespaced(client.clone(), object.namespace());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let request = Request::new(api.resource_url())
        .replace_subresource("status", object.name(), &parameters, body)
        .map_err(|error| Failure::new("status", error))?;
    match tokio::time::timeout(WRITE_TIME_OUT, client.request::<Envelope<K>>(request)).await {
        Ok(Ok(copy)) => Ok(Written::New(Box::new(copy))),
        Ok(Err(kube::Error::Api(answer))) if answer.is_conflict() || answer.is_not_found() => Ok(Written::Stale),
        Ok(Err(error)) => Err(Failure::new("api_server", error)),
        Err(_) => Err(Failure::of("api_server_timeout")),
    }
}
