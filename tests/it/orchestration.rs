//! One run from `kubectl apply` to its end, and whatever may happen to it on the way.

mod attacks;
mod control;
mod deadline;
mod deletion;
mod disturbance;
mod expiry;
mod given_up;
mod identity;
mod input;
mod observed;
mod output;
mod policies;
mod queue;
mod rewind;
mod steering;
mod table;
mod values;
mod waiting;

use durable_operator::api::v1alpha1::OrchestrationStatus;
use durable_taskhub::Instance;
use durable_taskhub::names::escape_key;
use durable_taskhub::payload::Payload;
use durable_taskhub::storage::{Condition as Precondition, Entity, Query, Table, quote};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::support::{World, eventually};

fn find<'a>(status: &'a OrchestrationStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// The conditions as `Type=Status Reason`.
fn said(status: &OrchestrationStatus) -> Vec<String> {
    status.conditions.iter().map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason)).collect()
}

fn inline(payload: Option<&Payload>) -> Option<&str> {
    payload.map(|payload| payload.inline().expect("the payload is in the row"))
}

impl World {
    fn instances(&self) -> Table {
        self.storage().table(&self.hub_name.instances_table())
    }

    /// All columns of an instance's row, for a test that plays another client or a worker.
    async fn row(&self, id: &str) -> Entity {
        self.instances().get(&escape_key(id), "", &[]).await.unwrap().unwrap()
    }

    /// Replaces an instance's row, as another client's start or a worker's checkpoint would.
    async fn replace_row(&self, row: &Entity) {
        self.instances().replace(row, Precondition::Any).await.unwrap();
    }

    async fn delete_row(&self, id: &str) {
        assert!(self.instances().delete(&escape_key(id), "", Precondition::Any).await.unwrap());
    }

    /// How often a worker has started the instance, by its history.
    async fn times_started(&self, id: &str) -> usize {
        let filter = format!("PartitionKey eq {} and EventType eq 'ExecutionStarted'", quote(&escape_key(id)));
        let query = Query { filter: Some(filter), ..Query::default() };
        self.storage().table(&self.hub_name.history_table()).query(&query).await.unwrap().entities.len()
    }

    /// The instance's first history row of that event.
    async fn history_row(&self, id: &str, event: &str) -> Entity {
        let filter = format!("PartitionKey eq {} and EventType eq {}", quote(&escape_key(id)), quote(event));
        let query = Query { filter: Some(filter), ..Query::default() };
        self.storage().table(&self.hub_name.history_table()).query(&query).await.unwrap().entities.remove(0)
    }

    /// Waits until the object is gone.
    async fn object_is_gone(&self, name: &str) {
        eventually(&format!("Orchestration {name} is gone"), async || match self.orchestrations().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(object) => Err(format!("{:?} {:?}", object.metadata.finalizers, object.status)),
        })
        .await;
    }

    /// The Events about an object: reason and note.
    async fn notes_about(&self, name: &str) -> Vec<(String, String)> {
        let events: kube::Api<k8s_openapi::api::events::v1::Event> = kube::Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&kube::api::ListParams::default()).await.unwrap().items;
        let about = all.into_iter().filter(|event| event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some(name));
        about.map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect()
    }

    /// Waits until an Event about the object has this reason; its note.
    async fn is_told(&self, name: &str, reason: &str) -> String {
        eventually(&format!("an Event about {name} says {reason}"), async || {
            let events = self.notes_about(name).await;
            let found = events.iter().find(|(found, _)| found == reason).map(|(_, note)| note.clone());
            found.ok_or_else(|| format!("{events:?}"))
        })
        .await
    }

    async fn finalizers(&self, name: &str) -> Vec<String> {
        self.orchestrations().get(name).await.unwrap().metadata.finalizers.unwrap_or_default()
    }

    /// Waits until the instance ends in the hub, whatever the object says.
    async fn instance_ends(&self, id: &str) -> Instance {
        eventually(&format!("instance {id} ends"), async || match self.instance(id).await {
            Some(instance) if instance.runtime_status.is_terminal() => Ok(instance),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    async fn uid(&self, name: &str) -> String {
        self.orchestrations().get(name).await.unwrap().metadata.uid.unwrap()
    }

    /// A TaskHub that is read often, so that a test need not wait for the longest interval.
    async fn quick_hub(&self) {
        self.secret(&self.connection_string());
        self.apply(&serde_json::json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": "hub"},
            "spec": {
                "hubName": self.hub_name.as_str(),
                "connection": {"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}},
                "polling": {"minInterval": "200ms", "maxInterval": "500ms"}
            }
        }));
        self.hub_reason("Connected").await;
    }

    fn annotate(&self, kind_and_name: &str, annotation: &str) {
        self.kubectl(&["annotate", "--overwrite", kind_and_name, annotation]);
    }

    /// Waits until the TaskHub controller has seen that a worker serves the hub, without waiting for its next look.
    async fn workers_are_seen(&self) {
        self.annotate("taskhub/hub", "durable-operator.dev/reconcile-requested-at=workers");
        eventually("the worker is seen", async || {
            let status = self.task_hubs().get("hub").await.unwrap().status.unwrap();
            let active = status.conditions.iter().any(|condition| condition.type_ == "WorkersActive" && condition.status == "True");
            if active { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }
}
