//! What the operator counts: a registry, and one struct for each component that counts.
//!
//! Invariant: labels are bounded by the number of kinds, codes and TaskHubs. No name of another object is one, and a scrape
//! costs the same however many objects there are.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::storage::{ObservedRequest, RequestObserver};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::queue::Queues;

mod api_requests;
mod queue;
mod task_hubs;

pub use api_requests::ApiRequestLayer;
pub use queue::Queue;
pub use task_hubs::{HubBacklog, HubFigures, QueueFigures, TaskHubMetrics};

/// All metrics of the operator and the registry that they are read from.
pub struct Metrics {
    registry: Registry,
    /// Of the controllers.
    pub reconciles: ReconcileMetrics,
    /// Of the storage accounts.
    pub storage: Arc<StorageMetrics>,
    /// Of the API server.
    pub api: ApiMetrics,
    /// Of the poller.
    pub poller: PollerMetrics,
    /// Of what is done to instances.
    pub orchestrations: OrchestrationMetrics,
    /// Of the hubs' budgets.
    pub limiter: LimiterMetrics,
    /// Of the lease.
    pub leader: LeaderMetrics,
    /// Of each TaskHub.
    pub task_hubs: TaskHubMetrics,
    /// Of the export of traces.
    pub traces: TraceMetrics,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("durable_operator");
        registry.register("build", "Version of the operator", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let reconciles = ReconcileMetrics::register(&mut registry);
        let storage = Arc::new(StorageMetrics::register(registry.sub_registry_with_prefix("storage")));
        let api = ApiMetrics::register(registry.sub_registry_with_prefix("api"));
        let poller = PollerMetrics::register(registry.sub_registry_with_prefix("poller"));
        let orchestrations = OrchestrationMetrics::register(registry.sub_registry_with_prefix("orchestration"));
        let limiter = LimiterMetrics::register(registry.sub_registry_with_prefix("limiter"));
        let task_hubs = TaskHubMetrics::default();
        registry.register_collector(Box::new(task_hubs.clone()));
        let traces = TraceMetrics::register(registry.sub_registry_with_prefix("trace"));
        let leader = LeaderMetrics::register(&mut registry);
        Metrics { registry, reconciles, storage, api, poller, orchestrations, limiter, leader, task_hubs, traces }
    }

    /// The text that Prometheus reads (OpenMetrics).
    ///
    /// # Errors
    /// What the encoder says.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// How reconciles end and how long they take.
#[derive(Clone)]
pub struct ReconcileMetrics {
    total: Family<ReconcileLabels, Counter>,
    seconds: Family<KindLabels, Histogram>,
    queues: Queues,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    outcome: &'static str,
    category: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// From 1 ms to the time-out of a reconcile.
fn seconds_histogram() -> Histogram {
    Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0])
}

impl ReconcileMetrics {
    fn register(registry: &mut Registry) -> ReconcileMetrics {
        let metrics = ReconcileMetrics {
            total: Family::default(),
            seconds: Family::new_with_constructor(seconds_histogram),
            queues: Queues::default(),
        };
        registry.register_collector(Box::new(metrics.queues.clone()));
        registry.register("reconciles", "Reconciles by kind, outcome (ok, failed) and category of the failure", metrics.total.clone());
        registry.register_with_unit("reconcile_duration", "Duration of a reconcile", Unit::Seconds, metrics.seconds.clone());
        metrics
    }

    /// What waits for a reconcile of `kind`, which is about to begin its work. A panic shows as growth from 0: a counter that
    /// first shows at 1 has not grown for Prometheus.
    pub fn begin(&self, kind: &'static str) -> Queue {
        drop(self.total.get_or_create(&ReconcileLabels { kind, outcome: "failed", category: "panic" }));
        self.queues.of(kind)
    }

    /// A reconcile of `kind` ended after `elapsed`; `failure` is the category of what went wrong.
    pub fn observe(&self, kind: &'static str, failure: Option<&'static str>, elapsed: Duration) {
        let outcome = if failure.is_some() { "failed" } else { "ok" };
        self.total.get_or_create(&ReconcileLabels { kind, outcome, category: failure.unwrap_or("none") }).inc();
        self.seconds.get_or_create(&KindLabels { kind }).observe(elapsed.as_secs_f64());
    }
}

/// Requests to storage accounts.
pub struct StorageMetrics {
    requests: Family<StorageLabels, Counter>,
    seconds: Family<ServiceLabels, Histogram>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StorageLabels {
    operation: &'static str,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabels {
    service: &'static str,
}

impl StorageMetrics {
    fn register(registry: &mut Registry) -> StorageMetrics {
        let metrics = StorageMetrics { requests: Family::default(), seconds: Family::new_with_constructor(seconds_histogram) };
        registry.register(
            "requests",
            "Requests to storage accounts, each try, by operation and HTTP status (0: no answer)",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Duration of a request to a storage account",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        metrics
    }
}

impl RequestObserver for StorageMetrics {
    fn observe(&self, request: &ObservedRequest) {
        self.requests.get_or_create(&StorageLabels { operation: request.operation, code: request.status.unwrap_or(0) }).inc();
        self.seconds.get_or_create(&ServiceLabels { service: request.service.as_str() }).observe(request.elapsed.as_secs_f64());
    }
}

/// Requests to the API server.
#[derive(Clone)]
pub struct ApiMetrics {
    requests: Family<ApiLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiLabels {
    verb: &'static str,
    resource: String,
    code: u16,
}

impl ApiMetrics {
    fn register(registry: &mut Registry) -> ApiMetrics {
        let metrics = ApiMetrics { requests: Family::default() };
        registry.register(
            "requests",
            "Requests to the API server by verb, resource and HTTP status (0: no answer)",
            metrics.requests.clone(),
        );
        metrics
    }
}

/// What the poller has to do, and how it does it.
#[derive(Clone)]
pub struct PollerMetrics {
    /// Instances that are being read until they settle.
    pub tracked: Gauge,
    /// Reads of single instances.
    pub reads: Counter,
    /// Scans for changed rows that came to their end.
    pub scans: Counter,
    /// Pages of scans.
    pub pages: Counter,
    /// Rows that scans returned.
    pub rows: Counter,
    /// Hubs that are scanned now, instead of read instance by instance.
    pub scanning: Gauge,
    lag: Histogram,
}

impl Default for PollerMetrics {
    fn default() -> PollerMetrics {
        PollerMetrics {
            tracked: Gauge::default(),
            reads: Counter::default(),
            scans: Counter::default(),
            pages: Counter::default(),
            rows: Counter::default(),
            scanning: Gauge::default(),
            lag: seconds_histogram(),
        }
    }
}

impl PollerMetrics {
    fn register(registry: &mut Registry) -> PollerMetrics {
        let metrics = PollerMetrics::default();
        registry.register("tracked_instances", "Instances that are read until they settle", metrics.tracked.clone());
        registry.register("reads", "Reads of single instances", metrics.reads.clone());
        registry.register("scans", "Scans for changed instances that came to their end", metrics.scans.clone());
        registry.register("pages", "Pages of scans for changed instances", metrics.pages.clone());
        registry.register("rows", "Rows that scans for changed instances returned", metrics.rows.clone());
        registry.register("scanning_hubs", "Hubs that are scanned instead of read instance by instance", metrics.scanning.clone());
        registry.register_with_unit("lag", "How late instances are read and scans begin", Unit::Seconds, metrics.lag.clone());
        metrics
    }

    /// A read or a scan began this much later than it was due.
    pub fn late(&self, by: Duration) {
        self.lag.observe(by.as_secs_f64());
    }
}

/// What the budgets of the hubs make requests wait for.
#[derive(Clone)]
pub struct LimiterMetrics {
    wait: Family<PriorityLabels, Histogram>,
    throttled: Family<CauseLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PriorityLabels {
    priority: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

impl Default for LimiterMetrics {
    fn default() -> LimiterMetrics {
        LimiterMetrics { wait: Family::new_with_constructor(seconds_histogram), throttled: Family::default() }
    }
}

impl LimiterMetrics {
    fn register(registry: &mut Registry) -> LimiterMetrics {
        let metrics = LimiterMetrics::default();
        registry.register_with_unit(
            "wait",
            "How long requests to storage accounts wait for their hub's budget, by priority (probe, user, poll)",
            Unit::Seconds,
            metrics.wait.clone(),
        );
        registry.register(
            "throttled",
            "Requests that a hub's budget refused (refused), and answers that asked for fewer requests (answer)",
            metrics.throttled.clone(),
        );
        metrics
    }

    /// A request waited this long, and then went or was refused.
    pub fn waited(&self, priority: &'static str, wait: Duration) {
        self.wait.get_or_create(&PriorityLabels { priority }).observe(wait.as_secs_f64());
    }

    /// A request was refused, or an answer asked for fewer.
    pub fn throttled(&self, cause: &'static str) {
        self.throttled.get_or_create(&CauseLabels { cause }).inc();
    }
}

/// How traces leave the process.
#[derive(Clone, Default)]
pub struct TraceMetrics {
    exports: Family<ExportLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ExportLabels {
    code: u16,
}

impl TraceMetrics {
    fn register(registry: &mut Registry) -> TraceMetrics {
        let metrics = TraceMetrics::default();
        let help = "Requests to the receiver of traces by HTTP status (0: no answer)";
        registry.register("exports", help, metrics.exports.clone());
        metrics
    }

    /// A batch was sent; `code` is what was answered, 0 if nothing.
    pub fn exported(&self, code: u16) {
        self.exports.get_or_create(&ExportLabels { code }).inc();
    }
}

/// What is done to instances.
#[derive(Clone, Default)]
pub struct OrchestrationMetrics {
    /// Deletions that were not carried into the hub in time.
    pub given_up: Counter,
}

impl OrchestrationMetrics {
    fn register(registry: &mut Registry) -> OrchestrationMetrics {
        let metrics = OrchestrationMetrics::default();
        registry.register(
            "deletions_given_up",
            "Deletions of objects that were not carried into the hub in time",
            metrics.given_up.clone(),
        );
        metrics
    }
}

/// Which of several operators works.
#[derive(Clone, Default)]
pub struct LeaderMetrics {
    /// 1 while this one does.
    pub leading: Gauge,
}

impl LeaderMetrics {
    fn register(registry: &mut Registry) -> LeaderMetrics {
        let metrics = LeaderMetrics::default();
        registry.register("leader", "1 while this operator leads, 0 while it stands by", metrics.leading.clone());
        metrics
    }
}

#[cfg(test)]
mod tests {
    use durable_taskhub::storage::Service;

    use super::*;

    #[test]
    fn what_was_counted_can_be_read() {
        let metrics = Metrics::new();
        metrics.reconciles.observe("Orchestration", None, Duration::from_millis(3));
        metrics.reconciles.observe("Orchestration", Some("storage"), Duration::from_millis(3));
        let request =
            ObservedRequest { service: Service::Table, operation: "table.insert", status: Some(409), elapsed: Duration::from_millis(2) };
        metrics.storage.observe(&request);
        let text = metrics.encode().unwrap();
        for line in [
            r#"durable_operator_reconciles_total{kind="Orchestration",outcome="failed",category="storage"} 1"#,
            r#"durable_operator_storage_requests_total{operation="table.insert",code="409"} 1"#,
            r#"durable_operator_reconcile_duration_seconds_count{kind="Orchestration"} 2"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
