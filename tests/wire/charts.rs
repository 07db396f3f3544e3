//! What the charts promise before there is a cluster: they are clean, refuse wrong values by name, give nobody the Secrets of the
//! cluster, and are what their README, `docs/install.md` and `crds/` say. What the API server says of them is in `tests/it/charts.rs`.

mod refusals;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use durable_bed::charts::{helm, rendered};
use durable_bed::{assets, folder};
use serde_json::{Value, json};

const OPERATOR: &str = "charts/durable-operator";
const CRDS: &str = "charts/durable-operator-crds";
const NAMESPACE: &str = "durable-system";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values files of a chart that have to render.
fn values_files(chart: &str) -> Vec<String> {
    let files = std::fs::read_dir(root().join(chart).join("ci")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<String> = files.map(|path| path.to_str().unwrap().to_owned()).collect();
    files.sort();
    assert!(!files.is_empty(), "{chart}/ci is empty");
    files
}

fn with(values: &str) -> Vec<Value> {
    rendered(OsStr::new(OPERATOR), NAMESPACE, &["--values", values]).unwrap_or_else(|error| panic!("{values}: {error}"))
}

/// With the defaults and these arguments for helm; or what helm says.
fn default_with(arguments: &[&str]) -> Result<Vec<Value>, String> {
    rendered(OsStr::new(OPERATOR), NAMESPACE, arguments).map_err(|error| error.to_string())
}

fn kind(object: &Value) -> (&str, &str) {
    (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap())
}

#[test]
fn the_charts_are_clean() {
    for chart in [OPERATOR, CRDS] {
        for values in values_files(chart) {
            let answer = helm(&["lint", "--strict", chart, "--values", &values]).unwrap();
            assert!(answer.success, "{values}: {answer:?}");
        }
    }
}

#[test]
fn the_chart_of_the_kinds_takes_no_values() {
    let error = rendered(OsStr::new(CRDS), NAMESPACE, &["--set-json", "keep=false"]).unwrap_err().to_string();
    assert!(error.contains("keep"), "{error}");
}

#[test]
fn kinds_of_the_prometheus_operator_come_when_they_are_asked_for_and_fit_their_types() {
    let is_monitoring = |object: &Value| kind(object).0.starts_with("monitoring.coreos.com/");
    for values in ["default", "demo", "watch-namespaces"] {
        let objects = with(&format!("{OPERATOR}/ci/{values}.yaml"));
        assert!(!objects.iter().any(is_monitoring), "{values}");
    }
    for values in ["monitoring", "everything"] {
        let mut found: Vec<Value> = with(&format!("{OPERATOR}/ci/{values}.yaml")).into_iter().filter(is_monitoring).collect();
        let kinds: BTreeSet<&str> = found.iter().map(|object| kind(object).1).collect();
        assert_eq!(kinds, BTreeSet::from(["PrometheusRule", "ServiceMonitor"]));
        assets::check_published_types(&found).unwrap();
        // The same judge refuses what it does not know.
        for object in &mut found {
            object["spec"]["unknown"] = json!(1);
            let refused = assets::check_published_types(std::slice::from_ref(object)).unwrap_err().to_string();
            assert!(refused.contains("unknown"), "{refused}");
        }
    }
}

#[test]
fn pods_are_restricted_wherever_they_run() {
    for values in values_files(OPERATOR) {
        let objects = with(&values);
        let specs = objects.iter().filter_map(|object| match kind(object).1 {
            "Deployment" => Some((object, &object["spec"]["template"]["spec"])),
            "Pod" => Some((object, &object["spec"])),
            _ => None,
        });
        let mut pods = 0;
        for (object, spec) in specs {
            pods += 1;
            let name = format!("{values}: {}", object["metadata"]["name"]);
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for container in spec["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
            }
        }
        assert!(pods >= 2, "{values}: the operator and the pod of `helm test`");
    }
}

/// A chart in an archive has what its folder has, also where that has symbolic links.
#[test]
fn archives_stand_on_their_own() {
    let scratch = folder::new("archives").unwrap();
    for chart in [OPERATOR, CRDS] {
        let answer = helm(&["package", chart, "--destination", scratch.to_str().unwrap()]).unwrap();
        assert!(answer.success, "{answer:?}");
        let archive = scratch.join(format!("{}-{}.tgz", chart.rsplit('/').next().unwrap(), version()));
        for values in values_files(chart) {
            let values = ["--values", values.as_str()];
            let (packed, unpacked) =
                (rendered(archive.as_os_str(), NAMESPACE, &values).unwrap(), rendered(OsStr::new(chart), NAMESPACE, &values).unwrap());
            assert!(!packed.is_empty());
            assert_eq!(packed, unpacked, "{chart}");
        }
        if chart == CRDS {
            let objects = rendered::<&str>(archive.as_os_str(), NAMESPACE, &[]).unwrap();
            let found: BTreeMap<String, Value> = objects
                .into_iter()
                .map(|mut object| {
                    let annotations = object["metadata"].as_object_mut().unwrap().remove("annotations").unwrap();
                    assert_eq!(annotations, json!({"helm.sh/resource-policy": "keep"}));
                    (object["spec"]["names"]["plural"].as_str().unwrap().to_owned(), object)
                })
                .collect();
            let files = std::fs::read_dir(root().join("crds")).unwrap().map(|entry| entry.unwrap().path());
            let expected: BTreeMap<String, Value> = files
                .map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), serde_saphyr::from_str(&read(&file)).unwrap()))
                .collect();
            assert_eq!(found, expected);
        }
    }
    std::fs::remove_dir_all(scratch).unwrap();
}

/// That of the workspace, which a release has once.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[test]
fn there_is_one_version() {
    for chart in [OPERATOR, CRDS] {
        let chart: Value = serde_saphyr::from_str(&read(format!("{chart}/Chart.yaml"))).unwrap();
        assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version()), &json!(version())));
    }
    assert!(read("docs/upgrade.md").contains(&format!("\n## {}\n", version())), "docs/upgrade.md says nothing of this version");
}

/// The words in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Name, default and meaning of each value, by the schema and `values.yaml`.
fn values() -> Vec<[String; 3]> {
    fn walk(schema: &Value, values: &Value, path: &str, rows: &mut Vec<[String; 3]>) {
        let properties = schema["properties"].as_object().unwrap();
        if let Some(values) = values.as_object() {
            let unknown: Vec<_> = values.keys().filter(|name| !properties.contains_key(*name)).collect();
            assert!(unknown.is_empty(), "the schema does not know {unknown:?} in {path:?}");
        }
        for (name, schema) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if schema["properties"].is_object() {
                walk(schema, &values[name], &path, rows);
                continue;
            }
            let meaning = schema["description"].as_str().unwrap_or_else(|| panic!("{path} has no description"));
            let default = values.get(name).map_or_else(String::new, |value| format!("`{value}`"));
            rows.push([format!("`{path}`"), default, meaning.to_owned()]);
        }
    }
    let mut schema: Value = serde_json::from_str(&read(format!("{OPERATOR}/values.schema.json"))).unwrap();
    // What a parent chart says for its own use.
    for parents in ["enabled", "global"] {
        assert!(schema["properties"].as_object_mut().unwrap().remove(parents).is_some());
    }
    let mut rows = Vec::new();
    walk(&schema, &serde_saphyr::from_str(&read(format!("{OPERATOR}/values.yaml"))).unwrap(), "", &mut rows);
    rows
}

/// With `UPDATE_EXPECTED=1` the table is written instead.
#[test]
fn the_readme_of_the_chart_lists_its_values() {
    const HEADER: &str = "| Value | Default | Meaning |\n|---|---|---|\n";
    let expected: String = values().into_iter().map(|row| format!("| {} |\n", row.join(" | "))).collect();
    let page = read(format!("{OPERATOR}/README.md"));
    let (before, table) = page.split_once(HEADER).unwrap();
    if std::env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1") {
        let rest: String = table.lines().skip_while(|line| line.starts_with('|')).flat_map(|line| [line, "\n"]).collect();
        std::fs::write(root().join(OPERATOR).join("README.md"), format!("{before}{HEADER}{expected}{rest}")).unwrap();
        return;
    }
    let found: String = table.lines().take_while(|line| line.starts_with('|')).flat_map(|line| [line, "\n"]).collect();
    assert_eq!(found, expected, "if that is wanted, write it anew with UPDATE_EXPECTED=1");
}
