//! The controller of Orchestrations: resolve, observe, decide, act, report.
//!
//! This file is the way through; each step has its own. Invariants: only
//! `report` writes to the API server, only `act` to the hub.

mod act;
mod decide;
mod describe;
mod identity;

pub use identity::OWNER_COLUMN;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durable_taskhub::Time;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};

use self::decide::{Decision, Facts, Hub, Refusal, Wish, decide};
use self::describe::{MAX_ECHO_BYTES, Outcome, describe, notice};
use self::identity::Identity;
use super::events::Events;
use super::failure::Failure;
use super::runner::{Newest, Next, Reconciler};
use super::status::{self, STALE_AGAIN_AFTER, Written};
use crate::api::conditions::cut;
use crate::api::v1alpha1::{Orchestration, OrchestrationSpec, OrchestrationStatus, RuntimeStatus, TaskHub};
use crate::api::{Envelope, RECONCILE_REQUESTED_AT_ANNOTATION};
use crate::crash_points::{self, at, scaled};
use crate::hubs::{Dependent, HubKey, HubView, Hubs};
use crate::poller::{Poller, Seen, Subscription};

type Object = Envelope<Orchestration>;

/// An object whose hub is not known yet, since the operator has just started, is looked at again after this. It costs no request.
const UNKNOWN_HUB_AGAIN_AFTER: Duration = Duration::from_secs(1);

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
    followed: Mutex<HashMap<String, Followed>>,
}

/// What is remembered of an object between its reconciles, and can be lost.
#[derive(Debug, Clone)]
struct Followed {
    hub: HubKey,
    last_sent: Option<Time>,
}

impl Followed {
    fn of(hub: &HubKey) -> Followed {
        Followed { hub: hub.clone(), last_sent: None }
    }
}

/// One object, read.
struct Subject {
    object: Arc<Object>,
    status: OrchestrationStatus,
    hub: Option<HubKey>,
    wish: Result<Wish, Refusal>,
    requested_at: Option<String>,
}

impl Subject {
    fn read(object: Arc<Object>) -> Subject {
        let spec = object.spec();
        let namespace = object.namespace().to_owned();
        let hub = spec.as_ref().ok().map(|spec| HubKey { namespace, name: spec.task_hub_ref.name.clone() });
        let wish = match spec {
            Ok(spec) => Subject::wish(&object, spec),
            Err(error) => {
                let message =
                    format!("this version of the operator cannot read the spec: {error}. Change the object, or upgrade the operator");
                Err(Refusal { reason: "InvalidSpec", message })
            }
        };
        // Cut as it will be echoed: what is longer would otherwise never count as handled.
        let requested_at = object.annotation(RECONCILE_REQUESTED_AT_ANNOTATION).map(|value| cut(value, MAX_ECHO_BYTES).to_owned());
        Subject { status: object.status(), hub, wish, requested_at, object }
    }

    fn wish(object: &Object, spec: OrchestrationSpec) -> Result<Wish, Refusal> {
        match Identity::new(object.namespace(), object.name(), object.uid(), spec.instance_id.as_deref()) {
            Ok(identity) => Ok(Wish { identity, function_name: spec.function_name.unwrap_or_default(), input: spec.input }),
            Err(why) => Err(Refusal { reason: "InvalidInstanceId", message: format!("spec.instanceId: {why}") }),
        }
    }

    fn dependent(&self) -> Dependent {
        Dependent { namespace: self.object.namespace().to_owned(), name: self.object.name().to_owned() }
    }

    fn asked(&self) -> bool {
        self.requested_at.is_some() && self.requested_at != self.status.last_handled_reconcile_at
    }
}

impl Orchestrations {
    /// The controller with nothing remembered.
    pub fn new(client: Client, events: Events, hubs: Hubs, poller: Poller, task_hubs: Store<Envelope<TaskHub>>) -> Orchestrations {
        Orchestrations { client, events, hubs, poller, task_hubs, followed: Mutex::default() }
    }

    /// What is known of the object's hub and instance. No request.
    fn observe<'a>(&self, subject: &'a Subject) -> (Facts<'a>, HubView) {
        let uid = subject.object.uid();
        let followed = self.followed().get(uid).cloned();
        let view = subject.hub.as_ref().map(|key| self.hubs.view(key)).unwrap_or_default();
        let hub = match (&view, &subject.hub) {
            (HubView::Ready(hub), _) => Hub::Ready { workers_active: hub.workers_active },
            (HubView::NotReady(why), _) => Hub::NotReady(why.clone()),
            (HubView::Absent, _) => Hub::NotFound,
            (HubView::Unknown, Some(key)) if self.is_absent(key) => Hub::NotFound,
            (HubView::Unknown, _) => Hub::Unknown,
        };
        let facts = Facts {
            status: &subject.status,
            wish: subject.wish.as_ref(),
            hub,
            seen: subject.hub.as_ref().map_or(Seen::Nothing, |key| self.poller.seen(key, uid)),
            asked: subject.asked(),
            deleted: subject.object.meta().deletion_timestamp.is_some(),
            last_sent: followed.and_then(|followed| followed.last_sent),
            now: Time::now(),
        };
        (facts, view)
    }

    /// True if all TaskHubs were listed and this one is not among them.
    fn is_absent(&self, key: &HubKey) -> bool {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        futures::FutureExt::now_or_never(self.task_hubs.wait_until_ready()).is_some_and(|ready| ready.is_ok())
            && self.task_hubs.get(&reference).is_none()
    }

    /// Carries out the decision; `None` if the object's status says all that there is to say.
    async fn act(&self, subject: &Subject, decision: Decision, view: &HubView) -> Result<Option<Outcome>, Failure> {
        let hub = || view.ready().ok_or_else(|| Failure::of("hub_not_ready"));
        Ok(Some(match decision {
            Decision::Wait | Decision::Follow => return Ok(None),
            Decision::Rest => Outcome::Unchanged,
            Decision::Hold(hold) => Outcome::Held(hold),
            Decision::Start => match &subject.wish {
                Ok(wish) => act::start(hub()?, wish).await?,
                Err(_) => return Ok(None),
            },
            Decision::SendAgain(instance) => {
                act::send_again(hub()?, &instance.id).await?;
                if let Some(followed) = self.followed().get_mut(subject.object.uid()) {
                    followed.last_sent = Some(Time::now());
                }
                act::row(hub()?, instance).await?
            }
            Decision::Show(instance) => act::row(hub()?, instance).await?,
            Decision::Replaced(instance) => Outcome::Replaced { owner: owner_of(&subject.wish, &instance) },
            Decision::Missing => Outcome::Missing,
        }))
    }

    /// Writes the status if it says something new, and tells a person what she would want to know. `None` if the object has
    /// changed since it was read: then nothing was written.
    async fn report(
        &self,
        subject: &Subject,
        outcome: &Outcome,
        newest: &Newest<Orchestration>,
    ) -> Result<Option<OrchestrationStatus>, Failure> {
        let object = &subject.object;
        let after = describe(&subject.status, outcome, object.generation(), subject.requested_at.as_deref(), Time::now());
        if says_the_same(&subject.status, &after) {
            return Ok(Some(subject.status.clone()));
        }
        match status::write(&self.client, object, &after).await? {
            Written::New(copy) => newest.keep(*copy),
            Written::Stale => return Ok(None),
        }
        crash_points::reached(match after.runtime_status {
            _ if after.settled => at::SETTLED_WRITTEN,
            Some(RuntimeStatus::Running) => at::RUNNING_WRITTEN,
            _ => at::ACCEPTED_WRITTEN,
        });
        if let Some(notice) = notice(&subject.status, &after) {
            self.events.publish(object, notice).await;
        }
        Ok(Some(after))
    }

    /// Has the instance read as long as it is not settled, and its owner told of its hub.
    fn follow(&self, subject: &Subject, status: &OrchestrationStatus, at_once: bool) {
        let (uid, Some(hub)) = (subject.object.uid(), &subject.hub) else { return };
        let wants_more = !status.settled || at_once;
        if !wants_more {
            self.unfollow(uid, &subject.dependent());
            return;
        }
        self.followed().entry(uid.to_owned()).or_insert_with(|| Followed::of(hub));
        self.hubs.follow(hub, subject.dependent());
        // The ID is computed, not read back: whoever may write a status could point it at the instance of another.
        if let (Ok(wish), Some(_)) = (&subject.wish, &status.execution_id) {
            let instance_id = wish.identity.instance_id.as_str().to_owned();
            // A start that was sent just now has nothing to show yet; one that this process only heard of may have ended long ago.
            let sent_just_now = subject.status.execution_id.is_none();
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
    fn doubt_hub(&self, subject: &Subject) {
        let Some(hub) = &subject.hub else { return };
        self.followed().entry(subject.object.uid().to_owned()).or_insert_with(|| Followed::of(hub));
        self.hubs.follow(hub, subject.dependent());
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
}

impl Reconciler for Orchestrations {
    type Kind = Orchestration;

    const KIND: &'static str = "Orchestration";

    async fn reconcile(&self, object: Arc<Object>, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        let subject = Subject::read(object);
        let (facts, view) = self.observe(&subject);
        let decision = decide(&facts);
        let asked = facts.asked;
        let at_once = asked && matches!(decision, Decision::Follow);
        let hub_unknown = facts.hub == Hub::Unknown && matches!(decision, Decision::Wait);
        let acted = self.act(&subject, decision, &view).await;
        if acted.is_err() {
            self.doubt_hub(&subject);
        }
        let status = match acted? {
            Some(outcome) => match self.report(&subject, &outcome, newest).await? {
                Some(status) => status,
                None => return Ok(Next::After(STALE_AGAIN_AFTER)),
            },
            None => subject.status.clone(),
        };
        self.follow(&subject, &status, at_once);
        if let Some(hub) = subject.hub.as_ref().filter(|_| asked && !status.settled) {
            // Who asks does not want to wait for the next read of its pace.
            self.poller.hurry(hub, subject.object.uid());
        }
        // Nobody tells of a TaskHub that turns out not to exist when all are listed.
        Ok(if hub_unknown { Next::After(UNKNOWN_HUB_AGAIN_AFTER) } else { next(&status, Time::now()) })
    }

    fn forget(&self, object: &ObjectRef<Object>, uid: &str) {
        let dependent = Dependent { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() };
        self.unfollow(uid, &dependent);
    }
}

/// When time alone changes something: a start that waits is first reported, later sent again.
fn next(status: &OrchestrationStatus, now: Time) -> Next {
    let waits = status.runtime_status == Some(RuntimeStatus::Pending) && !status.settled;
    if !waits {
        return Next::Change;
    }
    let waited = status.created_time.as_ref().map_or(Duration::ZERO, |created| now.since(created.0));
    let steps = [scaled(decide::START_EXPECTED_AFTER), scaled(decide::SEND_AGAIN_AFTER)];
    let until = steps.into_iter().find(|step| *step > waited).map_or(scaled(decide::SEND_AGAIN_AFTER), |step| step - waited);
    // A moment later than the step, so that it has been reached.
    Next::After(until + Duration::from_millis(50))
}

fn owner_of(wish: &Result<Wish, Refusal>, instance: &durable_taskhub::Instance) -> Option<String> {
    match wish.as_ref().ok()?.identity.whose(instance) {
        identity::Whose::OfObject(owner) => Some(owner),
        identity::Whose::Ours | identity::Whose::Foreign => None,
    }
}

/// `lastUpdatedTime` alone is no reason to write.
fn says_the_same(before: &OrchestrationStatus, after: &OrchestrationStatus) -> bool {
    OrchestrationStatus { last_updated_time: before.last_updated_time.clone(), ..after.clone() } == *before
}
