//! `TaskHub`: the connection to one task hub (product.md 2).

#![expect(clippy::duplicated_attributes, reason = "clippy takes the members of one printcolumn for those of another")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::api::{GoDuration, Kind};

/// A connection to one task hub of Durable Functions in an Azure Storage account.
///
/// Orchestrations refer to a TaskHub by its name. Deleting the object leaves the hub alone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(
    group = "durable-operator.dev",
    version = "v1alpha1",
    kind = "TaskHub",
    plural = "taskhubs",
    singular = "taskhub",
    shortname = "hub",
    category = "durable",
    namespaced,
    status = "TaskHubStatus",
    doc = "A connection to one task hub of Durable Functions in an Azure Storage account. Orchestrations refer to it by its name. Deleting the object leaves the hub alone.",
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.hubName"),
    printcolumn(name = "Account", type_ = "string", json_path = ".status.accountName"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Workers", type_ = "string", json_path = r#".status.conditions[?(@.type=="WorkersActive")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitionCount", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.partitionCount) == has(oldSelf.partitionCount) && (!has(self.partitionCount) || self.partitionCount == oldSelf.partitionCount)").message("partitionCount is immutable: with another count, instances would be looked for in the wrong queues").field_path(".partitionCount"))]
pub struct TaskHubSpec {
    /// Name of the task hub, with its case, as in the app's host.json: a letter, then letters and digits, 3 to 50 characters.
    #[schemars(length(min = 3, max = 50), regex(pattern = "^[A-Za-z][A-Za-z0-9]{2,49}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("hubName is immutable"))]
    pub hub_name: String,

    /// How the storage account is reached.
    pub connection: Connection,

    /// Number of control queues, 1 to 16. Only for a hub whose count was changed after it was made; otherwise it is read from the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub partition_count: Option<i32>,

    /// How often unfinished instances are read.
    #[serde(default)]
    pub polling: Polling,
}

/// How the storage account is reached.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// A connection string of the storage account, in a Secret of the same namespace. A changed Secret takes effect within seconds.
    pub connection_string_secret_ref: SecretKeyReference,
}

/// One key of a Secret in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// How often unfinished instances are read: often after a change, seldom while nothing happens.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minInterval >= duration('100ms') && self.minInterval <= self.maxInterval && self.maxInterval <= duration('24h')").message("minInterval must be at least 100ms and at most maxInterval, maxInterval at most 24h"))]
pub struct Polling {
    /// Shortest time between two reads of an instance.
    #[serde(default = "min_interval")]
    pub min_interval: GoDuration,

    /// Longest time between two reads of an instance.
    #[serde(default = "max_interval")]
    pub max_interval: GoDuration,
}

impl Default for Polling {
    fn default() -> Polling {
        Polling { min_interval: min_interval(), max_interval: max_interval() }
    }
}

fn min_interval() -> GoDuration {
    GoDuration::new("1s")
}

fn max_interval() -> GoDuration {
    GoDuration::new("60s")
}

/// What the operator found out about the hub.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskHubStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Value of the annotation `durable-operator.dev/reconcile-requested-at` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_reconcile_at: Option<String>,

    /// Storage account of the first connection. Another account later is refused: what is missing there would look deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub account_name: Option<String>,

    /// Number of control queues of the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_count: Option<i32>,

    /// The connection in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionStatus>,

    /// Conditions: Ready, WorkersActive; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The connection in use.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// How requests are signed: SharedKey or Sas.
    #[schemars(length(max = 32))]
    pub method: String,

    /// Version of the Secret that the connection was made from.
    #[schemars(length(max = 64))]
    pub credential_version: String,
}

impl Kind for TaskHub {
    type Spec = TaskHubSpec;
    type Status = TaskHubStatus;
}
