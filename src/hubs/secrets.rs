//! Watches of single Secrets, by name.
//!
//! A watch with `metadata.name=` needs `list` and `watch` on that one name only
//! (`resourceNames`), so that no cluster-wide right to read Secrets is needed,
//! and a rotated Secret takes effect at once. Invariant: what was read is in no
//! log and no `Debug`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::task::AbortHandle;

use super::HubKey;
use crate::changes::Changes;
use crate::connection::SecretState;

/// The Secrets that TaskHubs refer to. Clones share them.
#[derive(Clone)]
pub struct Secrets {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    watches: Mutex<HashMap<(String, String), Watch>>,
    changed: Changes<HubKey>,
}

struct Watch {
    state: SecretState,
    followers: HashSet<HubKey>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Secrets {
    /// Reads Secrets with `client`.
    pub fn new(client: Client) -> Secrets {
        Secrets { inner: Arc::new(Inner { client, watches: Mutex::default(), changed: Changes::new() }) }
    }

    /// The Secret `name` in the namespace of the TaskHub `follower`, which is told of its changes from now on.
    ///
    /// `Unknown` at first: the follower is told as soon as the Secret was read.
    pub fn state(&self, follower: &HubKey, name: &str) -> SecretState {
        let secret = (follower.namespace.clone(), name.to_owned());
        let mut watches = self.inner.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|key, watch| {
            let other = *key != secret && watch.followers.remove(follower);
            !(other && watch.followers.is_empty())
        });
        let watch = watches.entry(secret.clone()).or_insert_with(|| Watch {
            state: SecretState::Unknown,
            followers: HashSet::new(),
            task: tokio::spawn(follow(self.clone(), secret)).abort_handle(),
        });
        watch.followers.insert(follower.clone());
        watch.state.clone()
    }

    /// The TaskHub is gone: its Secret is of no interest to it.
    pub fn forget(&self, follower: &HubKey) {
        let mut watches = self.inner.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| !(watch.followers.remove(follower) && watch.followers.is_empty()));
    }

    /// The TaskHubs whose Secret changed. For one consumer.
    pub fn changed(&self) -> &Changes<HubKey> {
        &self.inner.changed
    }

    fn learn(&self, secret: &(String, String), state: SecretState) {
        let mut watches = self.inner.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watch) = watches.get_mut(secret) else { return };
        watch.state = state;
        self.inner.changed.add(watch.followers.iter().cloned());
    }
}

/// Watches one Secret until the last follower is gone.
async fn follow(secrets: Secrets, secret: (String, String)) {
    let api: Api<Secret> = Api::namespaced(secrets.inner.client.clone(), &secret.0);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", secret.1));
    let mut events = watcher(api, config).default_backoff().into_stream().boxed();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = false,
            Ok(watcher::Event::InitApply(found) | watcher::Event::Apply(found)) => {
                listed = true;
                let data = Arc::new(found.data.unwrap_or_default());
                secrets.learn(&secret, SecretState::Present { version: found.metadata.resource_version.unwrap_or_default(), data });
            }
            Ok(watcher::Event::InitDone) if listed => {}
            Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => secrets.learn(&secret, SecretState::Absent),
            Err(error) if is_forbidden(&error) => secrets.learn(&secret, SecretState::Forbidden),
            // The API server is not there: what was read stays true until it is back.
            Err(error) => tracing::debug!(namespace = secret.0, %error, "watch of a Secret interrupted"),
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if status.is_forbidden())
        }
        watcher::Error::WatchError(status) => status.is_forbidden(),
        _ => false,
    }
}
