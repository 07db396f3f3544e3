//! Signatures, private endpoints and rotation.

use std::time::Duration;

use axum::http::{StatusCode, header};
use durable_bed::azurite::{ACCOUNT, ACCOUNT_KEY};
use durable_bed::proxy::Fault;
use serde_json::{Value, json};

use super::{HEALED_WITHIN, message};
use crate::support::{World, bed, eventually};

// Account signatures of the emulator's account, whose key is public: all rights, adding alone, and all rights until 2020.
const SAS: &str = "sv=2019-07-07&ss=bqt&srt=sco&sp=rwdlacup&se=2099-01-01T00%3A00%3A00Z&spr=https,http&sig=jH4sll6mLKkM60nHDq3zLIemmT%2F5FaTf0CkzqDOtJqw%3D";
const SAS_ADDING: &str =
    "sv=2019-07-07&ss=bqt&srt=sco&sp=a&se=2099-01-01T00%3A00%3A00Z&spr=https,http&sig=kh0hdvQqWSuvVnhGBzchEqEAMdBnyJwLZZP5elabu4g%3D";
const SAS_EXPIRED: &str = "sv=2019-07-07&ss=bqt&srt=sco&sp=rwdlacup&se=2020-01-01T00%3A00%3A00Z&spr=https,http&sig=qN9mVUPlBhe2SkzYugvuFv0mMTzltMwcBaYycleSerE%3D";

impl World {
    fn sas_hub(&self, name: &str, endpoints: [String; 3]) {
        let [blob, queue, table] = endpoints;
        self.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": name},
            "spec": {
                "hubName": self.hub_name.as_str(), "connection": {"sasSecretRef": {"name": "sas", "key": "token", "accountName": ACCOUNT}},
                "endpoints": {"blob": blob, "queue": queue, "table": table}, "polling": {"minInterval": "200ms", "maxInterval": "1s"}
            }
        }));
    }

    fn patch_hub(&self, name: &str, spec: Value) {
        self.kubectl(&["patch", "taskhub", name, "--type=merge", "--patch", &json!({"spec": spec}).to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_opens_a_hub_and_is_rotated_without_a_restart() {
    let world = World::new("sas_opens").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    let endpoints = bed().azurite.endpoints();
    world.named_secret("sas", "token", &format!("?{SAS}\n"));
    world.sas_hub("hub", endpoints);
    let status = world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    let first = status.connection.unwrap();
    assert_eq!(first.method, "Sas");
    world.orchestration("run", "Echo", json!({"input": {"value": 1}}));
    world.reason("run", "Completed").await;

    world.orchestration("sleeps", "Sleep", json!({"input": {"value": 12}}));
    world.reason("sleeps", "Running").await;
    for (text, reason, part) in [
        (SAS_EXPIRED, "AuthenticationFailed", "check the account key or SAS in the Secret"),
        ("no signature", "InvalidConnectionString", "key token of Secret sas is no shared access signature"),
        (SAS_ADDING, "AccessDenied", "grant the credential read and write"),
    ] {
        world.named_secret("sas", "token", text);
        let status = eventually(&format!("TaskHub says {part}"), async || {
            let status = world.hub_says("hub", reason, HEALED_WITHIN).await;
            if message(&status).contains(part) { Ok(status) } else { Err(message(&status).to_owned()) }
        })
        .await;
        assert!(!message(&status).contains("sig="), "{status:?}");
    }
    world.named_secret("sas", "token", SAS);
    let status = world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    assert_ne!(status.connection.unwrap().credential_version, first.credential_version);
    world.reason("sleeps", "Completed").await;
    // That it works again is told, once.
    let told = world.events_about("hub").await;
    assert!(told.iter().any(|(reason, note, _)| reason == "Connected" && note.contains("again")), "{told:?}");
    let log = operator.process.output();
    assert!(!log.contains("sig=") && !log.contains("jH4sll6mLKkM60n"), "the log holds a signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_account_is_told_apart_from_one_that_is_away() {
    let world = World::new("throttled").await;
    let proxy = bed().azurite.proxy().unwrap();
    let _operator = world.operator().await;
    world.secret(&proxy.connection_string());
    proxy.rule(|_| Fault::Answer(503, "ServerBusy"));
    world.task_hub();
    let status = world.hub_says("hub", "Throttled", Duration::from_secs(40)).await;
    assert!(message(&status).contains("it is tried again"), "{status:?}");
    proxy.rule(|_| Fault::Pass);
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
}

/// A server of an allowed host that sends everybody elsewhere: a signature is in the URL, which redirects would hand over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_do_not_follow_redirects_nor_leave_for_other_hosts() {
    let world = World::new("no_redirects").await;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let answer = {
        let (seen, here) = (seen.clone(), here.clone());
        async move |uri: axum::http::Uri| {
            seen.lock().unwrap().push(uri.path().to_owned());
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{here}/stolen"))])
        }
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap() });
    let operator = world.operator().await;
    world.named_secret("sas", "token", SAS);
    let endpoint = format!("{here}/{ACCOUNT}");
    world.sas_hub("hub", [endpoint.clone(), endpoint.clone(), endpoint]);
    let status = world.hub_says("hub", "Unreachable", HEALED_WITHIN).await;
    assert!(message(&status).contains("302") || message(&status).contains("307"), "{status:?}");
    let paths = seen.lock().unwrap().clone();
    assert!(!paths.is_empty() && paths.iter().all(|path| !path.contains("stolen")), "{paths:?}");

    // Each way to another host: endpoints of the spec and of a connection string, its suffix, tricks with the host.
    let requests = async || operator.counter("durable_operator_storage_requests_total", &[]).await;
    for endpoint in [
        "http://169.254.169.254/metadata",
        "https://127.0.0.1.evil.example/a",
        "https://kubernetes.default.svc/a",
        "https://127.0.0.1@evil.example/a",
        "https://core.windows.net.evil.example/a",
        "https://evilcore.windows.net/a",
        "https://[::ffff:169.254.169.254]/a",
        "https://0x7f000001.evil/a",
    ] {
        world.patch_hub("hub", json!({"endpoints": {"table": endpoint}}));
        let generation = world.task_hubs().get("hub").await.unwrap().metadata.generation;
        eventually(&format!("{endpoint} is refused"), async || {
            let status = world.task_hubs().get("hub").await.unwrap().status.unwrap();
            let reason = super::find(&status.conditions, "Ready").unwrap().reason.clone();
            let refused = ["EndpointNotAllowed", "InvalidSpec"].contains(&reason.as_str());
            if status.observed_generation == generation && refused { Ok(()) } else { Err(format!("{reason} {status:?}")) }
        })
        .await;
    }
    let before = requests().await;
    for (index, text) in [
        format!("AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};EndpointSuffix=svc.cluster.local"),
        format!("AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint=http://10.0.0.1/a"),
        format!("SharedAccessSignature={SAS};BlobEndpoint=http://127.0.0.1:1/{ACCOUNT};QueueEndpoint=http://127.0.0.1:1/{ACCOUNT};TableEndpoint=http://10.0.0.1/{ACCOUNT}"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("other-{index}");
        world.named_secret(&name, "connectionString", &text);
        world.named_hub(&name, world.hub_name.as_str(), &name);
        world.hub_says(&name, "EndpointNotAllowed", HEALED_WITHIN).await;
    }
    assert_eq!(requests().await, before, "somebody was asked");
}

/// A tenant's TaskHub reads the Secrets and service accounts of its own namespace: there is no field to name another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_hub_names_nothing_of_another_namespace() {
    let victim = World::new("victim").await;
    victim.secret(&victim.connection_string());
    let world = World::new("attacker").await;
    let _operator = world.operator().await;
    let connection = |way: Value| {
        json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": "hub"},
            "spec": {"hubName": world.hub_name.as_str(), "connection": way}
        })
    };
    for (way, field) in [
        (
            json!({"connectionStringSecretRef": {"name": "storage", "key": "connectionString", "namespace": victim.namespace}}),
            "connectionStringSecretRef.namespace",
        ),
        (
            json!({"sasSecretRef": {"name": "storage", "key": "k", "accountName": "abc", "namespace": victim.namespace}}),
            "sasSecretRef.namespace",
        ),
        (
            json!({"workloadIdentity": {"accountName": "abc", "serviceAccountNamespace": victim.namespace}}),
            "workloadIdentity.serviceAccountNamespace",
        ),
    ] {
        let answer = world.try_apply(&connection(way));
        assert!(!answer.success && answer.errors.contains(&format!("unknown field \"spec.connection.{field}\"")), "{answer:?}");
    }
    // kube puts names into URLs as they are.
    let secret = |name: String| json!({"connectionStringSecretRef": {"name": name, "key": "connectionString"}});
    let identity = |name: String| json!({"workloadIdentity": {"accountName": "abc", "serviceAccountName": name}});
    for way in [
        secret(format!("{}/storage", victim.namespace)),
        secret(format!("../../{}/secrets/storage", victim.namespace)),
        secret("storage,metadata.namespace!=x".to_owned()),
        secret("storage?x=".to_owned()),
        identity(format!("../../{}/serviceaccounts/default", victim.namespace)),
        identity("default/token?dryRun=All#".to_owned()),
    ] {
        world.kubectl(&["delete", "taskhub", "hub", "--ignore-not-found"]);
        world.apply(&connection(way.clone()));
        let status = world.hub_says("hub", "InvalidSpec", HEALED_WITHIN).await;
        assert!(message(&status).contains("can have the name"), "{way}: {status:?}");
    }
}

/// A namespace's labels decide on demand; the right is asked for only by a selector.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_selector_reads_the_labels_of_a_namespace() {
    use durable_operator::api::v1alpha1::TaskHubSpec;
    use durable_operator::connection::NotReady;
    use durable_operator::hubs::{Access, HubKey, HubView, Hubs, PayloadLimits, PollingLimits, ReadyHub};
    use durable_operator::metrics::LimiterMetrics;
    let world = World::new("selector_reads").await;
    let guest = World::without_hub("guest").await;
    let spec = json!({
        "hubName": "OrdersHub", "connection": {"connectionStringSecretRef": {"name": "s", "key": "k"}},
        "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "checkout"}}}, "allowedFunctions": ["Order*"]
    });
    let spec: TaskHubSpec = serde_json::from_str(&spec.to_string()).unwrap();
    let key = HubKey { namespace: world.namespace.clone(), name: "hub".to_owned() };
    let ready = ReadyHub {
        client: world.hub().await,
        polls: world.hub().await,
        workers_active: false,
        polling: PollingLimits { min: Duration::from_secs(1), max: Duration::from_secs(2) },
        access: Access::new(&key.namespace, &key.name, &spec),
        limits: PayloadLimits { max_input_bytes: 1, max_inline_output_bytes: 1 },
    };
    let hubs = Hubs::reading_namespaces(world.client.clone(), LimiterMetrics::default());
    assert_eq!(hubs.permission(&key, &ready, &world.namespace, Some("OrderA")).await, Ok(()));
    assert_eq!(hubs.permission(&key, &ready, &world.namespace, Some("Refund")).await.unwrap_err().reason, "FunctionNotAllowed");
    let refused = hubs.permission(&key, &ready, &guest.namespace, Some("OrderA")).await.unwrap_err();
    assert!(refused.reason == "NamespaceNotAllowed" && refused.message.contains("does not match the labels"), "{refused:?}");
    world.kubectl(&["label", "namespace", &guest.namespace, "team=checkout"]);
    eventually("the label is seen", async || {
        hubs.permission(&key, &ready, &guest.namespace, Some("OrderA")).await.map_err(|why| why.message)
    })
    .await;
    assert_eq!(hubs.permission(&key, &ready, &guest.namespace, Some("Refund")).await.unwrap_err().reason, "FunctionNotAllowed");
    let nowhere = hubs.permission(&key, &ready, "no-such-namespace", None).await.unwrap_err();
    assert!(nowhere.message.contains("there is no such namespace"), "{nowhere:?}");

    // Without the right nobody is allowed, and the message names it.
    let kubeconfig = bed().control_plane.kubeconfig_for("nobody", &[]).unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    config.proxy_url = None;
    let blind = Hubs::reading_namespaces(kube::Client::try_from(config).unwrap(), LimiterMetrics::default());
    let refused = blind.permission(&key, &ready, &guest.namespace, None).await.unwrap_err();
    assert!(refused.reason == "NamespaceNotAllowed" && refused.message.contains("get on namespaces"), "{refused:?}");
    assert_eq!(blind.permission(&key, &ready, &world.namespace, None).await, Ok(()), "the own namespace needs no right");

    // The last client that worked is there for deletions, whatever became of Secret and TaskHub.
    let ready = std::sync::Arc::new(ready);
    assert!(hubs.last_ready(&key).is_none());
    hubs.judge(&key, HubView::Ready(ready.clone()));
    hubs.judge(&key, HubView::NotReady(NotReady::new("SecretNotFound", "it is gone")));
    assert!(hubs.view(&key).ready().is_none() && std::sync::Arc::ptr_eq(&hubs.last_ready(&key).unwrap(), &ready));
    hubs.remove(&key);
    assert!(std::sync::Arc::ptr_eq(&hubs.last_ready(&key).unwrap(), &ready), "the TaskHub went first");
}
