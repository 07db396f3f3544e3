//! Carries the deletion of an Orchestration into the hub, step by step (product.md 3.5).
//!
//! What is to be done is decided in `teardown`; each step can be repeated after
//! a crash. Invariant: the finalizer goes last, and goes in any case in the end.

use std::sync::Arc;
use std::time::Duration;

use durable_taskhub::control::ControlError;
use durable_taskhub::purge::PurgeError;
use durable_taskhub::terminate::TerminateTreeError;
use durable_taskhub::{Instance, RuntimeStatus, Time};

use super::act::control::{self, Resolved};
use super::act::{self, storage};
use super::decide::{Decision, Hub, decide};
use super::describe::{Change, Outcome};
use super::identity::OWNER_COLUMN;
use super::subject::Subject;
use super::teardown::{self, Duty};
use super::wish::{Wish, is_accepted};
use super::{Before, Followed, Orchestrations, Step};
use crate::api::v1alpha1::{Action, DeletionPolicy, Orchestration};
use crate::controllers::events::Notice;
use crate::controllers::failure::Failure;
use crate::controllers::runner::{Newest, Next};
use crate::controllers::status::STALE_AGAIN_AFTER;
use crate::crash_points::{self, at};
use crate::hubs::ReadyHub;

/// How often the end of an instance is looked for.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often a hub that cannot be asked is looked at, besides being told of its changes.
const HUB_AGAIN_AFTER: Duration = Duration::from_secs(5);

impl Orchestrations {
    /// One step of a deletion.
    pub(super) async fn delete(&self, subject: Subject, deleted_at: Time, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        if !subject.object.has_finalizer() {
            return Box::pin(self.show_while_held_by_others(subject, newest)).await;
        }
        let (mut facts, view) = self.observe(&subject).await;
        // In a namespace that is being deleted, Secret and TaskHub may have gone first: what worked last may work still.
        let last = subject.hub.as_ref().and_then(|key| self.hubs.last_ready(key));
        let hub = view.ready().cloned().or(last);
        if let (Hub::NotFound | Hub::NotReady(_), Some(hub)) = (&facts.hub, &hub) {
            facts.hub = Hub::Ready { workers_active: hub.workers_active };
        }
        let duty = teardown::duty(&facts, deleted_at);
        match (duty, hub) {
            (Duty::None, _) => self.release(subject, newest).await,
            (Duty::GiveUp(why), _) => {
                self.metrics.given_up.inc();
                let notice = Notice { is_warning: true, reason: "DeletionGivenUp", action: "Delete", note: why };
                self.events.publish(&subject.object, notice).await;
                self.release(subject, newest).await
            }
            (Duty::Rewind, Some(hub)) => {
                self.rewind(subject, &hub, newest).await?;
                Ok(Next::After(Duration::ZERO))
            }
            (Duty::Instance(policy), Some(hub)) => {
                let (key, uid, dependent) = (subject.hub.clone(), subject.object.uid().to_owned(), subject.dependent());
                let done = Box::pin(self.tear_down(subject, &hub, policy, newest)).await;
                if done.is_err() {
                    self.doubt_hub(key.as_ref(), &uid, dependent);
                }
                done
            }
            (Duty::Wait | Duty::Rewind | Duty::Instance(_), _) => {
                self.doubt_hub(subject.hub.as_ref(), subject.object.uid(), subject.dependent());
                Ok(Next::After(HUB_AGAIN_AFTER))
            }
        }
    }

    /// Nothing of ours holds the object: it is shown as long as it is there, and nothing is done for it any more.
    async fn show_while_held_by_others(&self, subject: Subject, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        let (facts, view) = self.observe(&subject).await;
        let decision = match decide(&facts) {
            decision @ (Decision::Follow | Decision::Show(_) | Decision::Missing | Decision::Replaced(_) | Decision::Rest) => decision,
            _ => Decision::Wait,
        };
        let before = Before { accepted: is_accepted(&subject.status), was_pending: false, at_once: false, decided_at: facts.now };
        let Step::Done(subject, outcome) = self.act(subject, decision, &view, newest).await? else {
            return Ok(Next::After(STALE_AGAIN_AFTER));
        };
        if is_accepted(&subject.status) {
            return self.after(&before, &subject, outcome.as_ref()).await;
        }
        Ok(Next::Change)
    }

    async fn release(&self, subject: Subject, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        match self.remove_finalizer(subject, newest).await? {
            Step::Done(..) => Ok(Next::Change),
            Step::Stale => Ok(Next::After(STALE_AGAIN_AFTER)),
        }
    }

    /// Reads the instance and does the next thing.
    async fn tear_down(
        &self,
        subject: Subject,
        hub: &ReadyHub,
        policy: DeletionPolicy,
        newest: &Newest<Orchestration>,
    ) -> Result<Next, Failure> {
        let wish = subject.wish.clone().map_err(|_| Failure::of("spec_unreadable"))?;
        let found = hub.client.get_without_input(wish.identity.instance_id.as_str(), &[OWNER_COLUMN]).await.map_err(storage)?;
        let pending = subject.status.pending.clone();
        let step = teardown::step(&wish, found.as_ref(), pending.as_ref(), Time::now());
        let row = found.map(Arc::new);
        let again = Ok(Next::After(LOOK_AGAIN_AFTER));
        match (step, row) {
            (teardown::Step::Release, _) => self.release(subject, newest).await,
            (teardown::Step::Cancel, Some(row)) => match hub.client.cancel_start(&row.id).await {
                Ok(()) | Err(PurgeError::NotFound { .. }) => {
                    crash_points::reached(at::CANCELED);
                    self.release(subject, newest).await
                }
                Err(PurgeError::Storage(error)) => Err(storage(error)),
                // A worker has taken it up meanwhile.
                Err(_) => Ok(Next::After(STALE_AGAIN_AFTER)),
            },
            (teardown::Step::Terminate, Some(row)) => self.terminate(subject, row, hub, newest).await,
            (teardown::Step::Withdraw, Some(row)) => {
                let Some(pending) = pending else { return again };
                let outcome = control::withdraw(hub, &wish, &pending, row).await?;
                self.report(subject, outcome, newest).await?;
                Ok(Next::After(Duration::ZERO))
            }
            (teardown::Step::Resolve, Some(row)) => {
                let Some(pending) = pending else { return again };
                let wanted = pending.action == Action::Terminate;
                match control::resolve(hub, &pending, wanted, row).await? {
                    Resolved::Unsent(row) if wanted => self.terminate(subject, row, hub, newest).await,
                    Resolved::Unsent(row) => {
                        let outcome = Outcome::Row(act::row(hub, Some(&wish), row).await?, Change::Clear);
                        self.report(subject, outcome, newest).await?;
                        Ok(Next::After(Duration::ZERO))
                    }
                    Resolved::Done(_) => Ok(Next::After(Duration::ZERO)),
                    Resolved::Waits => again,
                }
            }
            // Of a run that was terminated before, the sub-orchestrations may run on: what they are told is recorded first, too.
            (teardown::Step::Children, Some(row)) if pending.is_none() && row.runtime_status == RuntimeStatus::Terminated => {
                let record = Change::Set(control::record(Action::Terminate, Time::now()));
                let outcome = Outcome::Row(act::row(hub, Some(&wish), row).await?, record);
                match self.report(subject, outcome, newest).await? {
                    Step::Done(..) => Ok(Next::After(Duration::ZERO)),
                    Step::Stale => Ok(Next::After(STALE_AGAIN_AFTER)),
                }
            }
            (teardown::Step::Children, _) => match self.children_are_over(&subject, &wish, hub).await? {
                true if policy == DeletionPolicy::Purge => self.purge(subject, &wish, hub, newest).await,
                true => self.release(subject, newest).await,
                false => again,
            },
            (_, _) => again,
        }
    }

    async fn terminate(
        &self,
        subject: Subject,
        row: Arc<Instance>,
        hub: &ReadyHub,
        newest: &Newest<Orchestration>,
    ) -> Result<Next, Failure> {
        self.remember_told(&subject);
        match self.issue(subject, Action::Terminate, row, hub, newest).await? {
            Step::Done(..) => Ok(Next::After(LOOK_AGAIN_AFTER)),
            Step::Stale => Ok(Next::After(STALE_AGAIN_AFTER)),
        }
    }

    /// Tells the sub-orchestrations to end, not too often; true if all have.
    async fn children_are_over(&self, subject: &Subject, wish: &Wish, hub: &ReadyHub) -> Result<bool, Failure> {
        let id = wish.identity.instance_id.as_str();
        let reason = self.reason_of(subject, wish, Action::Terminate);
        if !self.is_consumed(subject, hub).await? {
            return Ok(false);
        }
        match hub.client.terminate_children(id, reason.as_deref()).await {
            Ok(tree) => {
                if tree.sent().next().is_some() {
                    self.remember_told(subject);
                }
                crash_points::reached(at::CHILDREN_TOLD);
                Ok(tree.is_over())
            }
            Err(TerminateTreeError::Root(ControlError::NotFound)) => Ok(true),
            Err(error) => Err(Failure::new("storage", error)),
        }
    }

    async fn purge(&self, subject: Subject, wish: &Wish, hub: &ReadyHub, newest: &Newest<Orchestration>) -> Result<Next, Failure> {
        if !self.is_consumed(&subject, hub).await? {
            return Ok(Next::After(LOOK_AGAIN_AFTER));
        }
        match hub.client.purge(wish.identity.instance_id.as_str(), true).await {
            Ok(_) | Err(PurgeError::NotFound { .. }) => {
                crash_points::reached(at::PURGED);
                self.release(subject, newest).await
            }
            Err(PurgeError::Storage(error)) => Err(storage(error)),
            // An end that is not written yet, or somebody else at work: the deadline bounds it.
            Err(error) => {
                tracing::debug!(%error, "instance not purged yet");
                Ok(Next::After(LOOK_AGAIN_AFTER))
            }
        }
    }

    /// True if no terminate of this deletion can be in a queue any more. No request if none was sent.
    async fn is_consumed(&self, subject: &Subject, hub: &ReadyHub) -> Result<bool, Failure> {
        let Some(told) = self.last_told(subject) else { return Ok(true) };
        Ok(teardown::is_consumed(messages(hub).await?, told, Time::now()))
    }

    /// When a terminate was last sent for the deletion: as this process knows it, or as the record says that one before it left.
    fn last_told(&self, subject: &Subject) -> Option<Time> {
        let remembered = self.followed().get(subject.object.uid()).and_then(|followed| followed.last_told);
        let recorded = subject.status.pending.as_ref().filter(|pending| pending.action == Action::Terminate);
        remembered.max(recorded.map(|pending| pending.issued_at.0))
    }

    fn remember_told(&self, subject: &Subject) {
        let Some(hub) = &subject.hub else { return };
        let mut followed = self.followed();
        followed.entry(subject.object.uid().to_owned()).or_insert_with(|| Followed::of(hub)).last_told = Some(Time::now());
    }
}

/// How many messages are in all control queues; one that cannot be counted counts.
async fn messages(hub: &ReadyHub) -> Result<u64, Failure> {
    let info = hub.client.info().await.map_err(storage)?;
    Ok(info.partitions.iter().map(|partition| partition.queue.messages.unwrap_or(1)).sum())
}
