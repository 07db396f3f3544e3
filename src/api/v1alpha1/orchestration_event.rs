//! `OrchestrationEvent`: one external event, or entity signal, to deliver once (product.md 4).

#![expect(clippy::duplicated_attributes, reason = "clippy takes the members of one printcolumn for those of another")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payload::Payload;
use super::{HubTime, TaskHubReference};
use crate::api::Kind;

/// One external event for an instance, or one signal for an entity, that is delivered at most once.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(
    group = "durable-operator.dev",
    version = "v1alpha1",
    kind = "OrchestrationEvent",
    plural = "orchestrationevents",
    singular = "orchestrationevent",
    shortname = "orchevent",
    category = "durable",
    namespaced,
    status = "OrchestrationEventStatus",
    doc = "One external event for an orchestration instance, or one signal for an entity. It is delivered at most once: a crash while it is being sent shows as Unknown and is not repeated.",
    selectable = ".status.phase",
    printcolumn(name = "Event", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Orchestration", type_ = "string", json_path = ".spec.orchestrationRef.name", priority = 1),
    printcolumn(name = "Instance", type_ = "string", json_path = ".spec.instanceId", priority = 1),
    printcolumn(name = "Sent", type_ = "date", json_path = ".status.sentAt", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec is immutable: an event is delivered once; make a new object for another one"))]
#[x_kube(validation = Rule::new("[has(self.orchestrationRef), has(self.instanceId), has(self.entity)].filter(x, x).size() == 1").message("exactly one of orchestrationRef, instanceId and entity must be set"))]
#[x_kube(validation = Rule::new("has(self.taskHubRef) != has(self.orchestrationRef)").message("taskHubRef is required with instanceId and entity, and not allowed with orchestrationRef").field_path(".taskHubRef"))]
#[x_kube(validation = Rule::new("has(self.entity) == has(self.operation)").message("operation is required with entity, and not allowed without it").field_path(".operation"))]
#[x_kube(validation = Rule::new("has(self.name) != has(self.entity)").message("name is required for an event, and not allowed with entity: there it is operation").field_path(".name"))]
#[x_kube(validation = Rule::new("!has(self.entity) || self.waitFor == 'Running'").message("waitFor is not allowed with entity: a signal waits for nothing").field_path(".waitFor"))]
pub struct OrchestrationEventSpec {
    /// The Orchestration, in the same namespace, whose instance gets the event. It owns this object, and takes it along when it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestration_ref: Option<OrchestrationReference>,

    /// The task hub of the instance or entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_hub_ref: Option<TaskHubReference>,

    /// ID of an instance that no Orchestration stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("!self.startsWith('@')").message("instanceId must not start with @: use entity for an entity"))]
    pub instance_id: Option<String>,

    /// The entity that gets a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<EntityReference>,

    /// The entity's operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub operation: Option<String>,

    /// Name of the event that the orchestrator function waits for; letter case does not matter to the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,

    /// The event's payload, or the operation's input: exactly one of value, text and valueFrom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub payload: Option<Payload>,

    /// Running: sent when the instance has started. Exists: sent as soon as the instance exists; the engine may drop an event for an instance that has not started.
    #[serde(default)]
    pub wait_for: WaitFor,

    /// How long it may wait. After that it is Expired and never sent.
    #[serde(default = "deadline_seconds")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub deadline_seconds: i64,

    /// The object is deleted this many seconds after the event was sent, expired or rejected; off by default. Refused on objects that Argo CD or Flux would
    /// create again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 315_360_000))]
    pub ttl_seconds_after_finished: Option<i64>,
}

fn deadline_seconds() -> i64 {
    3600
}

/// An Orchestration in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OrchestrationReference {
    /// Name of the Orchestration.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An entity.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EntityReference {
    /// Name of the entity function; letter case does not matter.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[^@/\\\\#?]+$"))]
    pub name: String,

    /// Key of the entity.
    #[schemars(length(min = 0, max = 128))]
    #[x_kube(validation = Rule::new(r"!self.matches('[/\\\\#?\\x00-\\x1f\\x7f-\\x9f]')").message(r"key must not contain / \ # ? or control characters"))]
    pub key: String,
}

/// What an event waits for.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitFor {
    /// The instance has started.
    #[default]
    Running,
    /// The instance exists.
    Exists,
}

/// What became of the event.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrchestrationEventStatus {
    /// Generation of the spec that this status speaks of; -1 until the operator has looked at the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Value of the annotation `durable-operator.dev/reconcile-requested-at` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_reconcile_at: Option<String>,

    /// How far it has come. Waiting: not sent yet. Sending: about to be sent. Sent. Unknown: it may have been sent, since the operator died or an answer was lost; it is not repeated.
    /// Expired: the deadline passed first. Rejected: it cannot be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<EventPhase>,

    /// When the event was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<HubTime>,

    /// ID of the instance or entity that gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub instance_id: Option<String>,

    /// UID of the Orchestration that the event is for: it never goes to another one of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub orchestration_uid: Option<String>,

    /// Conditions: Ready; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How far an event has come.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventPhase {
    /// Not sent yet.
    Waiting,
    /// About to be sent.
    Sending,
    /// Sent.
    Sent,
    /// It may have been sent: the operator died, or an answer was lost.
    Unknown,
    /// The deadline passed first.
    Expired,
    /// It cannot be delivered.
    Rejected,
}

impl Kind for OrchestrationEvent {
    type Spec = OrchestrationEventSpec;
    type Status = OrchestrationEventStatus;
}
