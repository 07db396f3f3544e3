//! The operator's rights in the tests: those that the chart gives to its service account, and no others.
//!
//! Knows the chart and no test. What tests let the operator read beside its own kinds is named here, as an administrator would
//! name it in the value `access`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use durable_bed::charts;
use durable_bed::control_plane::ControlPlane;
use serde_json::{Value, json};

/// The namespace that the chart is installed in.
pub const NAMESPACE: &str = "durable-system";
/// The operator's service account, as the API server calls it.
pub const USER: &str = "system:serviceaccount:durable-system:durable-operator";

/// Stands for the namespace of a world in what is rendered once for all.
const WORLD: &str = "world";
const CONNECTIONS: &[&str] = &[
    "storage",
    "broken",
    "sick-storage",
    "healthy-storage",
    "demo-storage",
    "sas",
    "other",
    "other-0",
    "other-1",
    "other-2",
    "s",
    "absent",
    "no-such",
];
const PAYLOADS: &[&str] =
    &["numbers", "escapes", "unicode", "null", "twice", "later", "bad", "large", "late", "texts", "s", "absent", "no-such"];
const SERVICE_ACCOUNTS: &[&str] = &["default", "worker", "no-such"];

/// One thing that somebody may do or did: API group, resource (with its subresource), verb.
pub type Right = (String, String, String);

/// The chart's RBAC objects, for an operator that watches all namespaces, or only `watched`.
pub fn rendered(watched: &[&str]) -> Vec<Value> {
    let access = json!([{
        "namespace": WORLD, "secrets": CONNECTIONS, "serviceAccounts": SERVICE_ACCOUNTS, "payloadSecrets": PAYLOADS, "payloadConfigMaps": PAYLOADS
    }]);
    let values = ["--set-json", &format!("access={access}"), "--set-json", &format!("watchNamespaces={}", json!(watched))];
    let objects = charts::rendered(OsStr::new("charts/durable-operator"), NAMESPACE, &values).unwrap().into_iter();
    objects
        .filter(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1" && object["metadata"]["labels"].is_object())
        .filter(is_the_operators)
        .collect()
}

/// Not one of the roles that people get.
fn is_the_operators(object: &Value) -> bool {
    let labels = object["metadata"]["labels"].as_object().unwrap();
    !labels.keys().any(|label| label.starts_with("rbac.authorization.k8s.io/aggregate-to-"))
}

/// What the roles among `objects` give.
pub fn granted(objects: &[Value]) -> BTreeSet<Right> {
    let texts = |values: &Value| values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut rights = BTreeSet::new();
    for rule in objects.iter().filter_map(|object| object["rules"].as_array()).flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                rights.extend(texts(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    rights
}

/// Rendered once for all worlds: helm takes a few tenths of a second.
fn once() -> &'static Vec<Value> {
    static RENDERED: OnceLock<Vec<Value>> = OnceLock::new();
    RENDERED.get_or_init(|| rendered(&[]))
}

/// What a cluster has of the chart: the rights that hold everywhere, and a kubeconfig of the operator.
pub fn install(control_plane: &ControlPlane) {
    let everywhere: Vec<&Value> = once().iter().filter(|object| object["metadata"]["namespace"].is_null()).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": everywhere});
    let answer = control_plane.kubectl_with_input(&["apply", "--filename=-"], &list.to_string()).unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(control_plane.kubeconfig_for(USER, &["system:serviceaccounts"]).unwrap(), kubeconfig(control_plane));
}

/// The operator's way to the API server.
pub fn kubeconfig(control_plane: &ControlPlane) -> PathBuf {
    control_plane.folder().join(format!("kubeconfig-{}", USER.replace(':', "-")))
}

/// What the namespace of a world has of the chart: what may be read in it, and the lease.
pub fn in_namespace(namespace: &str) -> impl Iterator<Item = Value> {
    let objects = once().iter().filter(|object| !object["metadata"]["namespace"].is_null());
    objects.map(move |object| {
        let mut object = object.clone();
        object["metadata"]["namespace"] = Value::from(namespace);
        object
    })
}

/// Where the audit log of a test binary's process is.
pub fn audit_log(binary: &str, process: u32) -> PathBuf {
    audit_logs().join(format!("{binary}-{process}.log"))
}

/// The folder of audit logs.
pub fn audit_logs() -> PathBuf {
    durable_bed::workspace_root().join("target/audit")
}

/// A new audit log for this process; those of earlier processes of the same binary go.
pub fn new_audit_log() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let binary = program.file_stem().unwrap().to_str().unwrap();
    let binary = binary.rsplit_once('-').map_or(binary, |(name, _)| name);
    std::fs::create_dir_all(audit_logs()).unwrap();
    for entry in std::fs::read_dir(audit_logs()).unwrap() {
        let path = entry.unwrap().path();
        if is_of(&path, binary) {
            let _ = std::fs::remove_file(path);
        }
    }
    audit_log(binary, std::process::id())
}

/// True for `<binary>-<process>.log`.
pub fn is_of(path: &Path, binary: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(binary)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(".log"))
        .is_some_and(|process| process.parse::<u32>().is_ok())
}
