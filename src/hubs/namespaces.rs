//! The labels of namespaces, read when a TaskHub selects by them.
//!
//! A GET on demand, kept for some seconds: a watch of all namespaces would be a
//! right and a cost that most installations have no use for. Invariants: what
//! could not be read is not allowed, and the reason says which right is missing;
//! the cache is bounded, however many namespaces objects claim to come from.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

/// A changed label takes effect after this at the latest.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The most namespaces that are kept.
const MOST: usize = 1024;

/// kube has no time-out of its own.
const TIME_OUT: Duration = Duration::from_secs(5);

/// The labels of a namespace, or what to do so that they can be read.
pub(super) type Labels = Result<Arc<BTreeMap<String, String>>, String>;

/// Reads namespaces, and keeps what was read for a moment.
pub(super) struct Namespaces {
    client: Client,
    kept: Mutex<HashMap<String, (Instant, Labels)>>,
}

impl Namespaces {
    pub(super) fn new(client: Client) -> Namespaces {
        Namespaces { client, kept: Mutex::default() }
    }

    /// The labels of the namespace; one request at most every [`KEPT_FOR`].
    pub(super) async fn labels(&self, name: &str) -> Labels {
        if let Some((_, labels)) = self.kept().get(name).filter(|(at, _)| at.elapsed() < KEPT_FOR) {
            return labels.clone();
        }
        let labels = self.read(name).await;
        let mut kept = self.kept();
        if kept.len() >= MOST {
            kept.retain(|_, (at, _)| at.elapsed() < KEPT_FOR);
        }
        if kept.len() < MOST {
            kept.insert(name.to_owned(), (Instant::now(), labels.clone()));
        }
        labels
    }

    async fn read(&self, name: &str) -> Labels {
        let api: Api<Namespace> = Api::all(self.client.clone());
        match tokio::time::timeout(TIME_OUT, api.get_metadata_opt(name)).await {
            Ok(Ok(Some(namespace))) => Ok(Arc::new(namespace.metadata.labels.unwrap_or_default())),
            Ok(Ok(None)) => Err("there is no such namespace".to_owned()),
            Ok(Err(kube::Error::Api(answer))) if answer.is_forbidden() => {
                Err("the operator may not read the namespace: grant its service account get on namespaces with a ClusterRole".to_owned())
            }
            Ok(Err(error)) => Err(format!("the API server did not tell them, it is asked again: {error}")),
            Err(_) => Err(format!("the API server did not answer within {TIME_OUT:?}, it is asked again")),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Labels)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
