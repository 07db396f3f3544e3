//! The operator as a process: signals, readiness, logs.

use std::time::{Duration, Instant};

use durable_bed::control_plane::ControlPlane;
use durable_bed::guard::{Process, Signal};
use durable_bed::proxy::{Fault, Service};
use durable_bed::{assets, azurite, binaries};
use serde_json::json;

use crate::support::{OperatorProcess, PATIENCE, World, bed, eventually};

/// Exit code of a stop that did not wait: 128 and the number of SIGTERM.
const STOPPED_AT_ONCE: i32 = 143;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_stops_it_within_two_seconds_while_runs_are_under_way() {
    let world = World::new("stops").await;
    let _worker = world.worker().await;
    let mut operator = world.operator().await;
    world.ready_hub().await;
    for number in 0..5 {
        world.orchestration(&format!("run-{number}"), "Sleep", json!({"input": {"value": 600}}));
    }
    for number in 0..5 {
        world.reason(&format!("run-{number}"), "Running").await;
    }
    let begun = Instant::now();
    operator.process.signal(Signal::Term);
    let ended = operator.process.wait(PATIENCE).unwrap();
    let elapsed = begun.elapsed();
    assert_eq!(ended.code(), Some(0), "{}", operator.process.output());
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

/// A storage account that does not answer holds reconciles for as long as its time-outs say; a second signal does not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_it_at_once() {
    let world = World::new("stops_at_once").await;
    let proxy = bed().azurite.proxy().unwrap();
    let mut operator = world.operator().await;
    world.secret(&proxy.connection_string());
    world.task_hub();
    world.hub_reason("Connected").await;
    let (held, mut holds) = tokio::sync::mpsc::unbounded_channel();
    proxy.rule(move |request| {
        if request.service == Service::Queue && request.is_write() {
            let _ = held.send(());
            return Fault::Delay(Duration::from_secs(600));
        }
        Fault::Pass
    });
    world.orchestration("run", "Echo", json!({}));
    tokio::time::timeout(PATIENCE, holds.recv()).await.expect("the message was never sent").unwrap();
    operator.process.signal(Signal::Term);
    eventually("the first signal is heard", async || {
        let output = operator.process.output();
        if output.contains("a second signal stops at once") { Ok(()) } else { Err(output) }
    })
    .await;
    assert!(operator.process.ended().is_none(), "it did not wait for the reconcile under way");
    let begun = Instant::now();
    operator.process.signal(Signal::Term);
    let ended = operator.process.wait(PATIENCE).unwrap();
    assert_eq!(ended.code(), Some(STOPPED_AT_ONCE), "{}", operator.process.output());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Rights that are given to a user one by one.
struct Rights<'a> {
    world: &'a World,
    user: String,
}

impl Rights<'_> {
    fn grant(&self, name: &str, kind: &str, rule: serde_json::Value) {
        let api = "rbac.authorization.k8s.io/v1";
        let name = format!("{name}-{}", self.world.namespace);
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": self.user});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        self.world.apply(&json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "rules": [rule]}));
        self.world.apply(&json!({
            "apiVersion": api, "kind": format!("{kind}Binding"), "metadata": {"name": name}, "subjects": [subject], "roleRef": role
        }));
    }
}

/// A control plane of its own, without CRDs at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_the_missing_crds_and_heals() {
    let control_plane = ControlPlane::start(&assets::ensure().unwrap()).unwrap();
    let admin = azurite::free_address().unwrap();
    let (kubeconfig, address) = (control_plane.kubeconfig().to_string_lossy().into_owned(), admin.to_string());
    let environment = [("KUBECONFIG", kubeconfig.as_str()), ("DURABLE_ADMIN_ADDRESS", &address), ("DURABLE_LEASE_IDENTITY", "pod-1")];
    let arguments: [&str; 0] = [];
    let process = Process::start("operator", control_plane.folder(), &binaries::operator().unwrap(), arguments, environment).unwrap();
    let operator = OperatorProcess { process, admin };
    let crd = |plural: &str| format!("{plural}.durable-operator.dev: it is not installed: apply the files of crds/");
    let wanted =
        [crd("orchestrations"), crd("orchestrationevents"), crd("taskhubs"), "lease durable-operator in namespace default".to_owned()];
    eventually("it says what is missing", async || match operator.get("/readyz").await {
        Ok((503, text)) if wanted.iter().all(|what| text.contains(what)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(operator.get("/livez").await.unwrap(), (200, "ok\n".to_owned()));
    let apply = |file: &str| {
        let answer = control_plane.kubectl(&["apply", &format!("--filename=crds/{file}.yaml")]).unwrap();
        assert!(answer.success, "{answer:?}");
    };
    apply("orchestrations");
    apply("orchestrationevents");
    eventually("only the TaskHubs are missing", async || match operator.get("/readyz").await {
        Ok((503, text)) if text.contains("taskhubs.") && !text.contains("orchestrations.") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    apply("taskhubs");
    operator.until_ready().await;
    assert_eq!(operator.get("/readyz").await.unwrap(), (200, "ok: leader\n".to_owned()));
}

/// Right after right is given, and each time `/readyz` names the next one that is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_the_missing_rights_and_heals() {
    let world = World::without_hub("missing_rights").await;
    let user = format!("operator-{}", world.namespace);
    let kubeconfig = bed().control_plane.kubeconfig_for(&user, &[]).unwrap();
    let rights = Rights { world: &world, user };
    let kubeconfig = kubeconfig.to_string_lossy();
    let environment = [("KUBECONFIG", &*kubeconfig), ("DURABLE_LEADER_ELECTION", "true")];
    let mut operator = world.start_operator(&binaries::operator().unwrap(), &environment);
    let until_missing = async |what: &str| {
        eventually(&format!("it misses {what}"), async || match operator.get("/readyz").await {
            Ok((503, text))
                if text.contains(&format!("{what}: forbidden: ")) && text.contains("give the service account the rights of docs/") =>
            {
                Ok(text)
            }
            other => Err(format!("{other:?}")),
        })
        .await
    };
    let missing = until_missing("CustomResourceDefinition orchestrations.durable-operator.dev").await;
    assert!(!missing.contains("apply the files"), "nobody knows whether they are there: {missing}");
    rights.grant(
        "crds",
        "ClusterRole",
        json!({"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]}),
    );
    let missing = until_missing(&format!("lease durable-operator in namespace {}", world.namespace)).await;
    assert!(!missing.contains("CustomResourceDefinition"), "{missing}");
    rights.grant(
        "lease",
        "Role",
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}),
    );
    let missing = until_missing("the first list of Orchestrations").await;
    assert!(!missing.contains("lease"), "{missing}");
    until_missing("the first list of TaskHubs").await;
    rights.grant("objects", "Role", json!({"apiGroups": ["durable-operator.dev"], "resources": ["*"], "verbs": ["*"]}));
    operator.until_ready().await;
    // A leader that may not renew any more ends, and says why.
    world.kubectl(&["delete", "rolebinding", &format!("lease-{}", world.namespace)]);
    let ended = operator.process.wait(PATIENCE).unwrap();
    assert_eq!(ended.code(), Some(1), "{}", operator.process.output());
    let output = operator.process.output();
    assert!(output.contains("error: lease durable-operator in namespace") && output.contains("the last try failed: forbidden"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_filter_is_changed_at_run_time() {
    let world = World::without_hub("log_filter").await;
    let operator = world.start_operator(&binaries::operator().unwrap(), &[("DURABLE_LOG_FILTER", "info")]);
    operator.until_ready().await;
    assert_eq!(operator.get("/log-filter").await.unwrap(), (200, "info\n".to_owned()));
    let lines_of = |level: &str| operator.process.output().lines().filter(|line| line.contains(level)).count();
    assert_eq!(lines_of("TRACE"), 0);
    assert_eq!(operator.ask("PUT", "/log-filter", "trace").await.unwrap(), (200, "trace\n".to_owned()));
    world.orchestration("looked-at", "Echo", json!({}));
    eventually("lines of the new level are written", async || if lines_of("TRACE") > 0 { Ok(()) } else { Err(operator.process.output()) })
        .await;
    let (code, text) = operator.ask("PUT", "/log-filter", "info,durable_operator=lots").await.unwrap();
    assert!(code == 400 && text.contains("invalid log filter") && text.contains("still: trace"), "{code} {text}");
    assert_eq!(operator.get("/log-filter").await.unwrap(), (200, "trace\n".to_owned()));
    assert_eq!(operator.ask("PUT", "/log-filter", "off").await.unwrap().0, 200);
    let before = operator.process.output().len();
    world.orchestration("not-logged", "Echo", json!({}));
    world.reason("not-logged", "TaskHubNotFound").await;
    assert_eq!(operator.process.output().len(), before);
}

/// An operator that may list Orchestrations before it may list TaskHubs: as if that list took long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestration_whose_task_hub_is_missing_says_so_also_if_the_hubs_are_listed_later() {
    let world = World::without_hub("listed_later").await;
    let user = format!("operator-{}", world.namespace);
    let kubeconfig = bed().control_plane.kubeconfig_for(&user, &[]).unwrap();
    let rights = Rights { world: &world, user };
    let grant = |name: &str, kind: &str, rule: serde_json::Value| rights.grant(name, kind, rule);
    let ours = |resources: &[&str]| json!({"apiGroups": ["durable-operator.dev"], "resources": resources, "verbs": ["*"]});
    let crds = json!({"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]});
    grant("crds", "ClusterRole", crds);
    grant("orchestrations", "Role", ours(&["orchestrations", "orchestrations/status"]));
    world.orchestration("orphan", "Echo", json!({}));

    let kubeconfig = kubeconfig.to_string_lossy();
    let operator = world.start_operator(&binaries::operator().unwrap(), &[("KUBECONFIG", &kubeconfig)]);
    eventually("the Orchestration was looked at", async || {
        let looked = match operator.get("/metrics").await {
            Ok(_) => operator.counter("durable_operator_reconciles_total", &["kind=\"Orchestration\""]).await,
            Err(_) => 0,
        };
        if looked > 0 { Ok(()) } else { Err(operator.process.output()) }
    })
    .await;
    let (code, missing) = operator.get("/readyz").await.unwrap();
    assert!(code == 503 && missing.contains("the first list of TaskHubs") && !missing.contains("of Orchestrations"), "{missing}");
    assert!(world.status("orphan").await.conditions.is_empty(), "it was judged before the TaskHubs were listed");

    grant("taskhubs", "Role", ours(&["taskhubs", "taskhubs/status"]));
    world.reason("orphan", "TaskHubNotFound").await;
}

/// A whole run, and a failed one, with everything logged: nothing that the operator says anywhere holds the key or the payloads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_json_and_nothing_says_a_secret() {
    const KEY: &str = azurite::ACCOUNT_KEY;
    const PAYLOAD: &str = "payload-that-nobody-should-log";
    let world = World::new("says_no_secret").await;
    let _worker = world.worker().await;
    let environment = [("DURABLE_LOG_FORMAT", "json"), ("DURABLE_LOG_FILTER", "trace")];
    let operator = world.start_operator(&binaries::operator().unwrap(), &environment);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("fails", "Fail", json!({"input": {"value": PAYLOAD}}));
    world.orchestration("runs", "Echo", json!({"input": {"value": PAYLOAD}}));
    world.reason("fails", "OrchestrationFailed").await;
    world.reason("runs", "Completed").await;
    // A key that is wrong is a secret too: it may be another account's.
    let wrong = KEY.replace('b', "c");
    world.secret(&bed().azurite.connection_string().replace(KEY, &wrong));
    world.hub_reason("AuthenticationFailed").await;
    world.secret("AccountName=x;AccountKey=notbase64secret!;QueueEndpoint=nowhere");
    world.hub_reason("InvalidConnectionString").await;

    let (_, metrics) = operator.get("/metrics").await.unwrap();
    let objects = world.kubectl(&["get", "orchestrations,taskhubs,events", "--output=json"]);
    assert!(objects.contains("OrchestrationFailed"), "no Event: {objects}");
    let log = operator.process.output();
    let mut levels = std::collections::BTreeSet::new();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["target"].is_string(), "{line}");
        levels.insert(line["level"].as_str().unwrap().to_owned());
    }
    assert!(levels.contains("TRACE") && levels.contains("INFO"), "{levels:?}");

    let signature_part = |secret: &str| secret[..20].to_owned();
    for secret in [signature_part(KEY), signature_part(&wrong), "notbase64secret".to_owned()] {
        for (place, text) in [("log", &log), ("metrics", &metrics), ("objects and Events", &objects)] {
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(&secret)).take(3).collect();
            assert!(lines.is_empty(), "{place}: {lines:#?}");
        }
    }
    for (place, text) in [("log", &log), ("metrics", &metrics), ("Events", &world.kubectl(&["get", "events", "--output=json"]))] {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(PAYLOAD)).take(3).collect();
        assert!(lines.is_empty(), "{place}: {lines:#?}");
    }
}
