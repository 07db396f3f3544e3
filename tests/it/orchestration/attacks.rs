//! What somebody who may write objects tries on others (security.md).

use durable_taskhub::RuntimeStatus;
use serde_json::{Value, json};

use super::{find, said};
use crate::support::runs::Runs;
use crate::support::{OperatorProcess, World, eventually};

impl World {
    /// An operator that watches a second namespace as well, and that namespace.
    async fn with_tenant(&self) -> (OperatorProcess, String) {
        let tenant = format!("{}-tenant", self.namespace);
        self.kubectl(&["create", "namespace", &tenant]);
        let both = format!("{},{tenant}", self.namespace);
        let program = durable_bed::binaries::operator().unwrap();
        let operator = self.start_operator(&program, &[("DURABLE_WATCH_NAMESPACE", &both)]);
        operator.until_ready().await;
        (operator, tenant)
    }

    fn in_namespace(&self, namespace: &str, name: &str, function: &str, more: Value) {
        let mut spec = json!({"taskHubRef": {"name": "hub", "namespace": self.namespace}, "functionName": function});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object =
            json!({"apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": name}, "spec": spec});
        let arguments = ["create", "--namespace", namespace, "--filename=-"];
        let answer = self.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object.to_string())).unwrap();
        assert!(answer.success, "{answer:?}");
    }

    /// Waits until `Ready` of an Orchestration elsewhere has this reason; its message.
    async fn says(&self, namespace: &str, name: &str, reason: &str) -> String {
        const READY: &str =
            r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].reason}|{.status.conditions[?(@.type=="Ready")].message}"#;
        eventually(&format!("{namespace}/{name} is {reason}"), async || {
            let said = self.kubectl(&["get", "orchestration", name, "--namespace", namespace, READY]);
            match said.split_once('|') {
                Some((found, message)) if found == reason => Ok(message.to_owned()),
                _ => Err(said),
            }
        })
        .await
    }

    fn change_hub(&self, spec: Value) {
        self.kubectl(&["patch", "taskhub", "hub", "--type=merge", "--patch", &json!({"spec": spec}).to_string()]);
    }

    fn forge(&self, name: &str, status: Value) {
        let patch = json!({"status": status}).to_string();
        self.kubectl(&["patch", "orchestration", name, "--subresource=status", "--type=merge", "--patch", &patch]);
        self.annotate(&format!("orchestration/{name}"), &format!("durable-operator.dev/reconcile-requested-at={}", patch.replace('"', "")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_used_from_where_its_owner_allows_and_for_what() {
    let world = World::new("attack_namespace").await;
    let _worker = world.worker().await;
    let (_operator, tenant) = world.with_tenant().await;
    world.quick_hub().await;
    let run = |name: &str, more: Value| world.in_namespace(&tenant, name, "Echo", more);
    run("same", json!({"instanceId": "same", "deletionPolicy": "Purge"}));
    run("adopts", json!({"instanceId": "adopted", "startPolicy": "CreateOrAdopt"}));
    world.start_by_another("adopted", "Echo", "null").await;
    let theirs = world.instance_ends("adopted").await;
    for name in ["same", "adopts"] {
        let message = world.says(&tenant, name, "NamespaceNotAllowed").await;
        assert!(message.contains("allows its own namespace only") && message.contains("Its owner decides"), "{message}");
    }
    // A label that the tenant may not set itself.
    world.change_hub(json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "checkout"}}}}));
    run("unselected", json!({"instanceId": "unselected"}));
    world.says(&tenant, "unselected", "NamespaceNotAllowed").await;
    assert_eq!(Runs::at_rest(&world).await.instances(), ["adopted"], "something was written to the hub");
    assert_eq!(world.instance("adopted").await.unwrap().etag, theirs.etag, "the row was touched");
    // Deleting what was refused waits for nobody.
    world.kubectl(&["delete", "orchestration", "same", "--namespace", &tenant, "--timeout=10s"]);

    world.kubectl(&["label", "namespace", &tenant, "team=checkout"]);
    for name in ["unselected", "adopts"] {
        world.says(&tenant, name, "Completed").await;
    }
    world.kubectl(&["label", "namespace", &tenant, "team-"]);
    world.change_hub(json!({"allowedNamespaces": {"from": "All", "selector": null}}));
    run("all", json!({"instanceId": "all"}));
    world.says(&tenant, "all", "Completed").await;

    // What the hub's owner names is the whole name of a function.
    world.change_hub(json!({"allowedFunctions": ["Hello*", "Ech"]}));
    eventually("the list is in force", async || {
        let hub = world.task_hubs().get("hub").await.unwrap();
        let observed = hub.status.as_ref().and_then(|status| status.observed_generation);
        if observed == hub.metadata.generation { Ok(()) } else { Err(format!("{observed:?}")) }
    })
    .await;
    world.orchestration("function", "Echo", json!({"instanceId": "function"}));
    world.orchestration("allowed", "HelloSequence", json!({}));
    // Without a name of its own it may take over any: the instance's function counts.
    world.start_by_another("foreign-echo", "Echo", "1").await;
    world.apply(&json!({
        "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": "nameless"},
        "spec": {"taskHubRef": {"name": "hub"}, "startPolicy": "Adopt", "instanceId": "foreign-echo"}
    }));
    let refused = world.reason("function", "FunctionNotAllowed").await;
    assert!(find(&refused, "Ready").unwrap().message.contains("does not allow the function Echo"), "{refused:?}");
    world.reason("allowed", "Completed").await;
    world.reason("nameless", "FunctionNotAllowed").await;
    assert!(world.instance("function").await.is_none());
    assert_eq!(world.row("foreign-echo").await.text("KubernetesOwner"), None);
    world.change_hub(json!({"allowedFunctions": null}));
    for name in ["function", "nameless"] {
        world.reason(name, "Completed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_status_harms_nobody_else() {
    let world = World::new("attack_status").await;
    let _worker = world.worker().await;
    // A message that shows no effect is given up after 6 s instead of 5 minutes.
    let _operator = world.fast_operator("50").await;
    world.quick_hub().await;
    for name in ["victim", "attacker", "deleter"] {
        let policy = if name == "deleter" { "Purge" } else { "Retain" };
        world.orchestration(name, "Approval", json!({"instanceId": name, "deletionPolicy": policy}));
    }
    for name in ["victim", "attacker", "deleter"] {
        world.reason(name, "Running").await;
    }
    let victim = world.orchestrations().get("victim").await.unwrap();
    let (status, row) = (victim.status.clone().unwrap(), world.row("victim").await);
    let theirs = json!({"instanceId": "victim", "executionId": status.execution_id});

    // Pending actions that were never sent, with receipts of nobody, and of an ID that is no ID.
    let now = durable_taskhub::Time::now().to_string();
    for (action, phase) in [("Terminate", "Sent"), ("Suspend", "Sent"), ("Resume", "Taken"), ("Terminate", "Issued"), ("Rewind", "Issued")]
    {
        let mut forged = theirs.clone();
        forged["pending"] = json!({
            "action": action, "phase": phase, "issuedAt": now, "queue": "../victim", "messageId": "../../x?y=z#", "popReceipt": "AgAA&comp=list"
        });
        world.forge("attacker", forged);
        eventually(&format!("{action} {phase} is over"), async || {
            let status = world.status("attacker").await;
            let own = status.instance_id.as_deref() == Some("attacker") && status.pending.is_none() && !status.settled;
            if own { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }
    let mut rewound = theirs.clone();
    rewound["lastRewind"] = json!({"result": "Succeeded", "at": now, "message": "forged"});
    world.forge("attacker", rewound);
    world.desire("attacker", &json!({"desiredState": "Rewound"}));

    // Deleted while its status points at another's instance, and says that it failed, is settled, was never accepted.
    let mut failed = theirs.clone();
    failed["runtimeStatus"] = json!("Failed");
    failed["pending"] = json!({"action": "Terminate", "phase": "Sent", "issuedAt": now, "messageId": "x", "popReceipt": "y"});
    world.kubectl(&["annotate", "orchestration", "deleter", "durable-operator.dev/paused=true"]);
    world.forge("deleter", failed);
    world.kubectl(&["delete", "orchestration", "deleter", "--timeout=60s"]);

    let after = world.orchestrations().get("victim").await.unwrap();
    assert_eq!(after.metadata.resource_version, victim.metadata.resource_version, "{after:?}");
    assert_eq!(world.row("victim").await, row, "the row was touched");
    assert_eq!(world.instance("attacker").await.unwrap().runtime_status, RuntimeStatus::Running);
    world.hub().await.raise_event("victim", "Approval", Some("1")).await.unwrap();
    world.reason("victim", "Completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_to_break_breaks_only_itself() {
    let world = World::new("attack_payload").await;
    let _worker = world.worker().await;
    let mut operator = world.operator().await;
    world.quick_hub().await;
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let spec = |name: &str, input: &str, function: &str| {
        format!(
            r#"{{"apiVersion":"durable-operator.dev/v1alpha1","kind":"Orchestration","metadata":{{"name":"{name}","annotations":{{"argocd.argoproj.io/tracking-id":"::://{{}}\u0000"}}}},
            "spec":{{"taskHubRef":{{"name":"hub"}},"functionName":"{function}","input":{input},"tags":{{"\u0001 <&>'":"\u2028\ud83d\ude00"}},"version":"../'\"","reason":"https://x"}}}}"#
        )
    };
    let create = |text: &str| {
        let arguments = ["create", "--namespace", &world.namespace, "--filename=-"];
        world.control_plane.with(|plane| plane.kubectl_with_input(&arguments, text)).unwrap()
    };
    for (name, input, function) in [
        ("nested-text", format!(r#"{{"text":"{}"}}"#, nested(5000)), "Echo"),
        ("nested-value", format!(r#"{{"value":{}}}"#, nested(5000)), "Echo"),
        ("nested-status", format!(r#"{{"value":{}}}"#, nested(100)), "CustomStatus"),
        ("zero", r#"{"text":"\"\\u0000\\ud800\""}"#.to_owned(), "Echo"),
        ("function", r#"{"value":1}"#.to_owned(), "a'/../b\\\" or 1 eq 1"),
    ] {
        let answer = create(&spec(name, &input, &function.replace('\\', "\\\\").replace('"', "\\\"")));
        assert!(answer.success, "{name}: {answer:?}");
    }
    for name in ["nested-text", "nested-value"] {
        let status = world.reason(name, "Completed").await;
        let reference = status.output_ref.unwrap();
        assert_eq!((reference.bytes, reference.preview.as_str()), (10_001, "[".repeat(1024).as_str()), "{name}");
    }
    let status = world.reason("nested-status", "Completed").await;
    assert!(status.custom_status.unwrap().text().starts_with("\"[[[["), "what nests deeper than 64 levels is shown as text");
    world.reason("zero", "Completed").await;
    world.reason("function", "OrchestrationFailed").await;
    world.orchestration("after", "Echo", json!({}));
    assert_eq!(
        said(&world.reason("after", "Completed").await),
        ["Ready=True Completed", "Started=True Started", "Complete=True Completed"]
    );
    assert!(operator.process.ended().is_none(), "the operator has ended: {}", operator.process.output());
    let output = operator.process.output();
    assert!(!output.contains("panic"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_that_is_taken_away_comes_back_while_it_is_needed() {
    let world = World::new("attack_finalizer").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    world.orchestration("live", "Approval", json!({"instanceId": "live", "deletionPolicy": "Purge"}));
    world.reason("live", "Running").await;
    world.kubectl(&["patch", "orchestration", "live", "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#]);
    eventually("the finalizer is there again", async || {
        let found = world.finalizers("live").await;
        if found == [durable_operator::api::FINALIZER] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    world.delete_object("live");
    assert!(world.instance("live").await.is_none());
}
