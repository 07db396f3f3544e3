//! Which of several operators works: a claim on a Kubernetes Lease, with an expiry of its own.
//!
//! Owns the requests for the lease, and with them a client of its own, given by
//! whoever makes it: neither a full connection nor the queue of the workload may
//! delay a renewal. Must not know what the leader does.
//!
//! The lease is an economy, not the safety. Two operators at once are only
//! wasteful, never wrong (crate documentation), because a storage account cannot
//! be fenced by a lease: a process that was stopped and goes on, or a request
//! that is late, may act after the claim has lapsed. What is kept here:
//!
//! - Every write carries the `resourceVersion` that was read: two who write at
//!   once are told apart by the API server, and the holder sees every change.
//! - A claim ends [`GIVE_UP_AFTER`] its last acknowledged renewal *began*, whether
//!   or not the API server can be asked; another takes the lease over no sooner
//!   than its duration after it *saw* the last change. The second is longer, both
//!   are monotonic, and the first begins earlier: no clocks are compared.
//! - A claim that has lapsed never comes back; its holder has to end.
//! - A lease is vacated only by a holder whose work has ended.
//!
//! A process whose identity is the holder's takes the lease at once: the chart
//! gives the pod's name, which no two pods share, and the kubelet starts a
//! container of a pod again only after the one before has ended.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

mod record;

use crate::metrics::LeaderMetrics;
use crate::refusal;
use record::Verdict;

/// The name of the Lease.
pub const NAME: &str = "durable-operator";
/// A holder stops this long after its last acknowledged renewal began: 4 s before anybody else may start.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(8);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// After a renewal that failed: an API server that is away for 5 s, at whatever moment, shall not cost the lease.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often one who waits looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For one request. Two that hang fit into what a holder has.
const REQUEST_TIME_OUT: Duration = Duration::from_secs(3);
/// For vacating as a whole. Who is not told in time waits for the expiry.
const VACATE_TIME_OUT: Duration = Duration::from_secs(3);

/// The lease, as one who would like to hold it.
#[derive(Clone)]
pub struct Lease {
    api: Api<Object>,
    identity: String,
    metrics: LeaderMetrics,
}

/// What one who waits has seen.
#[derive(Debug)]
pub enum Look<'a> {
    /// This one holds the lease.
    HeldBy(&'a str),
    /// The lease could not be read or written, and why.
    Failed(&'a Trouble),
}

/// Why a request for the lease failed.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The API server said so, or there is no way to it.
    #[error("{}", refusal::explain(.0))]
    Api(#[from] kube::Error),
    /// The API server says nothing.
    #[error("the API server did not answer within {REQUEST_TIME_OUT:?}")]
    TimeOut,
}

impl Trouble {
    /// True if the API server answered: waiting alone will not mend it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Trouble::Api(kube::Error::Api(_)))
    }

    /// True if another wrote first.
    fn is_race(&self) -> bool {
        matches!(self, Trouble::Api(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() || status.is_not_found())
    }
}

/// Why a claim ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Lapse {
    /// No renewal was acknowledged in time.
    #[error("not renewed for {GIVE_UP_AFTER:?}{}", .trouble.as_ref().map(|trouble| format!(", the last try failed: {trouble}")).unwrap_or_default())]
    NotRenewed {
        /// What the last try said.
        trouble: Option<String>,
    },
    /// Another holds the lease now.
    #[error("taken over by {0}")]
    TakenBy(String),
}

#[derive(Debug, Clone)]
enum State {
    Held { until: Instant },
    Lapsed(Lapse),
}

/// A lease that is held, and renewed in the background until it is vacated, lapses or is dropped.
pub struct Claim {
    state: watch::Receiver<State>,
    vacate: oneshot::Sender<()>,
    keeper: JoinHandle<()>,
}

/// Tells whether one may begin something. Clones tell the same.
#[derive(Clone)]
pub struct Leading(Option<watch::Receiver<State>>);

impl Leading {
    /// Without a lease: always.
    pub fn alone() -> Leading {
        Leading(None)
    }

    /// True until the claim lapses or ends, by our own clock and without asking anybody.
    pub fn is_held(&self) -> bool {
        self.0.as_ref().is_none_or(|state| matches!(*state.borrow(), State::Held { until } if Instant::now() < until))
    }
}

enum Attempt {
    Held { lease: Box<Object>, begun: Instant },
    Other { holder: String, until: Instant },
    Outrun,
}

enum Renewal {
    Renewed(Box<Object>),
    TakenBy(String),
}

impl Lease {
    /// The lease in `namespace`, for one who is `identity`; asked for with `client`.
    pub fn new(client: Client, namespace: &str, identity: String, metrics: LeaderMetrics) -> Lease {
        Lease { api: Api::namespaced(client, namespace), identity, metrics }
    }

    /// Waits until the lease is ours; `seen` hears each look that ends otherwise, once a second.
    pub async fn acquire(&self, mut seen: impl FnMut(Look<'_>)) -> Claim {
        let mut observed = None;
        loop {
            let again = match self.attempt(&mut observed).await {
                Ok(Attempt::Held { lease, begun }) => return Claim::keep(self.clone(), *lease, begun),
                Ok(Attempt::Other { holder, until }) => {
                    seen(Look::HeldBy(&holder));
                    until.min(Instant::now() + LOOK_EVERY)
                }
                Ok(Attempt::Outrun) => Instant::now() + RETRY_AFTER,
                Err(trouble) => {
                    seen(Look::Failed(&trouble));
                    Instant::now() + LOOK_EVERY
                }
            };
            tokio::time::sleep_until(again.into()).await;
        }
    }

    /// Looks once, and takes the lease if it may be taken. `observed` is the record that was seen last, and since when.
    async fn attempt(&self, observed: &mut Option<(LeaseSpec, Instant)>) -> Result<Attempt, Trouble> {
        let found = within(self.api.get_opt(NAME)).await?;
        let now = Instant::now();
        if let Some(lease) = &found {
            let record = lease.spec.clone().unwrap_or_default();
            let since = match observed.take() {
                Some((before, since)) if before == record => since,
                _ => now,
            };
            let verdict = record::evaluate(&record, &self.identity, since, now);
            let holder = record::holder(&record).unwrap_or_default().to_owned();
            *observed = Some((record, since));
            if let Verdict::Wait { until } = verdict {
                return Ok(Attempt::Other { holder, until });
            }
        }
        let begun = Instant::now();
        match self.write(found).await {
            Ok(lease) => Ok(Attempt::Held { lease: Box::new(lease), begun }),
            Err(trouble) if trouble.is_race() => Ok(Attempt::Outrun),
            Err(trouble) => Err(trouble),
        }
    }

    /// Makes us the holder of the lease as it was read; None is no lease.
    async fn write(&self, lease: Option<Object>) -> Result<Object, Trouble> {
        let record = |before| Some(record::held(before, &self.identity, Timestamp::now()));
        match lease {
            Some(lease) => {
                let spec = record(Some(lease.spec.as_ref().unwrap_or(&LeaseSpec::default())));
                within(self.api.replace(NAME, &PostParams::default(), &Object { spec, ..lease })).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                within(self.api.create(&PostParams::default(), &Object { metadata, spec: record(None) })).await
            }
        }
    }

    /// Renews the lease as it was last written. If another has written since, it is read, and remains ours unless somebody holds it.
    async fn renew(&self, lease: &Object) -> Result<Renewal, Trouble> {
        match self.write(Some(lease.clone())).await {
            Ok(lease) => return Ok(Renewal::Renewed(Box::new(lease))),
            Err(trouble) if !trouble.is_race() => return Err(trouble),
            Err(_) => {}
        }
        let found = within(self.api.get_opt(NAME)).await?;
        let holder = found.as_ref().and_then(|lease| lease.spec.as_ref()).and_then(record::holder);
        match holder {
            Some(holder) if holder != self.identity => Ok(Renewal::TakenBy(holder.to_owned())),
            _ => self.write(found).await.map(|lease| Renewal::Renewed(Box::new(lease))),
        }
    }

    /// Nobody holds the lease any more, unless another does already.
    async fn vacate(&self, lease: Object) -> Result<(), Trouble> {
        let mut lease = lease;
        loop {
            let spec = Some(record::vacated(lease.spec.as_ref().unwrap_or(&LeaseSpec::default()), Timestamp::now()));
            match within(self.api.replace(NAME, &PostParams::default(), &Object { spec, ..lease })).await {
                Ok(_) => return Ok(()),
                Err(trouble) if !trouble.is_race() => return Err(trouble),
                Err(_) => {}
            }
            match within(self.api.get_opt(NAME)).await? {
                Some(found) if found.spec.as_ref().and_then(record::holder) == Some(&self.identity) => lease = found,
                _ => return Ok(()),
            }
        }
    }

    /// Renews until told to vacate, or until the claim lapses.
    async fn keep(self, mut lease: Object, mut renewed: Instant, state: watch::Sender<State>, mut vacate: oneshot::Receiver<()>) {
        let mut next = renewed + RENEW_EVERY;
        let mut trouble = None;
        let lapse = loop {
            let until = renewed + GIVE_UP_AFTER;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until.into()) => break Lapse::NotRenewed { trouble },
                asked = &mut vacate => {
                    self.metrics.leading.set(0);
                    if asked.is_ok() && let Err(trouble) = self.vacate(lease).await {
                        tracing::warn!(%trouble, "the lease was not vacated: another operator takes over when it expires");
                    }
                    return;
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
            let begun = Instant::now();
            let result = tokio::time::timeout_at(until.into(), self.renew(&lease)).await;
            if Instant::now() >= until {
                // Also if it was renewed after all: that came too late for whoever asked in between.
                break Lapse::NotRenewed { trouble };
            }
            match result {
                Ok(Ok(Renewal::Renewed(newer))) => {
                    (lease, renewed, trouble) = (*newer, begun, None);
                    next = begun + RENEW_EVERY;
                    state.send_replace(State::Held { until: renewed + GIVE_UP_AFTER });
                }
                Ok(Ok(Renewal::TakenBy(holder))) => break Lapse::TakenBy(holder),
                Ok(Err(error)) => {
                    let text = error.to_string();
                    if trouble.as_ref() != Some(&text) {
                        tracing::warn!(trouble = text, "the lease was not renewed; trying again");
                    }
                    trouble = Some(text);
                    next = Instant::now() + RETRY_AFTER;
                }
                Err(_) => trouble = Some(Trouble::TimeOut.to_string()),
            }
        };
        self.metrics.leading.set(0);
        state.send_replace(State::Lapsed(lapse));
    }
}

impl Claim {
    /// Keeps `lease`, whose acknowledged write began at `begun`.
    fn keep(of: Lease, lease: Object, begun: Instant) -> Claim {
        of.metrics.leading.set(1);
        let (sender, state) = watch::channel(State::Held { until: begun + GIVE_UP_AFTER });
        let (vacate, asked) = oneshot::channel();
        // A task of its own: the workload's may be busy for a while.
        let keeper = tokio::spawn(of.keep(lease, begun, sender, asked));
        Claim { state, vacate, keeper }
    }

    /// For those who work under this claim.
    pub fn leading(&self) -> Leading {
        Leading(Some(self.state.clone()))
    }

    /// Waits until the claim has lapsed: nothing may be done under it any more.
    pub async fn lapsed(&self) -> Lapse {
        let mut state = self.state.clone();
        match state.wait_for(|state| matches!(state, State::Lapsed(_))).await.as_deref() {
            Ok(State::Lapsed(lapse)) => lapse.clone(),
            // The keeper is gone without a word, which only a panic of its own can explain.
            _ => Lapse::NotRenewed { trouble: None },
        }
    }

    /// Gives the lease back, so that another takes it at once. The work under it must have ended.
    pub async fn vacate(self) {
        if self.vacate.send(()).is_ok() && tokio::time::timeout(VACATE_TIME_OUT, self.keeper).await.is_err() {
            tracing::warn!("the lease was not vacated in time: another operator takes over when it expires");
        }
    }
}

/// One request, which kube itself would wait for without an end.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    tokio::time::timeout(REQUEST_TIME_OUT, request).await.map_err(|_| Trouble::TimeOut)?.map_err(Trouble::Api)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_before_another_may_start() {
        assert!(GIVE_UP_AFTER + REQUEST_TIME_OUT < record::DURATION);
        // The worst moment for an outage of 5 s is just before a renewal.
        assert!(RENEW_EVERY + Duration::from_secs(5) + RETRY_AFTER < GIVE_UP_AFTER);
    }
}
