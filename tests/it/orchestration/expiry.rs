//! Objects that delete themselves when their run is over.

use durable_operator::api::FINALIZER;
use serde_json::{Value, json};

use crate::support::World;

impl World {
    fn marked(&self, name: &str, function: &str, metadata: Value, spec: Value) {
        let mut meta = json!({"name": name});
        meta.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        let mut all = json!({"taskHubRef": {"name": "hub"}, "functionName": function, "instanceId": name});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.apply(&json!({"apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": meta, "spec": all}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_expires_after_its_run_unless_a_tool_would_make_it_again() {
    let world = World::new("expiry").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let tracked = json!({"annotations": {"argocd.argoproj.io/tracking-id": "app:durable-operator.dev/Orchestration:shop/x"}});
    let hook = json!({"annotations": {"argocd.argoproj.io/tracking-id": "x", "argocd.argoproj.io/hook": "PostSync"}});
    let kustomize = json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}});
    let helm = json!({"labels": {"helm.toolkit.fluxcd.io/name": "shop"}});
    let ttl = |seconds: i64| json!({"ttlSecondsAfterFinished": seconds});
    for (name, metadata) in [("argo-cd", &tracked), ("flux-kustomize", &kustomize), ("flux-helm", &helm)] {
        world.marked(name, "Echo", metadata.clone(), ttl(0));
    }
    world.marked("hook", "Echo", hook, ttl(0));
    world.marked("completed", "Echo", json!({}), ttl(0));
    world.marked("failed", "Fail", json!({}), ttl(1));
    world.marked("purged", "Echo", json!({}), json!({"ttlSecondsAfterFinished": 0, "deletionPolicy": "Purge"}));
    world.marked("never-started", "Echo", json!({}), json!({"ttlSecondsAfterFinished": 0, "desiredState": "Terminated"}));
    world.marked("long", "Echo", json!({}), ttl(3600));
    world.marked("without", "Echo", json!({}), json!({}));
    world.marked("live", "Approval", json!({}), ttl(0));
    world.marked("conflict", "Echo", json!({}), json!({"ttlSecondsAfterFinished": 0, "instanceId": "live"}));
    for name in ["hook", "completed", "failed", "purged", "never-started"] {
        world.object_is_gone(name).await;
    }
    // The object went; the instance is another matter.
    assert!(world.instance("completed").await.is_some() && world.instance("purged").await.is_none());
    for (name, tool) in [("argo-cd", "Argo CD"), ("flux-kustomize", "Flux"), ("flux-helm", "Flux")] {
        let note = world.is_told(name, "TTLRefused").await;
        assert!(note.contains(tool) && note.contains("would create and run it again"), "{note}");
    }
    for (name, reason) in [
        ("argo-cd", "Completed"),
        ("flux-kustomize", "Completed"),
        ("flux-helm", "Completed"),
        ("long", "Completed"),
        ("without", "Completed"),
        ("live", "Running"),
        ("conflict", "Conflict"),
    ] {
        world.reason(name, reason).await;
    }
    assert_eq!(world.notes_about("argo-cd").await.len(), 1, "{:?}", world.notes_about("argo-cd").await);

    // Added, or shortened, when the run is over already.
    for name in ["long", "without"] {
        world.kubectl(&["patch", "orchestration", name, "--type=merge", "--patch", r#"{"spec":{"ttlSecondsAfterFinished":0}}"#]);
        world.object_is_gone(name).await;
    }
    // Deleted by the time that passed, not by whoever holds it.
    world.marked("held", "Echo", json!({"finalizers": ["example.org/holds"]}), ttl(0));
    let held = crate::support::eventually("the object is being deleted", async || {
        let object = world.orchestrations().get("held").await.unwrap();
        object.metadata.deletion_timestamp.clone().map(|_| object).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert_eq!(held.metadata.finalizers.unwrap(), ["example.org/holds"]);
    assert!(held.status.unwrap().settled);
    world.kubectl(&["patch", "orchestration", "held", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);

    // Nobody can make an object that holds itself with our finalizer: it goes where nothing is to be done.
    world.marked("ours", "Echo", json!({"finalizers": [FINALIZER]}), json!({}));
    world.reason("ours", "Completed").await;
    crate::support::eventually("the finalizer without a reason goes", async || {
        let found = world.finalizers("ours").await;
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}
