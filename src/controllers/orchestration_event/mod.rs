//! The controller of OrchestrationEvents: resolve, observe, decide, act, report (product.md 4).
//!
//! This file is the way through; each step has its own. Invariants: `Sending`
//! is acknowledged by the API server before anything is sent, and the write
//! names the copy that was decided upon, so that of two operators one sends;
//! what was sent, or was not, is remembered until it is written.
//!
//! What a waiting event costs: an instance is read (one request) at intervals
//! that grow from the hub's shortest to its longest, anew when its Orchestration
//! or its hub changes, until the deadline; a payload in a Secret or ConfigMap is
//! read (one request to the API server) only when nothing else is missing.

mod act;
mod decide;
mod describe;
mod owner;
mod target;
mod waiting;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durable_taskhub::Time;
use futures::stream::BoxStream;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};

use self::act::Delivery;
use self::decide::{Answer, Decision, Facts, Hub, Question, Verdict, Wish, decide};
use self::describe::{Addressee, MAX_ECHO_BYTES, Step, describe, finished_at, is_finished, notice};
use self::target::{Listed, Refusal, Target};
use self::waiting::{Subject, Surroundings, Waiting};
use super::events::{Events, Notice};
use super::expiry::{self, Expiry};
use super::failure::Failure;
use super::orchestration::OWNER_COLUMN;
use super::payload;
use super::runner::{Newest, Next, Reconciler};
use super::status::{self, STALE_AGAIN_AFTER, Written};
use crate::api::conditions::cut;
use crate::api::v1alpha1::{EventPhase, Orchestration, OrchestrationEvent, OrchestrationEventSpec, OrchestrationEventStatus, TaskHub};
use crate::api::{Envelope, RECONCILE_REQUESTED_AT_ANNOTATION};
use crate::crash_points::{self, at_event};
use crate::hubs::{Dependent, HubKey, HubView, Hubs, ReadyHub};

type Object = Envelope<OrchestrationEvent>;

/// An object that is decided on too early, since the operator has just started, is looked at again after this. It costs no request.
const TOO_EARLY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Questions of one pass: each kind once, and the binding.
const MAX_STEPS: usize = 8;

/// The controller's parts.
pub struct OrchestrationEvents {
    client: Client,
    events: Events,
    surroundings: Surroundings,
    waiting: Waiting,
    /// By UID: what became of a send, until the object says it.
    remembered: Mutex<HashMap<String, Verdict>>,
}

/// One object, read.
struct Reading {
    object: Arc<Object>,
    status: OrchestrationEventStatus,
    spec: Result<OrchestrationEventSpec, String>,
    wish: Result<Wish, String>,
    requested_at: Option<String>,
}

/// What was found out in this pass.
struct Found {
    namespace: Answer<Result<(), Refusal>>,
    seen: Answer<Option<Arc<durable_taskhub::Instance>>>,
    function: Answer<Result<(), Refusal>>,
    payload: Answer<Result<(), payload::Unusable>>,
    text: Option<String>,
}

impl Found {
    fn nothing() -> Found {
        Found { namespace: Answer::Open, seen: Answer::Open, function: Answer::Open, payload: Answer::Open, text: None }
    }
}

impl Reading {
    fn of(object: Arc<Object>) -> Reading {
        let spec = object.spec().map_err(|error| error.to_string());
        let wish = spec.as_ref().map_err(Clone::clone).map(|spec| Wish {
            wait_for: spec.wait_for,
            deadline: created(&object).saturating_add(Duration::from_secs(spec.deadline_seconds.unsigned_abs())),
            payload_is_elsewhere: spec.payload.as_ref().is_some_and(|payload| payload.value_from.is_some()),
        });
        // Cut as it will be echoed: what is longer would otherwise never count as handled.
        let requested_at = object.annotation(RECONCILE_REQUESTED_AT_ANNOTATION).map(|value| cut(value, MAX_ECHO_BYTES).to_owned());
        Reading { status: object.status(), spec, wish, requested_at, object }
    }

    /// A write gave back this copy: the rest stays what it was.
    fn with(mut self, copy: Arc<Object>) -> Reading {
        self.status = copy.status();
        self.object = copy;
        self
    }

    fn asked(&self) -> bool {
        self.requested_at.is_some() && self.requested_at != self.status.last_handled_reconcile_at
    }

    fn orchestration(&self) -> Option<&str> {
        Some(self.spec.as_ref().ok()?.orchestration_ref.as_ref()?.name.as_str())
    }

    /// The UID of the Orchestration that the event belongs to: once its owner, always the one.
    fn bound_to(&self) -> Option<String> {
        let owner = owner::uid_of(&self.object, self.orchestration()?);
        self.status.orchestration_uid.as_deref().or(owner).map(str::to_owned)
    }

    fn subject(&self, hub: Option<&HubKey>) -> Subject {
        let event = Dependent { namespace: self.object.namespace().to_owned(), name: self.object.name().to_owned() };
        Subject { event, hub: hub.cloned(), orchestration: self.orchestration().map(str::to_owned) }
    }

    fn delivery(&self, target: &Target, text: Option<String>) -> Option<Delivery> {
        let spec = self.spec.as_ref().ok()?;
        Some(match target {
            Target::Instance(instance) => Delivery::Event {
                instance_id: instance.id.clone(),
                name: spec.name.clone().unwrap_or_default(),
                wait_for: spec.wait_for,
                payload: text,
            },
            Target::Entity { id, .. } => {
                Delivery::Signal { entity: id.clone(), operation: spec.operation.clone().unwrap_or_default(), input: text }
            }
            Target::Unknown | Target::NoOrchestration(_) | Target::Unbound { .. } | Target::Refused(_) | Target::Unreadable(_) => {
                return None;
            }
        })
    }
}

/// What a pass came to.
enum Pass {
    /// Nothing new, for now.
    Later(Duration),
    /// Nothing new until something changes.
    Rest,
    /// Another copy of the object is newer.
    Stale,
    /// Written, or nothing to write.
    Said(OrchestrationEventStatus, Next),
}

impl OrchestrationEvents {
    /// The controller with nothing remembered.
    pub fn new(
        client: Client,
        events: Events,
        hubs: Hubs,
        task_hubs: Store<Envelope<TaskHub>>,
        orchestrations: Store<Envelope<Orchestration>>,
    ) -> OrchestrationEvents {
        let surroundings = Surroundings { hubs, task_hubs, orchestrations };
        OrchestrationEvents { client, events, waiting: Waiting::new(surroundings.clone()), surroundings, remembered: Mutex::default() }
    }

    /// The events whose hub or Orchestration changed, for ever. For one consumer.
    pub fn triggers(&self) -> BoxStream<'static, Dependent> {
        self.waiting.changed()
    }

    fn target(&self, reading: &Reading) -> Target {
        let Ok(spec) = &reading.spec else { return Target::Unknown };
        let namespace = reading.object.namespace();
        let found = reading.orchestration().map(|name| self.surroundings.orchestration(namespace, name));
        let listed = match &found {
            Some(Some(Some(object))) => Listed::There(object),
            Some(Some(None)) => Listed::Absent,
            Some(None) | None => Listed::Unknown,
        };
        Target::of(spec, namespace, reading.bound_to().as_deref(), &listed)
    }

    /// Decides, finds out what is missing, and decides again, until there is something to do; and does it.
    async fn pass(&self, mut reading: Reading, newest: &Newest<OrchestrationEvent>) -> Result<Pass, Failure> {
        let mut found = Found::nothing();
        let mut may_ask = false;
        for _ in 0..MAX_STEPS {
            let target = self.target(&reading);
            let (hub, view) = target.hub().map_or((Hub::Unknown, HubView::Unknown), |key| self.surroundings.hub(key));
            let decision = {
                let remembered = self.remembered().get(reading.object.uid()).cloned();
                decide(&Facts {
                    phase: reading.status.phase,
                    remembered: remembered.as_ref(),
                    deleted: reading.object.meta().deletion_timestamp.is_some(),
                    wish: reading.wish.as_ref().map_err(String::as_str),
                    target: &target,
                    hub,
                    namespace: found.namespace.clone(),
                    seen: found.seen.clone(),
                    function: found.function.clone(),
                    payload: found.payload.clone(),
                    now: Time::now(),
                })
            };
            match decision {
                Decision::Wait => return Ok(Pass::Later(TOO_EARLY_AGAIN_AFTER)),
                Decision::Rest => return self.write(&reading, &Step::Unchanged, &target, newest).await,
                Decision::Bind { name, uid } => match owner::add(&self.client, &reading.object, &name, &uid).await? {
                    Written::New(copy) => {
                        reading = reading.with(newest.keep(*copy));
                    }
                    Written::Stale => return Ok(Pass::Stale),
                },
                Decision::Ask(question) => {
                    let subject = reading.subject(target.hub());
                    if !may_ask && let Some(left) = self.waiting.until_due(reading.object.uid(), &subject, reading.asked()) {
                        return Ok(Pass::Later(left));
                    }
                    may_ask = true;
                    self.ask(question, &reading, &target, &view, &mut found).await?;
                }
                Decision::Conclude(verdict) => {
                    let pass = self.write(&reading, &Step::Verdict(&verdict), &target, newest).await?;
                    return Ok(self.paced(pass, &reading, &target, view.ready().filter(|_| may_ask)));
                }
                Decision::Send => return self.send(reading, &target, &view, found.text, newest).await,
            }
        }
        Err(Failure::of("undecided"))
    }

    /// When a waiting event looks again: of itself if it has asked, else when something changes.
    fn paced(&self, pass: Pass, reading: &Reading, target: &Target, asked: Option<&Arc<ReadyHub>>) -> Pass {
        let uid = reading.object.uid();
        match pass {
            Pass::Said(status, _) if is_finished(&status) => {
                self.waiting.remove(uid);
                Pass::Said(status, Next::Change)
            }
            Pass::Said(status, _) => {
                // So that it is told of changes.
                let _ = self.waiting.until_due(uid, &reading.subject(target.hub()), false);
                let next = asked.map_or(Next::Change, |hub| Next::After(self.waiting.asked(uid, hub.polling)));
                Pass::Said(status, next)
            }
            other => other,
        }
    }

    /// Finds out what `question` asks. One request at most, to the hub or the API server.
    async fn ask(&self, question: Question, reading: &Reading, target: &Target, view: &HubView, found: &mut Found) -> Result<(), Failure> {
        let (Some(key), Some(hub)) = (target.hub(), view.ready()) else { return Err(Failure::of("hub_not_ready")) };
        let namespace = reading.object.namespace();
        match question {
            Question::Namespace => found.namespace = Answer::Is(self.permission(key, hub, namespace, None).await),
            Question::Instance => {
                let Target::Instance(instance) = target else { return Err(Failure::of("undecided")) };
                match hub.client.get_without_input(&instance.id, &[OWNER_COLUMN]).await {
                    Ok(row) => found.seen = Answer::Is(row.map(Arc::new)),
                    Err(error) => {
                        self.surroundings.hubs.doubt(key);
                        return Err(Failure::new("storage", error));
                    }
                }
            }
            Question::Function => {
                let function = match (target, &found.seen) {
                    (Target::Entity { id, .. }, _) => id.name(),
                    (_, Answer::Is(Some(row))) => row.name.as_str(),
                    _ => "",
                };
                found.function = Answer::Is(self.permission(key, hub, namespace, Some(function)).await);
            }
            Question::Payload => {
                let payload = reading.spec.as_ref().ok().and_then(|spec| spec.payload.as_ref());
                let text = match payload {
                    Some(payload) => payload::text(&self.client, namespace, payload, hub.limits.max_input_bytes).await?,
                    None => Ok(None),
                };
                found.payload = Answer::Is(match text {
                    Ok(text) => {
                        found.text = text;
                        Ok(())
                    }
                    Err(unusable) => Err(unusable),
                });
            }
        }
        Ok(())
    }

    /// Whether objects of `namespace` may use the hub, and reach `function` through it.
    async fn permission(&self, key: &HubKey, hub: &ReadyHub, namespace: &str, function: Option<&str>) -> Result<(), Refusal> {
        let answer = self.surroundings.hubs.permission(key, hub, namespace, function).await;
        answer.map_err(|why| Refusal { reason: why.reason, message: why.message })
    }

    /// Writes that it is about to be sent, sends it, and writes what came of it.
    async fn send(
        &self,
        reading: Reading,
        target: &Target,
        view: &HubView,
        text: Option<String>,
        newest: &Newest<OrchestrationEvent>,
    ) -> Result<Pass, Failure> {
        let uid = reading.object.uid().to_owned();
        let (Some(delivery), Some(hub)) = (reading.delivery(target, text), view.ready()) else { return Err(Failure::of("hub_not_ready")) };
        // Of an earlier try: it must not speak for this one.
        self.remembered().remove(&uid);
        crash_points::reached(at_event::BEFORE_SENDING);
        let status = self.described(&reading, &Step::Sending, target);
        let reading = match status::write(&self.client, &reading.object, &status).await? {
            Written::New(copy) => reading.with(newest.keep(*copy)),
            Written::Stale => return Ok(Pass::Stale),
        };
        crash_points::reached(at_event::SENDING_WRITTEN);
        let verdict = act::send(hub, &delivery).await;
        self.remembered().insert(uid.clone(), verdict.clone());
        crash_points::reached(at_event::EVENT_SENT);
        if let (Verdict::Held { .. } | Verdict::Unknown(_), Some(key)) = (&verdict, target.hub()) {
            self.surroundings.hubs.doubt(key);
        }
        let pass = self.write(&reading, &Step::Verdict(&verdict), target, newest).await?;
        crash_points::reached(at_event::SENT_WRITTEN);
        Ok(self.paced(pass, &reading, target, Some(hub)))
    }

    fn described(&self, reading: &Reading, step: &Step<'_>, target: &Target) -> OrchestrationEventStatus {
        let addressee = Addressee { instance_id: target.instance_id(), orchestration_uid: reading.bound_to() };
        describe(&reading.status, step, &addressee, reading.object.generation(), reading.requested_at.as_deref(), Time::now())
    }

    /// Writes the status if it says something new, and tells a person what she would want to know.
    async fn write(
        &self,
        reading: &Reading,
        step: &Step<'_>,
        target: &Target,
        newest: &Newest<OrchestrationEvent>,
    ) -> Result<Pass, Failure> {
        let object = &reading.object;
        let after = self.described(reading, step, target);
        if after != reading.status {
            match status::write(&self.client, object, &after).await? {
                Written::New(copy) => drop(newest.keep(*copy)),
                Written::Stale => return Ok(Pass::Stale),
            }
            if after.phase != Some(EventPhase::Sending) {
                self.remembered().remove(object.uid());
            }
            self.tell(reading, &after).await;
        }
        Ok(match step {
            Step::Unchanged => Pass::Rest,
            Step::Sending | Step::Verdict(_) => Pass::Said(after, Next::Change),
        })
    }

    async fn tell(&self, reading: &Reading, after: &OrchestrationEventStatus) {
        if let Some(notice) = notice(&reading.status, after) {
            self.events.publish(&reading.object, notice).await;
        }
        let has_just_finished = is_finished(after) && !is_finished(&reading.status);
        if let (true, Expiry::RefusedFor(tool)) = (has_just_finished, self.expiry(reading, after)) {
            let note = format!(
                "spec.ttlSecondsAfterFinished is not carried out: {tool} keeps this object, and would create it again, and the event would be sent again"
            );
            self.events.publish(&reading.object, Notice { is_warning: true, reason: "TTLRefused", action: "Delete", note }).await;
        }
    }

    fn expiry(&self, reading: &Reading, status: &OrchestrationEventStatus) -> Expiry {
        let ttl = reading.spec.as_ref().ok().and_then(|spec| spec.ttl_seconds_after_finished);
        expiry::expiry(&reading.object, ttl, finished_at(status), Time::now())
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Verdict>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reconciler for OrchestrationEvents {
    type Kind = OrchestrationEvent;

    const KIND: &'static str = "OrchestrationEvent";

    async fn reconcile(&self, object: Arc<Object>, newest: &Newest<OrchestrationEvent>) -> Result<Next, Failure> {
        let reading = Reading::of(object.clone());
        let deadline = reading.wish.as_ref().ok().map(|wish| wish.deadline);
        if object.meta().deletion_timestamp.is_none() && self.expiry(&reading, &reading.status) == Expiry::Now {
            expiry::delete(&self.client, &object).await?;
            return Ok(Next::After(STALE_AGAIN_AFTER));
        }
        Ok(match self.pass(reading, newest).await? {
            Pass::Stale => Next::After(STALE_AGAIN_AFTER),
            Pass::Later(pause) => Next::After(before(deadline, pause)),
            Pass::Rest => self.until_expiry(&Reading::of(object.clone()), &object.status()),
            Pass::Said(status, _) if is_finished(&status) => self.until_expiry(&Reading::of(object), &status),
            Pass::Said(_, Next::After(pause)) => Next::After(before(deadline, pause)),
            Pass::Said(_, Next::Change) => deadline.map_or(Next::Change, |deadline| Next::After(left_until(deadline))),
        })
    }

    fn forget(&self, _: &ObjectRef<Object>, uid: &str) {
        self.waiting.remove(uid);
        self.remembered().remove(uid);
    }
}

impl OrchestrationEvents {
    fn until_expiry(&self, reading: &Reading, status: &OrchestrationEventStatus) -> Next {
        match self.expiry(reading, status) {
            Expiry::Never | Expiry::RefusedFor(_) => Next::Change,
            Expiry::In(left) => Next::After(left),
            Expiry::Now => Next::After(Duration::ZERO),
        }
    }
}

/// `pause`, or the time that is left if that is shorter.
fn before(deadline: Option<Time>, pause: Duration) -> Duration {
    deadline.map_or(pause, |deadline| pause.min(left_until(deadline)))
}

/// A moment longer than what is left, so that the deadline has passed by then.
fn left_until(deadline: Time) -> Duration {
    deadline.since(Time::now()) + Duration::from_millis(50)
}

fn created(object: &Object) -> Time {
    object.meta().creation_timestamp.as_ref().map_or_else(Time::now, |time| std::time::SystemTime::from(time.0).into())
}
