//! From a TaskHub and its Secret to a storage account: the one resolver.
//!
//! Invariants: a Secret is only ever of the TaskHub's own namespace; no
//! credential leaves for a host that the operator's flags do not allow; nothing
//! that was read from a Secret is in a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use durable_taskhub::storage::{Account, Service};
use k8s_openapi::ByteString;

use crate::api::v1alpha1::{SecretKeyReference, TaskHubSpec};
use crate::config::AllowedEndpoints;

/// A Secret as the operator last saw it.
#[derive(Clone, Default)]
pub enum SecretState {
    /// Not read yet.
    #[default]
    Unknown,
    /// The API server says that there is none.
    Absent,
    /// The API server does not let the operator read it.
    Forbidden,
    /// Its data, and the version that they are of.
    Present {
        /// The Secret's `resourceVersion`.
        version: String,
        /// The Secret's data.
        data: Arc<BTreeMap<String, ByteString>>,
    },
}

/// Why a TaskHub is not usable, as its `Ready` condition says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// The reason of product.md 2.
    pub reason: &'static str,
    /// What to change.
    pub message: String,
}

impl NotReady {
    /// `reason`, and what to change.
    pub fn new(reason: &'static str, message: impl Into<String>) -> NotReady {
        NotReady { reason, message: message.into() }
    }
}

/// A connection that may be opened.
#[derive(Clone)]
pub struct Resolved {
    /// The storage account with its credential.
    pub account: Account,
    /// How requests are signed.
    pub method: &'static str,
    /// Version of the Secret that it comes from.
    pub credential_version: String,
}

/// Resolves the connection of `spec`; `None` while the Secret was not read yet. `pinned` is the account of the first connection.
///
/// # Errors
/// [`NotReady`] with the reason.
pub fn resolve(
    spec: &TaskHubSpec,
    secret: &SecretState,
    allowed: &AllowedEndpoints,
    pinned: Option<&str>,
) -> Result<Option<Resolved>, NotReady> {
    let Some(SecretKeyReference { name, key }) = &spec.connection.connection_string_secret_ref else { return Ok(None) };
    let (version, data) = match secret {
        SecretState::Unknown => return Ok(None),
        SecretState::Absent => {
            let message = format!(
                "Secret {name} does not exist in this namespace: create it with the storage account's connection string in key {key}"
            );
            return Err(NotReady::new("SecretNotFound", message));
        }
        SecretState::Forbidden => {
            let message = format!(
                "the operator may not read Secret {name}: grant its service account list and watch on it with a Role in this namespace"
            );
            return Err(NotReady::new("SecretNotFound", message));
        }
        SecretState::Present { version, data } => (version, data),
    };
    let Some(ByteString(bytes)) = data.get(key) else {
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        let has = if keys.is_empty() { "no keys".to_owned() } else { format!("the keys {}", keys.join(", ")) };
        return Err(NotReady::new("SecretNotFound", format!("Secret {name} has no key {key}; it has {has}")));
    };
    let invalid = |why: String| {
        NotReady::new("InvalidConnectionString", format!("key {key} of Secret {name} is no connection string of a storage account: {why}"))
    };
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
    let account = Account::from_connection_string(text.trim()).map_err(|error| invalid(error.to_string()))?;
    for service in [Service::Blob, Service::Queue, Service::Table] {
        let host = account.host(service);
        if !allowed.allow(host) {
            let message = format!(
                "the {} endpoint {host} is not one of the public clouds' storage services: if it is right, start the operator with --allowed-endpoint-suffix {host}",
                service.as_str()
            );
            return Err(NotReady::new("EndpointNotAllowed", message));
        }
    }
    if let Some(pinned) = pinned.filter(|pinned| *pinned != account.name()) {
        let message = format!(
            "Secret {name} now leads to the storage account {}, but this TaskHub was made for {pinned}, whose instances would look deleted: restore the Secret, or make a new TaskHub",
            account.name()
        );
        return Err(NotReady::new("AccountChanged", message));
    }
    Ok(Some(Resolved { method: account.method(), account, credential_version: version.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "bm90IGEga2V5IG9mIGFueWJvZHkncyBhY2NvdW50";

    fn spec() -> TaskHubSpec {
        serde_json::from_value(serde_json::json!({
            "hubName": "OrdersHub", "connection": {"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}}
        }))
        .unwrap()
    }

    fn secret(key: &str, text: &str) -> SecretState {
        let data = BTreeMap::from([(key.to_owned(), ByteString(text.as_bytes().to_vec()))]);
        SecretState::Present { version: "7".to_owned(), data: Arc::new(data) }
    }

    fn refused(secret: &SecretState, pinned: Option<&str>) -> NotReady {
        resolve(&spec(), secret, &AllowedEndpoints::new(&[]), pinned).err().expect("it must be refused")
    }

    #[test]
    fn each_refusal_says_what_to_change_and_shows_no_secret() {
        let good = format!("DefaultEndpointsProtocol=https;AccountName=orders;AccountKey={KEY};EndpointSuffix=core.windows.net");
        let elsewhere = format!(
            "AccountName=orders;AccountKey={KEY};BlobEndpoint=http://10.0.0.1/orders;QueueEndpoint=http://10.0.0.1/orders;TableEndpoint=http://10.0.0.1/orders"
        );
        for (secret, pinned, reason, part) in [
            (SecretState::Absent, None, "SecretNotFound", "create it"),
            (SecretState::Forbidden, None, "SecretNotFound", "may not read Secret storage"),
            (secret("other", &good), None, "SecretNotFound", "it has the keys other"),
            (secret("connectionString", KEY), None, "InvalidConnectionString", "key connectionString of Secret storage"),
            (secret("connectionString", &elsewhere), None, "EndpointNotAllowed", "--allowed-endpoint-suffix 10.0.0.1"),
            (secret("connectionString", &good), Some("billing"), "AccountChanged", "made for billing"),
        ] {
            let refused = refused(&secret, pinned);
            assert_eq!(refused.reason, reason);
            assert!(refused.message.contains(part), "{}", refused.message);
            assert!(!refused.message.contains(KEY), "{}", refused.message);
        }
        let resolved = resolve(&spec(), &secret("connectionString", &format!("{good}\n")), &AllowedEndpoints::new(&[]), Some("orders"));
        assert_eq!(resolved.unwrap().unwrap().credential_version, "7");
        assert!(matches!(resolve(&spec(), &SecretState::Unknown, &AllowedEndpoints::new(&[]), None), Ok(None)));
    }
}
