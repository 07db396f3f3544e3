//! The chart gives the operator the rights that it uses, and no others.
//!
//! In the integration tests the operator is the chart's service account, with the chart's roles and nothing else, and the API server
//! writes an audit log. This reads the logs of the last run of `cargo test --test it --test failover`: a right that was missing was refused there; a
//! right that nothing asked for is one too many. A binary of its own, since it has to run after these.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;

#[path = "../it/support/rights.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod rights;

use rights::Right;

/// A line of the audit log, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Option<Object>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "requestURI")]
    request_uri: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    api_group: String,
}

/// The test binaries whose logs are read; operators with a lease are only in the second.
const BINARIES: [&str; 2] = ["it", "failover"];

/// The audit log of the last run of a test binary.
fn newest(binary: &str) -> String {
    let logs = std::fs::read_dir(rights::audit_logs()).into_iter().flatten().map(|entry| entry.unwrap().path());
    let changed = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let newest = logs.filter(|path| rights::is_of(path, binary)).max_by_key(changed);
    let newest = newest.unwrap_or_else(|| panic!("there is no audit log of {binary}: run `cargo test --test {binary}` before this"));
    std::fs::read_to_string(newest).unwrap()
}

/// What the operator asked for in the last run of the integration tests: what it was allowed, and what it was refused.
fn asked() -> (BTreeSet<Right>, BTreeMap<Right, String>) {
    let (mut allowed, mut refused) = (BTreeSet::new(), BTreeMap::new());
    for line in BINARIES.map(newest).iter().flat_map(|log| log.lines()) {
        let request: Request = serde_json::from_str(line).unwrap();
        if request.user.username != rights::USER {
            continue;
        }
        let object = request.object_ref.unwrap_or_else(|| panic!("the operator asks for no resource: {}", request.request_uri));
        let resource = [object.resource, object.subresource].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        let right = (object.api_group, resource, request.verb);
        match request.annotations.get("authorization.k8s.io/decision").map(String::as_str) {
            Some("allow") => _ = allowed.insert(right),
            _ => _ = refused.insert(right, request.request_uri),
        }
    }
    (allowed, refused)
}

#[test]
fn the_chart_gives_what_is_used_and_no_more() {
    let (used, refused) = asked();
    assert!(refused.is_empty(), "the chart lacks rights: {refused:#?}");
    let granted = rights::granted(&rights::rendered(&[]));
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(
        unused.is_empty(),
        "nothing asked for these rights that the chart gives: {unused:#?}\n(if only a part of the integration tests was run, run all: `cargo test --test it --test failover`)"
    );
    // Where RBAC says yes, a role says so: everything else would be a right that somebody else gives to every service account.
    let from_elsewhere: Vec<_> = used.difference(&granted).collect();
    assert!(from_elsewhere.is_empty(), "the operator uses rights that are not the chart's: {from_elsewhere:#?}");
}

#[test]
fn an_operator_of_some_namespaces_has_the_same_rights_in_them() {
    let (all, some) = (rights::rendered(&[]), rights::rendered(&["world", "shop"]));
    assert_eq!(rights::granted(&all), rights::granted(&some));
    let everywhere = some.iter().filter(|object| object["metadata"]["namespace"].is_null()).cloned().collect::<Vec<_>>();
    let definitions = ("apiextensions.k8s.io".to_owned(), "customresourcedefinitions".to_owned(), "get".to_owned());
    assert_eq!(rights::granted(&everywhere), BTreeSet::from([definitions]), "and none in others");
}
