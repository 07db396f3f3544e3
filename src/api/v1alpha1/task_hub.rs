//! `TaskHub`: the connection to one task hub (product.md 2).

#![expect(clippy::duplicated_attributes, reason = "clippy takes the members of one printcolumn for those of another")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HubTime;
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

    /// Endpoints that differ from what the account's name and cloud give, such as private endpoints. Their hosts must be among those that the operator allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,

    /// Which namespaces may refer to this TaskHub, besides its own.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// Which orchestrator functions may be started through this TaskHub: names in which * stands for any text. All if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub allowed_functions: Option<Vec<String>>,

    /// Limits of what the operator does in the hub and shows of it.
    #[serde(default)]
    pub limits: Limits,

    /// How often unfinished instances are read.
    #[serde(default)]
    pub polling: Polling,

    /// Makes the hub if the account has none of that name. Off by default, since a typo in hubName would make a hub that no app serves.
    #[serde(default)]
    pub create_if_missing: bool,

    /// What happens to the hub when the object is deleted. Retain: nothing. DeleteHub: the hub is deleted, with all instances in it.
    #[serde(default)]
    pub deletion_policy: HubDeletionPolicy,
}

/// How the storage account is reached: exactly one of its members.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.connectionStringSecretRef), has(self.workloadIdentity), has(self.sasSecretRef)].filter(x, x).size() == 1").message("exactly one of connectionStringSecretRef, workloadIdentity and sasSecretRef must be set"))]
pub struct Connection {
    /// A connection string of the storage account, in a Secret of the same namespace. A changed Secret takes effect within seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string_secret_ref: Option<SecretKeyReference>,

    /// Microsoft Entra Workload ID: a token of a service account in this namespace is exchanged for one of the identity that it is federated with. No Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,

    /// A shared access signature, in a Secret of the same namespace. A changed Secret takes effect within seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas_secret_ref: Option<SasSecretReference>,
}

/// An identity of Microsoft Entra that is federated with a service account of this namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]{3,24}$"))]
    pub account_name: String,

    /// Client ID of the identity. Without it, the service account's annotation azure.workload.identity/client-id says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^[0-9a-fA-F-]{36}$"))]
    pub client_id: Option<String>,

    /// Tenant ID of the identity. Without it, the service account's annotation azure.workload.identity/tenant-id says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^[0-9a-fA-F-]{36}$"))]
    pub tenant_id: Option<String>,

    /// The service account, in this namespace; default if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// The cloud that account and identity are in.
    #[serde(default)]
    pub cloud: Cloud,
}

/// A cloud of Azure.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cloud {
    /// The public cloud.
    #[default]
    Public,
    /// Azure Government.
    USGovernment,
    /// Azure operated by 21Vianet.
    China,
}

/// A shared access signature in a Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SasSecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret's data, which holds the signature as a query, such as sv=...&sig=...
    #[schemars(length(min = 1, max = 253))]
    pub key: String,

    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]{3,24}$"))]
    pub account_name: String,
}

/// Endpoints of the storage services.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Of the blob service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() in ['https', 'http']").message("must be an http or https URL"))]
    pub blob: Option<String>,

    /// Of the queue service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() in ['https', 'http']").message("must be an http or https URL"))]
    pub queue: Option<String>,

    /// Of the table service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() in ['https', 'http']").message("must be an http or https URL"))]
    pub table: Option<String>,
}

/// Which namespaces may refer to a TaskHub.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector) == (self.from == 'Selector')").message("selector is required with from: Selector, and not allowed otherwise"))]
pub struct AllowedNamespaces {
    /// Same: only its own. Selector: those whose labels match selector. All: every one.
    #[serde(default)]
    pub from: From,

    /// Labels of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Where references to a TaskHub may come from.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum From {
    /// Its own namespace.
    #[default]
    Same,
    /// Namespaces with certain labels.
    Selector,
    /// Every namespace.
    All,
}

/// Limits of what the operator does in the hub and shows of it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests to the storage account per second, of the operator as a whole.
    #[serde(default = "requests_per_second")]
    #[schemars(range(min = 1, max = 20_000))]
    pub requests_per_second: i32,

    /// The largest input that is sent, in bytes.
    #[serde(default = "max_input_bytes")]
    #[schemars(range(min = 1, max = 33_554_432))]
    pub max_input_bytes: i32,

    /// The largest output that is shown on the object itself, in bytes.
    #[serde(default = "max_inline_output_bytes")]
    #[schemars(range(min = 0, max = 8192))]
    pub max_inline_output_bytes: i32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests_per_second: requests_per_second(),
            max_input_bytes: max_input_bytes(),
            max_inline_output_bytes: max_inline_output_bytes(),
        }
    }
}

fn requests_per_second() -> i32 {
    200
}

fn max_input_bytes() -> i32 {
    65_536
}

fn max_inline_output_bytes() -> i32 {
    8192
}

/// What happens to the hub when the object is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HubDeletionPolicy {
    /// Nothing.
    #[default]
    Retain,
    /// It is deleted, with all instances in it.
    DeleteHub,
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
    /// Generation of the spec that this status speaks of; -1 until the operator has looked at the object.
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

    /// The engine that made the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineStatus>,

    /// When the hub was made, as far as the hub says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_created_at: Option<HubTime>,

    /// How many Orchestrations refer to this TaskHub, by the status of their runs. The hub may hold many more instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrations: Option<OrchestrationCounts>,

    /// How many messages wait in the hub's queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,

    /// The connection in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionStatus>,

    /// Conditions: Ready, WorkersActive; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The engine that made the hub.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EngineStatus {
    /// 1.x or 2.x; absent as long as nothing has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub line: Option<String>,
}

/// How many Orchestrations refer to a TaskHub, by the status of their runs.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OrchestrationCounts {
    /// Not started yet.
    pub pending: i64,
    /// Started.
    pub running: i64,
    /// Held.
    pub suspended: i64,
    /// Ended with an output.
    pub completed: i64,
    /// Ended with a failure.
    pub failed: i64,
    /// Ended on request.
    pub terminated: i64,
}

/// How many messages wait in a hub's queues, as the storage account estimates it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    /// Of each control queue, in their order.
    #[schemars(length(max = 16))]
    pub control_queues: Vec<i64>,
    /// Of the work-item queue, which feeds activities.
    pub work_item_queue: i64,
}

/// The connection in use.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// How requests are signed: SharedKey, Sas or WorkloadIdentity.
    #[schemars(length(max = 32))]
    pub method: String,

    /// Version of the Secret that the connection was made from; of a workload identity, the client ID.
    #[schemars(length(max = 64))]
    pub credential_version: String,
}

impl Kind for TaskHub {
    type Spec = TaskHubSpec;
    type Status = TaskHubStatus;
}
