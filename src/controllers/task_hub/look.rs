//! What a hub that answers is asked, and how often.
//!
//! Owns the economy: who serves it every 30 s; its messages only while unfinished
//! Orchestrations refer to it, every 10 s, and the age of the oldest only where there
//! are some; the engine's line until it is known. An idle hub costs one request in 30 s.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use durable_taskhub::storage::{Queue, StorageError};
use durable_taskhub::{TaskHub as HubClient, Time};
use futures::{StreamExt, TryStreamExt};

use super::connect::{Looked, storage_says};
use super::describe::{Connected, Counted};
use super::{Object, TaskHubs};
use crate::api::v1alpha1::{Backlog, ConnectionStatus, OrchestrationCounts, TaskHubSpec, TaskHubStatus};
use crate::api::{PAUSED_ANNOTATION, RECONCILE_REQUESTED_AT_ANNOTATION};
use crate::connection::NotReady;
use crate::controllers::runner::Next;
use crate::hubs::{Access, Counts, HubKey, Known as KnownHub, PayloadLimits, PollingLimits, ReadyHub};
use crate::metrics::{HubBacklog, QueueFigures};

/// A hub that answers is looked at again after this: one request, for who serves it.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Counts and backlog are read and written this often at most.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Queues of one hub that are asked at once.
const QUEUES_AT_ONCE: usize = 4;

/// Orchestrations that were not recorded after this long never will be: the counts are shown without them.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// How much a probe wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What is due.
    Due,
    /// Who serves the hub now, whatever was seen a moment ago.
    Fresh,
}

impl TaskHubs {
    /// What can be said of the hub now; `None` while its Secret was not read yet.
    pub(super) async fn probe(
        &self,
        object: &Object,
        key: &HubKey,
        spec: &TaskHubSpec,
        depth: Depth,
    ) -> Result<Option<(Connected, ReadyHub)>, NotReady> {
        let polling = polling_limits(spec)?;
        let Some(resolved) = self.resolve(object, key, spec).await? else { return Ok(None) };
        let doubted = self.hubs.take_doubt(key);
        let (mut client, mut is_new) = self.connect(object, spec, &resolved, doubted).await?;
        let requested_at = object.annotation(RECONCILE_REQUESTED_AT_ANNOTATION);
        let fresh = {
            let known = self.known();
            known
                .get(object.uid())
                .and_then(|known| known.looked.clone())
                .filter(|looked| looked.is_fresh(object, requested_at, LOOK_INTERVAL))
        };
        let served_partitions = match fresh.filter(|_| depth == Depth::Due && !is_new && !doubted) {
            Some(looked) => looked.served_partitions,
            None => {
                let says = |error: StorageError| storage_says(&error, resolved.method);
                let mut served = client.served_partitions().await.map_err(says)?;
                if served.is_none() && !is_new {
                    // Nothing says who serves it: the hub may be gone, or another one be there under its name.
                    (client, is_new) = self.connect(object, spec, &resolved, true).await?;
                    served = client.served_partitions().await.map_err(says)?;
                }
                let served_partitions = served.unwrap_or_default();
                let looked = Looked {
                    at: Instant::now(),
                    generation: object.generation(),
                    requested_at: requested_at.map(str::to_owned),
                    served_partitions,
                };
                self.known().entry(object.uid().to_owned()).or_default().looked = Some(looked);
                served_partitions
            }
        };
        let status = object.status();
        let says = |error: StorageError| storage_says(&error, resolved.method);
        let counted = self.count(object, key, &client, &status).await.map_err(says)?;
        let learns = counted.as_ref().is_some_and(|counted| Some(&counted.orchestrations) != status.orchestrations.as_ref());
        let line = self.line(object, &client, is_new, learns).await.map_err(says)?;
        let hub_created_at = if is_new && status.hub_created_at.is_none() { client.created_at().await.map_err(says)? } else { None };
        let connected = Connected {
            account_name: resolved.account.name().to_owned(),
            partition_count: i32::try_from(client.partition_count().get()).unwrap_or_default(),
            connection: ConnectionStatus { method: resolved.method.to_owned(), credential_version: resolved.credential_version.clone() },
            served_partitions,
            line,
            hub_created_at,
            counted,
        };
        let known = known(object, spec, served_partitions, polling);
        let hub = ReadyHub::new(&client, &self.budget(object, spec), known).map_err(|error| storage_says(&error, resolved.method))?;
        Ok(Some((connected, hub)))
    }

    /// Orchestrations and messages, if they are due and can be known.
    async fn count(
        &self,
        object: &Object,
        key: &HubKey,
        client: &HubClient,
        status: &TaskHubStatus,
    ) -> Result<Option<Counted>, StorageError> {
        let last = self.known().get(object.uid()).and_then(|known| known.counted);
        if last.is_some_and(|last| last.elapsed() < COUNT_INTERVAL) || !self.all_are_recorded() {
            return Ok(None);
        }
        let counts = self.hubs.counts(key);
        let (backlog, messages) = if counts.unfinished() > 0 { Some(backlog(client).await?) } else { None }.unzip();
        let counted = Counted { orchestrations: shown(counts), backlog, messages };
        // Only what was news keeps the next one waiting.
        if status.orchestrations.as_ref() != Some(&counted.orchestrations) || status.backlog != counted.backlog || counts.unfinished() > 0 {
            self.known().entry(object.uid().to_owned()).or_default().counted = Some(Instant::now());
        }
        Ok(Some(counted))
    }

    /// The engine's line: asked of a new client, and of one that has had nothing to tell when its Orchestrations move on.
    async fn line(
        &self,
        object: &Object,
        client: &HubClient,
        is_new: bool,
        learns: bool,
    ) -> Result<Option<durable_taskhub::artifacts::EngineLine>, StorageError> {
        let known = self.known().get(object.uid()).and_then(|known| known.line);
        if !is_new && (known.is_some() || !learns) {
            return Ok(known);
        }
        let line = client.engine_line().await?.or(known);
        self.known().entry(object.uid().to_owned()).or_default().line = line;
        Ok(line)
    }

    /// True if the counts are whole: after a start they grow while the Orchestrations are looked at for the first time, and must
    /// not be shown before.
    pub(super) fn all_are_recorded(&self) -> bool {
        if self.all_recorded.load(Ordering::Relaxed) {
            return true;
        }
        let listed = futures::FutureExt::now_or_never(self.orchestrations.wait_until_ready()).is_some_and(|ready| ready.is_ok());
        if !listed {
            return false;
        }
        let recorded = self.hubs.recorded();
        // Nobody looks at those that are paused.
        let wanted = self.orchestrations.state().iter().filter(|object| object.annotation(PAUSED_ANNOTATION) != Some("true")).count();
        let all = recorded >= wanted || (recorded > 0 && self.started.elapsed() > RECORDED_WITHIN);
        self.all_recorded.store(all, Ordering::Relaxed);
        all
    }

    /// When the hub has to be looked at again, if nothing happens.
    pub(super) fn next_look(&self, object: &Object, key: &HubKey, after: &TaskHubStatus) -> Next {
        let known = self.known().get(object.uid()).cloned().unwrap_or_default();
        let until = |last: Option<Instant>, interval: Duration| last.map_or(Duration::ZERO, |last| interval.saturating_sub(last.elapsed()));
        let look = until(known.looked.map(|looked| looked.at), LOOK_INTERVAL);
        let counts = self.hubs.counts(key);
        let behind = counts.unfinished() > 0 || after.orchestrations.as_ref() != Some(&shown(counts));
        let count = if behind { until(known.counted, COUNT_INTERVAL).max(Duration::from_secs(1)) } else { LOOK_INTERVAL };
        // A moment later than the interval, so that it has passed.
        Next::After(look.min(count) + Duration::from_millis(20))
    }
}

fn known(object: &Object, spec: &TaskHubSpec, served_partitions: usize, polling: PollingLimits) -> KnownHub {
    let size = |bytes: i32| usize::try_from(bytes).unwrap_or_default();
    KnownHub {
        workers_active: served_partitions > 0,
        polling,
        access: Access::new(object.namespace(), object.name(), spec),
        limits: PayloadLimits {
            max_input_bytes: size(spec.limits.max_input_bytes),
            max_inline_output_bytes: size(spec.limits.max_inline_output_bytes),
        },
    }
}

/// One request per queue, and one more for each that is not empty.
async fn backlog(client: &HubClient) -> Result<(Backlog, HubBacklog), StorageError> {
    let names = (0..client.partition_count().get()).map(|partition| client.name().control_queue(partition));
    let waiting = async |name: String| match waiting(&client.storage().queue(&name)).await {
        // A queue that is missing has nothing in it; whether the hub is there is asked elsewhere.
        Err(error) if error.is_not_found() => Ok(QueueFigures::default()),
        answer => answer,
    };
    let all: Vec<QueueFigures> =
        futures::stream::iter(names.chain([client.name().work_item_queue()])).map(waiting).buffered(QUEUES_AT_ONCE).try_collect().await?;
    let (work_item, control) = all.split_last().map_or((QueueFigures::default(), &[][..]), |(last, rest)| (*last, rest));
    let count = |figures: &QueueFigures| i64::try_from(figures.messages).unwrap_or(i64::MAX);
    let shown = Backlog { control_queues: control.iter().map(count).collect(), work_item_queue: count(&work_item) };
    let control =
        QueueFigures { messages: control.iter().map(|of| of.messages).sum(), oldest: control.iter().filter_map(|of| of.oldest).max() };
    Ok((shown, HubBacklog { control, work_item }))
}

/// How many messages a queue has, and how old the first is that anybody could take: the service gives them out in the order in
/// which they became visible, and shows none that is hidden.
async fn waiting(queue: &Queue) -> Result<QueueFigures, StorageError> {
    let messages = queue.approximate_count().await?;
    let first = if messages > 0 { queue.peek(1).await?.into_iter().next() } else { None };
    let oldest = first.and_then(|message| message.inserted_at).map(|inserted| Time::now().since(inserted));
    Ok(QueueFigures { messages, oldest })
}

fn shown(counts: Counts) -> OrchestrationCounts {
    let Counts { pending, running, suspended, completed, failed, terminated } = counts;
    OrchestrationCounts { pending, running, suspended, completed, failed, terminated }
}

fn polling_limits(spec: &TaskHubSpec) -> Result<PollingLimits, NotReady> {
    match (spec.polling.min_interval.get(), spec.polling.max_interval.get()) {
        (Some(min), Some(max)) if min <= max && min >= Duration::from_millis(10) => Ok(PollingLimits { min, max }),
        _ => Err(NotReady::new("InvalidSpec", "spec.polling: minInterval must be a duration such as 1s, and at most maxInterval")),
    }
}
