//! Traces, as a receiver of OTLP over HTTP gets them from the operator's process, and as the run's own spans will join them:
//! by what the engine's history says of the start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use durable_bed::azurite::ACCOUNT_KEY;
use durable_bed::guard::Signal;
use durable_bed::{azurite, binaries};
use durable_operator::crash_points::at;
use durable_taskhub::message::Decoded;
use durable_taskhub::storage::Query;
use durable_taskhub::trace::TraceParent;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;

use crate::support::runs::Runs;
use crate::support::{OperatorProcess, PATIENCE, World, eventually};

/// Nothing that leaves may hold it.
const PAYLOAD: &str = "payload-that-no-span-may-hold";
/// The span of an app that has the operator start a run.
const APP: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A receiver of traces, and what it received.
#[derive(Clone, Default)]
struct Receiver {
    bodies: Arc<Mutex<Vec<Bytes>>>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Receiver {
    async fn at(address: SocketAddr) -> Receiver {
        let receiver = Receiver::default();
        let take = async |State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes| {
            receiver.bodies.lock().unwrap().push(body);
            receiver.headers.lock().unwrap().push(headers);
            StatusCode::OK
        };
        let app = axum::Router::new().route("/v1/traces", post(take)).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        receiver
    }

    /// The spans, with the name of their service.
    fn spans(&self) -> Vec<(String, Span)> {
        let mut spans = Vec::new();
        for body in self.bodies.lock().unwrap().iter() {
            for of_resource in ExportTraceServiceRequest::decode(body.clone()).unwrap().resource_spans {
                let attributes = of_resource.resource.unwrap().attributes;
                let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
                let Some(AnyValue::StringValue(service)) = service.value.clone().unwrap().value else { panic!("{service:?}") };
                let found = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(found.map(|span| (service.clone(), span)));
            }
        }
        spans
    }

    /// The spans of that name.
    fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().map(|(_, span)| span).filter(|span| span.name == name).collect()
    }

    /// The span that shows the start of a run of `function`; the only one.
    async fn created(&self, function: &str) -> Span {
        let name = format!("create_orchestration:{function}");
        eventually(&format!("{name} is exported"), async || match self.named(&name).as_slice() {
            [span] => Ok(span.clone()),
            others => Err(format!("{others:?}")),
        })
        .await
    }
}

/// The value of a text attribute.
fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    match span.attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?.value.as_ref()? {
        AnyValue::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The span as a parent is written.
fn as_parent(span: &Span) -> TraceParent {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    TraceParent::new(number(&span.trace_id), number(&span.span_id).try_into().unwrap(), true).unwrap()
}

impl World {
    /// An operator that exports to `receiver`, soon after a span has ended.
    fn tracing_operator(&self, receiver: SocketAddr, more: &[(&str, &str)]) -> OperatorProcess {
        self.tracing_operator_of(&binaries::operator().unwrap(), receiver, more)
    }

    fn tracing_operator_of(&self, program: &std::path::Path, receiver: SocketAddr, more: &[(&str, &str)]) -> OperatorProcess {
        let endpoint = format!("http://{receiver}");
        let mut environment = vec![("DURABLE_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
        environment.extend(more);
        self.start_operator(program, &environment)
    }

    /// An Orchestration of `Echo` with the annotation that names its trace.
    fn annotated(&self, name: &str, trace_parent: &str) {
        self.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration",
            "metadata": {"name": name, "annotations": {"durable-operator.dev/traceparent": trace_parent}},
            "spec": {"taskHubRef": {"name": "hub"}, "functionName": "Echo"}
        }));
    }

    /// The `ParentTraceContext` of the only start in the history of an object's run.
    async fn trace_of_start(&self, name: &str) -> Option<serde_json::Value> {
        let id = self.status(name).await.instance_id.unwrap();
        let query = Query { filter: Some(format!("PartitionKey eq '{id}' and EventType eq 'ExecutionStarted'")), ..Query::default() };
        let rows = self.storage().table(&self.hub_name.history_table()).query(&query).await.unwrap().entities;
        let [start] = rows.as_slice() else { panic!("{rows:?}") };
        start.text("ParentTraceContext").map(|text| serde_json::from_str(text).unwrap()).filter(|value| *value != serde_json::Value::Null)
    }
}

/// As the engine's own clients write it.
fn trace_context(parent: &str) -> Option<serde_json::Value> {
    Some(json!({"TraceParent": parent, "TraceState": null, "Id": null, "SpanId": null, "ActivityStartTime": null}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_and_what_started_it_are_one_trace_that_holds_no_secret() {
    let world = World::new("traced").await;
    let _worker = world.worker().await;
    let address = azurite::free_address().unwrap();
    let receiver = Receiver::at(address).await;
    let mut operator = world.tracing_operator(address, &[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-receiver")]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", "Echo", json!({"input": {"value": PAYLOAD}}));
    let status = world.reason("run", "Completed").await;
    let created = receiver.created("Echo").await;
    operator.process.signal(Signal::Term);
    assert_eq!(operator.process.wait(PATIENCE).unwrap().code(), Some(0), "{}", operator.process.output());

    // The run's spans will be below the operator's.
    assert_eq!(world.trace_of_start("run").await, trace_context(&as_parent(&created).to_string()));
    let trace_id = format!("{:032x}", as_parent(&created).trace_id());
    assert_eq!(status.execution_id.as_deref(), Some(trace_id.as_str()), "the trace is found by the status");
    assert_eq!((created.kind(), created.parent_span_id.as_slice()), (SpanKind::Producer, &[][..]));
    assert_eq!(attribute(&created, "durabletask.task.instance_id"), status.instance_id.as_deref());

    // What the start cost is below it too, and nothing else of the operator.
    let spans = receiver.spans();
    let names = |parent: &Span| {
        let children = spans.iter().map(|(_, span)| span).filter(|span| span.trace_id == parent.trace_id);
        let mut names: Vec<&str> = children.filter(|span| span.parent_span_id == parent.span_id).map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&created), ["start"]);
    let [start] = receiver.named("start").try_into().unwrap();
    assert_eq!(names(&start), ["queue.put", "table.insert"]);
    assert_eq!(spans.iter().filter(|(_, span)| span.trace_id == created.trace_id).count(), 4);
    let [insert, ..] = spans.iter().filter(|(_, span)| span.parent_span_id == start.span_id).collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(insert.1.kind(), SpanKind::Client);
    assert_eq!(attribute(&insert.1, "server.address"), Some("127.0.0.1"));

    // A reconcile shows with what it asked for, or not at all; no span lacks its parent.
    let reconciles = receiver.named("reconcile");
    assert!(
        reconciles.iter().any(|span| names(span).contains(&"update orchestrations/status")),
        "{:?}",
        reconciles.iter().map(names).collect::<Vec<_>>()
    );
    for reconcile in &reconciles {
        assert!(!names(reconcile).is_empty() || reconcile.status.as_ref().is_some_and(|status| status.code == 2), "{reconcile:?}");
    }
    let known: BTreeSet<&[u8]> = spans.iter().map(|(_, span)| span.span_id.as_slice()).collect();
    for (service, span) in &spans {
        assert_eq!(service, "durable-operator");
        assert!(span.parent_span_id.is_empty() || known.contains(span.parent_span_id.as_slice()), "{span:?}");
        assert!(span.name == "reconcile" || span.name.starts_with("create_") || !span.parent_span_id.is_empty(), "{span:?}");
    }

    let bodies = receiver.bodies.lock().unwrap();
    let holds = |text: &str| bodies.iter().any(|body| body.windows(text.len()).any(|bytes| bytes == text.as_bytes()));
    assert!(holds("queue.put"), "the bytes are searched as they are");
    for secret in [PAYLOAD, ACCOUNT_KEY, &ACCOUNT_KEY[..20], "SharedKey", "of-the-receiver"] {
        assert!(!holds(secret), "{secret} left");
    }
    let headers = receiver.headers.lock().unwrap();
    assert!(headers.iter().all(|headers| headers["authorization"] == "Bearer of-the-receiver"), "{headers:?}");
    assert!(!operator.process.output().contains("of-the-receiver"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_annotation_names_the_trace_and_one_that_cannot_be_read_harms_nothing() {
    let world = World::new("annotated").await;
    let _worker = world.worker().await;
    let address = azurite::free_address().unwrap();
    let receiver = Receiver::at(address).await;
    let operator = world.tracing_operator(address, &[]);
    operator.until_ready().await;
    world.ready_hub().await;

    world.annotated("joins", APP);
    world.reason("joins", "Completed").await;
    let created = receiver.created("Echo").await;
    let app = TraceParent::parse(APP).unwrap();
    assert_eq!(as_parent(&created).trace_id(), app.trace_id());
    assert_eq!(created.parent_span_id, app.span_id().to_be_bytes());
    assert_eq!(world.trace_of_start("joins").await, trace_context(&as_parent(&created).to_string()));

    let unsampled = APP.replace("-01", "-00");
    world.annotated("unsampled", &unsampled);
    world.reason("unsampled", "Completed").await;
    assert_eq!(world.trace_of_start("unsampled").await, trace_context(&unsampled));

    world.annotated("unreadable", "00-this-is-no-trace\u{0}'\"");
    let status = world.reason("unreadable", "Completed").await;
    let context = world.trace_of_start("unreadable").await.unwrap();
    let parent = TraceParent::parse(context["TraceParent"].as_str().unwrap()).unwrap();
    assert_eq!(status.execution_id, Some(format!("{:032x}", parent.trace_id())));
    let events = |name: &str| {
        let selector = format!("regarding.name={name}");
        world.kubectl(&["get", "events.events.k8s.io", "--field-selector", &selector, "--output=jsonpath={.items[*].reason}"])
    };
    eventually("it is told", async || if events("unreadable") == "TraceParentIgnored" { Ok(()) } else { Err(events("unreadable")) }).await;
    assert_eq!(events("joins"), "");
    operator.process.stop(Duration::from_secs(10)).unwrap();

    // Without a receiver the operator has nothing to say, and passes on what it was told.
    let operator = world.operator().await;
    world.annotated("passed-on", APP);
    world.orchestration("plain", "Echo", json!({}));
    for name in ["passed-on", "plain"] {
        world.reason(name, "Completed").await;
    }
    assert_eq!(world.trace_of_start("passed-on").await, trace_context(APP));
    assert_eq!(world.trace_of_start("plain").await, None);
    assert_eq!(operator.counter("durable_operator_trace_exports_total", &[]).await, 0);
    assert_eq!(receiver.named("create_orchestration:Echo").len(), 2, "joins and unreadable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_repeated_after_a_crash_says_the_same() {
    let world = World::new("traced_crash").await;
    let address = azurite::free_address().unwrap();
    let receiver = Receiver::at(address).await;
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.tracing_operator_of(&program, address, &[("DURABLE_CRASH_AT", at::MESSAGE_SENT)]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", "HelloSequence", json!({}));
    eventually("the operator dies", async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    assert_eq!(receiver.named("create_orchestration:HelloSequence"), []);

    let operator = world.tracing_operator_of(&program, address, &[]);
    operator.until_ready().await;
    let created = receiver.created("HelloSequence").await;
    // Both messages: the worker would take the first and swallow the second.
    let mut parents: Vec<Option<String>> = Vec::new();
    for name in world.storage().list_queues(&world.hub_name.control_queue_prefix()).await.unwrap() {
        for message in world.storage().queue(&name).peek(32).await.unwrap() {
            let Decoded::Message(message) = durable_taskhub::message::Message::decode(&message.text).unwrap() else {
                panic!("{message:?}")
            };
            let data: serde_json::Value = serde_json::from_str(&message.to_json()).unwrap();
            parents.push(data["TaskMessage"]["Event"]["ParentTraceContext"]["TraceParent"].as_str().map(str::to_owned));
        }
    }
    assert_eq!(parents, [Some(as_parent(&created).to_string()), Some(as_parent(&created).to_string())]);

    let _worker = world.worker().await;
    world.reason("run", "Completed").await;
    let object = world.orchestrations().get("run").await.unwrap();
    Runs::at_rest(&world).await.assert_ran_once(&object, "Completed", 3);
    assert_eq!(world.trace_of_start("run").await, trace_context(&as_parent(&created).to_string()));
}

/// The run has ended before another operator hears of it: its spans are not without their parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_nobody_lived_to_show_is_shown_by_the_next() {
    let world = World::new("traced_late").await;
    let _worker = world.worker().await;
    let address = azurite::free_address().unwrap();
    let receiver = Receiver::at(address).await;
    let program = binaries::operator_with_crash_points().unwrap();
    let mut operator = world.tracing_operator_of(&program, address, &[("DURABLE_CRASH_AT", at::MESSAGE_SENT)]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", "Echo", json!({}));
    eventually("the operator dies", async || operator.process.ended().ok_or_else(|| "it runs".to_owned())).await;
    let filter = Query { filter: Some("RuntimeStatus eq 'Completed'".to_owned()), ..Query::default() };
    let instances = world.storage().table(&world.hub_name.instances_table());
    eventually("the run ends", async || match instances.query(&filter).await.unwrap().entities.len() {
        1 => Ok(()),
        count => Err(format!("{count} have ended")),
    })
    .await;

    let operator = world.tracing_operator_of(&program, address, &[]);
    operator.until_ready().await;
    world.reason("run", "Completed").await;
    let created = receiver.created("Echo").await;
    assert_eq!(world.trace_of_start("run").await, trace_context(&as_parent(&created).to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_away_costs_nothing_but_its_spans() {
    const FAILS: &str = "the receiver of traces does not take them";
    const WORKS: &str = "the receiver of traces takes them";
    let world = World::new("receiver_away").await;
    let _worker = world.worker().await;
    let address = azurite::free_address().unwrap();
    let mut operator = world.tracing_operator(address, &[]);
    operator.until_ready().await;
    world.ready_hub().await;
    let exports = async |code: &str| operator.counter("durable_operator_trace_exports_total", &[&format!("code=\"{code}\"")]).await;
    for name in ["first", "second"] {
        world.orchestration(name, "Echo", json!({}));
        world.reason(name, "Completed").await;
    }
    eventually("several exports failed", async || match exports("0").await {
        failed if failed >= 3 => Ok(()),
        failed => Err(format!("{failed}")),
    })
    .await;
    let said = |what: &str| operator.process.output().matches(what).count();
    assert_eq!((said(FAILS), said(WORKS)), (1, 0), "{}", operator.process.output());

    let receiver = Receiver::at(address).await;
    world.orchestration("third", "Echo", json!({}));
    world.reason("third", "Completed").await;
    let third = world.status("third").await.instance_id.unwrap();
    eventually("the third start is exported", async || {
        let created = receiver.named("create_orchestration:Echo");
        let is_there = created.iter().any(|span| attribute(span, "durabletask.task.instance_id") == Some(&third));
        if is_there { Ok(()) } else { Err(format!("{created:?}")) }
    })
    .await;
    eventually("it says so", async || if said(WORKS) == 1 { Ok(()) } else { Err(operator.process.output()) }).await;
    assert!(exports("200").await > 0);
    assert_eq!(said(FAILS), 1, "{}", operator.process.output());
    operator.process.signal(Signal::Term);
    assert_eq!(operator.process.wait(PATIENCE).unwrap().code(), Some(0), "{}", operator.process.output());
}

/// It takes connections, and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_does_not_delay_the_stop() {
    let world = World::new("receiver_hangs").await;
    let _worker = world.worker().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let held = Arc::new(Mutex::new(Vec::new()));
    let taken = held.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            taken.lock().unwrap().push(stream);
        }
    });
    let mut operator = world.tracing_operator(address, &[]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", "Sleep", json!({"input": {"value": 600}}));
    world.reason("run", "Running").await;
    eventually("an export hangs", async || if held.lock().unwrap().is_empty() { Err("none yet".to_owned()) } else { Ok(()) }).await;
    let begun = Instant::now();
    operator.process.signal(Signal::Term);
    let ended = operator.process.wait(PATIENCE).unwrap();
    let elapsed = begun.elapsed();
    assert_eq!(ended.code(), Some(0), "{}", operator.process.output());
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    assert!(operator.process.output().contains("the last spans were not exported"), "{}", operator.process.output());
}

/// Half of the traces, as OpenTelemetry's own variables ask: the run is told whether it is in one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampler_decides_for_the_run_and_for_what_started_it() {
    let world = World::new("sampled").await;
    let _worker = world.worker().await;
    let address = azurite::free_address().unwrap();
    let receiver = Receiver::at(address).await;
    let sampler = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
    let operator = world.tracing_operator(address, &sampler);
    operator.until_ready().await;
    world.ready_hub().await;
    // That all or none of 24 are sampled happens once in eight million.
    let names: Vec<String> = (0..24).map(|number| format!("run-{number}")).collect();
    for name in &names {
        world.orchestration(name, "Echo", json!({}));
    }
    let mut sampled: BTreeMap<String, bool> = BTreeMap::new();
    for name in &names {
        let status = world.reason(name, "Completed").await;
        let context = world.trace_of_start(name).await.unwrap();
        let parent = TraceParent::parse(context["TraceParent"].as_str().unwrap()).unwrap();
        sampled.insert(status.execution_id.unwrap(), parent.is_sampled());
    }
    let expected: BTreeSet<String> = sampled.iter().filter(|(_, sampled)| **sampled).map(|(id, _)| id.clone()).collect();
    assert!(!expected.is_empty() && expected.len() < names.len(), "{sampled:?}");
    eventually("the sampled starts are exported, and no others", async || {
        let exported: BTreeSet<String> =
            receiver.named("create_orchestration:Echo").iter().map(|span| format!("{:032x}", as_parent(span).trace_id())).collect();
        if exported == expected { Ok(()) } else { Err(format!("{exported:?} instead of {expected:?}")) }
    })
    .await;
}
