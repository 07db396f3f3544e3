//! Where an input comes from, how large it may be, and what else goes with a start.

use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::payload::Payload;
use serde_json::{Value, json};

use super::{find, inline, said};
use crate::support::runs::Runs;
use crate::support::{World, bed, eventually};

const MOST: u64 = 4 * 1024 * 1024;

impl World {
    pub(super) async fn limits(&self, limits: Value) {
        let patch = json!({"spec": {"limits": limits}}).to_string();
        self.kubectl(&["patch", "taskhub", "hub", "--type=merge", "--patch", &patch]);
        eventually("the TaskHub has taken over its limits", async || {
            let hub = self.task_hubs().get("hub").await.unwrap();
            let observed = hub.status.as_ref().and_then(|status| status.observed_generation);
            if observed == hub.metadata.generation { Ok(()) } else { Err(format!("{observed:?}")) }
        })
        .await;
    }

    /// `kubectl create`: apply would keep a copy of the object in an annotation, which has its own limit.
    fn create_run(&self, name: &str, spec: Value) {
        let object =
            json!({"apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": name}, "spec": spec});
        let arguments = ["create", "--namespace", &self.namespace, "--filename=-"];
        let answer = self.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object.to_string())).unwrap();
        assert!(answer.success, "{answer:?}");
    }

    async fn fetched(&self, payload: Option<&Payload>) -> Option<String> {
        Some(self.hub().await.fetch(payload?, MOST).await.unwrap())
    }

    /// All that a reader of the namespace can see of an object, and its Events.
    pub(super) fn everything(&self, name: &str) -> String {
        let events = self.kubectl(&["get", "events.events.k8s.io", "--output=json"]);
        let status = self.kubectl(&["get", "orchestration", name, "--output=jsonpath={.status}"]);
        format!("{status}\n{events}")
    }
}

fn from(kind: &str, name: &str, key: &str) -> Value {
    json!({"input": {"valueFrom": {kind: {"name": name, "key": key}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_is_handed_over_byte_for_byte() {
    let world = World::new("input_exact").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.quick_hub().await;

    let exact = [
        ("numbers", "{ \"exact\": 1.0,\n \"b\": 1e400, \"a\": 12345678901234567890123456789 }"),
        ("escapes", r#""\u003c \u00e9 \ud83d\ude00""#),
        ("unicode", "\"ünïcödé 日本語 😀 <&>\""),
        ("null", "null"),
        ("twice", r#"{"a":1,"a":2}"#),
    ];
    for (name, text) in exact {
        world.orchestration(&format!("text-{name}"), "Echo", json!({"input": {"text": text}}));
        world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"k": text}}));
        world.orchestration(&format!("secret-{name}"), "Echo", from("secretKeyRef", name, "k"));
        world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": text}}));
        world.orchestration(&format!("config-{name}"), "Echo", from("configMapKeyRef", name, "k"));
    }
    for (name, text) in exact {
        for source in ["text", "secret", "config"] {
            let name = format!("{source}-{name}");
            let status = world.reason(&name, "Completed").await;
            let instance = world.instance(&status.instance_id.unwrap()).await.unwrap();
            assert_eq!(inline(instance.input.as_ref()), Some(text), "{name}");
            assert_eq!(inline(instance.output.as_ref()), Some(text), "{name}");
        }
    }

    // What is not there yet, or no good, says so; mended, it runs.
    let waits = [
        ("no-secret", from("secretKeyRef", "later", "k"), "Secret later with key k does not exist in this namespace: create it"),
        ("no-key", from("secretKeyRef", "null", "other"), "Secret null with key other does not exist"),
        ("no-config", from("configMapKeyRef", "later", "k"), "ConfigMap later with key k does not exist"),
    ];
    for (name, spec, _) in &waits {
        world.orchestration(name, "Echo", spec.clone());
    }
    let instances = world.number_of_instances().await;
    for (name, _, message) in &waits {
        let status = world.reason(name, "InputNotFound").await;
        assert_eq!(said(&status), ["Ready=False InputNotFound", "Started=False NotCreated", "Reconciling=True InputNotFound"], "{name}");
        assert!(find(&status, "Ready").unwrap().message.contains(message), "{status:?}");
    }
    assert_eq!(world.number_of_instances().await, instances);
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "stringData": {"k": "\"late\""}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "binaryData": {"k": "ImxhdGUi"}}));
    world.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "null"}, "stringData": {"k": "null", "other": "\"late\""}}),
    );
    for (name, ..) in &waits {
        let status = world.reason(name, "Completed").await;
        assert_eq!(status.output.unwrap().text(), "\"late\"", "{name}");
    }

    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "stringData": {"text": "s3cret, no JSON"}, "data": {"bytes": "//79"}}));
    world.orchestration("bad-text", "Echo", from("secretKeyRef", "bad", "text"));
    world.orchestration("bad-bytes", "Echo", from("secretKeyRef", "bad", "bytes"));
    world.orchestration("bad-inline", "Echo", json!({"input": {"text": "s3cret, no JSON"}}));
    for (name, message) in
        [("bad-text", "it is not JSON"), ("bad-bytes", "key bytes of Secret bad is not UTF-8"), ("bad-inline", "it is not JSON")]
    {
        let status = world.reason(name, "InputInvalid").await;
        assert_eq!(said(&status), ["Ready=False InputInvalid", "Started=False NotCreated", "Stalled=True InputInvalid"], "{name}");
        assert!(find(&status, "Ready").unwrap().message.contains(message), "{status:?}");
        assert!(!world.everything(name).contains("s3cret"), "{name}");
    }
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "stringData": {"text": "1", "bytes": "2"}}));
    for name in ["bad-text", "bad-bytes"] {
        world.annotate(&format!("orchestration/{name}"), "durable-operator.dev/reconcile-requested-at=mended");
        world.reason(name, "Completed").await;
    }
    assert!(!operator.process.output().contains("s3cret"), "a Secret's text is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_inputs_go_through_blobs_up_to_the_hubs_limit() {
    let world = World::new("input_large").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let spec = |input: Value| json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo", "input": input});
    world.create_run("at-limit", spec(json!({"value": "x".repeat(65_534)})));
    world.create_run("over-limit", spec(json!({"value": "x".repeat(65_535)})));
    // Wide characters that lie in blobs: the emulator garbles them in a row beyond 64 KiB.
    world.create_run("wide", spec(json!({"text": format!("\"{}\"", "日".repeat(31_000))})));
    world.create_run("mebibyte", spec(json!({"text": text(1024 * 1024)})));
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"k": text(70_000)}}));
    world.create_run("referred", spec(from("configMapKeyRef", "large", "k")["input"].clone()));
    for (name, bytes) in [("over-limit", 65_537), ("mebibyte", 1_048_576), ("referred", 70_000), ("wide", 93_002)] {
        let status = world.reason(name, "InputTooLarge").await;
        assert_eq!(said(&status), ["Ready=False InputTooLarge", "Started=False NotCreated", "Stalled=True InputTooLarge"], "{name}");
        let message = &find(&status, "Ready").unwrap().message;
        assert!(message.contains(&format!("it has {bytes} bytes")) && message.contains("maxInputBytes is 65536"), "{message}");
    }
    let sizes = async |name: &str, bytes: usize| {
        let status = world.reason(name, "Completed").await;
        assert_eq!(status.output_ref.as_ref().unwrap().bytes, i64::try_from(bytes).unwrap(), "{name}");
        let instance = world.instance(&status.instance_id.unwrap()).await.unwrap();
        let (input, output) = (world.fetched(instance.input.as_ref()).await, world.fetched(instance.output.as_ref()).await);
        assert!(input == output && input.as_ref().map(String::len) == Some(bytes), "{name}: {:?}", input.map(|text| text.len()));
    };
    sizes("at-limit", 65_536).await;
    assert_eq!(world.number_of_instances().await, 1, "something was written for an input that is too large");

    world.limits(json!({"maxInputBytes": 1_048_576})).await;
    for (name, bytes) in [("over-limit", 65_537), ("mebibyte", 1_048_576), ("referred", 70_000), ("wide", 93_002)] {
        world.annotate(&format!("orchestration/{name}"), "durable-operator.dev/reconcile-requested-at=raised");
        sizes(name, bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_can_be_set_for_later_and_called_off() {
    let world = World::new("input_start_at").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let due = Time::now().saturating_add(Duration::from_secs(8));
    let run = |name: &str, at: &str, more: Value| {
        let mut spec = json!({"instanceId": name, "startAt": at, "input": {"value": name}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.orchestration(name, "Echo", spec);
    };
    run("soon", &due.to_string(), json!({"version": "1.2", "tags": {"team": "checkout", "ünï": "<&> \"x\""}}));
    run("called-off", &due.to_string(), json!({}));
    run("far", "2126-01-01T00:00:00Z", json!({}));
    run("past", "2020-01-01T00:00:00Z", json!({}));
    for name in ["soon", "called-off", "far"] {
        let status = world.reason(name, "WaitingForStartAt").await;
        assert_eq!(
            said(&status),
            ["Ready=False WaitingForStartAt", "Started=False WaitingForStartAt", "Reconciling=True WaitingForStartAt"]
        );
        assert!(!status.settled && status.runtime_status.is_none(), "{status:?}");
    }
    for name in ["called-off", "far"] {
        world.kubectl(&["patch", "orchestration", name, "--type=merge", "--patch", r#"{"spec":{"desiredState":"Terminated"}}"#]);
        let status = world.reason(name, "Terminated").await;
        assert_eq!(said(&status), ["Ready=True Terminated", "Started=False NotCreated", "Complete=True Terminated"]);
        assert!(status.settled, "{status:?}");
    }
    world.reason("past", "Completed").await;
    if Time::now() < due {
        assert_eq!(Runs::read(&world).await.instances(), ["past"], "nothing is in the hub before its time");
    }
    let status = world.reason("soon", "Completed").await;
    assert!(status.created_time.unwrap().0 >= due, "it was created before {due}");
    let runs = Runs::at_rest(&world).await;
    assert_eq!(runs.instances(), ["past", "soon"]);
    let row = world.row("soon").await;
    assert_eq!(row.text("Version"), Some("1.2"));
    let tags: Value = serde_json::from_str(row.text("Tags").unwrap()).unwrap();
    assert_eq!(tags, json!({"team": "checkout", "ünï": "<&> \"x\""}));
    let started = world.history_row("soon", "ExecutionStarted").await;
    assert_eq!(started.text("Version"), Some("1.2"));
    assert_eq!(serde_json::from_str::<Value>(started.text("Tags").unwrap()).unwrap(), tags);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_may_not_read_an_input_says_what_to_grant() {
    let world = World::new("input_forbidden").await;
    let user = format!("operator-of-{}", world.namespace);
    let name = format!("crds-of-{}", world.namespace);
    world.kubectl(&["create", "clusterrole", &name, "--verb=get", "--resource=customresourcedefinitions.apiextensions.k8s.io"]);
    world.kubectl(&["create", "clusterrolebinding", &name, "--clusterrole", &name, "--user", &user]);
    world.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "operator"},
        "rules": [
            {"apiGroups": ["durable-operator.dev"], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["storage"], "verbs": ["get", "list", "watch"]}
        ]
    }));
    world.kubectl(&["create", "rolebinding", "operator", "--role=operator", "--user", &user]);
    let kubeconfig = bed().control_plane.kubeconfig_for(&user, &[]).unwrap().to_string_lossy().into_owned();
    let operator = world.start_operator(&durable_bed::binaries::operator().unwrap(), &[("KUBECONFIG", &kubeconfig)]);
    operator.until_ready().await;
    world.quick_hub().await;
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"k": "1"}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hidden"}, "data": {"k": "1"}}));
    for (name, kind) in [("secret", "secretKeyRef"), ("config", "configMapKeyRef")] {
        world.orchestration(name, "Echo", from(kind, "hidden", "k"));
        let status = world.reason(name, "InputNotFound").await;
        let message = &find(&status, "Ready").unwrap().message;
        assert!(message.contains("the operator may not read") && message.contains("with a Role in this namespace"), "{message}");
    }
    world.orchestration("other", "Echo", json!({}));
    world.reason("other", "Enqueued").await;
}
