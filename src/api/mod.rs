//! The Kubernetes types: group, names, kinds, conditions, and how objects are read.
//!
//! Owns what outlasts the code: every name that a user's manifest, script or
//! dashboard may hold. Knows nobody else of this crate.

pub mod conditions;
mod envelope;
pub mod gitops;
mod schema;
pub mod v1alpha1;

pub use envelope::{Envelope, Kind};
pub use schema::{GoDuration, Json};

/// The API group of all kinds.
pub const GROUP: &str = "durable-operator.dev";

/// The field manager of everything that the operator writes, and its name in Events.
pub const FIELD_MANAGER: &str = "durable-operator.dev/controller";

/// The finalizer of objects whose deletion has to be carried into the hub first, or whose rewind must not be left half done.
pub const FINALIZER: &str = "durable-operator.dev/finalizer";

/// Annotation: `"true"` stops reconciling the object; it can still be deleted.
pub const PAUSED_ANNOTATION: &str = "durable-operator.dev/paused";

/// Annotation: any new value asks to reconcile now; it is echoed in `status.lastHandledReconcileAt`.
pub const RECONCILE_REQUESTED_AT_ANNOTATION: &str = "durable-operator.dev/reconcile-requested-at";

/// Annotation: the span that the run's spans belong below, as W3C's header `traceparent` has it. Read when the run is started.
pub const TRACE_PARENT_ANNOTATION: &str = "durable-operator.dev/traceparent";

/// What every annotation that the operator reads begins with.
pub const ANNOTATION_PREFIX: &str = "durable-operator.dev/";

/// A time of Kubernetes as a time of the hub.
pub fn hub_time(time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) -> durable_taskhub::Time {
    std::time::SystemTime::from(time.0).into()
}
