//! The controller of Orchestrations: resolve, observe, decide, act, report.
//!
//! This file is the way through; each step has its own. Invariants: only
//! `report` and the finalizer write to the API server, only `act` to the hub;
//! what is sent was recorded first.

mod act;
mod decide;
mod deletion;
mod describe;
mod identity;
mod notice;
mod same_json;
mod says;
mod schedule;
mod subject;
mod teardown;
mod wish;

pub use identity::{Identity, OWNER_COLUMN, Whose};
pub use subject::hub_of;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use durable_taskhub::Time;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use tracing::Instrument;

use self::act::control::{self, Resolved};
use self::act::rewind::{self, Standing};
use self::decide::{Decision, Facts, Hub, decide};
use self::describe::{About, Change, Outcome, describe};
use self::notice::notices;
use self::subject::{Object, Subject};
use self::wish::{Refusal, Wish, is_accepted};
use super::events::{Events, Notice};
use super::expiry::{self, Expiry, expiry};
use super::failure::Failure;
use super::finalizer;
use super::runner::{Newest, Next, Reconciler};
use super::status::{self, STALE_AGAIN_AFTER, Written};
use crate::api::v1alpha1::{Action, Orchestration, OrchestrationStatus, RuntimeStatus, TaskHub};
use crate::api::{Envelope, TRACE_PARENT_ANNOTATION};
use crate::crash_points::{self, at};
use crate::hubs::{Dependent, HubKey, HubView, Hubs, ReadyHub, Standing as Counted};
use crate::metrics::OrchestrationMetrics;
use crate::poller::{Poller, Seen, Subscription};
use crate::traces::{self, Traces};

/// An object whose hub is not known yet, since the operator has just started, is looked at again after this. It costs no request.
const UNKNOWN_HUB_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the annotation for a run's trace looks like.
const EXAMPLE_TRACE_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Without a hub that says otherwise.
const DEFAULT_INLINE_BYTES: usize = 8192;

/// The controller's parts.
pub struct Orchestrations {
    /// Writes statuses.
    pub client: Client,
    /// Publishes Events.
    pub events: Events,
    /// The hubs and their clients.
    pub hubs: Hubs,
    /// Reads instances.
    pub poller: Poller,
    /// All TaskHubs that are watched.
    pub task_hubs: Store<Envelope<TaskHub>>,
    /// What is counted.
    pub metrics: OrchestrationMetrics,
    /// Which traces the runs belong to.
    pub traces: Traces,
    followed: Mutex<HashMap<String, Followed>>,
}

/// What is remembered of an object between its reconciles, and can be lost.
#[derive(Debug, Clone)]
struct Followed {
    hub: HubKey,
    /// When its start message was last sent again.
    last_sent: Option<Time>,
    /// When a terminate was last sent for its deletion.
    last_told: Option<Time>,
}

impl Followed {
    fn of(hub: &HubKey) -> Followed {
        Followed { hub: hub.clone(), last_sent: None, last_told: None }
    }
}

/// What came of a step that may have found the object changed.
#[expect(clippy::large_enum_variant, reason = "one at a time, moved once per step; the other variant is the rare one")]
enum Step {
    /// It was carried out; the object is as new as its last write.
    Done(Subject, Option<Outcome>),
    /// The object has changed since it was read: nothing was written, and nothing was done after that.
    Stale,
}

impl Orchestrations {
    /// The controller with nothing remembered.
    pub fn new(
        client: Client,
        events: Events,
        hubs: Hubs,
        poller: Poller,
        task_hubs: Store<Envelope<TaskHub>>,
        metrics: OrchestrationMetrics,
        traces: Traces,
    ) -> Orchestrations {
        Orchestrations { client, events, hubs, poller, task_hubs, metrics, traces, followed: Mutex::default() }
    }

    /// What is known of the object's hub and instance. No request, but for the labels of a namespace that a hub selects by.
    async fn observe<'a>(&self, subject: &'a Subject) -> (Facts<'a>, HubView) {
        let uid = subject.object.uid();
        let view = subject.hub.as_ref().map(|key| self.hubs.view(key)).unwrap_or_default();
        let hub = match (&view, &subject.hub) {
            (HubView::Ready(ready), Some(key)) => match self.permission(key, ready, subject).await {
                Ok(()) => Hub::Ready { workers_active: ready.workers_active },
                Err(refusal) => Hub::Refuses(refusal),
            },
            (HubView::NotReady(why), _) => Hub::NotReady(why.clone()),
            (HubView::Absent, _) => Hub::NotFound,
            (HubView::Unknown, Some(key)) if self.is_absent(key) => Hub::NotFound,
            _ => Hub::Unknown,
        };
        let facts = Facts {
            status: &subject.status,
            wish: subject.wish.as_ref(),
            hub,
            seen: subject.hub.as_ref().map_or(Seen::Nothing, |key| self.poller.seen(key, uid)),
            asked: subject.asked(),
            has_finalizer: subject.object.has_finalizer(),
            last_sent: self.followed().get(uid).and_then(|followed| followed.last_sent),
            now: Time::now(),
        };
        (facts, view)
    }

    /// Whether the hub lets the object use it.
    async fn permission(&self, key: &HubKey, ready: &ReadyHub, subject: &Subject) -> Result<(), Refusal> {
        let function = subject.wish.as_ref().ok().and_then(|wish| wish.spec.function_name.as_deref());
        let answer = self.hubs.permission(key, ready, subject.object.namespace(), function).await;
        answer.map_err(|why| Refusal { reason: why.reason, message: why.message })
    }

    /// True if all TaskHubs were listed and this one is not among them.
    fn is_absent(&self, key: &HubKey) -> bool {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        futures::FutureExt::now_or_never(self.task_hubs.wait_until_ready()).is_some_and(|ready| ready.is_ok())
            && self.task_hubs.get(&reference).is_none()
    }

    /// Carries out the decision, and writes what came of it.
    async fn act(&self, subject: Subject, decision: Decision, view: &HubView, newest: &Newest<Orchestration>) -> Result<Step, Failure> {
        let hub = || view.ready().ok_or_else(|| Failure::of("hub_not_ready"));
        let wish = || subject.wish.as_ref().map_err(|_| Failure::of("spec_unreadable"));
        let outcome = match decision {
            Decision::Wait | Decision::Follow => return Ok(Step::Done(subject, None)),
            Decision::AddFinalizer => return self.add_finalizer(subject, newest).await,
            Decision::RemoveFinalizer => return self.remove_finalizer(subject, newest).await,
            Decision::Rest => Outcome::Unchanged,
            Decision::Hold(hold) => Outcome::Held(hold),
            Decision::Start => {
                let wish = wish()?;
                self.start(wish, act::start(&self.client, hub()?, subject.object.namespace(), wish)).await?
            }
            Decision::LookBeforeHold(hold) => {
                let wish = wish()?;
                self.start(wish, act::look_before(&self.client, hub()?, subject.object.namespace(), wish, hold)).await?
            }
            Decision::Adopt => act::adopt(hub()?, wish()?).await?,
            Decision::SendAgain(instance) => {
                let wish = wish()?;
                self.in_run_trace(wish, act::send_again(hub()?, wish, &instance.id)).await?;
                if let Some(followed) = self.followed().get_mut(subject.object.uid()) {
                    followed.last_sent = Some(Time::now());
                }
                Outcome::Row(act::row(hub()?, Some(wish), instance).await?, Change::Keep)
            }
            Decision::Issue(action, instance) => return self.issue(subject, action, instance, hub()?, newest).await,
            Decision::Resolve { wanted, instance } => {
                let Some(pending) = subject.status.pending.clone() else { return Ok(Step::Done(subject, None)) };
                match control::resolve(hub()?, &pending, wanted, instance.clone()).await? {
                    Resolved::Unsent(instance) if wanted => {
                        return self.issue(subject, pending.action, instance, hub()?, newest).await;
                    }
                    Resolved::Unsent(instance) => Outcome::Row(act::row(hub()?, Some(wish()?), instance).await?, Change::Clear),
                    Resolved::Done(instance) => Outcome::Row(act::row(hub()?, Some(wish()?), instance).await?, Change::Keep),
                    Resolved::Waits => Outcome::Row(act::row(hub()?, Some(wish()?), instance).await?, Change::Keep),
                }
            }
            Decision::Withdraw(instance) => {
                let Some(pending) = subject.status.pending.clone() else { return Ok(Step::Done(subject, None)) };
                control::withdraw(hub()?, wish()?, &pending, instance).await?
            }
            Decision::Rewind => return self.rewind(subject, hub()?, newest).await,
            Decision::Show(instance) => Outcome::Row(act::row(hub()?, Some(wish()?), instance).await?, Change::Keep),
            Decision::Replaced(instance) => {
                control::give_up(hub()?, wish()?, subject.status.pending.as_ref()).await?;
                Outcome::Replaced { owner: owner_of(wish()?, &instance) }
            }
            Decision::Missing => {
                control::give_up(hub()?, wish()?, subject.status.pending.as_ref()).await?;
                Outcome::Missing
            }
        };
        self.report(subject, outcome, newest).await
    }

    /// Records the action, sends its message, records that. Rule 5 of product.md 3.4.
    async fn issue(
        &self,
        subject: Subject,
        action: Action,
        instance: Arc<durable_taskhub::Instance>,
        hub: &ReadyHub,
        newest: &Newest<Orchestration>,
    ) -> Result<Step, Failure> {
        let wish = subject.wish.clone().map_err(|_| Failure::of("spec_unreadable"))?;
        let record = control::record(action, Time::now());
        let outcome = Outcome::Row(act::row(hub, Some(&wish), instance.clone()).await?, Change::Set(record));
        let Step::Done(subject, _) = self.report(subject, outcome, newest).await? else { return Ok(Step::Stale) };
        crash_points::reached(at::ACTION_RECORDED);
        let reason = self.reason_of(&subject, &wish, action);
        let outcome = control::send(hub, &wish, action, reason.as_deref(), instance).await?;
        let step = self.report(subject, outcome, newest).await?;
        crash_points::reached(at::ACTION_SENT_WRITTEN);
        Ok(step)
    }

    /// The reason that goes with the message.
    fn reason_of(&self, subject: &Subject, wish: &Wish, action: Action) -> Option<String> {
        use crate::api::v1alpha1::DesiredState;
        let object = format!("Orchestration {}/{}", subject.object.namespace(), subject.object.name());
        if action == Action::Terminate && wish.desired() != DesiredState::Terminated {
            return Some(match subject.object.deleted_at() {
                Some(_) => format!("{object} was deleted"),
                None => format!("{object} did not end within spec.activeDeadlineSeconds"),
            });
        }
        wish.spec.reason.clone()
    }

    /// Records the rewind, or goes on with one that was recorded.
    async fn rewind(&self, subject: Subject, hub: &ReadyHub, newest: &Newest<Orchestration>) -> Result<Step, Failure> {
        let wish = subject.wish.clone().map_err(|_| Failure::of("spec_unreadable"))?;
        let recorded = decide::is_rewinding(&subject.status);
        let ended = match rewind::standing(hub, &wish, &subject.status, recorded).await? {
            Standing::Over(result, message) => return self.report(subject, Outcome::Rewound(result, message), newest).await,
            Standing::Open { ended } => ended,
        };
        let subject = if recorded {
            subject
        } else {
            let outcome = Outcome::Rewinding(control::record(Action::Rewind, Time::now()), ended);
            let Step::Done(subject, _) = self.report(subject, outcome, newest).await? else { return Ok(Step::Stale) };
            crash_points::reached(at::REWIND_RECORDED);
            subject
        };
        let outcome = rewind::rewind(hub, &wish, recorded).await?;
        let step = self.report(subject, outcome, newest).await?;
        crash_points::reached(at::REWOUND_WRITTEN);
        Ok(step)
    }

    async fn add_finalizer(&self, subject: Subject, newest: &Newest<Orchestration>) -> Result<Step, Failure> {
        let written = finalizer::add(&self.client, &subject.object).await?;
        let step = self.read_back(written, newest);
        crash_points::reached(at::FINALIZER_ADDED);
        Ok(step)
    }

    async fn remove_finalizer(&self, subject: Subject, newest: &Newest<Orchestration>) -> Result<Step, Failure> {
        Ok(self.read_back(finalizer::remove(&self.client, &subject.object).await?, newest))
    }

    /// Writes the status if it says something new, and tells a person what she would want to know.
    async fn report(&self, subject: Subject, outcome: Outcome, newest: &Newest<Orchestration>) -> Result<Step, Failure> {
        let max_inline_bytes =
            subject.hub.as_ref().and_then(|key| self.hubs.view(key).ready().map(|hub| hub.limits.max_inline_output_bytes));
        let about = About {
            wish: subject.wish.as_ref().ok(),
            generation: subject.object.generation(),
            requested_at: subject.requested_at.as_deref(),
            max_inline_bytes: max_inline_bytes.unwrap_or(DEFAULT_INLINE_BYTES),
            now: Time::now(),
        };
        let after = describe(&subject.status, &outcome, &about);
        if says_the_same(&subject.status, &after) {
            return Ok(Step::Done(subject, Some(outcome)));
        }
        let written = status::write(&self.client, &subject.object, &after).await?;
        let Step::Done(new, _) = self.read_back(written, newest) else { return Ok(Step::Stale) };
        crash_points::reached(match after.runtime_status {
            _ if after.settled => at::SETTLED_WRITTEN,
            Some(RuntimeStatus::Running) => at::RUNNING_WRITTEN,
            _ => at::ACCEPTED_WRITTEN,
        });
        for notice in notices(&subject.status, &after, about.wish) {
            self.events.publish(&new.object, notice).await;
        }
        if let Some(tool) = self.refuses_expiry(&new, about.now) {
            self.events.publish(&new.object, tool).await;
        }
        if new.has_invalid_trace_parent() && !is_accepted(&subject.status) && is_accepted(&after) {
            self.events.publish(&new.object, trace_parent_ignored()).await;
        }
        Ok(Step::Done(new, Some(outcome)))
    }

    /// The copy that a write gave back.
    fn read_back(&self, written: Written<Orchestration>, newest: &Newest<Orchestration>) -> Step {
        match written {
            Written::New(copy) => Step::Done(Subject::read(newest.keep(*copy), &self.traces), None),
            Written::Stale => Step::Stale,
        }
    }

    /// Awaits `work`, which may start the run, as a part of the run's trace.
    async fn in_run_trace<T>(&self, wish: &Wish, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Some(trace) = &wish.trace else { return work.await };
        // A span of its own: that of the reconcile has begun, and belongs to no run.
        let span = tracing::debug_span!("start");
        traces::join(&span, trace);
        let result = work.instrument(span.clone()).await;
        if let Err(failure) = &result {
            traces::failed(&span, failure.category());
        }
        result
    }

    /// The same, and shows the start if `work` has made one, or has found one that nobody has shown yet.
    async fn start(&self, wish: &Wish, work: impl Future<Output = Result<Outcome, Failure>>) -> Result<Outcome, Failure> {
        let begun = SystemTime::now();
        let outcome = self.in_run_trace(wish, work).await?;
        let is_started = match &outcome {
            Outcome::Accepted { .. } => true,
            // An operator that died had sent it, and the run has begun since.
            Outcome::Row(row, _) => row.instance.execution_id.as_deref() == Some(&wish.identity.execution_id),
            _ => false,
        };
        if let Some(trace) = wish.trace.as_ref().filter(|_| is_started) {
            let (function, instance_id) = (wish.spec.function_name.as_deref().unwrap_or_default(), wish.identity.instance_id.as_str());
            self.traces.started(trace, function, instance_id, begun);
        }
        Ok(outcome)
    }

    /// What is said, once, of an object that its tool would create again.
    fn refuses_expiry(&self, subject: &Subject, now: Time) -> Option<Notice> {
        match self.expiry(subject, now) {
            Expiry::RefusedFor(tool) => Some(Notice {
                is_warning: true,
                reason: "TTLRefused",
                action: "Delete",
                note: format!(
                    "spec.ttlSecondsAfterFinished is not carried out: {tool} keeps this object, and would create and run it again"
                ),
            }),
            Expiry::Never | Expiry::In(_) | Expiry::Now => None,
        }
    }

    fn expiry(&self, subject: &Subject, now: Time) -> Expiry {
        let ttl = subject.wish.as_ref().ok().and_then(|wish| wish.spec.ttl_seconds_after_finished);
        expiry(&subject.object, ttl, subject.finished(), now)
    }

    /// Has the instance read as long as it is not settled, and its owner told of its hub.
    fn follow(&self, subject: &Subject, sent_just_now: bool, at_once: bool) {
        let (uid, Some(hub)) = (subject.object.uid(), &subject.hub) else { return };
        let status = &subject.status;
        let rewinds = subject.wish.as_ref().is_ok_and(|wish| {
            status.runtime_status == Some(RuntimeStatus::Failed) && wish.asks_for_rewind(status) && !decide::is_hands_off(status)
        });
        if status.settled && !at_once && !rewinds {
            self.unfollow(uid, &subject.dependent());
            return;
        }
        self.followed().entry(uid.to_owned()).or_insert_with(|| Followed::of(hub));
        self.hubs.follow(hub, subject.dependent());
        // The ID is computed, not read back: whoever may write a status could point it at the instance of another.
        if let Ok(wish) = &subject.wish
            && is_accepted(status)
        {
            let instance_id = wish.identity.instance_id.as_str().to_owned();
            // A start that was sent just now has nothing to show yet; one that this process only heard of may have ended long ago.
            let delay = self.hubs.view(hub).ready().filter(|_| sent_just_now).map_or(Duration::ZERO, |hub| hub.polling.min);
            let subscription = Subscription { uid: uid.to_owned(), owner: subject.dependent(), hub: hub.clone(), instance_id };
            self.poller.subscribe(subscription, delay);
            if at_once {
                self.poller.hurry(hub, uid);
            }
        }
    }

    /// Something failed in the hub. Its TaskHub may know better why, and this object is told when that changes: it need not
    /// sit out its pause.
    fn doubt_hub(&self, hub: Option<&HubKey>, uid: &str, dependent: Dependent) {
        let Some(hub) = hub else { return };
        self.followed().entry(uid.to_owned()).or_insert_with(|| Followed::of(hub));
        self.hubs.follow(hub, dependent);
        self.hubs.doubt(hub);
    }

    fn unfollow(&self, uid: &str, dependent: &Dependent) {
        if let Some(followed) = self.followed().remove(uid) {
            self.hubs.unfollow(&followed.hub, dependent);
            self.poller.unsubscribe(&followed.hub, uid);
        }
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, HashMap<String, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What follows from what was done: what is read, and when the object is looked at again.
    async fn after(&self, before: &Before, subject: &Subject, outcome: Option<&Outcome>) -> Result<Next, Failure> {
        let now = Time::now();
        if let Some(hub) = &subject.hub {
            self.hubs.record(hub, subject.object.uid(), Some(standing(&subject.status)));
        }
        if let (Some(Outcome::Rewound(..)), Some(hub)) = (outcome, &subject.hub) {
            // What was seen before the rewind, the failure, says nothing of the run that goes on.
            self.poller.unsubscribe(hub, subject.object.uid());
        }
        self.follow(subject, !before.accepted && is_accepted(&subject.status), before.at_once);
        match self.expiry(subject, now) {
            Expiry::Now => {
                expiry::delete(&self.client, &subject.object).await?;
                return Ok(Next::Change);
            }
            Expiry::In(left) => return Ok(Next::After(left)),
            Expiry::Never | Expiry::RefusedFor(_) => {}
        }
        let Some(outcome) = outcome else {
            return Ok(schedule::next(&subject.status, None, subject.wish.as_ref().ok(), before.decided_at, now));
        };
        if matches!(outcome, Outcome::Rewound(..)) {
            // The finalizer has no reason any more.
            return Ok(Next::After(Duration::ZERO));
        }
        // An action came to its end: the next one may be due. If the row has changed since it was seen, that is decided on the newer one.
        if let Outcome::Row(row, _) = outcome
            && before.was_pending
            && subject.status.pending.is_none()
            && !subject.status.settled
            && let Some(hub) = &subject.hub
        {
            let seen = self.poller.seen(hub, subject.object.uid());
            if matches!(&seen, Seen::Row(seen) if seen.etag == row.instance.etag) {
                return Ok(Next::After(Duration::ZERO));
            }
            self.poller.hurry(hub, subject.object.uid());
        }
        Ok(schedule::next(&subject.status, Some(outcome), subject.wish.as_ref().ok(), before.decided_at, now))
    }
}

/// What is to be known of an object after it was acted upon.
struct Before {
    accepted: bool,
    was_pending: bool,
    at_once: bool,
    decided_at: Time,
}

impl Reconciler for Orchestrations {
    type Kind = Orchestration;

    const KIND: &'static str = "Orchestration";

    async fn reconcile(&self, object: Arc<Object>, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        let subject = Subject::read(object, &self.traces);
        if let Some(deleted_at) = subject.object.deleted_at() {
            // In a box: the rare way would make every reconcile's future half as large again.
            return Box::pin(self.delete(subject, deleted_at, newest)).await;
        }
        let (facts, view) = self.observe(&subject).await;
        let decision = decide(&facts);
        let asked = facts.asked;
        let before = Before {
            accepted: is_accepted(&subject.status),
            was_pending: subject.status.pending.is_some(),
            at_once: asked && matches!(decision, Decision::Follow),
            decided_at: facts.now,
        };
        let hub_unknown = facts.hub == Hub::Unknown && matches!(decision, Decision::Wait);
        let changes_finalizer = matches!(decision, Decision::AddFinalizer | Decision::RemoveFinalizer);
        let (hub, uid, dependent) = (subject.hub.clone(), subject.object.uid().to_owned(), subject.dependent());
        let acted = self.act(subject, decision, &view, newest).await;
        if acted.is_err() {
            self.doubt_hub(hub.as_ref(), &uid, dependent);
        }
        let Step::Done(subject, outcome) = acted? else { return Ok(Next::After(STALE_AGAIN_AFTER)) };
        if changes_finalizer {
            return Ok(Next::After(Duration::ZERO));
        }
        let next = self.after(&before, &subject, outcome.as_ref()).await?;
        if let Some(hub) = subject.hub.as_ref().filter(|_| asked && !subject.status.settled) {
            // Who asks does not want to wait for the next read of its pace.
            self.poller.hurry(hub, subject.object.uid());
        }
        // Nobody tells of a TaskHub that turns out not to exist when all are listed.
        Ok(if hub_unknown { Next::After(UNKNOWN_HUB_AGAIN_AFTER) } else { next })
    }

    fn forget(&self, object: &ObjectRef<Object>, uid: &str) {
        let dependent = Dependent { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() };
        self.unfollow(uid, &dependent);
        self.hubs.forget(uid);
    }
}

/// Where the object stands, for the counts of its TaskHub.
fn standing(status: &OrchestrationStatus) -> Counted {
    match status.runtime_status {
        _ if decide::is_hands_off(status) => Counted::Failed,
        None if status.settled => Counted::Terminated,
        None | Some(RuntimeStatus::Pending) if !status.settled => Counted::Pending,
        Some(RuntimeStatus::Completed) => Counted::Completed,
        Some(RuntimeStatus::Terminated) => Counted::Terminated,
        Some(RuntimeStatus::Failed | RuntimeStatus::Canceled) => Counted::Failed,
        // Settled without an end: the instance is gone.
        _ if status.settled => Counted::Failed,
        Some(RuntimeStatus::Suspended) => Counted::Suspended,
        _ => Counted::Running,
    }
}

/// What is said, once, of an annotation that could not be followed: a run does not wait for its trace.
fn trace_parent_ignored() -> Notice {
    Notice {
        is_warning: true,
        reason: "TraceParentIgnored",
        action: "Start",
        note: format!(
            "the annotation {TRACE_PARENT_ANNOTATION} was ignored: it must be a traceparent of W3C Trace Context, such as {EXAMPLE_TRACE_PARENT}"
        ),
    }
}

fn owner_of(wish: &Wish, instance: &durable_taskhub::Instance) -> Option<String> {
    match wish.identity.whose(instance) {
        Whose::OfObject(owner) => Some(owner),
        Whose::Ours | Whose::Foreign => None,
    }
}

/// `lastUpdatedTime` alone is no reason to write.
fn says_the_same(before: &OrchestrationStatus, after: &OrchestrationStatus) -> bool {
    OrchestrationStatus { last_updated_time: before.last_updated_time.clone(), ..after.clone() } == *before
}
