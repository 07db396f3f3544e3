//! Workload identity: a real token of a service account, exchanged at a local authority, opens an emulator that takes tokens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use durable_bed::azurite::{self, ACCOUNT, Azurite};
use durable_bed::guard::Process;
use durable_bed::{assets, binaries};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{HEALED_WITHIN, message};
use crate::support::{OperatorProcess, Server, World, bed, eventually};

const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
const TENANT: &str = "11111111-1111-1111-1111-111111111111";
const AUDIENCE: &str = "api://AzureADTokenExchange";

/// What the authority does with the next exchange.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// A token of this life, if the proof is good.
    Token(Duration),
    /// As if the identity had no federated credential.
    Refuse,
    /// As if it were down.
    Fail,
    /// To another address of its own, which notes what comes.
    Redirect,
}

/// In place of Microsoft Entra ID: takes proofs, has the API server review them, gives tokens.
#[derive(Clone)]
struct Authority {
    url: String,
    client: Client,
    answer: Arc<Mutex<Answer>>,
    /// Who came with which proof, as the API server says it.
    seen: Arc<Mutex<Vec<String>>>,
    redirected: Arc<Mutex<usize>>,
}

impl Authority {
    async fn start(client: Client) -> Authority {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = Authority {
            url: format!("http://{}", listener.local_addr().unwrap()),
            client,
            answer: Arc::new(Mutex::new(Answer::Token(Duration::from_secs(3600)))),
            seen: Arc::default(),
            redirected: Arc::default(),
        };
        let elsewhere = async |State(authority): State<Authority>| *authority.redirected.lock().unwrap() += 1;
        let router = axum::Router::new()
            .route("/{tenant}/oauth2/v2.0/token", post(exchange))
            .route("/elsewhere", post(elsewhere).get(elsewhere))
            .with_state(authority.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        authority
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn exchange(State(authority): State<Authority>, Path(tenant): Path<String>, body: String) -> Response {
    let form: HashMap<&str, &str> = body.split('&').filter_map(|pair| pair.split_once('=')).collect();
    assert_eq!(tenant, TENANT);
    assert_eq!(form["client_id"], CLIENT);
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["scope"], "https%3A%2F%2Fstorage.azure.com%2F.default");
    assert_eq!(form["client_assertion_type"], "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer");
    let spec = TokenReviewSpec { token: form["client_assertion"].to_owned(), audiences: Some(vec![AUDIENCE.to_owned()]) };
    let review: Api<TokenReview> = Api::all(authority.client.clone());
    let review = review.create(&PostParams::default(), &TokenReview { spec, ..TokenReview::default() }).await.unwrap();
    let status = review.status.unwrap();
    let who = status.user.and_then(|user| user.username).unwrap_or_else(|| format!("nobody: {:?}", status.error));
    authority.seen.lock().unwrap().push(who);
    let answer = *authority.answer.lock().unwrap();
    let json = |code: StatusCode, value: Value| (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response();
    match answer {
        Answer::Token(life) if status.authenticated == Some(true) && status.audiences == Some(vec![AUDIENCE.to_owned()]) => {
            let token = azurite::access_token(life);
            json(StatusCode::OK, json!({"token_type": "Bearer", "expires_in": life.as_secs(), "access_token": token}))
        }
        Answer::Token(_) | Answer::Refuse => {
            let text = format!("AADSTS700213: No matching federated identity record found. Trace: {}", form["client_assertion"]);
            json(StatusCode::UNAUTHORIZED, json!({"error": "invalid_client", "error_description": text}))
        }
        Answer::Fail => json(StatusCode::SERVICE_UNAVAILABLE, json!({})),
        Answer::Redirect => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{}/elsewhere", authority.url))]).into_response(),
    }
}

/// A world whose storage takes tokens, and an authority that gives them.
async fn world(test: &str) -> (World, Authority) {
    let azurite = Azurite::start_with_tls(&assets::ensure().unwrap()).unwrap();
    let world = World::on(test, Server::Shared(&bed().control_plane), Server::own(azurite));
    let authority = Authority::start(world.client.clone()).await;
    (world, authority)
}

impl World {
    fn authority_file(&self) -> String {
        self.azurite.with(|azurite| azurite.authority_file().unwrap().to_string_lossy().into_owned())
    }

    async fn trusting_operator(&self, authority: &Authority, more: &[(&str, &str)]) -> OperatorProcess {
        let file = self.authority_file();
        let mut environment = vec![("SSL_CERT_FILE", file.as_str()), ("DURABLE_AUTHORITY_HOST", authority.url.as_str())];
        environment.extend(more);
        let operator = self.start_operator(&binaries::operator().unwrap(), &environment);
        operator.until_ready().await;
        operator
    }

    fn service_account(&self, name: &str, annotations: Value) {
        self.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "annotations": annotations}}));
    }

    fn identity_hub(&self, identity: Value, more: Value) {
        let [blob, queue, table] = self.azurite.with(Azurite::endpoints);
        let mut connection = json!({"accountName": ACCOUNT});
        for (key, value) in identity.as_object().unwrap() {
            connection[key] = value.clone();
        }
        let mut spec = json!({
            "hubName": self.hub_name.as_str(), "connection": {"workloadIdentity": connection}, "createIfMissing": true,
            "endpoints": {"blob": blob, "queue": queue, "table": table}, "polling": {"minInterval": "200ms", "maxInterval": "1s"}
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.apply(&json!({"apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": "hub"}, "spec": spec}));
    }
}

fn annotations() -> Value {
    json!({"azure.workload.identity/client-id": CLIENT, "azure.workload.identity/tenant-id": TENANT})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_opens_a_hub_which_is_made_and_runs() {
    let (world, authority) = world("identity_runs").await;
    world.service_account("worker", annotations());
    let operator = world.trusting_operator(&authority, &[]).await;
    world.identity_hub(json!({"serviceAccountName": "worker"}), json!({"partitionCount": 2}));
    let status = world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    let connection = status.connection.unwrap();
    assert_eq!((connection.method.as_str(), connection.credential_version.as_str()), ("WorkloadIdentity", CLIENT));
    assert_eq!((status.account_name.as_deref(), status.partition_count), (Some(ACCOUNT), Some(2)));
    let made = world.events_about("hub").await;
    assert!(made.iter().any(|(reason, note, _)| reason == "HubCreated" && note.contains("with 2 partitions")), "{made:?}");

    let file = world.authority_file();
    let environment = [("STORAGE", world.connection_string()), ("SSL_CERT_FILE", file)];
    let arguments = ["--connection-string-env", "STORAGE", "--task-hub-name", world.hub_name.as_str()];
    let folder = bed().control_plane.folder().to_owned();
    let _worker = Process::start("worker-identity", &folder, &binaries::worker().unwrap(), arguments, environment).unwrap();
    world.orchestration("run", "Echo", json!({"input": {"value": "by token"}}));
    assert_eq!(world.reason("run", "Completed").await.output.unwrap().text(), "\"by token\"");

    // One exchange for all requests, with the proof of the right service account.
    assert_eq!(authority.seen(), [format!("system:serviceaccount:{}:worker", world.namespace)]);
    let (log, objects) = (operator.process.output(), world.kubectl(&["get", "taskhubs,events", "--output=json"]));
    for (place, text) in [("log", &log), ("objects", &objects)] {
        assert!(!text.contains("eyJ"), "{place} has a token");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_ahead_of_its_end_and_once_for_all() {
    const LIFE: Duration = Duration::from_secs(8);
    let (world, authority) = world("identity_renews").await;
    world.service_account("default", json!({}));
    authority.answer(Answer::Token(LIFE));
    let operator = world.trusting_operator(&authority, &[]).await;
    world.identity_hub(json!({"clientId": CLIENT, "tenantId": TENANT}), json!({}));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
    // Twenty instances that nobody serves are read at least every second, through several lives of a token.
    for number in 0..20 {
        world.orchestration(&format!("run-{number}"), "Echo", json!({}));
    }
    let begun = Instant::now();
    let first = authority.seen().len();
    eventually("the token was renewed three times", async || {
        let seen = authority.seen().len();
        if seen >= first + 3 { Ok(()) } else { Err(format!("{seen} exchanges")) }
    })
    .await;
    let elapsed = begun.elapsed();
    assert!(elapsed < LIFE * 3, "renewed only at the end of its life: {elapsed:?}");
    // Half of a life each, and never once for every request.
    let most = first + 2 + usize::try_from(elapsed.as_millis() / (LIFE.as_millis() / 2)).unwrap();
    assert!(authority.seen().len() <= most, "{} exchanges in {elapsed:?}", authority.seen().len());
    let refused = operator.counter("durable_operator_storage_requests_total", &["code=\"403\""]).await
        + operator.counter("durable_operator_storage_requests_total", &["code=\"401\""]).await;
    assert_eq!(refused, 0, "a token was used beyond its end");

    // An authority that is down for a while is no harm as long as the token lives, and is told when it does not.
    authority.answer(Answer::Fail);
    let status = world.hub_says("hub", "Unreachable", Duration::from_secs(60)).await;
    assert!(message(&status).contains("answered 503") && message(&status).contains("it is tried again"), "{status:?}");
    authority.answer(Answer::Token(LIFE));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_that_fails_says_which_and_what_to_grant() {
    let (world, authority) = world("identity_fails").await;
    let user = format!("operator-{}", world.namespace);
    let kubeconfig = bed().control_plane.kubeconfig_for(&user, &[]).unwrap().to_string_lossy().into_owned();
    let api = "rbac.authorization.k8s.io/v1";
    let grant = |name: &str, kind: &str, rule: Value| {
        let name = format!("{name}-{}", world.namespace);
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        world.apply(&json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "rules": [rule]}));
        let binding = json!({"apiVersion": api, "kind": format!("{kind}Binding"), "metadata": {"name": name}, "subjects": [subject], "roleRef": role});
        world.apply(&binding);
    };
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    grant("crds", "ClusterRole", rule("apiextensions.k8s.io", &["customresourcedefinitions"], &["get"]));
    grant("ours", "Role", rule("durable-operator.dev", &["*"], &["*"]));
    grant("events", "Role", rule("events.k8s.io", &["events"], &["create", "patch"]));
    let operator = world.trusting_operator(&authority, &[("KUBECONFIG", &kubeconfig)]).await;
    world.identity_hub(json!({"serviceAccountName": "worker"}), json!({}));
    let says = async |reason: &str, parts: &[&str]| {
        eventually(&format!("TaskHub says {parts:?}"), async || {
            let status = world.hub_says("hub", reason, HEALED_WITHIN).await;
            let text = message(&status).to_owned();
            assert!(!text.contains("eyJ"), "{text}");
            if parts.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text) }
        })
        .await;
    };
    let named = |resource: &str, verb: &str| {
        let mut rule = rule("", &[resource], &[verb]);
        rule["resourceNames"] = json!(["worker"]);
        rule
    };
    says("AccessDenied", &["get on serviceaccounts with resourceNames [worker]", &world.namespace]).await;
    grant("accounts", "Role", named("serviceaccounts", "get"));
    says("AuthenticationFailed", &["service account worker", "does not exist"]).await;
    world.service_account("worker", json!({}));
    says("AuthenticationFailed", &["has no annotation azure.workload.identity/client-id", "workloadIdentity.clientId"]).await;
    world
        .service_account("worker", json!({"azure.workload.identity/client-id": CLIENT, "azure.workload.identity/tenant-id": "../../evil"}));
    says("AuthenticationFailed", &["must be UUIDs"]).await;
    world.service_account("worker", annotations());
    says("AccessDenied", &["create on serviceaccounts/token with resourceNames [worker]"]).await;
    assert_eq!(authority.seen(), Vec::<String>::new(), "nobody was asked without a proof");
    authority.answer(Answer::Refuse);
    grant("tokens", "Role", named("serviceaccounts/token", "create"));
    let subject = format!("the subject system:serviceaccount:{}:worker and the audience {AUDIENCE}", world.namespace);
    says("AuthenticationFailed", &["(401, invalid_client, AADSTS700213)", &subject]).await;
    authority.answer(Answer::Redirect);
    says("Unreachable", &["answered 307"]).await;
    assert_eq!(*authority.redirected.lock().unwrap(), 0, "a proof of identity followed a redirect");
    authority.answer(Answer::Token(Duration::from_secs(3600)));
    world.hub_says("hub", "Connected", HEALED_WITHIN).await;

    // A token goes to allowed hosts alone, whatever the TaskHub says.
    let exchanges = authority.seen().len();
    let counter = async || operator.counter("durable_operator_storage_requests_total", &[]).await;
    for (endpoint, reason, part) in [
        ("https://169.254.169.254/", "EndpointNotAllowed", "--allowed-endpoint-suffix 169.254.169.254"),
        ("https://kubernetes.default.svc/", "EndpointNotAllowed", "kubernetes.default.svc"),
        ("http://devstoreaccount1.table.core.windows.net/", "InvalidSpec", "must begin with https://"),
    ] {
        let before = counter().await;
        world.kubectl(&[
            "patch",
            "taskhub",
            "hub",
            "--type=merge",
            "--patch",
            &json!({"spec": {"endpoints": {"table": endpoint}}}).to_string(),
        ]);
        says(reason, &[part]).await;
        assert!(counter().await <= before + 1, "somebody was asked");
    }
    assert_eq!(authority.seen().len(), exchanges);
}
