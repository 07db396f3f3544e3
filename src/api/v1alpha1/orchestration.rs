//! `Orchestration`: one run, and what came of it (product.md 3).

#![expect(clippy::duplicated_attributes, reason = "clippy takes the members of one printcolumn for those of another")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payload::Payload;
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
    printcolumn(name = "Desired", type_ = "string", json_path = ".spec.desiredState", priority = 1),
    printcolumn(name = "Instance", type_ = "string", json_path = ".status.instanceId", priority = 1),
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.taskHubRef.name", priority = 1),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completedTime", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.functionName) == has(oldSelf.functionName) && (!has(self.functionName) || self.functionName == oldSelf.functionName)").message("functionName is immutable").field_path(".functionName"))]
#[x_kube(validation = Rule::new("has(self.functionName) || self.startPolicy == 'Adopt'").message("functionName is required unless startPolicy is Adopt").field_path(".functionName"))]
#[x_kube(validation = Rule::new("has(self.instanceId) || self.startPolicy != 'Adopt'").message("instanceId is required with startPolicy Adopt: it says which instance").field_path(".instanceId"))]
#[x_kube(validation = Rule::new("has(self.version) == has(oldSelf.version) && (!has(self.version) || self.version == oldSelf.version)").message("version is immutable").field_path(".version"))]
#[x_kube(validation = Rule::new("has(self.instanceId) == has(oldSelf.instanceId) && (!has(self.instanceId) || self.instanceId == oldSelf.instanceId)").message("instanceId is immutable").field_path(".instanceId"))]
#[x_kube(validation = Rule::new("has(self.input) == has(oldSelf.input)").message("input is immutable").field_path(".input"))]
#[x_kube(validation = Rule::new("has(self.startAt) == has(oldSelf.startAt) && (!has(self.startAt) || self.startAt == oldSelf.startAt)").message("startAt is immutable").field_path(".startAt"))]
#[x_kube(validation = Rule::new("has(self.tags) == has(oldSelf.tags) && (!has(self.tags) || self.tags == oldSelf.tags)").message("tags is immutable").field_path(".tags"))]
#[x_kube(validation = Rule::new("!has(self.tags) || self.tags.all(name, !name.startsWith('$') && name.size() > 0 && name.size() <= 128)").message("the names of tags must have 1 to 128 characters and must not start with $").field_path(".tags"))]
pub struct OrchestrationSpec {
    /// The task hub in which the instance runs. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("taskHubRef is immutable"))]
    pub task_hub_ref: TaskHubReference,

    /// Name of the orchestrator function, exactly as the app registers it. Required unless startPolicy is Adopt. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub function_name: Option<String>,

    /// Version of the orchestrator, for apps that have more than one. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub version: Option<String>,

    /// ID of the instance in the task hub. Without it, the ID is made of the object's name and UID, so that an object that is deleted and applied again
    /// runs again. Give it to have one run per business key. At most 256 characters, no leading @, none of / \ # ? nor control characters. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new(r"!self.startsWith('@') && !self.matches('[/\\\\#?\\x00-\\x1f\\x7f-\\x9f]')").message(r"instanceId must not start with @ and must not contain / \ # ? or control characters"))]
    pub instance_id: Option<String>,

    /// Create: the instance must be new; one of the same ID is left alone and reported as a Conflict. CreateOrAdopt: an instance of the same function and
    /// the same input is taken over, finished or not; for GitOps, where a restored object must find its run. Adopt: never starts; shows and controls an
    /// instance that the app started. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("startPolicy is immutable"))]
    pub start_policy: StartPolicy,

    /// Input of the orchestrator function: exactly one of value, text and valueFrom. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("input is immutable"))]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub input: Option<Payload>,

    /// When the instance is to start. Until then nothing is written to the task hub, and the start can be called off with desiredState Terminated. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<HubTime>,

    /// Tags of the engine, which the hub keeps with the instance: at most 16. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Tags>,

    /// The state that the instance should be in. Running: it runs, and is resumed if it was suspended through this field. Suspended: it is held. Terminated:
    /// it is ended, or never started. Rewound: it runs, and is rewound once (per rewindToken) if it has failed.
    #[serde(default)]
    pub desired_state: DesiredState,

    /// Sent to the instance with suspend, resume, terminate and rewind. A change of it alone sends nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,

    /// With desiredState Rewound: each new value is one more rewind. A value that arrives while the instance has not failed is used up without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub rewind_token: Option<String>,

    /// Completed: Ready is true when the run has completed. Started: when it has started, for orchestrations that run for ever.
    #[serde(default)]
    pub ready_when: ReadyWhen,

    /// The run is terminated when it has not ended this many seconds after it was created in the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub active_deadline_seconds: Option<i64>,

    /// The object is deleted this many seconds after the run has ended; off by default. Refused on objects that Argo CD or Flux would create again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 315_360_000))]
    pub ttl_seconds_after_finished: Option<i64>,

    /// What happens to the instance when the object is deleted. Retain: nothing. Terminate: it is ended, with its sub-orchestrations. Purge: it is ended,
    /// then removed from the hub, with its sub-orchestrations.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Inline: output, custom status and failure are shown in the status. Omit: none of them, since they may carry data that readers of the object must not see.
    #[serde(default)]
    pub output_policy: OutputPolicy,
}

/// A TaskHub, by default in the namespace of the object.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TaskHubReference {
    /// Name of the TaskHub.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Namespace of the TaskHub, if it is another one; its allowedNamespaces must allow that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// How an instance comes to the object.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartPolicy {
    /// The instance must be new.
    #[default]
    Create,
    /// The instance is new, or one of the same function and input is taken over.
    CreateOrAdopt,
    /// The instance is one that another client started.
    Adopt,
}

/// The state that an instance should be in.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DesiredState {
    /// It runs.
    #[default]
    Running,
    /// It is held.
    Suspended,
    /// It is ended, or never started.
    Terminated,
    /// It runs, and is rewound if it has failed.
    Rewound,
}

/// When an Orchestration is ready.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadyWhen {
    /// When the run has completed.
    #[default]
    Completed,
    /// When it has started.
    Started,
}

/// What happens to the instance when the object is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Nothing.
    #[default]
    Retain,
    /// It is ended.
    Terminate,
    /// It is ended and removed.
    Purge,
}

/// Whether payloads are shown.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputPolicy {
    /// In the status.
    #[default]
    Inline,
    /// Not at all.
    Omit,
}

/// Tags of the engine, in the order of their names.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(transparent)]
pub struct Tags(pub BTreeMap<String, String>);

impl JsonSchema for Tags {
    fn schema_name() -> Cow<'static, str> {
        "Tags".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "maxProperties": 16,
            "additionalProperties": {"type": "string", "maxLength": 256},
        })
    }
}

/// What came of the run.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrchestrationStatus {
    /// Generation of the spec that this status speaks of; -1 until the operator has looked at the object.
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

    /// Output of a completed run, if it has at most 64 levels and the hub's limits.maxInlineOutputBytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,

    /// Size, digest and beginning of an output that is too large for `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_ref: Option<OutputReference>,

    /// Why the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,

    /// The control action that is under way, recorded before anything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,

    /// What came of the last rewind that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rewind: Option<LastRewind>,

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
    /// The failure's text as the hub has it, cut after 8 KiB. Absent with outputPolicy Omit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub message: Option<String>,

    /// Type of the exception, if the app's engine records failure details.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    #[schemars(length(max = 512))]
    pub type_: Option<String>,
}

/// A control action under way: written before its message is sent, so that a crash in between is noticed.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// Which action.
    pub action: Action,

    /// How far it has come.
    pub phase: Phase,

    /// When it was recorded.
    pub issued_at: HubTime,

    /// The queue that the message was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub queue: Option<String>,

    /// ID of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub message_id: Option<String>,

    /// With this the message can be taken back until a worker has received it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub pop_receipt: Option<String>,
}

/// What is done to an instance.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is held.
    Suspend,
    /// It goes on.
    Resume,
    /// It is ended.
    Terminate,
    /// What failed is done again.
    Rewind,
}

/// How far a control action has come.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Recorded; perhaps sent.
    Issued,
    /// Sent; no effect was seen yet.
    Sent,
    /// It was to be withdrawn, but a worker had received it: its effect is waited for.
    Taken,
}

/// What came of a rewind that was asked for.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastRewind {
    /// The rewindToken that it was asked for with; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub token: Option<String>,

    /// What came of it.
    pub result: RewindResult,

    /// When.
    pub at: HubTime,

    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// What came of a rewind.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewindResult {
    /// The instance was rewound.
    Succeeded,
    /// The instance had not failed.
    NotNeeded,
    /// It cannot be rewound; nothing was changed.
    Rejected,
    /// It was given up half done.
    Failed,
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

    /// Read for starts and claims only, and what is settled has neither before it.
    const SPENT_WHEN_SETTLED: &'static [&'static str] = &["input"];
}
