//! From a TaskHub and its Secret or identity to a storage account: the one resolver.
//!
//! Invariants: a Secret is only ever of the TaskHub's own namespace; no
//! credential leaves for a host that the operator's flags do not allow; nothing
//! that was read from a Secret is in a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use durable_taskhub::storage::{Account, AccountError, EndpointOverrides, PUBLIC_SUFFIX, Service, TokenProvider};
use k8s_openapi::ByteString;

use crate::api::v1alpha1::{Cloud, Connection, Endpoints, SasSecretReference, SecretKeyReference, TaskHubSpec, WorkloadIdentity};
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

/// What a TaskHub says of its credential: exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// In a Secret: a connection string or a signature.
    Secret {
        /// Name of the Secret.
        name: &'a str,
        /// Key in its data.
        key: &'a str,
    },
    /// A workload identity.
    Identity(&'a WorkloadIdentity),
}

/// A credential, found.
#[derive(Clone)]
pub enum Found {
    /// The Secret as it is known.
    Secret(SecretState),
    /// Tokens of the identity.
    Tokens(Arc<dyn TokenProvider>),
}

/// A connection that may be opened.
#[derive(Clone)]
pub struct Resolved {
    /// The storage account with its credential.
    pub account: Account,
    /// How requests are signed.
    pub method: &'static str,
    /// Version of the Secret that it comes from; of an identity it is not known before it was asked.
    pub credential_version: String,
}

/// Where the credential of `connection` is.
///
/// # Errors
/// [`NotReady`] with `InvalidSpec` unless it is in exactly one place, whose name an object can have.
pub fn way(connection: &Connection) -> Result<Way<'_>, NotReady> {
    let way = one_way(connection)?;
    let (kind, name) = match way {
        Way::Secret { name, .. } => ("no Secret", name),
        Way::Identity(identity) => ("no service account", identity.service_account_name.as_deref().unwrap_or("default")),
    };
    if !is_name_of_an_object(name) {
        return Err(NotReady::new("InvalidSpec", format!("spec.connection: {kind} can have the name {name:?}")));
    }
    Ok(way)
}

/// kube puts names into URLs as they are: `../../other/secrets/storage` would lead out of the namespace.
pub fn is_name_of_an_object(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn one_way(connection: &Connection) -> Result<Way<'_>, NotReady> {
    match (&connection.connection_string_secret_ref, &connection.sas_secret_ref, &connection.workload_identity) {
        (Some(SecretKeyReference { name, key }), None, None) | (None, Some(SasSecretReference { name, key, .. }), None) => {
            Ok(Way::Secret { name, key })
        }
        (None, None, Some(identity)) => Ok(Way::Identity(identity)),
        _ => Err(NotReady::new(
            "InvalidSpec",
            "spec.connection: exactly one of connectionStringSecretRef, workloadIdentity and sasSecretRef must be set",
        )),
    }
}

/// Resolves the connection of `spec`; `None` while the Secret was not read yet. `pinned` is the account of the first connection.
///
/// # Errors
/// [`NotReady`] with the reason.
pub fn resolve(spec: &TaskHubSpec, found: &Found, allowed: &AllowedEndpoints, pinned: Option<&str>) -> Result<Option<Resolved>, NotReady> {
    let overrides = overrides(spec);
    let wrong_endpoint = |error: AccountError| NotReady::new("InvalidSpec", format!("spec.endpoints: {error}"));
    let (account, method, credential_version) = match (way(&spec.connection)?, found) {
        (Way::Secret { name, key }, Found::Secret(secret)) => {
            let Some((version, text)) = text_of(secret, name, key)? else { return Ok(None) };
            let account = match &spec.connection.sas_secret_ref {
                Some(SasSecretReference { account_name, .. }) => {
                    Account::from_sas(account_name, text, PUBLIC_SUFFIX, &EndpointOverrides::default()).map_err(|error| {
                        let message = format!("key {key} of Secret {name} is no shared access signature: {error}");
                        NotReady::new("InvalidConnectionString", message)
                    })?
                }
                None => Account::from_connection_string(text).map_err(|error| {
                    let message = format!("key {key} of Secret {name} is no connection string of a storage account: {error}");
                    NotReady::new("InvalidConnectionString", message)
                })?,
            };
            let account = account.with_endpoints(&overrides).map_err(wrong_endpoint)?;
            let method = account.method();
            (account, method, version.to_owned())
        }
        (Way::Identity(identity), Found::Tokens(provider)) => {
            let suffix = match identity.cloud {
                Cloud::Public => PUBLIC_SUFFIX,
                Cloud::USGovernment => "core.usgovcloudapi.net",
                Cloud::China => "core.chinacloudapi.cn",
            };
            let account =
                Account::from_token_provider(&identity.account_name, provider.clone(), suffix, &overrides).map_err(wrong_endpoint)?;
            (account, "WorkloadIdentity", String::new())
        }
        // The spec has changed since its credential was looked for: it is looked for again.
        (Way::Secret { .. }, Found::Tokens(_)) | (Way::Identity(_), Found::Secret(_)) => return Ok(None),
    };
    check_endpoints(&account, allowed)?;
    if let Some(pinned) = pinned.filter(|pinned| *pinned != account.name()) {
        let message = format!(
            "the connection now leads to the storage account {}, but this TaskHub was made for {pinned}, whose instances would look deleted: restore it, or make a new TaskHub",
            account.name()
        );
        return Err(NotReady::new("AccountChanged", message));
    }
    Ok(Some(Resolved { account, method, credential_version }))
}

/// The text of a Secret's key and the version of the Secret; `None` while it was not read yet.
fn text_of<'a>(secret: &'a SecretState, name: &str, key: &str) -> Result<Option<(&'a str, &'a str)>, NotReady> {
    let (version, data) = match secret {
        SecretState::Unknown => return Ok(None),
        SecretState::Absent => {
            let message = format!(
                "Secret {name} does not exist in this namespace: create it with the storage account's connection string or signature in key {key}"
            );
            return Err(NotReady::new("SecretNotFound", message));
        }
        SecretState::Forbidden => {
            let message = format!(
                "the operator may not read Secret {name}: grant its service account list and watch on secrets with resourceNames [{name}] by a Role in this namespace"
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
    let text = std::str::from_utf8(bytes)
        .map_err(|_| NotReady::new("InvalidConnectionString", format!("key {key} of Secret {name} is not UTF-8")))?;
    Ok(Some((version, text.trim())))
}

fn overrides(spec: &TaskHubSpec) -> EndpointOverrides {
    let Endpoints { blob, queue, table } = spec.endpoints.clone().unwrap_or_default();
    EndpointOverrides { blob, queue, table }
}

/// No credential leaves for another host, and no signature or token unencrypted where there is encryption.
fn check_endpoints(account: &Account, allowed: &AllowedEndpoints) -> Result<(), NotReady> {
    for service in [Service::Blob, Service::Queue, Service::Table] {
        let (host, name) = (account.host(service), service.as_str());
        if !allowed.allow(host) {
            let message = format!(
                "the {name} endpoint {host} is not one of the public clouds' storage services: if it is right, start the operator with --allowed-endpoint-suffix {host}"
            );
            return Err(NotReady::new("EndpointNotAllowed", message));
        }
        if account.method() == "Sas" && !account.is_encrypted(service) && allowed.is_public_cloud(host) {
            let message = format!("the {name} endpoint {host} must be used with https: a signature would travel unencrypted");
            return Err(NotReady::new("EndpointNotAllowed", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use durable_taskhub::storage::{TokenError, TokenErrorKind, TokenFuture};
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "bm90IGEga2V5IG9mIGFueWJvZHkncyBhY2NvdW50";
    const GOOD: &str = "DefaultEndpointsProtocol=https;AccountName=orders;AccountKey=bm90IGEga2V5IG9mIGFueWJvZHkncyBhY2NvdW50;EndpointSuffix=core.windows.net";

    fn spec(connection: Value, endpoints: Value) -> TaskHubSpec {
        serde_json::from_str(&json!({"hubName": "OrdersHub", "connection": connection, "endpoints": endpoints}).to_string()).unwrap()
    }

    fn by_connection_string() -> Value {
        json!({"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}})
    }

    fn by_sas() -> Value {
        json!({"sasSecretRef": {"name": "storage", "key": "sas", "accountName": "orders"}})
    }

    fn by_identity(cloud: &str) -> Value {
        json!({"workloadIdentity": {"accountName": "orders", "cloud": cloud}})
    }

    fn secret(key: &str, text: &str) -> Found {
        let data = BTreeMap::from([(key.to_owned(), ByteString(text.as_bytes().to_vec()))]);
        Found::Secret(SecretState::Present { version: "7".to_owned(), data: Arc::new(data) })
    }

    struct NoTokens;

    impl TokenProvider for NoTokens {
        fn token(&self) -> TokenFuture<'_> {
            Box::pin(async { Err(TokenError::new(TokenErrorKind::Unavailable, "none here")) })
        }
    }

    fn tokens() -> Found {
        Found::Tokens(Arc::new(NoTokens))
    }

    fn allowing(further: &[&str]) -> AllowedEndpoints {
        AllowedEndpoints::new(&further.iter().map(|&suffix| suffix.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn each_refusal_says_what_to_change_and_shows_no_secret() {
        let elsewhere = format!(
            "AccountName=orders;AccountKey={KEY};BlobEndpoint=http://10.0.0.1/orders;QueueEndpoint=http://10.0.0.1/orders;TableEndpoint=http://10.0.0.1/orders"
        );
        let suffix = GOOD.replace("EndpointSuffix=core.windows.net", "EndpointSuffix=svc.cluster.local");
        let plain_sas = format!("DefaultEndpointsProtocol=http;AccountName=orders;SharedAccessSignature=sv=1&sig={KEY}");
        let none = || json!(null);
        for (connection, endpoints, found, pinned, reason, part) in [
            (by_connection_string(), none(), Found::Secret(SecretState::Absent), None, "SecretNotFound", "create it"),
            (by_connection_string(), none(), Found::Secret(SecretState::Forbidden), None, "SecretNotFound", "may not read Secret storage"),
            (by_connection_string(), none(), secret("other", GOOD), None, "SecretNotFound", "it has the keys other"),
            (
                by_connection_string(),
                none(),
                secret("connectionString", KEY),
                None,
                "InvalidConnectionString",
                "key connectionString of Secret storage",
            ),
            (
                by_connection_string(),
                none(),
                secret("connectionString", &elsewhere),
                None,
                "EndpointNotAllowed",
                "--allowed-endpoint-suffix 10.0.0.1",
            ),
            (
                by_connection_string(),
                none(),
                secret("connectionString", &suffix),
                None,
                "EndpointNotAllowed",
                "--allowed-endpoint-suffix orders.blob.svc.cluster.local",
            ),
            (by_connection_string(), none(), secret("connectionString", &plain_sas), None, "EndpointNotAllowed", "with https"),
            (
                by_connection_string(),
                json!({"queue": "https://kubernetes.default.svc"}),
                secret("connectionString", GOOD),
                None,
                "EndpointNotAllowed",
                "the queue endpoint kubernetes.default.svc",
            ),
            (by_connection_string(), none(), secret("connectionString", GOOD), Some("billing"), "AccountChanged", "made for billing"),
            (by_sas(), none(), secret("sas", KEY), None, "InvalidConnectionString", "is no shared access signature"),
            (
                by_sas(),
                json!({"table": "https://169.254.169.254"}),
                secret("sas", &format!("sv=1&sig={KEY}")),
                None,
                "EndpointNotAllowed",
                "--allowed-endpoint-suffix 169.254.169.254",
            ),
            (
                by_sas(),
                json!({"table": "http://orders.table.core.windows.net"}),
                secret("sas", &format!("sv=1&sig={KEY}")),
                None,
                "EndpointNotAllowed",
                "unencrypted",
            ),
            (
                by_sas(),
                json!({"table": format!("https://orders.table.core.windows.net/?sig={KEY}")}),
                secret("sas", &format!("sv=1&sig={KEY}")),
                None,
                "InvalidSpec",
                "the table endpoint must not have a query",
            ),
            (by_sas(), none(), secret("sas", &format!("sv=1&sig={KEY}")), Some("billing"), "AccountChanged", "made for billing"),
            (
                by_identity("Public"),
                json!({"blob": "https://core.windows.net.evil.example"}),
                tokens(),
                None,
                "EndpointNotAllowed",
                "the blob endpoint core.windows.net.evil.example",
            ),
            (
                by_identity("Public"),
                json!({"blob": "http://orders.blob.core.windows.net"}),
                tokens(),
                None,
                "InvalidSpec",
                "the blob endpoint must begin with https://",
            ),
            (by_identity("China"), none(), tokens(), Some("billing"), "AccountChanged", "made for billing"),
            (json!({}), none(), tokens(), None, "InvalidSpec", "exactly one of"),
            (
                json!({"connectionStringSecretRef": {"name": "../../victim/secrets/storage", "key": "k"}}),
                none(),
                secret("k", GOOD),
                None,
                "InvalidSpec",
                "no Secret can have the name",
            ),
            (
                json!({"workloadIdentity": {"accountName": "orders", "serviceAccountName": "../../victim/serviceaccounts/app"}}),
                none(),
                tokens(),
                None,
                "InvalidSpec",
                "no service account can have the name",
            ),
        ] {
            let spec = spec(connection, endpoints);
            let refused = resolve(&spec, &found, &allowing(&[]), pinned).err().expect("it must be refused");
            assert_eq!(refused.reason, reason, "{}", refused.message);
            assert!(refused.message.contains(part), "{}", refused.message);
            assert!(!refused.message.contains(KEY), "{}", refused.message);
        }
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_a_url() {
        for name in ["storage", "a", "0", "storage-1.shop", &"a".repeat(253)] {
            assert!(is_name_of_an_object(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a..b",
            "../x",
            "a/b",
            "a%2fb",
            "a?b",
            "a#b",
            "a,b",
            "a=b",
            "a b",
            "-a",
            "a-",
            "A",
            "ü",
            "a\n",
            &"a".repeat(254),
        ] {
            assert!(!is_name_of_an_object(name), "{name}");
        }
    }

    #[test]
    fn each_kind_of_connection_gives_an_account() {
        let sas = format!("?sv=1&sig={KEY}\n");
        let emulator =
            json!({"blob": "http://127.0.0.1:1/orders", "queue": "http://127.0.0.1:2/orders", "table": "http://127.0.0.1:3/orders"});
        for (connection, endpoints, found, method, version, host) in [
            (
                by_connection_string(),
                json!(null),
                secret("connectionString", &format!("{GOOD}\n")),
                "SharedKey",
                "7",
                "orders.table.core.windows.net",
            ),
            (by_sas(), json!(null), secret("sas", &sas), "Sas", "7", "orders.table.core.windows.net"),
            (by_sas(), emulator.clone(), secret("sas", &sas), "Sas", "7", "127.0.0.1"),
            (by_identity("Public"), json!(null), tokens(), "WorkloadIdentity", "", "orders.table.core.windows.net"),
            (by_identity("USGovernment"), json!(null), tokens(), "WorkloadIdentity", "", "orders.table.core.usgovcloudapi.net"),
            (by_identity("China"), json!(null), tokens(), "WorkloadIdentity", "", "orders.table.core.chinacloudapi.cn"),
            (by_identity("Public"), emulator, tokens(), "WorkloadIdentity", "", "127.0.0.1"),
        ] {
            let spec = spec(connection, endpoints);
            let resolved = resolve(&spec, &found, &allowing(&["127.0.0.1"]), Some("orders")).unwrap().unwrap();
            assert_eq!((resolved.method, resolved.credential_version.as_str()), (method, version));
            assert_eq!((resolved.account.name(), resolved.account.host(Service::Table)), ("orders", host));
        }
        let unread = resolve(&spec(by_sas(), json!(null)), &Found::Secret(SecretState::Unknown), &allowing(&[]), None);
        assert!(matches!(unread, Ok(None)));
    }
}
