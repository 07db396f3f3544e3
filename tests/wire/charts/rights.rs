//! What the chart lets the operator do: no Secret and no ConfigMap but those that were named, nothing through a binding to somebody
//! else's role, and what `docs/install.md` says, no more and no less.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{NAMESPACE, OPERATOR, default_with, quoted, read, values_files, with};

/// What is in them must only be read by who was told their names.
const GUARDED: [&str; 3] = ["secrets", "configmaps", "serviceaccounts/token"];
/// With these, any right can be had.
const TOO_MUCH: [&str; 5] = ["*", "escalate", "bind", "impersonate", "deletecollection"];

fn texts(values: &Value) -> Vec<String> {
    values.as_array().into_iter().flatten().map(|value| value.as_str().unwrap().to_owned()).collect()
}

fn is_aggregated(role: &Value) -> bool {
    let labels = role["metadata"]["labels"].as_object().unwrap();
    labels.keys().any(|label| label.starts_with("rbac.authorization.k8s.io/aggregate-to-"))
}

/// The roles of the operator among these objects.
fn roles(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap()) && !is_aggregated(object))
}

/// What is wrong with a role, by the Secrets and ConfigMaps that somebody named for its namespace.
fn offence(role: &Value, named: &[String]) -> Option<String> {
    for rule in role["rules"].as_array().unwrap() {
        let (groups, resources, verbs) = (texts(&rule["apiGroups"]), texts(&rule["resources"]), texts(&rule["verbs"]));
        let names = texts(&rule["resourceNames"]);
        if groups.iter().chain(&resources).chain(&verbs).any(|word| TOO_MUCH.contains(&word.as_str()) || word.contains('*')) {
            return Some(format!("it gives everything, or the way to it: {rule}"));
        }
        let is_core = groups.iter().any(String::is_empty);
        let guarded = resources.iter().any(|resource| {
            let whole = resource.split('/').next().unwrap_or_default();
            GUARDED.contains(&resource.as_str()) || ["secrets", "configmaps"].contains(&whole)
        });
        if !(is_core && guarded) {
            continue;
        }
        if role["kind"] == "ClusterRole" {
            return Some(format!("it holds in all namespaces: {rule}"));
        }
        if names.is_empty() {
            return Some(format!("it gives all of a namespace: {rule}"));
        }
        if let Some(name) = names.iter().find(|name| !named.contains(name)) {
            return Some(format!("nobody named {name}: {rule}"));
        }
        if let Some(verb) = verbs.iter().find(|verb| !["get", "list", "watch", "create"].contains(&verb.as_str())) {
            return Some(format!("{verb}: the operator only reads: {rule}"));
        }
    }
    None
}

/// What the values name for this namespace.
fn named(values: &Value, namespace: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in values["access"].as_array().into_iter().flatten().filter(|entry| entry["namespace"] == namespace) {
        for list in ["secrets", "serviceAccounts", "payloadSecrets", "payloadConfigMaps"] {
            names.extend(texts(&entry[list]));
        }
    }
    if values["demo"]["enabled"] == true && namespace == NAMESPACE {
        names.push(format!("{}-demo", values["fullnameOverride"].as_str().unwrap_or("durable-operator")));
    }
    names
}

#[test]
fn no_secret_and_no_config_map_is_read_but_by_its_name() {
    let mut readable = 0;
    for file in values_files(OPERATOR) {
        let (values, objects): (Value, _) = (serde_saphyr::from_str(&read(&file)).unwrap(), with(&file));
        for role in roles(&objects) {
            let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
            assert_eq!(offence(role, &named(&values, namespace)), None, "{file}: {}", role["metadata"]["name"]);
            readable += usize::from(role["rules"].to_string().contains("\"secrets\""));
        }
        // A binding could give somebody else's role, with whatever that one has, or give ours to somebody else.
        let have: BTreeSet<String> = roles(&objects).map(|role| format!("{} {}", role["kind"], role["metadata"]["name"])).collect();
        for binding in objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding")) {
            let gives = format!("{} {}", binding["roleRef"]["kind"], binding["roleRef"]["name"]);
            assert!(have.contains(&gives), "{file}: {} gives {gives}, which is not of the chart", binding["metadata"]["name"]);
            let account = values["serviceAccount"]["name"].as_str().unwrap_or("durable-operator");
            let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]);
            assert_eq!(binding["subjects"], subject, "{file}: {}", binding["metadata"]["name"]);
        }
    }
    assert!(readable >= 4, "only {readable} roles read Secrets: they are written in another way now");
}

#[test]
fn a_role_that_gives_too_much_is_found() {
    let role = |kind: &str, rule: Value| json!({"kind": kind, "metadata": {"labels": {}}, "rules": [rule]});
    let named = ["storage".to_owned()];
    let secrets = |kind: &str, more: Value| {
        let mut rule = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["storage"], "verbs": ["list", "watch"]});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        offence(&role(kind, rule), &named)
    };
    assert_eq!(secrets("Role", json!({})), None);
    for (kind, more) in [
        ("ClusterRole", json!({})),
        ("Role", json!({"resourceNames": []})),
        ("Role", json!({"resourceNames": ["storage", "other"]})),
        ("Role", json!({"verbs": ["get", "update"]})),
        ("Role", json!({"verbs": ["*"]})),
        ("Role", json!({"resources": ["*"]})),
        ("Role", json!({"apiGroups": ["*"]})),
        ("ClusterRole", json!({"resources": ["configmaps"]})),
        ("Role", json!({"resources": ["configmaps"], "resourceNames": []})),
        ("Role", json!({"resources": ["serviceaccounts/token"], "resourceNames": []})),
    ] {
        assert!(secrets(kind, more.clone()).is_some(), "{kind} {more}");
    }
}

/// One thing that the operator may do: where, API group, resource, verb, and the names that it holds for.
type Right = (String, String, String, String, BTreeSet<String>);

const EVERYWHERE: &str = "everywhere";
const OWN_NAMESPACE: &str = "in its own namespace";

fn given(objects: &[Value]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for role in roles(objects) {
        let place = match role["metadata"]["namespace"].as_str() {
            None => EVERYWHERE,
            Some(NAMESPACE) => OWN_NAMESPACE,
            Some(other) => panic!("a role in {other}"),
        };
        for rule in role["rules"].as_array().unwrap() {
            let names: BTreeSet<String> = texts(&rule["resourceNames"]).into_iter().collect();
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.insert((place.to_owned(), group.clone(), resource.clone(), verb, names.clone()));
                    }
                }
            }
        }
    }
    rights
}

/// The table of docs/install.md: group, resources, verbs, and what the row is limited to.
fn documented() -> BTreeSet<Right> {
    let page = read("docs/install.md");
    let (_, rest) =
        page.split_once("| API group | Resources | Verbs | Only | For |\n|---|---|---|---|---|\n").expect("the table of rights");
    let mut rights = BTreeSet::new();
    for row in rest.lines().take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [group, resources, verbs, only, _] = cells[..] else { panic!("five cells: {row}") };
        let place = if only.contains(OWN_NAMESPACE) { OWN_NAMESPACE } else { EVERYWHERE };
        let group = quoted(group).concat();
        let names: BTreeSet<String> = quoted(only).into_iter().map(str::to_owned).collect();
        for resource in quoted(resources) {
            for verb in quoted(verbs) {
                let right = (place.to_owned(), group.clone(), resource.to_owned(), verb.to_owned(), names.clone());
                assert!(rights.insert(right.clone()), "twice in the table: {right:?}");
            }
        }
    }
    rights
}

#[test]
fn the_documented_rights_are_the_charts() {
    let (given, documented) = (given(&default_with(&[]).unwrap()), documented());
    let beyond = |of: &BTreeSet<Right>, other: &BTreeSet<Right>| of.difference(other).map(|right| format!("{right:?}")).collect::<Vec<_>>();
    assert_eq!(beyond(&given, &documented), [""; 0], "in the chart, and not in docs/install.md");
    assert_eq!(beyond(&documented, &given), [""; 0], "in docs/install.md, and not in the chart");
    assert!(given.len() >= 20, "{given:?}");
}

/// Watching some namespaces takes the same rights into them, and leaves none of them everywhere.
#[test]
fn watched_namespaces_have_the_rights_and_the_cluster_has_not() {
    let everywhere = default_with(&[]).unwrap();
    let watching = default_with(&["--set-json", r#"watchNamespaces=["shop"]"#]).unwrap();
    let rules = |objects: &[Value], kind: &str, namespace: &Value| -> BTreeSet<String> {
        let of = roles(objects).filter(|role| role["kind"] == kind && role["metadata"]["namespace"] == *namespace);
        of.flat_map(|role| role["rules"].as_array().unwrap().iter().map(Value::to_string)).collect()
    };
    let all = rules(&everywhere, "ClusterRole", &Value::Null);
    let cluster = rules(&watching, "ClusterRole", &Value::Null);
    let shop = rules(&watching, "Role", &Value::from("shop"));
    assert_eq!(cluster.len(), 1, "{cluster:?}");
    assert!(cluster.iter().all(|rule| rule.contains("customresourcedefinitions")), "{cluster:?}");
    assert_eq!(&cluster | &shop, all);
    assert!(!watching.iter().any(|object| object["kind"] == "ClusterRole" && is_aggregated(object)), "people's roles are cluster-wide");
}
