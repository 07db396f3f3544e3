//! A reconciler that writes down what it is given, and does what the test says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durable_operator::admin::Readiness;
use durable_operator::api::Envelope;
use durable_operator::api::v1alpha1::Orchestration;
use durable_operator::changes::Changes;
use durable_operator::controllers::failure::Failure;
use durable_operator::controllers::runner::{self, Newest, Next, Reconciler, Setup, Watched};
use durable_operator::hubs::Dependent;
use durable_operator::lease::Leading;
use durable_operator::metrics::Metrics;
use durable_operator::shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use kube::Client;
use kube::runtime::reflector::ObjectRef;

use super::eventually;

pub type Object = Envelope<Orchestration>;
type Behaviour = Box<dyn Fn(Arc<Object>) -> BoxFuture<'static, Option<Object>> + Send + Sync>;

/// What happened to an object.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: String,
    pub resource_version: u64,
    pub begun: Instant,
}

#[derive(Default)]
pub struct Seen {
    pub calls: Mutex<Vec<Call>>,
    /// UIDs.
    pub forgotten: Mutex<Vec<String>>,
}

impl Seen {
    pub fn calls(&self, name: &str) -> Vec<Call> {
        self.calls.lock().unwrap().iter().filter(|call| call.name == name).cloned().collect()
    }

    /// Waits until `name` was reconciled `count` times.
    pub async fn until(&self, name: &str, count: usize) -> Vec<Call> {
        eventually(&format!("{name} is reconciled {count} times"), async || {
            let calls = self.calls(name);
            if calls.len() >= count { Ok(calls) } else { Err(format!("{calls:?}")) }
        })
        .await
    }

    pub async fn until_forgotten(&self, uid: &str) {
        eventually(&format!("{uid} is forgotten"), async || {
            let forgotten = self.forgotten.lock().unwrap().clone();
            if forgotten.iter().any(|known| known == uid) { Ok(()) } else { Err(format!("{forgotten:?}")) }
        })
        .await;
    }
}

struct Probe {
    seen: Arc<Seen>,
    behaviour: Behaviour,
}

impl Reconciler for Probe {
    type Kind = Orchestration;

    const KIND: &'static str = "Orchestration";

    async fn reconcile(&self, object: Arc<Object>, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        let call = Call { name: object.name().to_owned(), resource_version: object.resource_version(), begun: Instant::now() };
        self.seen.calls.lock().unwrap().push(call);
        if let Some(copy) = (self.behaviour)(object).await {
            newest.keep(copy);
        }
        Ok(Next::Change)
    }

    fn forget(&self, _: &ObjectRef<Object>, uid: &str) {
        self.seen.forgotten.lock().unwrap().push(uid.to_owned());
    }
}

/// The runner with a [`Probe`]; it stops when this is dropped.
pub struct Running {
    pub seen: Arc<Seen>,
    /// What the operator's `/metrics` would say.
    pub metrics: Metrics,
    triggers: Changes<Dependent>,
    _stop: shutdown::Trigger,
}

/// How the runner is set up.
pub struct Limits {
    pub concurrency: u16,
    pub time_out: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { concurrency: 8, time_out: Duration::from_secs(60) }
    }
}

/// Runs the runner over `namespaces`. `behaviour` may give back a newer copy, which is kept.
pub fn run(
    client: &Client,
    namespaces: &[&str],
    limits: Limits,
    behaviour: impl Fn(Arc<Object>) -> BoxFuture<'static, Option<Object>> + Send + Sync + 'static,
) -> Running {
    let seen = Arc::new(Seen::default());
    let metrics = Metrics::new();
    metrics.leader.leading.set(1);
    let triggers = Changes::new();
    let (stop, shutdown) = shutdown::channel();
    let namespaces: Vec<String> = namespaces.iter().map(|&namespace| namespace.to_owned()).collect();
    let setup = Setup {
        concurrency: limits.concurrency,
        time_out: limits.time_out,
        triggers: triggers.stream().boxed(),
        listed: Readiness::default().gate("the list"),
        shutdown,
        leading: Leading::alone(),
        metrics: metrics.reconciles.clone(),
        watched: Watched::new(client, &namespaces),
    };
    tokio::spawn(runner::run(Probe { seen: seen.clone(), behaviour: Box::new(behaviour) }, setup));
    Running { seen, metrics, triggers, _stop: stop }
}

impl Running {
    /// As the poller does when an instance has changed.
    pub fn trigger(&self, namespace: &str, name: &str) {
        self.triggers.add([Dependent { namespace: namespace.to_owned(), name: name.to_owned() }]);
    }
}
