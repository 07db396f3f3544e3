//! Putting our finalizer on an object, and taking it off.
//!
//! Invariant: other finalizers stay.

use kube::{Client, Resource};
use serde_json::json;

use super::failure::Failure;
use super::metadata;
use super::status::Written;
use crate::api::{Envelope, FINALIZER, Kind};

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
    metadata::patch(client, object, "finalizers", json!(finalizers)).await
}
