//! Traces: which spans leave the process, for where, and which trace a run belongs to.
//!
//! Owns the exporter and the identity of runs' traces. Knows no kind. Invariants: nothing is exported unless an endpoint was
//! given; a span holds names and codes, never a payload or a credential; the trace of an object's run is computed from the
//! object, so that a start that is repeated after a crash says the same.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::body::Bytes;
use durable_taskhub::trace::TraceParent;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Config, IdGenerator, RandomIdGenerator, SamplingDecision, SdkTracer, SdkTracerProvider, ShouldSample, Span,
    SpanData, SpanProcessor,
};
use tokio::runtime::Handle;
use tracing::Metadata;
use tracing::subscriber::Interest;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::TraceMetrics;

/// The name of the span of a reconcile, the only one that needs no other around it.
pub const RECONCILE: &str = "reconcile";

/// What is still to be sent when the process ends has this long: with it the process still stops within two seconds.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// A receiver that takes longer to answer is given up, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const EXPORT_TIME_OUT: Duration = Duration::from_secs(10);

/// An answer to an export says how many spans were refused; what is larger is none.
const MOST_OF_AN_ANSWER: usize = 64 * 1024;

/// The traces of the process. Clones share them; the default exports nothing.
#[derive(Clone, Default)]
pub struct Traces {
    exports: Option<Arc<Exports>>,
}

struct Exports {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sampler: Box<dyn ShouldSample>,
}

impl Traces {
    /// Spans go to the receiver at `endpoint`, in batches of a queue that is bounded. To be called inside the runtime.
    ///
    /// The variables of OpenTelemetry hold for the rest: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
    /// `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`.
    ///
    /// # Errors
    /// A text that names what is wrong with the endpoint.
    pub fn export(endpoint: &str, metrics: TraceMetrics) -> Result<Traces, String> {
        let client = Client::new(metrics)?;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(signal(endpoint))
            .build()
            .map_err(|error| format!("traces cannot be exported: {error}"))?;
        let sampler = Config::default().sampler;
        let provider = SdkTracerProvider::builder()
            .with_id_generator(Ids::default())
            .with_sampler(sampler.clone())
            .with_resource(resource())
            .with_span_processor(Worthwhile { next: BatchSpanProcessor::builder(exporter).build(), parents: Mutex::default() })
            .build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Traces { exports: Some(Arc::new(Exports { provider, tracer, sampler })) })
    }

    /// What turns our spans into those that are exported, whatever the log's filter says.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let exports = self.exports.as_ref()?;
        let layer = tracing_opentelemetry::layer()
            .with_tracer(exports.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false);
        // A request that belongs to no reconcile, as those of the poller and of watches, would be a trace of its own.
        let wanted = dynamic_filter_fn(|metadata, context| {
            is_ours(metadata) && (metadata.name() == RECONCILE || context.lookup_current().is_some())
        })
        .with_callsite_filter(|metadata| if is_ours(metadata) { Interest::sometimes() } else { Interest::never() })
        .with_max_level_hint(LevelFilter::DEBUG);
        Some(layer.with_filter(wanted))
    }

    /// The trace of the run that an object starts; none if there is nothing to join.
    ///
    /// It is the trace of `given`, which the object's annotation names, or the one whose ID is the execution's. If spans are
    /// exported the run's spans are below the one of [`Traces::started`], else below `given` itself.
    pub fn of_run(&self, execution_id: &str, given: Option<TraceParent>) -> Option<RunTrace> {
        let as_given = given.map(|parent| RunTrace { parent, given });
        let Some(exports) = &self.exports else { return as_given };
        let execution = u128::from_str_radix(execution_id, 16).ok()?;
        let trace_id = given.map_or(execution, |given| given.trace_id());
        // Any number that is always the same: the halves of the execution's.
        let span_id = u64::try_from(execution >> 64).ok()? ^ u64::try_from(execution & u128::from(u64::MAX)).ok()?;
        let context = given.map(remote);
        let sampled = exports.sampler.should_sample(context.as_ref(), TraceId::from(trace_id), "", &SpanKind::Producer, &[], &[]);
        let sampled = sampled.decision == SamplingDecision::RecordAndSample;
        if as_given.is_some() && !sampled {
            // Our span is not exported: it must not stand between theirs and the run's.
            return as_given;
        }
        Some(RunTrace { parent: TraceParent::new(trace_id, span_id, sampled)?, given })
    }

    /// A start was sent, in what began at `begun`: exports the span that the run's spans are below.
    ///
    /// Its IDs are computed like those in the message, so it is known only now that it is wanted. If the operator dies after it,
    /// the next one exports it again, with the same IDs.
    pub fn started(&self, run: &RunTrace, function: &str, instance_id: &str, begun: SystemTime) {
        let Some(exports) = self.exports.as_ref().filter(|_| run.is_ours()) else { return };
        let builder = SpanBuilder::from_name(format!("create_orchestration:{function}"))
            .with_kind(SpanKind::Producer)
            .with_start_time(begun)
            .with_attributes([
                KeyValue::new("durabletask.type", "orchestration"),
                KeyValue::new("durabletask.task.name", function.to_owned()),
                KeyValue::new("durabletask.task.instance_id", instance_id.to_owned()),
            ]);
        let parent = run.given.map(remote).unwrap_or_default();
        GIVEN.set(Some((TraceId::from(run.parent.trace_id()), SpanId::from(run.parent.span_id()))));
        let span = exports.tracer.build_with_context(builder, &parent);
        GIVEN.set(None);
        drop(span);
    }

    /// Sends what is left, for one second at most.
    pub async fn stop(self) {
        let Some(exports) = self.exports else { return };
        // It blocks, and what it waits for needs this thread.
        let sent = tokio::task::spawn_blocking(move || exports.provider.shutdown_with_timeout(FLUSH_WITHIN)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::warn!("the last spans were not exported");
        }
    }
}

/// Puts `span`, which nobody has entered yet, below the span that the run's spans are below.
pub fn join(span: &tracing::Span, run: &RunTrace) {
    // Without an exporter there is nothing to join, which is no failure.
    let _ = span.set_parent(remote(run.parent));
}

/// Marks `span` as one of work that failed, and by which category; the log says more.
pub fn failed(span: &tracing::Span, category: &'static str) {
    span.set_attribute("error.type", category);
    span.set_status(Status::error(category));
}

/// A context in which `parent` is the current span.
fn remote(parent: TraceParent) -> Context {
    let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, span) = (TraceId::from(parent.trace_id()), SpanId::from(parent.span_id()));
    Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

/// The trace of an object's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTrace {
    /// What the start message says: the span that the run's spans are below.
    pub parent: TraceParent,
    /// The span that the object's annotation names, which the parent is below, or is.
    given: Option<TraceParent>,
}

impl RunTrace {
    /// True if the parent is a span of this operator.
    fn is_ours(&self) -> bool {
        self.given != Some(self.parent)
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && ["durable_operator", "durable_taskhub"].iter().any(|ours| metadata.target().starts_with(ours))
}

fn resource() -> Resource {
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|attributes| attributes.contains("service.name="));
    if is_named { builder.build() } else { builder.with_service_name(env!("CARGO_PKG_NAME")).build() }
}

/// Where spans go: as OpenTelemetry's own variable for all signals, the endpoint is a base.
fn signal(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") }
}

thread_local! {
    /// The IDs of the one span whose IDs are not random, while it is made.
    static GIVEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Random IDs, but for the span that runs have as their parent.
#[derive(Debug, Default)]
struct Ids {
    random: RandomIdGenerator,
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        GIVEN.get().map_or_else(|| self.random.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.get().map_or_else(|| self.random.new_span_id(), |(_, span)| span)
    }
}

/// Passes on what says something: a reconcile in which nothing was asked of anybody, and that did not fail, is none. An operator
/// that begins reconciles each object, and thousands of such spans would push the others out of the queue.
#[derive(Debug)]
struct Worthwhile {
    next: BatchSpanProcessor,
    /// Spans that have not ended yet and have a child. All of them end: a span of `tracing` is closed after its children.
    parents: Mutex<HashSet<SpanId>>,
}

impl SpanProcessor for Worthwhile {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let has_child = {
            let mut parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
            // One of another process would never be taken out.
            if span.parent_span_id != SpanId::INVALID && !span.parent_span_is_remote {
                parents.insert(span.parent_span_id);
            }
            parents.remove(&span.span_context.span_id())
        };
        if span.name != RECONCILE || has_child || matches!(span.status, Status::Error { .. }) {
            self.next.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// Sends batches with the HTTP client that is there already. The thread of the exporter has no runtime: requests run in ours.
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    metrics: TraceMetrics,
    fails: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Requests carry the headers of the environment, which may be credentials.
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    fn new(metrics: TraceMetrics) -> Result<Client, String> {
        let milliseconds = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok()).map(Duration::from_millis);
        let time_out = milliseconds("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT"));
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(time_out.unwrap_or(EXPORT_TIME_OUT))
            .build()
            .map_err(|_| "traces cannot be exported: no HTTP client".to_owned())?;
        Ok(Client { http, runtime: Handle::current(), metrics, fails: AtomicBool::new(false) })
    }

    /// Says once that exports fail, and once that they work again.
    fn learn(&self, code: u16) {
        self.metrics.exported(code);
        let fails = !(200..300).contains(&code);
        if self.fails.swap(fails, Ordering::Relaxed) == fails {
            return;
        }
        if fails {
            tracing::warn!(code, "the receiver of traces does not take them; code 0 is no answer. Spans are lost until it does");
        } else {
            tracing::info!("the receiver of traces takes them");
        }
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<http::Response<Bytes>, reqwest::Error> {
    let mut answer = request.send().await?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let left = MOST_OF_AN_ANSWER.saturating_sub(body.len());
        body.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if left == 0 {
            break;
        }
    }
    let mut response = http::Response::new(Bytes::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = self.http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
        let answer = self.runtime.spawn(exchange(request)).await?;
        self.learn(answer.as_ref().map_or(0, |answer| answer.status().as_u16()));
        // Errors of the client name the URL, which may hold a credential.
        answer.map_err(|error| error.without_url().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_or_the_whole_path() {
        for (given, expected) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://gateway/otlp", "https://gateway/otlp/v1/traces"),
            ("https://gateway/otlp/v1/traces", "https://gateway/otlp/v1/traces"),
        ] {
            assert_eq!(signal(given), expected);
        }
    }

    const EXECUTION: &str = "0af7651916cd43dd8448eb211c80319c";
    const GIVEN: &str = "00-11111111111111111111111111111111-2222222222222222-01";

    fn exporting() -> Traces {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Traces::export("http://127.0.0.1:9", TraceMetrics::default()).unwrap()
    }

    #[test]
    fn without_a_receiver_a_run_is_in_the_trace_that_its_object_names_or_in_none() {
        let off = Traces::default();
        assert_eq!(off.of_run(EXECUTION, None), None);
        let run = off.of_run(EXECUTION, TraceParent::parse(GIVEN)).unwrap();
        assert_eq!(run.parent.to_string(), GIVEN);
        assert!(!run.is_ours());
    }

    #[tokio::test]
    async fn a_run_has_one_trace_however_often_it_is_asked_for() {
        let run = exporting().of_run(EXECUTION, None).unwrap();
        assert_eq!(Some(run), exporting().of_run(EXECUTION, None), "another process would say the same");
        assert_eq!(run.parent.to_string(), format!("00-{EXECUTION}-8ebf8e380a4d7241-01"));
        assert!(run.is_ours());
    }

    #[tokio::test]
    async fn our_span_stands_between_the_one_that_the_object_names_and_the_runs() {
        let on = exporting();
        let run = on.of_run(EXECUTION, TraceParent::parse(GIVEN)).unwrap();
        assert_eq!(run.parent.to_string(), "00-11111111111111111111111111111111-8ebf8e380a4d7241-01");
        assert!(run.is_ours());
        let unsampled = GIVEN.replace("-01", "-00");
        let run = on.of_run(EXECUTION, TraceParent::parse(&unsampled)).unwrap();
        assert_eq!(run.parent.to_string(), unsampled, "a span that is not exported stands between nothing");
        assert!(!run.is_ours());
    }
}
