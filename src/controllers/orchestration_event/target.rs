//! Who gets an event, and through which hub. Pure.
//!
//! Invariants: the instance of an Orchestration is computed from the object,
//! never read from a status, which others may write; an event that is bound to
//! an Orchestration never goes to a namesake that was made after it.

use durable_taskhub::entity::{EntityId, InvalidEntityId};
use durable_taskhub::names::InstanceId;

use crate::api::Envelope;
use crate::api::v1alpha1::{Orchestration, OrchestrationEventSpec, TaskHubReference};
use crate::controllers::orchestration::Identity;
use crate::hubs::HubKey;

/// Why the event cannot be delivered to what its spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The condition's reason.
    pub reason: &'static str,
    /// What to change.
    pub message: String,
}

/// What is known of the Orchestration that the spec names.
pub enum Listed<'a> {
    /// Orchestrations were not listed yet.
    Unknown,
    /// There is none of the name.
    Absent,
    /// There it is.
    There(&'a Envelope<Orchestration>),
}

/// Who gets the event.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Not known yet.
    Unknown,
    /// Nobody, until an Orchestration of this name is made.
    NoOrchestration(String),
    /// The Orchestration of this name and UID, which the event is not bound to yet.
    Unbound {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Nobody, ever.
    Refused(Refusal),
    /// Nobody, as long as this version of the operator cannot read a spec.
    Unreadable(String),
    /// An instance.
    Instance(Instance),
    /// An entity.
    Entity {
        /// Its task hub.
        hub: HubKey,
        /// Its ID.
        id: EntityId,
    },
}

/// The instance that gets the event.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its task hub.
    pub hub: HubKey,
    /// Its ID.
    pub id: String,
    /// The Orchestration whose it must be.
    pub owner: Option<Owner>,
}

/// The Orchestration whose the instance must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// What it writes on its row.
    pub identity: Identity,
    /// True if it says that it has started or claimed its instance, or never will: a row that is another's stays another's.
    pub has_claimed: bool,
}

impl Target {
    /// The task hub, if there is a target.
    pub fn hub(&self) -> Option<&HubKey> {
        match self {
            Target::Instance(instance) => Some(&instance.hub),
            Target::Entity { hub, .. } => Some(hub),
            Target::Unknown | Target::NoOrchestration(_) | Target::Unbound { .. } | Target::Refused(_) | Target::Unreadable(_) => None,
        }
    }

    /// ID of the instance or entity.
    pub fn instance_id(&self) -> Option<String> {
        match self {
            Target::Instance(instance) => Some(instance.id.clone()),
            Target::Entity { id, .. } => Some(id.to_string()),
            Target::Unknown | Target::NoOrchestration(_) | Target::Unbound { .. } | Target::Refused(_) | Target::Unreadable(_) => None,
        }
    }

    /// The target of an event in `namespace`; `bound_to` is the UID of the Orchestration that it belongs to.
    pub fn of(spec: &OrchestrationEventSpec, namespace: &str, bound_to: Option<&str>, listed: &Listed<'_>) -> Target {
        if let Some(reference) = &spec.orchestration_ref {
            return of_orchestration(&reference.name, bound_to, listed);
        }
        let Some(hub) = spec.task_hub_ref.as_ref().map(|reference| hub_of(reference, namespace)) else {
            return incomplete("spec.taskHubRef is missing");
        };
        match (&spec.instance_id, &spec.entity) {
            (Some(id), _) => match InstanceId::new(id) {
                Ok(id) => Target::Instance(Instance { hub, id: id.as_str().to_owned(), owner: None }),
                Err(why) => Target::Refused(invalid_id(format!("spec.instanceId: {why}"))),
            },
            (None, Some(entity)) => match EntityId::new(&entity.name, &entity.key) {
                Ok(id) => Target::Entity { hub, id },
                Err(why) => Target::Refused(invalid_entity(why)),
            },
            (None, None) => incomplete("spec names no target"),
        }
    }
}

fn of_orchestration(name: &str, bound_to: Option<&str>, listed: &Listed<'_>) -> Target {
    let object = match listed {
        Listed::Unknown => return Target::Unknown,
        Listed::Absent => return Target::NoOrchestration(name.to_owned()),
        Listed::There(object) => object,
    };
    match bound_to {
        None => return Target::Unbound { name: name.to_owned(), uid: object.uid().to_owned() },
        Some(uid) if uid != object.uid() => {
            let message = format!(
                "Orchestration {name} was deleted and made anew since this event was made for it: make a new OrchestrationEvent if the new one shall get it too"
            );
            return Target::Refused(Refusal { reason: "Replaced", message });
        }
        Some(_) => {}
    }
    let spec = match object.spec() {
        Ok(spec) => spec,
        Err(error) => return Target::Unreadable(format!("the spec of Orchestration {name}: {error}")),
    };
    match Identity::new(object.namespace(), object.name(), object.uid(), spec.instance_id.as_deref()) {
        Ok(identity) => {
            let status = object.status();
            let has_claimed = status.settled || status.runtime_status.is_some();
            Target::Instance(Instance {
                hub: hub_of(&spec.task_hub_ref, object.namespace()),
                id: identity.instance_id.as_str().to_owned(),
                owner: Some(Owner { identity, has_claimed }),
            })
        }
        Err(why) => Target::Refused(invalid_id(format!("spec.instanceId of Orchestration {name}: {why}"))),
    }
}

fn hub_of(reference: &TaskHubReference, namespace: &str) -> HubKey {
    HubKey { namespace: reference.namespace.clone().unwrap_or_else(|| namespace.to_owned()), name: reference.name.clone() }
}

fn invalid_id(why: String) -> Refusal {
    Refusal { reason: "InvalidInstanceId", message: format!("{why}. Make a new OrchestrationEvent with the right target") }
}

fn invalid_entity(why: InvalidEntityId) -> Refusal {
    invalid_id(format!("spec.entity: {why}"))
}

fn incomplete(what: &str) -> Target {
    let message = format!("{what}: this is an object that its CRD forbids; make a new OrchestrationEvent");
    Target::Refused(Refusal { reason: "InvalidSpec", message })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn spec(value: serde_json::Value) -> OrchestrationEventSpec {
        serde_json::from_str(&value.to_string()).unwrap()
    }

    fn orchestration(spec: serde_json::Value, status: serde_json::Value) -> Envelope<Orchestration> {
        let object = json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration",
            "metadata": {"name": "order", "namespace": "shop", "uid": UID}, "spec": spec, "status": status
        });
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn an_orchestrations_instance_is_computed_and_its_hub_is_its_own() {
        let event = spec(json!({"orchestrationRef": {"name": "order"}, "name": "Approval"}));
        // Whoever may write a status could point it at the instance of another.
        let object = orchestration(
            json!({"taskHubRef": {"name": "hub", "namespace": "platform"}, "functionName": "F"}),
            json!({"instanceId": "of-another", "settled": false}),
        );
        assert_eq!(Target::of(&event, "shop", None, &Listed::Unknown), Target::Unknown);
        assert_eq!(Target::of(&event, "shop", None, &Listed::Absent), Target::NoOrchestration("order".to_owned()));
        let unbound = Target::of(&event, "shop", None, &Listed::There(&object));
        assert_eq!(unbound, Target::Unbound { name: "order".to_owned(), uid: UID.to_owned() });
        let Target::Instance(found) = Target::of(&event, "shop", Some(UID), &Listed::There(&object)) else { panic!() };
        let identity = Identity::new("shop", "order", UID, None).unwrap();
        assert_eq!(found.id, identity.instance_id.as_str());
        assert_eq!(found.hub, HubKey { namespace: "platform".to_owned(), name: "hub".to_owned() });
        assert_eq!(found.owner, Some(Owner { identity, has_claimed: false }));
    }

    #[test]
    fn a_namesake_never_gets_what_was_bound_to_another() {
        let event = spec(json!({"orchestrationRef": {"name": "order"}, "name": "Approval"}));
        let object = orchestration(json!({"taskHubRef": {"name": "hub"}, "functionName": "F"}), json!({}));
        let Target::Refused(refusal) = Target::of(&event, "shop", Some("another"), &Listed::There(&object)) else { panic!() };
        assert_eq!(refusal.reason, "Replaced");
        assert_eq!(Target::of(&event, "shop", Some("another"), &Listed::Absent), Target::NoOrchestration("order".to_owned()));
    }

    #[test]
    fn ids_that_nothing_can_have_are_refused() {
        let hub = json!({"name": "hub"});
        for (value, part) in [
            (json!({"taskHubRef": hub, "instanceId": "a/b", "name": "N"}), "spec.instanceId"),
            (json!({"taskHubRef": hub, "entity": {"name": "a", "key": "k".repeat(254)}, "operation": "add"}), "spec.entity"),
        ] {
            let Target::Refused(refusal) = Target::of(&spec(value), "shop", None, &Listed::Unknown) else { panic!("{part}") };
            assert_eq!(refusal.reason, "InvalidInstanceId");
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
        let entity = spec(json!({"taskHubRef": hub, "entity": {"name": "Counter", "key": "Kept"}, "operation": "add"}));
        assert_eq!(Target::of(&entity, "shop", None, &Listed::Unknown).instance_id().as_deref(), Some("@counter@Kept"));
        let unreadable = orchestration(json!({"taskHubRef": 7}), json!({}));
        let event = spec(json!({"orchestrationRef": {"name": "order"}, "name": "N"}));
        assert!(matches!(Target::of(&event, "shop", Some(UID), &Listed::There(&unreadable)), Target::Unreadable(_)));
    }
}
