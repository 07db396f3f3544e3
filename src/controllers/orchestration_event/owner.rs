//! Making the Orchestration the owner of an event, so that it goes with it.
//!
//! Invariants: other owners stay; a stale copy changes nothing; deleting the
//! Orchestration never waits for the event.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Client, Resource};
use serde_json::json;

use crate::api::Envelope;
use crate::api::v1alpha1::{Orchestration, OrchestrationEvent};
use crate::controllers::failure::Failure;
use crate::controllers::metadata;
use crate::controllers::status::Written;

/// The UID of the Orchestration of this name that owns the event.
pub fn uid_of<'a>(object: &'a Envelope<OrchestrationEvent>, name: &str) -> Option<&'a str> {
    let is_it = |owner: &&OwnerReference| {
        owner.kind == Orchestration::kind(&()) && owner.name == name && owner.api_version.split('/').next() == Some(crate::api::GROUP)
    };
    object.meta().owner_references.iter().flatten().find(is_it).map(|owner| owner.uid.as_str())
}

/// Adds the Orchestration of this name and UID to the owners.
///
/// # Errors
/// [`Failure`] if the API server does not take it for another reason than a newer copy.
pub async fn add(
    client: &Client,
    object: &Envelope<OrchestrationEvent>,
    name: &str,
    uid: &str,
) -> Result<Written<OrchestrationEvent>, Failure> {
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(OwnerReference {
        api_version: Orchestration::api_version(&()).into_owned(),
        kind: Orchestration::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(false),
        block_owner_deletion: Some(false),
    });
    metadata::patch(client, object, "ownerReferences", json!(owners)).await
}
