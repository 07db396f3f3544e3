//! How objects of our kinds are read: metadata, and spec and status as raw JSON.
//!
//! A typed list fails as a whole when one object in it does not parse, and
//! serde_json stops at 128 levels, which any user's `input` can have. With the
//! envelope a bad object fails in its own reconcile only (crd-facts.md 3).
//! `managedFields`, foreign annotations and labels are skipped unread: they are
//! more than half of the memory of 10,000 objects (kube-facts.md). So is the input
//! of a settled object dropped: the run has it, and no start follows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{ANNOTATION_PREFIX, gitops};

/// One of our kinds: its spec and status, and what Kubernetes calls it.
pub trait Kind: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Send + Sync + 'static {
    /// The type of `spec`.
    type Spec: DeserializeOwned;
    /// The type of `status`.
    type Status: DeserializeOwned + Default;

    /// Fields of `spec` that nobody reads once `status.settled` is true, and that may be of any size.
    const SPENT_WHEN_SETTLED: &'static [&'static str] = &[];
}

/// An object of the kind `K` as it was read: parsed as far as no user can break it.
#[derive(Deserialize)]
#[serde(bound = "")]
pub struct Envelope<K> {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
    #[serde(default)]
    status: Option<Box<RawValue>>,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Envelope<K> {
    /// Parses the spec.
    ///
    /// # Errors
    /// What serde_json says, which names the field but not its value.
    pub fn spec(&self) -> Result<K::Spec, serde_json::Error> {
        serde_json::from_str(self.spec.as_ref().map_or("null", |raw| raw.get()))
    }

    /// Parses the status. What cannot be read, for example of a newer version, counts as not written.
    pub fn status(&self) -> K::Status {
        self.status.as_ref().and_then(|raw| serde_json::from_str::<Option<K::Status>>(raw.get()).ok().flatten()).unwrap_or_default()
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The object's namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The object's UID, which no namesake shares.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The generation of the spec, for `observedGeneration`.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// The version of this copy; the number orders copies of one object (Kubernetes 1.35 and later promise it, etcd always did).
    pub fn resource_version(&self) -> u64 {
        self.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
    }

    /// Who the object is, and nothing else of it.
    pub fn identity(&self) -> Envelope<K> {
        let ObjectMeta { name, namespace, uid, .. } = self.metadata.clone();
        Envelope { metadata: ObjectMeta { name, namespace, uid, ..ObjectMeta::default() }, spec: None, status: None, kind: PhantomData }
    }

    /// Drops what nobody reads of a settled object: a thousand inputs of a MiB each are a GiB of memory otherwise. What is not settled
    /// any more, for example because somebody emptied its status, comes whole with the next event of the watch.
    pub fn drop_spent(&mut self) {
        #[derive(Deserialize)]
        struct Settled {
            #[serde(default)]
            settled: bool,
        }
        let is_settled = |raw: &RawValue| serde_json::from_str::<Settled>(raw.get()).is_ok_and(|status| status.settled);
        if K::SPENT_WHEN_SETTLED.is_empty() || !self.status.as_deref().is_some_and(is_settled) {
            return;
        }
        let fields = self.spec.as_deref().and_then(|raw| serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(raw.get()).ok());
        let Some(mut fields) = fields else { return };
        let before = fields.len();
        fields.retain(|name, _| !K::SPENT_WHEN_SETTLED.contains(&name.as_str()));
        if fields.len() < before
            && let Ok(rest) = serde_json::value::to_raw_value(&fields)
        {
            self.spec = Some(rest);
        }
    }

    /// True if the object has our finalizer.
    pub fn has_finalizer(&self) -> bool {
        self.metadata.finalizers.iter().flatten().any(|name| name == super::FINALIZER)
    }

    /// When the deletion of the object began, if it did.
    pub fn deleted_at(&self) -> Option<durable_taskhub::Time> {
        self.metadata.deletion_timestamp.as_ref().map(super::hub_time)
    }

    /// One of our annotations.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

impl<K> Clone for Envelope<K> {
    fn clone(&self) -> Envelope<K> {
        Envelope { metadata: self.metadata.clone(), spec: self.spec.clone(), status: self.status.clone(), kind: PhantomData }
    }
}

/// Without spec and status: payloads do not belong into logs.
impl<K> std::fmt::Debug for Envelope<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envelope").field("namespace", &self.metadata.namespace).field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

impl<K: Kind> Resource for Envelope<K> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The parts of the metadata that the operator uses. What is not named here is skipped by the parser, however deep it nests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Used {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    finalizers: Option<Vec<String>>,
    #[serde(default)]
    owner_references: Option<Vec<OwnerReference>>,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let used = Used::deserialize(deserializer)?;
    let kept = |all: Option<BTreeMap<String, String>>, wanted: fn(&str) -> bool| {
        let mut all = all?;
        all.retain(|name, _| wanted(name));
        (!all.is_empty()).then_some(all)
    };
    Ok(ObjectMeta {
        name: used.name,
        namespace: used.namespace,
        uid: used.uid,
        resource_version: used.resource_version,
        generation: used.generation,
        creation_timestamp: used.creation_timestamp,
        deletion_timestamp: used.deletion_timestamp,
        annotations: kept(used.annotations, |name| name.starts_with(ANNOTATION_PREFIX) || gitops::ANNOTATIONS.contains(&name)),
        labels: kept(used.labels, |name| gitops::LABELS.contains(&name)),
        finalizers: used.finalizers,
        owner_references: used.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectList;
    use kube::core::WatchEvent;

    use super::*;
    use crate::api::v1alpha1::Orchestration;

    fn object(input: &str) -> String {
        let managed = format!("[{{\"fieldsV1\":{}}}]", nested(400));
        format!(
            r#"{{"apiVersion":"durable-operator.dev/v1alpha1","kind":"Orchestration","metadata":{{"name":"n","namespace":"s","uid":"u",
            "resourceVersion":"7","generation":2,"labels":{{"a":"b"}},"annotations":{{"x":"y","durable-operator.dev/paused":"true"}},"managedFields":{managed}}},
            "spec":{{"taskHubRef":{{"name":"hub"}},"functionName":"Echo","input":{{"value":{input}}}}}}}"#
        )
    }

    fn nested(levels: usize) -> String {
        format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels))
    }

    #[test]
    fn an_object_that_nests_too_deep_does_not_fail_the_list() {
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"9"}},"items":[{},{}]}}"#,
            object(&nested(5000)),
            object("1.0")
        );
        let list: ObjectList<Envelope<Orchestration>> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.items.len(), 2);
        let texts: Vec<String> = list.items.iter().map(|o| o.spec().unwrap().input.unwrap().value.unwrap().text().to_owned()).collect();
        assert_eq!(texts, [nested(5000), "1.0".to_owned()]);
    }

    #[test]
    fn watch_events_are_read_and_trimmed() {
        let event = format!(r#"{{"type":"MODIFIED","object":{}}}"#, object("null"));
        let event: WatchEvent<Envelope<Orchestration>> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Modified(object) = event else { panic!("{event:?}") };
        assert_eq!((object.name(), object.uid(), object.resource_version(), object.generation()), ("n", "u", 7, 2));
        assert_eq!(object.annotation(crate::api::PAUSED_ANNOTATION), Some("true"));
        assert_eq!(object.annotation("x"), None);
        assert!(object.meta().managed_fields.is_none() && object.meta().labels.is_none());
    }

    #[test]
    fn the_input_is_kept_until_the_object_is_settled() {
        for (status, kept) in
            [("", true), ("\"status\":{\"settled\":false},", true), ("\"status\":{\"settled\":true,\"output\":1},", false)]
        {
            let text = object(&nested(5000)).replace("\"spec\"", &format!("{status}\"spec\""));
            let mut object: Envelope<Orchestration> = serde_json::from_str(&text).unwrap();
            object.drop_spent();
            let spec = object.spec().unwrap();
            assert_eq!((spec.input.is_some(), spec.function_name.as_deref()), (kept, Some("Echo")), "{status}");
            assert_eq!(object.status().output.is_some(), !kept, "{status}");
        }
    }

    #[test]
    fn a_status_that_cannot_be_read_counts_as_not_written() {
        let text = object("1").replace("\"spec\"", "\"status\":{\"settled\":\"perhaps\"},\"spec\"");
        let object: Envelope<Orchestration> = serde_json::from_str(&text).unwrap();
        assert!(!object.status().settled);
    }
}
