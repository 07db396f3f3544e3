//! `Orchestration`: one run, and what came of it (product.md 3).

#![expect(clippy::duplicated_attributes, reason = "clippy takes the members of one printcolumn for those of another")]

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Json, Kind};

/// One run of an orchestrator function.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(
    group = "durable-operator.dev",
    version = "v1alpha1",
    kind = "Orchestration",
    plural = "orchestrations",
    singular = "orchestration",
    shortname = "orch",
    category = "durable",
    namespaced,
    status = "OrchestrationStatus",
    doc = "One run of an orchestrator function. Applying it starts an instance in the task hub; its status and output are kept on the object. Deleting the object leaves the instance alone.",
    selectable = ".spec.taskHubRef.name",
    selectable = ".spec.functionName",
    selectable = ".status.runtimeStatus",
    selectable = ".status.settled",
    selectable = ".status.instanceId",
    printcolumn(name = "Function", type_ = "string", json_path = ".spec.functionName"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.runtimeStatus"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Instance", type_ = "string", json_path = ".status.instanceId", priority = 1),
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.taskHubRef.name", priority = 1),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completedTime", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.instanceId) == has(oldSelf.instanceId) && (!has(self.instanceId) || self.instanceId == oldSelf.instanceId)").message("instanceId is immutable").field_path(".instanceId"))]
#[x_kube(validation = Rule::new("has(self.input) == has(oldSelf.input)").message("input is immutable").field_path(".input"))]
pub struct OrchestrationSpec {
    /// The task hub in which the instance runs. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("taskHubRef is immutable"))]
    pub task_hub_ref: TaskHubReference,

    /// Name of the orchestrator function, exactly as the app registers it. Immutable.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("functionName is immutable"))]
    pub function_name: String,

    /// ID of the instance in the task hub. Without it, the ID is made of the object's name and UID, so that an object that is deleted and applied again
    /// runs again. Give it to have one run per business key. At most 256 characters, no leading @, none of / \ # ? nor control characters. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new(r"!self.startsWith('@') && !self.matches('[/\\\\#?\\x00-\\x1f\\x7f-\\x9f]')").message(r"instanceId must not start with @ and must not contain / \ # ? or control characters"))]
    pub instance_id: Option<String>,

    /// Create: the instance must be new; one of the same ID is left alone and reported as a Conflict. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("startPolicy is immutable"))]
    pub start_policy: StartPolicy,

    /// Input of the orchestrator function. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("input is immutable"))]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub input: Option<InlineInput>,
}

/// A TaskHub in the namespace of the object.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TaskHubReference {
    /// Name of the TaskHub.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How an instance comes to the object.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartPolicy {
    /// The instance must be new.
    #[default]
    Create,
}

/// Input of an orchestrator function.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub struct InlineInput {
    /// Any JSON: object, array, string, number, boolean. The API server sorts the keys of objects, writes 1.0 as 1, and keeps integers of 64 bits exactly;
    /// null is no input. At most about 30,000 characters for now.
    pub value: Json,
}

/// What came of the run.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrchestrationStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Value of the annotation `durable-operator.dev/reconcile-requested-at` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_reconcile_at: Option<String>,

    /// ID of the instance in the task hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub instance_id: Option<String>,

    /// ID of the instance's current execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub execution_id: Option<String>,

    /// Status of the instance as the hub has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_status: Option<RuntimeStatus>,

    /// True when the run is over, or when the operator will do nothing more about it.
    #[serde(default)]
    pub settled: bool,

    /// When the instance was created, by the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<HubTime>,

    /// When the instance last did something, by the hub. It moves only together with another field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated_time: Option<HubTime>,

    /// When the run ended, by the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_time: Option<HubTime>,

    /// What the orchestrator function said about its progress. A value over 4 KiB, or nested deeper than 64 levels, is shown as the beginning of its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_status: Option<Json>,

    /// Output of a completed run, if it has at most 8 KiB and 64 levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,

    /// Size, digest and beginning of an output that is too large for `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_ref: Option<OutputReference>,

    /// Why the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,

    /// Conditions: Ready, Started, Suspended, Complete, Failed; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Status of an instance, in the words of the hub.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeStatus {
    /// Accepted by the hub, not yet started by a worker.
    Pending,
    /// Started.
    Running,
    /// Started, and held until it is resumed.
    Suspended,
    /// Ended with an output.
    Completed,
    /// Ended with a failure.
    Failed,
    /// Ended on request.
    Terminated,
    /// Ended by cancellation.
    Canceled,
    /// About to start anew with another input.
    ContinuedAsNew,
    /// A status that this version does not know.
    Unknown,
}

/// An output that is too large for the object.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutputReference {
    /// Size of the output's text in bytes of UTF-8.
    pub bytes: i64,

    /// SHA-256 of that text, in hexadecimal digits.
    #[schemars(length(max = 64))]
    pub sha256: String,

    /// The first kibibyte of that text.
    #[schemars(length(max = 1024))]
    pub preview: String,
}

/// Why a run failed.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The failure's text as the hub has it, cut after 8 KiB.
    #[schemars(length(max = 8192))]
    pub message: String,
}

/// A time of the hub: RFC 3339, UTC, up to seven digits of a second.
///
/// `metav1.Time` would drop the fraction.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(transparent)]
pub struct HubTime(pub durable_taskhub::Time);

impl JsonSchema for HubTime {
    fn schema_name() -> Cow<'static, str> {
        "HubTime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time", "maxLength": 40})
    }
}

impl Kind for Orchestration {
    type Spec = OrchestrationSpec;
    type Status = OrchestrationStatus;
}
