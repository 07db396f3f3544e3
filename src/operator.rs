//! The composition root: the only module that knows all others.
//!
//! Owns the order of start and stop: admin server first (so that a probe can
//! say what is missing), then the CRDs, then the lease, then the controllers; at
//! the end the controllers first, and then the lease.
//!
//! A claim that has lapsed ends the process, and does not make it a standby
//! again: reconciles and watches are tasks of their own, which nothing ends as
//! surely as the end of the process. It costs a restart, which is a second.
//!
//! A standby watches nothing: the lists that it has to begin with when it leads
//! take less than a second, and watches that are warm would cost the API server
//! and memory all the time.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::client::ClientBuilder;
use kube::runtime::wait::Condition;
use kube::{Api, Client, CustomResourceExt};
use tokio::net::TcpListener;

use crate::admin::{self, Admin, Gate, Readiness};
use crate::api::v1alpha1::{Orchestration, OrchestrationEvent, TaskHub};
use crate::config::{Args, Config, LeaseConfig};
use crate::controllers::events::Events;
use crate::controllers::orchestration::{OWNER_COLUMN, Orchestrations};
use crate::controllers::orchestration_event::OrchestrationEvents;
use crate::controllers::runner::{self, Setup, Watched};
use crate::controllers::task_hub::{Parts, TaskHubs};
use crate::hubs::{Dependent, HubKey, Hubs, Secrets};
use crate::lease::{self, Claim, Lapse, Leading, Lease, Look};
use crate::metrics::{ApiRequestLayer, Metrics};
use crate::poller::Poller;
use crate::refusal;
use crate::shutdown;
use crate::telemetry::{self, LogFilter};
use crate::traces::Traces;
use crate::workload_identity::WorkloadIdentities;

/// Orchestrations reconciled at once: each waits for the network most of the time.
const ORCHESTRATIONS_AT_ONCE: u16 = 32;
/// OrchestrationEvents reconciled at once.
const ORCHESTRATION_EVENTS_AT_ONCE: u16 = 16;
/// TaskHubs reconciled at once.
const TASK_HUBS_AT_ONCE: u16 = 8;
/// A reconcile that takes longer is given up and tried again.
const RECONCILE_TIME_OUT: Duration = Duration::from_secs(60);
/// How long it takes until a CRD that was just installed is looked for again.
const CRD_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Why the operator could not run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A flag or variable is wrong.
    #[error("{0}")]
    Configuration(String),
    /// There is no way to the API server.
    #[error("no Kubernetes configuration: run in a cluster, or set KUBECONFIG: {0}")]
    Kubeconfig(#[source] kube::config::InferConfigError),
    /// The client of the API server could not be made.
    #[error("no client for the API server: {0}")]
    Client(#[source] kube::Error),
    /// The admin server could not listen or serve.
    #[error("admin server at {address}: {source}")]
    Admin {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Signals cannot be waited for.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
    /// A part that should run until the end has stopped.
    #[error("the controller of {0} stopped by itself")]
    Stopped(&'static str),
    /// Another operator may work now.
    #[error("{lease}: {lapse}; this operator ends at once, since another may work now. Started again it stands by")]
    LeaseLapsed {
        /// Which lease.
        lease: String,
        /// Why.
        lapse: Lapse,
    },
}

/// Runs the operator until a signal ends it.
///
/// # Errors
/// [`OperatorError`], before or after the start.
pub async fn run(args: Args) -> Result<(), OperatorError> {
    let metrics = Arc::new(Metrics::new());
    let config = Config::from(&args);
    let traces = match &config.otlp_endpoint {
        Some(endpoint) => Traces::export(endpoint, metrics.traces.clone()).map_err(OperatorError::Configuration)?,
        None => Traces::default(),
    };
    let log_filter = telemetry::install(args.log_format, &args.log_filter, &traces).map_err(OperatorError::Configuration)?;
    run_traced(&config, log_filter, &metrics, &traces).await?;
    // Not after an error: what may end because another operator works now must not wait for anybody.
    traces.stop().await;
    Ok(())
}

async fn run_traced(config: &Config, log_filter: LogFilter, metrics: &Arc<Metrics>, traces: &Traces) -> Result<(), OperatorError> {
    let client = client(metrics).await?;
    let readiness = Readiness::default();
    let (trigger, stop) = shutdown::channel();

    let on_admin = |source| OperatorError::Admin { address: config.admin_address, source };
    let listener = TcpListener::bind(config.admin_address).await.map_err(on_admin)?;
    let address = listener.local_addr().map_err(on_admin)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, "operator starts");
    let crds = [crd_gate::<Orchestration>(&readiness), crd_gate::<OrchestrationEvent>(&readiness), crd_gate::<TaskHub>(&readiness)];
    let candidate = match &config.lease {
        Some(lease) => Some(Candidate::new(lease, metrics, &readiness).await?),
        None => None,
    };
    let work = work(config, client.clone(), (metrics, traces), &readiness, stop.clone(), crds, candidate);
    let admin = admin::serve(listener, Admin { readiness: readiness.clone(), metrics: metrics.clone(), log_filter }, stop.clone());
    tokio::select! {
        result = work => result,
        result = async { admin.await.map_err(on_admin)?; std::future::pending().await } => result,
        result = shutdown::on_signals(&trigger) => match result {
            Ok(never) => match never {},
            Err(error) => Err(OperatorError::Signals(error)),
        },
    }
}

/// A client whose requests are counted and never tried again in silence: kube would retry a 503 for minutes, and a POST too.
async fn client(metrics: &Metrics) -> Result<Client, OperatorError> {
    let mut config = kube::Config::infer().await.map_err(OperatorError::Kubeconfig)?;
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(OperatorError::Client)?;
    Ok(builder.with_layer(&ApiRequestLayer::new(metrics.api.clone())).build())
}

/// A CRD that has to be established, and its gate.
struct Crd {
    name: String,
    gate: Gate,
}

fn crd_gate<K: CustomResourceExt>(readiness: &Readiness) -> Crd {
    let name = K::crd_name().to_owned();
    Crd { gate: readiness.gate(format!("CustomResourceDefinition {name}")), name }
}

/// The gates of the controllers' first lists.
struct FirstLists {
    orchestrations: Gate,
    orchestration_events: Gate,
    task_hubs: Gate,
}

impl FirstLists {
    fn new(readiness: &Readiness) -> FirstLists {
        let gate = |kinds: &str| readiness.gate(format!("the first list of {kinds}"));
        FirstLists {
            orchestrations: gate("Orchestrations"),
            orchestration_events: gate("OrchestrationEvents"),
            task_hubs: gate("TaskHubs"),
        }
    }
}

/// An operator that works only while it holds the lease.
struct Candidate {
    lease: Lease,
    /// The lease's name for people.
    name: String,
    /// Open while the lease can be read, whoever holds it: a standby is ready, or a rolling update would never end.
    gate: Gate,
}

impl Candidate {
    /// With a client of its own, so that nothing delays a renewal.
    async fn new(config: &LeaseConfig, metrics: &Metrics, readiness: &Readiness) -> Result<Candidate, OperatorError> {
        let client = client(metrics).await?;
        let namespace = config.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let name = format!("lease {} in namespace {namespace}", lease::NAME);
        tracing::info!(lease = name, identity = config.identity, "this operator works while it holds the lease");
        let lease = Lease::new(client, &namespace, config.identity.clone(), metrics.leader.clone());
        Ok(Candidate { lease, gate: readiness.gate(&name), name })
    }

    /// Stands by until this operator leads.
    async fn elected(&self, readiness: &Readiness) -> Claim {
        let mut said = None;
        let mut say = |text: &str| {
            if said.as_deref() != Some(text) {
                tracing::info!(lease = self.name, "{text}");
                said = Some(text.to_owned());
            }
        };
        self.lease
            .acquire(|look| match look {
                Look::HeldBy(holder) => {
                    let role = format!("standby, {holder} leads");
                    say(&role);
                    readiness.set_role(role);
                    self.gate.open();
                }
                Look::Failed(trouble) => {
                    say(&format!("cannot be asked for: {trouble}"));
                    // An API server that is away is no reason to be unready: nobody else would be ready then.
                    if trouble.is_refusal() { self.gate.close(trouble.to_string()) } else { self.gate.say(trouble.to_string()) }
                }
            })
            .await
    }
}

/// Runs the controllers, once this operator leads, until the shutdown has begun and they have finished.
async fn work(
    config: &Config,
    client: Client,
    (metrics, traces): (&Metrics, &Traces),
    readiness: &Readiness,
    stop: shutdown::Shutdown,
    crds: [Crd; 3],
    candidate: Option<Candidate>,
) -> Result<(), OperatorError> {
    let lists = candidate.is_none().then(|| FirstLists::new(readiness));
    let all_established = futures::future::join_all(crds.iter().map(|crd| established(&client, crd)));
    tokio::select! { _ = all_established => {}, () = stop.clone().begun() => return Ok(()) }
    let Some(candidate) = candidate else {
        metrics.leader.leading.set(1);
        let lists = lists.unwrap_or_else(|| FirstLists::new(readiness));
        return control(config, client, (metrics, traces), lists, stop, Leading::alone()).await;
    };
    let claim = tokio::select! { claim = candidate.elected(readiness) => claim, () = stop.clone().begun() => return Ok(()) };
    tracing::info!(lease = candidate.name, "this operator leads");
    let lists = FirstLists::new(readiness);
    readiness.set_role("leader");
    candidate.gate.open();
    let control = control(config, client, (metrics, traces), lists, stop, claim.leading());
    tokio::select! {
        biased;
        lapse = claim.lapsed() => Err(OperatorError::LeaseLapsed { lease: candidate.name, lapse }),
        result = control => {
            claim.vacate().await;
            result
        }
    }
}

/// Runs the controllers until the shutdown has begun and they have finished.
async fn control(
    config: &Config,
    client: Client,
    (metrics, traces): (&Metrics, &Traces),
    lists: FirstLists,
    stop: shutdown::Shutdown,
    leading: Leading,
) -> Result<(), OperatorError> {
    let (secrets, events) = (Secrets::new(client.clone()), Events::new(client.clone()));
    let hubs = Hubs::reading_namespaces(client.clone(), metrics.limiter.clone());
    let poller = Poller::new(hubs.clone(), &[OWNER_COLUMN], metrics.poller.clone());
    let watched_hubs: Watched<TaskHub> = Watched::new(&client, &config.watch_namespaces);
    let watched_orchestrations: Watched<Orchestration> = Watched::new(&client, &config.watch_namespaces);

    let watched_events: Watched<OrchestrationEvent> = Watched::new(&client, &config.watch_namespaces);

    let orchestration_events = OrchestrationEvents::new(
        client.clone(),
        events.clone(),
        hubs.clone(),
        watched_hubs.store.clone(),
        watched_orchestrations.store.clone(),
    );
    let of_orchestration_events = Setup {
        concurrency: ORCHESTRATION_EVENTS_AT_ONCE,
        time_out: RECONCILE_TIME_OUT,
        triggers: orchestration_events.triggers(),
        listed: lists.orchestration_events,
        shutdown: stop.clone(),
        leading: leading.clone(),
        metrics: metrics.reconciles.clone(),
        watched: watched_events,
    };
    let stored_orchestrations = watched_orchestrations.store.clone();
    let orchestrations = Orchestrations::new(
        client.clone(),
        events.clone(),
        hubs.clone(),
        poller.clone(),
        watched_hubs.store.clone(),
        metrics.orchestrations.clone(),
        traces.clone(),
    );
    let of_orchestrations = Setup {
        concurrency: ORCHESTRATIONS_AT_ONCE,
        time_out: RECONCILE_TIME_OUT,
        triggers: futures::stream::select(hubs.changed().stream(), poller.changed().stream()).boxed(),
        listed: lists.orchestrations,
        shutdown: stop.clone(),
        leading: leading.clone(),
        metrics: metrics.reconciles.clone(),
        watched: watched_orchestrations,
    };
    let identities = WorkloadIdentities::new(client.clone(), config.authority_host.clone()).map_err(OperatorError::Configuration)?;
    let task_hubs = TaskHubs::new(Parts {
        client,
        events,
        hubs: hubs.clone(),
        secrets: secrets.clone(),
        identities,
        allowed_endpoints: config.allowed_endpoints.clone(),
        storage_metrics: metrics.storage.clone(),
        metrics: metrics.task_hubs.clone(),
        task_hubs: watched_hubs.store.clone(),
        orchestrations: stored_orchestrations,
    });
    let of_task_hubs = Setup {
        concurrency: TASK_HUBS_AT_ONCE,
        time_out: RECONCILE_TIME_OUT,
        triggers: futures::stream::select_all([
            hubs.doubted().stream().boxed(),
            secrets.changed().stream().boxed(),
            hubs.counted().boxed(),
        ])
        .map(object_of)
        .boxed(),
        listed: lists.task_hubs,
        shutdown: stop.clone(),
        leading,
        metrics: metrics.reconciles.clone(),
        watched: watched_hubs,
    };
    // A controller that ends before the shutdown has begun would leave its objects to nobody: the process ends instead.
    let begun = std::sync::atomic::AtomicBool::new(false);
    let watch_stop = async {
        stop.begun().await;
        begun.store(true, std::sync::atomic::Ordering::Relaxed);
        std::future::pending::<Result<(), OperatorError>>().await
    };
    let finished = |kind: &'static str| {
        let begun = &begun;
        move || if begun.load(std::sync::atomic::Ordering::Relaxed) { Ok(()) } else { Err(OperatorError::Stopped(kind)) }
    };
    let controllers = async {
        let (orchestrations_done, task_hubs_done) = (finished("Orchestrations"), finished("TaskHubs"));
        let orchestration_events_done = finished("OrchestrationEvents");
        tokio::try_join!(
            async {
                runner::run(orchestrations, of_orchestrations).await;
                orchestrations_done()
            },
            async {
                runner::run(orchestration_events, of_orchestration_events).await;
                orchestration_events_done()
            },
            async {
                runner::run(task_hubs, of_task_hubs).await;
                task_hubs_done()
            },
        )
    };
    tokio::select! {
        biased;
        result = watch_stop => result,
        result = controllers => {
            tracing::info!("stopped");
            result.map(|_| ())
        }
    }
}

fn object_of(hub: HubKey) -> Dependent {
    Dependent { namespace: hub.namespace, name: hub.name }
}

/// Waits until the CRD can be used, and opens its gate.
async fn established(client: &Client, crd: &Crd) {
    const TIME_OUT: Duration = Duration::from_secs(10);
    let name = crd.name.as_str();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut said = false;
    loop {
        let problem = match tokio::time::timeout(TIME_OUT, api.get_opt(name)).await {
            Ok(Ok(Some(found))) if kube::runtime::conditions::is_crd_established().matches_object(Some(&found)) => break,
            Ok(Ok(Some(_))) => "it is not established yet".to_owned(),
            Ok(Ok(None)) => "it is not installed: apply the files of crds/".to_owned(),
            Ok(Err(error)) => refusal::explain(&error),
            Err(_) => "the API server does not answer".to_owned(),
        };
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(crd = name, problem, "waiting for a CustomResourceDefinition");
        }
        crd.gate.say(problem);
        tokio::time::sleep(CRD_AGAIN_AFTER).await;
    }
    crd.gate.open();
}
