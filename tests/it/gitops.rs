//! What GitOps tools meet: the states that they judge, and manifests that are applied for ever.
//!
//! The verdicts themselves are those of `tests/wire/gitops.rs`, over the fixtures that `gitops/fixtures.rs` makes.

mod again;
mod fixtures;
mod page;

use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;
use serde_json::{Value, json};

use crate::support::{World, eventually};

const API_VERSION: &str = "durable-operator.dev/v1alpha1";

impl World {
    /// Another client starts an instance.
    async fn started_by_another(&self, id: &str, function: &str) {
        let request = StartRequest { instance_id: InstanceId::new(id).unwrap(), ..StartRequest::new(function) };
        self.hub().await.start(request).await.unwrap();
    }

    /// An object as the API server has it.
    fn object(&self, kind: &str, name: &str) -> Value {
        let text = self.kubectl(&["get", &format!("{}.durable-operator.dev", kind.to_lowercase()), name, "--output=json"]);
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until `Ready` of the object has this reason, for its newest spec.
    async fn object_says(&self, kind: &str, name: &str, reason: &str) -> Value {
        eventually(&format!("{kind} {name} is {reason}"), async || {
            let object = self.object(kind, name);
            let is_newest = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if is_newest && ready(&object) == reason { Ok(object) } else { Err(object["status"].to_string()) }
        })
        .await
    }
}

/// The reason of `Ready`.
fn ready(object: &Value) -> &str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == "Ready").and_then(|ready| ready["reason"].as_str()).unwrap_or_default()
}

fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
}
