//! The deletion of a hub together with its TaskHub (`deletionPolicy: DeleteHub`).
//!
//! Owns what holds it. Invariants: nothing is deleted while somebody may still
//! work with the hub, nor in an account that is not the first; each step can be
//! repeated after a crash; it never gives up in silence: the TaskHub stays, and
//! says what holds it. A person who wants to let go sets the policy to `Retain`.

use std::time::Duration;

use durable_taskhub::TaskHub as HubClient;
use durable_taskhub::names::HubName;
use durable_taskhub::storage::Storage;
use kube::runtime::reflector::Store;

use super::connect::storage_says;
use super::describe::{Connected, Finding};
use super::look::Depth;
use super::{Object, TaskHubs};
use crate::api::Envelope;
use crate::api::v1alpha1::{HubDeletionPolicy, Orchestration, TaskHub, TaskHubSpec};
use crate::connection::NotReady;
use crate::controllers::events::Notice;
use crate::controllers::failure::Failure;
use crate::controllers::finalizer;
use crate::controllers::runner::{Newest, Next};
use crate::controllers::status::{STALE_AGAIN_AFTER, Written};
use crate::crash_points::{self, at};
use crate::hubs::{Access, HubKey, HubView, ReadyHub};

/// What holds a deletion is looked at again after this.
const HELD_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How many names a message lists.
const NAMES: usize = 3;

/// What the operator was doing when it tells of a deletion.
pub(super) const DELETE: &str = "Delete";

/// Where the deletion stands.
enum Step {
    /// The finalizer may go, after this is told.
    LetGo(Option<Notice>),
    /// Something holds it.
    Held(Box<Held>),
    /// Something that is known within moments is not known yet.
    Soon,
}

struct Held {
    why: NotReady,
    /// The hub, if it can be worked with meanwhile: what is unfinished has to be able to finish.
    hub: Option<(Connected, ReadyHub)>,
}

impl TaskHubs {
    /// Puts the finalizer on a TaskHub whose hub goes with it, and takes it off another. `None`: the copy was stale.
    pub(super) async fn keep_finalizer(
        &self,
        object: std::sync::Arc<Object>,
        newest: &Newest<TaskHub>,
    ) -> Result<Option<std::sync::Arc<Object>>, Failure> {
        let Ok(spec) = object.spec() else { return Ok(Some(object)) };
        let wanted = spec.deletion_policy == HubDeletionPolicy::DeleteHub;
        let written = match (wanted, object.has_finalizer()) {
            (true, false) => finalizer::add(&self.client, &object).await?,
            (false, true) => finalizer::remove(&self.client, &object).await?,
            (true, true) | (false, false) => return Ok(Some(object)),
        };
        match written {
            Written::New(copy) => {
                newest.keep((*copy).clone());
                Ok(Some(std::sync::Arc::new(*copy)))
            }
            Written::Stale => Ok(None),
        }
    }

    /// One step of the deletion of a TaskHub with the finalizer.
    pub(super) async fn delete(&self, object: &Object, key: &HubKey, newest: &Newest<TaskHub>) -> Result<Next, Failure> {
        match self.step(object, key).await {
            Step::Soon => Ok(Next::After(Duration::from_secs(1))),
            Step::LetGo(notice) => {
                if let Some(notice) = notice {
                    self.events.publish(object, notice).await;
                }
                crash_points::reached(at::BEFORE_FINALIZER_REMOVED);
                match finalizer::remove(&self.client, object).await? {
                    Written::New(_) => Ok(Next::Change),
                    Written::Stale => Ok(Next::After(STALE_AGAIN_AFTER)),
                }
            }
            Step::Held(held) => {
                let Held { why, hub } = *held;
                let (connected, view) = match hub {
                    Some((connected, ready)) => (Some(connected), HubView::Ready(std::sync::Arc::new(ready))),
                    None => (None, HubView::NotReady(why.clone())),
                };
                let finding = Finding::Held { why, connected: connected.map(Box::new) };
                if self.report(object, &finding, newest).await?.is_none() {
                    return Ok(Next::After(STALE_AGAIN_AFTER));
                }
                self.hubs.judge(key, view);
                Ok(Next::After(HELD_AGAIN_AFTER))
            }
        }
    }

    async fn step(&self, object: &Object, key: &HubKey) -> Step {
        let spec = match object.spec() {
            Ok(spec) => spec,
            Err(error) => return held("InvalidSpec", format!("this version of the operator cannot read the spec: {error}")),
        };
        if spec.deletion_policy == HubDeletionPolicy::Retain {
            return Step::LetGo(None);
        }
        let Some(account) = object.status().account_name else {
            // Nobody can have relied on it, and what cannot be reached may be anybody's.
            let note = format!("the task hub {} was never connected to, and is left alone", spec.hub_name);
            return Step::LetGo(Some(Notice { is_warning: true, reason: "HubRetained", action: DELETE, note }));
        };
        let listed = |ready: Option<bool>| ready.unwrap_or_default();
        let orchestrations = futures::FutureExt::now_or_never(self.orchestrations.wait_until_ready()).map(|ready| ready.is_ok());
        let task_hubs = futures::FutureExt::now_or_never(self.task_hubs.wait_until_ready()).map(|ready| ready.is_ok());
        if !listed(orchestrations) || !listed(task_hubs) {
            return Step::Soon;
        }
        let probed = self.probe(object, key, &spec, Depth::Fresh).await;
        if let Err(why) = &probed {
            // A client is made anew next time.
            self.count_failure(object.uid(), Some(why));
        } else {
            self.count_failure(object.uid(), None);
        }
        if let Some(why) = self.unfinished(key, &spec).await.or_else(|| shared(&self.task_hubs, object, &account, &spec.hub_name)) {
            return match probed {
                Ok(hub) => Step::Held(Box::new(Held { why, hub })),
                Err(_) => Step::Held(Box::new(Held { why, hub: None })),
            };
        }
        let (storage, name) = match self.to_delete(object, key, &spec, probed).await {
            Ok(Some(found)) => found,
            Ok(None) => return Step::Soon,
            Err(step) => return step,
        };
        // From here on nothing starts any more; what was started before was seen by the store before.
        self.hubs.judge(key, HubView::NotReady(NotReady::new("HubBeingDeleted", "the task hub is being deleted with its TaskHub")));
        if let Some(why) = self.unfinished(key, &spec).await {
            return Step::Held(Box::new(Held { why, hub: None }));
        }
        crash_points::reached(at::BEFORE_HUB_DELETE);
        match HubClient::delete_artifacts(&storage, &name).await {
            Ok(deleted) => {
                crash_points::reached(at::HUB_DELETED);
                tracing::info!(namespace = object.namespace(), name = object.name(), hub = %name, "task hub deleted");
                let lease = if deleted.lease_broken { "; an app held its lease, and makes the hub anew if it still runs" } else { "" };
                let note = format!("the task hub {name} in the storage account {account} was deleted with all its instances{lease}");
                Step::LetGo(Some(Notice { is_warning: deleted.lease_broken, reason: "HubDeleted", action: DELETE, note }))
            }
            Err(error) => {
                let NotReady { reason, message } = storage_says(&error, storage.account().method());
                held(reason, without_connection(&message))
            }
        }
    }

    /// The account and the hub that may be deleted now. A hub that is not there any more, or half, is deleted to the end.
    async fn to_delete(
        &self,
        object: &Object,
        key: &HubKey,
        spec: &TaskHubSpec,
        probed: Result<Option<(Connected, ReadyHub)>, NotReady>,
    ) -> Result<Option<(Storage, HubName)>, Step> {
        match probed {
            Ok(None) => Ok(None),
            Ok(Some((connected, hub))) => {
                if connected.served_partitions > 0 {
                    let why = NotReady::new(
                        "HubInUse",
                        format!(
                            "deleting the hub waits: {} of its partitions are served by a worker: stop the app; its leases end within 30 s",
                            connected.served_partitions
                        ),
                    );
                    return Err(Step::Held(Box::new(Held { why, hub: Some((connected, hub)) })));
                }
                Ok(Some((hub.client.storage().clone(), hub.client.name().clone())))
            }
            Err(why) if why.reason == "HubNotFound" || why.reason == "UnsupportedHub" => match self.resolve(object, key, spec).await {
                Ok(Some(resolved)) => match self.storage(object, spec, &resolved) {
                    // A separate tracking store has its tables elsewhere: only what is of a deletion that was cut off goes.
                    Ok((storage, name)) if why.reason == "HubNotFound" => Ok(Some((storage, name))),
                    Ok(_) => Err(held(why.reason, without_connection(&why.message))),
                    Err(why) => Err(held(why.reason, without_connection(&why.message))),
                },
                Ok(None) => Ok(None),
                Err(why) => Err(held(why.reason, without_connection(&why.message))),
            },
            Err(why) => {
                // The Secret may have gone first, as in a namespace that is being deleted: the last client still works.
                let last = self.known().get(object.uid()).and_then(|known| known.open.as_ref().map(|(_, client)| client.clone()));
                let gone = ["SecretNotFound", "InvalidConnectionString"].contains(&why.reason);
                let Some(client) = last.filter(|_| gone) else {
                    return Err(held(why.reason, without_connection(&why.message)));
                };
                match client.served_partitions().await {
                    Ok(served) if served.unwrap_or_default() > 0 => Err(held(
                        "HubInUse",
                        "deleting the hub waits: a worker serves it: stop the app; its leases end within 30 s".to_owned(),
                    )),
                    Ok(_) => Ok(Some((client.storage().clone(), client.name().clone()))),
                    Err(_) => Err(held(why.reason, without_connection(&why.message))),
                }
            }
        }
    }

    /// What is not at its end and refers to the hub. From another namespace only what may use the hub, or has begun in it: nobody
    /// else can hold its deletion.
    async fn unfinished(&self, key: &HubKey, spec: &TaskHubSpec) -> Option<NotReady> {
        let access = Access::new(&key.namespace, &key.name, spec);
        let mut unfinished = Vec::new();
        for object in self.orchestrations.state() {
            let Some(begun) = is_unfinished(&object, key) else { continue };
            let counts = begun || self.hubs.allowed(&access, object.namespace(), None).await.is_ok();
            if counts {
                unfinished.push(format!("{}/{}", object.namespace(), object.name()));
            }
        }
        refusal(unfinished)
    }
}

/// Whether the object refers to the hub and is not at its end; then, whether it has an instance.
fn is_unfinished(object: &Envelope<Orchestration>, key: &HubKey) -> Option<bool> {
    let spec = object.spec().ok()?;
    let namespace = spec.task_hub_ref.namespace.as_deref().unwrap_or(object.namespace());
    if namespace != key.namespace || spec.task_hub_ref.name != key.name {
        return None;
    }
    let status = object.status();
    // A finalizer has something left to do in the hub.
    let is_leaving = object.deleted_at().is_some() && object.has_finalizer();
    (!status.settled || is_leaving).then(|| status.execution_id.is_some())
}

fn refusal(mut unfinished: Vec<String>) -> Option<NotReady> {
    if unfinished.is_empty() {
        return None;
    }
    unfinished.sort();
    let more = if unfinished.len() > NAMES { format!(" and {} more", unfinished.len() - NAMES) } else { String::new() };
    let names = unfinished.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    let message = format!(
        "deleting the hub waits for Orchestrations that are not finished: {names}{more}: let them end, terminate or delete them; or set spec.deletionPolicy to Retain"
    );
    Some(NotReady::new("UnfinishedOrchestrations", message))
}

/// Another TaskHub that stands for the same hub and is not being deleted itself.
fn shared(task_hubs: &Store<Object>, object: &Object, account: &str, hub_name: &str) -> Option<NotReady> {
    let is_same = |other: &Object| {
        other.uid() != object.uid()
            && other.deleted_at().is_none()
            && other.status().account_name.as_deref() == Some(account)
            // Names of tables, queues and containers do not differ by case.
            && other.spec().is_ok_and(|spec: TaskHubSpec| spec.hub_name.eq_ignore_ascii_case(hub_name))
    };
    let other = task_hubs.state().into_iter().find(|other| is_same(other))?;
    let message = format!(
        "deleting the hub is refused: TaskHub {}/{} stands for the same hub: delete it first, or set spec.deletionPolicy to Retain",
        other.namespace(),
        other.name()
    );
    Some(NotReady::new("HubShared", message))
}

fn held(reason: &'static str, message: String) -> Step {
    Step::Held(Box::new(Held { why: NotReady::new(reason, message), hub: None }))
}

fn without_connection(message: &str) -> String {
    format!("the hub cannot be deleted: {message}. To leave the hub as it is and let the TaskHub go, set spec.deletionPolicy to Retain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orchestration(namespace: &str, reference: &str, more: &str) -> Envelope<Orchestration> {
        serde_json::from_str(&format!(
            r#"{{"apiVersion":"durable-operator.dev/v1alpha1","kind":"Orchestration","metadata":{{"name":"n","namespace":"{namespace}","uid":"u"{more},
            "spec":{{"functionName":"Echo","taskHubRef":{reference}}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn what_refers_to_the_hub_and_has_not_ended_is_unfinished() {
        let key = HubKey { namespace: "shop".to_owned(), name: "orders".to_owned() };
        let leaving = r#","finalizers":["durable-operator.dev/finalizer"],"deletionTimestamp":"2026-11-25T00:00:00Z"}"#;
        for (namespace, reference, more, expected) in [
            ("shop", r#"{"name":"orders"}"#, "}", Some(false)),
            ("shop", r#"{"name":"orders"}"#, r#"},"status":{"settled":false,"executionId":"e"}"#, Some(true)),
            ("shop", r#"{"name":"orders"}"#, r#"},"status":{"settled":true,"executionId":"e"}"#, None),
            ("shop", r#"{"name":"orders"}"#, &format!(r#"{leaving},"status":{{"settled":true}}"#), Some(false)),
            ("shop", r#"{"name":"billing"}"#, "}", None),
            ("other", r#"{"name":"orders"}"#, "}", None),
            ("other", r#"{"name":"orders","namespace":"shop"}"#, "}", Some(false)),
            ("shop", r#"{"name":"orders","namespace":"other"}"#, "}", None),
        ] {
            assert_eq!(is_unfinished(&orchestration(namespace, reference, more), &key), expected, "{namespace} {reference} {more}");
        }
    }

    #[test]
    fn a_refusal_names_some_and_counts_the_rest() {
        assert_eq!(refusal(Vec::new()), None);
        let refused = refusal(["b/5", "b/4", "b/3", "b/2", "a/1"].map(str::to_owned).to_vec()).unwrap();
        assert!(refused.message.contains("not finished: a/1, b/2, b/3 and 2 more: let them end"), "{}", refused.message);
    }
}
