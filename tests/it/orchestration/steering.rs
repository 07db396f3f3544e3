//! What the tests of control share: wishes through kubectl, and what the hub and the Events say of them.

use std::collections::BTreeMap;

use durable_bed::guard::Process;
use durable_operator::api::v1alpha1::{OrchestrationStatus, RewindResult};
use durable_taskhub::Instance;
use durable_taskhub::message::{Decoded, Message};
use durable_taskhub::names::{InstanceId, escape_key};
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Query, Queue, quote};
use serde_json::{Value, json};

use crate::support::{World, eventually};

impl World {
    /// An Orchestration whose instance has its name.
    pub(super) fn run(&self, name: &str, function: &str, more: Value) {
        let mut spec = json!({"instanceId": name});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.orchestration(name, function, spec);
    }

    /// `kubectl patch` of some of the spec of these objects.
    pub(super) fn wish_all(&self, names: &[&str], spec: &Value) {
        let patch = json!({"spec": spec}).to_string();
        let mut arguments = vec!["patch", "orchestration"];
        arguments.extend(names);
        arguments.extend(["--type=merge", "--patch", &patch]);
        self.kubectl(&arguments);
    }

    /// The same of one.
    pub(super) fn wish(&self, name: &str, spec: &Value) {
        self.wish_all(&[name], spec);
    }

    /// Another client starts an instance.
    pub(super) async fn start_foreign(&self, id: &str, function: &str) {
        let request = StartRequest { instance_id: InstanceId::new(id).unwrap(), ..StartRequest::new(function) };
        self.hub().await.start(request).await.unwrap();
    }

    /// Waits until `Ready` of all has this reason, and answers the last status.
    pub(super) async fn all(&self, names: &[&str], reason: &str) -> OrchestrationStatus {
        let mut last = OrchestrationStatus::default();
        for name in names {
            last = self.reason(name, reason).await;
        }
        last
    }

    /// Waits until the status is that of the newest spec, and nothing is under way.
    pub(super) async fn handled(&self, name: &str) -> OrchestrationStatus {
        eventually(&format!("the spec of {name} is handled"), async || {
            let object = self.orchestrations().get(name).await.unwrap();
            let status = object.status.unwrap_or_default();
            let is_handled = status.observed_generation == object.metadata.generation && status.pending.is_none();
            if is_handled { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// The reasons of the Events about an object, sorted, once there are as many as expected.
    pub(super) async fn events_are(&self, name: &str, expected: &[&str]) {
        let selector = format!("regarding.name={name}");
        let arguments = ["get", "events.events.k8s.io", "--field-selector", &selector, "--output=jsonpath={.items[*].reason}"];
        eventually(&format!("the Events of {name} are {expected:?}"), async || {
            let mut reasons: Vec<String> = self.kubectl(&arguments).split_whitespace().map(str::to_owned).collect();
            reasons.sort();
            if reasons == expected { Ok(()) } else { Err(format!("{reasons:?}")) }
        })
        .await;
    }

    /// How the last rewind came out, by `token`.
    pub(super) async fn rewind_is(&self, name: &str, token: Option<&str>, result: RewindResult) -> OrchestrationStatus {
        eventually(&format!("the rewind of {name} is {result:?}"), async || {
            let status = self.status(name).await;
            let is_so = status.last_rewind.as_ref().is_some_and(|last| last.token.as_deref() == token && last.result == result);
            if is_so { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Waits until the hub's row has this status.
    pub(super) async fn row_is(&self, id: &str, status: &str) -> Instance {
        eventually(&format!("instance {id} is {status}"), async || match self.instance(id).await {
            Some(instance) if instance.runtime_status.to_string() == status => Ok(instance),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// How often each event is in the instance's history: what control messages did.
    pub(super) async fn events_in_history(&self, id: &str) -> BTreeMap<String, usize> {
        let mut events = BTreeMap::new();
        for event in self.history_of(id).await {
            *events.entry(event).or_default() += 1;
        }
        events
    }

    async fn history_of(&self, id: &str) -> Vec<String> {
        let query = Query { filter: Some(format!("PartitionKey eq {}", quote(&escape_key(id)))), ..Query::default() };
        let rows = self.storage().table(&self.hub_name.history_table()).query(&query).await.unwrap().entities;
        rows.iter().filter_map(|row| row.text("EventType")).map(str::to_owned).collect()
    }

    /// The control messages that the history has, as suspends, resumes and terminates.
    pub(super) async fn steered(&self, id: &str) -> [usize; 3] {
        let events = self.events_in_history(id).await;
        ["ExecutionSuspended", "ExecutionResumed", "ExecutionTerminated"].map(|event| events.get(event).copied().unwrap_or_default())
    }

    /// The texts of all messages that can be seen in the control queues.
    pub(super) async fn control_messages(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for queue in self.control_queues().await {
            texts.extend(queue.peek(32).await.unwrap().into_iter().map(|message| decoded(&message.text)));
        }
        texts
    }

    pub(super) async fn control_queues(&self) -> Vec<Queue> {
        let names = self.storage().list_queues(&self.hub_name.control_queue_prefix()).await.unwrap();
        names.iter().map(|name| self.storage().queue(name)).collect()
    }

    pub(super) async fn clear_queues(&self) {
        for queue in self.control_queues().await {
            queue.clear().await.unwrap();
        }
    }

    /// A worker whose flaky activities are healed by a file in the folder.
    pub(super) async fn worker_and_markers(&self) -> (Process, std::path::PathBuf) {
        let markers = self.control_plane.with(|plane| plane.folder().join(format!("markers-{}", self.namespace)));
        std::fs::create_dir_all(&markers).unwrap();
        (self.worker_with(&[("FLAKY_DIR", &markers.to_string_lossy())]).await, markers)
    }
}

/// The kind of event in a message, by its `$type`.
fn decoded(text: &str) -> String {
    let Decoded::Message(message) = Message::decode(text).unwrap() else { panic!("a wrapper: {text}") };
    let message: Value = serde_json::from_str(&message.to_json()).unwrap();
    let kind = message["TaskMessage"]["Event"]["$type"].as_str().unwrap();
    kind.rsplit('.').next().unwrap().to_owned()
}
