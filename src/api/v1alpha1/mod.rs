//! Version `v1alpha1` of the kinds. The doc comments of their fields are what `kubectl explain` prints.

mod orchestration;
mod orchestration_event;
mod payload;
mod task_hub;

pub use orchestration::{
    Action, DeletionPolicy, DesiredState, Failure, HubTime, LastRewind, Orchestration, OrchestrationSpec, OrchestrationStatus,
    OutputPolicy, OutputReference, Pending, Phase, ReadyWhen, RewindResult, RuntimeStatus, StartPolicy, Tags, TaskHubReference,
};
pub use orchestration_event::{
    EntityReference, EventPhase, OrchestrationEvent, OrchestrationEventSpec, OrchestrationEventStatus, OrchestrationReference, WaitFor,
};
pub use payload::{ConfigMapKeyReference, Payload, ValueFrom};
pub use task_hub::{
    AllowedNamespaces, Backlog, Cloud, Connection, ConnectionStatus, Endpoints, EngineStatus, From, HubDeletionPolicy, Limits,
    OrchestrationCounts, Polling, SasSecretReference, SecretKeyReference, TaskHub, TaskHubSpec, TaskHubStatus, WorkloadIdentity,
};

use kube::{CustomResourceExt, core::ObjectMeta};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};

/// All CRDs, as they are committed in `crds/` and installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![Orchestration::crd(), OrchestrationEvent::crd(), TaskHub::crd()];
    crds.iter_mut().for_each(default_to_unseen);
    crds
}

/// Gives the status a default that speaks of no generation. kstatus takes an object without a status for one that is as it
/// should be: who waits for it, as Flux does, would go on before the operator has looked at it.
fn default_to_unseen(crd: &mut CustomResourceDefinition) {
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    for status in schemas.filter_map(|schema| schema.properties.as_mut()?.get_mut("status")) {
        status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
    }
}

/// The metadata that a status write needs: which object, and which copy of it was decided upon.
pub fn status_metadata(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectMeta::default()
    }
}

/// Path (from the repository's root) and text of the file of each CRD.
///
/// # Errors
/// What the YAML writer says.
pub fn crd_files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    let file = |crd: CustomResourceDefinition| {
        let text = serde_saphyr::to_string(&crd)?;
        let path = format!("crds/{}.yaml", crd.spec.names.plural);
        Ok((path, format!("# Generated from the Rust types by `cargo crds`; do not edit.\n{text}")))
    };
    crds().into_iter().map(file).collect()
}
