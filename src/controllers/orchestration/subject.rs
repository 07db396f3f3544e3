//! One Orchestration object, read: what it says, what it asks for, and of which hub.

use std::sync::Arc;

use durable_taskhub::Time;
use durable_taskhub::trace::TraceParent;

use super::describe::MAX_ECHO_BYTES;
use super::identity::Identity;
use super::wish::{Refusal, Wish};
use crate::api::conditions::cut;
use crate::api::v1alpha1::{Orchestration, OrchestrationSpec, OrchestrationStatus, TaskHubReference};
use crate::api::{Envelope, RECONCILE_REQUESTED_AT_ANNOTATION, TRACE_PARENT_ANNOTATION, hub_time};
use crate::hubs::{Dependent, HubKey};
use crate::traces::Traces;

pub type Object = Envelope<Orchestration>;

/// One object, read.
pub struct Subject {
    /// The copy that is decided upon.
    pub object: Arc<Object>,
    /// What its status says.
    pub status: OrchestrationStatus,
    /// The hub that it refers to.
    pub hub: Option<HubKey>,
    /// What it asks for, or why that cannot be told.
    pub wish: Result<Wish, Refusal>,
    /// The annotation that asks for a reconcile.
    pub requested_at: Option<String>,
}

impl Subject {
    /// Reads `object`, whose run is one of `traces`.
    pub fn read(object: Arc<Object>, traces: &Traces) -> Subject {
        let spec = object.spec();
        let hub = spec.as_ref().ok().map(|spec| hub_of(object.namespace(), &spec.task_hub_ref));
        let wish = match spec {
            Ok(spec) => wish(&object, spec, traces),
            Err(error) => {
                let message =
                    format!("this version of the operator cannot read the spec: {error}. Change the object, or upgrade the operator");
                Err(Refusal { reason: "InvalidSpec", message })
            }
        };
        // Cut as it will be echoed: what is longer would otherwise never count as handled.
        let requested_at = object.annotation(RECONCILE_REQUESTED_AT_ANNOTATION).map(|value| cut(value, MAX_ECHO_BYTES).to_owned());
        Subject { status: object.status(), hub, wish, requested_at, object }
    }

    /// The object, as others know it.
    pub fn dependent(&self) -> Dependent {
        Dependent { namespace: self.object.namespace().to_owned(), name: self.object.name().to_owned() }
    }

    /// True if somebody asked for a reconcile that was not handled yet.
    pub fn asked(&self) -> bool {
        self.requested_at.is_some() && self.requested_at != self.status.last_handled_reconcile_at
    }

    /// True if the annotation for the run's trace says what nobody could read.
    pub fn has_invalid_trace_parent(&self) -> bool {
        self.object.annotation(TRACE_PARENT_ANNOTATION).is_some_and(|text| TraceParent::parse(text).is_none())
    }

    /// When the run ended, as far as the object knows.
    pub fn finished(&self) -> Option<Time> {
        use crate::api::conditions::{COMPLETE, FAILED};
        if !self.status.settled {
            return None;
        }
        let condition = self.status.conditions.iter().find(|condition| [COMPLETE, FAILED].contains(&condition.type_.as_str()))?;
        let transition = hub_time(&condition.last_transition_time);
        Some(self.status.completed_time.as_ref().map_or(transition, |time| time.0))
    }
}

/// The hub that a reference in `namespace` means.
pub fn hub_of(namespace: &str, reference: &TaskHubReference) -> HubKey {
    HubKey { namespace: reference.namespace.clone().unwrap_or_else(|| namespace.to_owned()), name: reference.name.clone() }
}

fn wish(object: &Object, spec: OrchestrationSpec, traces: &Traces) -> Result<Wish, Refusal> {
    match Identity::new(object.namespace(), object.name(), object.uid(), spec.instance_id.as_deref()) {
        Ok(identity) => {
            let given = object.annotation(TRACE_PARENT_ANNOTATION).and_then(TraceParent::parse);
            let trace = traces.of_run(&identity.execution_id, given);
            Ok(Wish { identity, spec, trace })
        }
        Err(why) => Err(Refusal { reason: "InvalidInstanceId", message: format!("spec.instanceId: {why}") }),
    }
}
