//! Which instance belongs to an object, and whose an instance is (product.md 3.1).
//!
//! Pure. Invariant: everything is computed from namespace, name and UID, so that
//! a repeat after any crash sends the same start again, which the engine swallows.

use durable_taskhub::Instance;
use durable_taskhub::names::{InstanceId, InvalidInstanceId};
use sha2::{Digest, Sha256};

/// Our column of the Instances row. Workers only ever merge into that row, so it stays until another client starts the ID anew.
pub const OWNER_COLUMN: &str = "KubernetesOwner";

const NAME_CHARACTERS: usize = 60;
const DIGEST_DIGITS_IN_ID: usize = 12;
const EXECUTION_ID_DIGITS: usize = 32;

/// An Orchestration object, as far as its instance is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// ID of the instance.
    pub instance_id: InstanceId,
    /// ID of the execution that the object starts.
    pub execution_id: String,
    /// What [`OWNER_COLUMN`] says on the instance's row.
    pub owner: String,
}

/// Whose the row of an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// The object's.
    Ours,
    /// Another Orchestration's, `namespace/name`.
    OfObject(String),
    /// Another client's.
    Foreign,
}

impl Identity {
    /// The identity of the object; `wanted` is the instance ID of its spec.
    ///
    /// # Errors
    /// [`InvalidInstanceId`] if no instance can have the wanted ID.
    pub fn new(namespace: &str, name: &str, uid: &str, wanted: Option<&str>) -> Result<Identity, InvalidInstanceId> {
        let digest = hex::encode(Sha256::digest(uid.as_bytes()));
        let instance_id = match wanted {
            Some(id) => InstanceId::new(id)?,
            None => {
                let name = crate::api::conditions::cut(name, NAME_CHARACTERS);
                InstanceId::new(&format!("{name}-{}", &digest[..DIGEST_DIGITS_IN_ID]))?
            }
        };
        Ok(Identity { instance_id, execution_id: digest[..EXECUTION_ID_DIGITS].to_owned(), owner: format!("{namespace}/{name}/{uid}") })
    }

    /// Whose `instance` is.
    pub fn whose(&self, instance: &Instance) -> Whose {
        match instance.column(OWNER_COLUMN) {
            Some(owner) if owner == self.owner => Whose::Ours,
            // A restored object has a new UID: its old run is another object's.
            Some(owner) => Whose::OfObject(owner.rsplit_once('/').map_or(owner, |(object, _)| object).to_owned()),
            None => Whose::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    #[test]
    fn a_recreated_object_is_another_run_and_a_repeat_is_the_same() {
        let first = Identity::new("shop", "order", UID, None).unwrap();
        assert_eq!(Identity::new("shop", "order", UID, None).unwrap(), first);
        let recreated = Identity::new("shop", "order", "7c9e6679-7425-40de-944b-e07fc1f90ae7", None).unwrap();
        assert_ne!(recreated.instance_id, first.instance_id);
        assert_ne!(recreated.execution_id, first.execution_id);
        assert_eq!(first.execution_id.len(), 32);
        assert_eq!(first.owner, format!("shop/order/{UID}"));
        let id = first.instance_id.as_str();
        assert!(id.starts_with("order-") && id.len() == "order-".len() + 12, "{id}");
    }

    #[test]
    fn the_longest_name_of_an_object_gives_a_valid_id() {
        let identity = Identity::new("shop", &"n".repeat(253), UID, None).unwrap();
        assert_eq!(identity.instance_id.as_str().len(), 60 + 1 + 12);
    }

    #[test]
    fn a_wanted_id_is_taken_as_it_is_or_refused() {
        assert_eq!(Identity::new("shop", "order", UID, Some("Order 4711")).unwrap().instance_id.as_str(), "Order 4711");
        assert_eq!(Identity::new("shop", "order", UID, Some("@a")), Err(InvalidInstanceId::Entity));
    }
}
