//! What is handed to a function: a value, an exact text, or a reference to one.
//!
//! Owns the schema that inputs and event payloads share. A reference has no
//! namespace: it never leaves that of its object (security.md).

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyReference;
use crate::api::Json;

/// JSON for a function: exactly one of value, text and valueFrom.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
#[x_kube(validation = Rule::new("[has(dyn(self).value), has(self.text), has(self.valueFrom)].filter(x, x).size() <= 1").message("exactly one of value, text and valueFrom must be set"))]
pub struct Payload {
    /// Any JSON: object, array, string, number, boolean. The API server sorts the keys of objects, writes 1.0 as 1, and keeps integers of 64 bits exactly;
    /// null is no value. Use text where the notation matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,

    /// JSON as text, which is handed over byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_048_576))]
    pub text: Option<String>,

    /// Where the JSON text stands. It is read once, when it is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

/// A key of a Secret or a ConfigMap in the object's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message("exactly one of secretKeyRef and configMapKeyRef must be set"))]
pub struct ValueFrom {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyReference>,

    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyReference>,
}

/// One key of a ConfigMap in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyReference {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the ConfigMap's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}
