//! Each value of the operator's chart: wrong in any way it is refused by its name, and right it is read by some template.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use serde_json::{Value, json};

use super::{CRDS, NAMESPACE, OPERATOR, default_with, quoted, read, rendered, root};

/// A value that has no named values below itself.
#[derive(Debug)]
struct Leaf {
    /// `image.tag`; `access[].secrets` for what is in the items of a list.
    path: String,
    schema: Value,
}

/// The leaves below `schema`, and what is in the items of lists.
fn leaves(schema: &Value, path: &str, found: &mut Vec<Leaf>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.push(Leaf { path: path.to_owned(), schema: schema.clone() });
        if schema["items"]["properties"].is_object() {
            leaves(&schema["items"], &format!("{path}[]"), found);
        }
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path:?} takes values that nobody knows");
    for (name, below) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        leaves(below, &path, found);
    }
}

fn all_leaves() -> Vec<Leaf> {
    let mut found = Vec::new();
    leaves(&serde_json::from_str(&read(format!("{OPERATOR}/values.schema.json"))).unwrap(), "", &mut found);
    assert!(found.len() >= 60, "only {} values", found.len());
    found
}

/// What helm says to these values, which it has to refuse.
fn refusal(arguments: &[&str]) -> String {
    match default_with(arguments) {
        Ok(_) => panic!("{arguments:?} is accepted"),
        Err(said) => said,
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_its_name() {
    for leaf in all_leaves().iter().filter(|leaf| !leaf.path.contains("[]")) {
        let wrong = match leaf.schema["type"].as_str().unwrap() {
            "string" => json!(7),
            "integer" | "boolean" => json!("seven"),
            "array" => json!("one"),
            "object" => json!(["one"]),
            other => panic!("{}: what is wrong for {other}?", leaf.path),
        };
        let said = refusal(&["--set-json", &format!("{}={wrong}", leaf.path)]);
        let named = format!("at '/{}': got ", leaf.path.replace('.', "/"));
        assert!(said.contains(&named), "{}: {said}", leaf.path);
    }
}

#[test]
fn a_value_that_nobody_knows_is_refused_by_its_name() {
    let leaves = all_leaves();
    // Each object that has named values, also the whole.
    let parents: BTreeSet<&str> = leaves.iter().map(|leaf| leaf.path.rsplit_once('.').map_or("", |(parent, _)| parent)).collect();
    assert!(parents.len() >= 15, "{parents:?}");
    for parent in parents {
        let (key, value) = match parent.strip_suffix("[]") {
            Some(list) => (list.to_owned(), json!([{"unknown": 1}])),
            None => (format!("{parent}.unknown").trim_start_matches('.').to_owned(), json!(1)),
        };
        let said = refusal(&["--set-json", &format!("{key}={value}")]);
        assert!(said.contains("additional properties 'unknown' not allowed"), "{key}: {said}");
        let place = parent.replace("[]", "/0").replace('.', "/");
        assert!(place.is_empty() || said.contains(&format!("at '/{place}'")), "{key}: {said}");
    }
}

/// Values of the right type that cannot be meant, and words of the message that says which.
const NOT_MEANT: &[(&str, &[&str])] = &[
    ("replicas=-1", &["/replicas", "minimum"]),
    (r#"image.digest="latest""#, &["/image/digest", "sha256:"]),
    (r#"image.repository="""#, &["/image/repository", "minLength"]),
    (r#"image.pullPolicy="Sometimes""#, &["/image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"]),
    (r#"log.format="xml""#, &["/log/format", "'json', 'text'"]),
    (r#"tracing.endpoint="collector:4317""#, &["/tracing/endpoint", "https?"]),
    (r#"watchNamespaces=["Shop"]"#, &["/watchNamespaces/0", "Shop"]),
    (r#"watchNamespaces=["shop","shop"]"#, &["/watchNamespaces", "items at 0 and 1 are equal"]),
    (r#"access=[{"namespace":"shop"}]"#, &["/access/0", "minProperties"]),
    (r#"access=[{"secrets":["storage"]}]"#, &["/access/0", "missing property 'namespace'"]),
    // An empty list of names in a rule would give all of them.
    (r#"access=[{"namespace":"shop","secrets":[]}]"#, &["/access/0/secrets", "minItems"]),
    (r#"access=[{"namespace":"shop","payloadConfigMaps":[""]}]"#, &["/access/0/payloadConfigMaps/0", "minLength"]),
    (r#"access=[{"namespace":"shop","serviceAccounts":["*"]}]"#, &["/access/0/serviceAccounts/0", "*"]),
    (r#"imagePullSecrets=["registry"]"#, &["/imagePullSecrets/0", "want object"]),
    (r#"podLabels={"app.kubernetes.io/name":"mine"}"#, &["/podLabels/app.kubernetes.io~1name"]),
    ("terminationGracePeriodSeconds=0", &["/terminationGracePeriodSeconds", "minimum"]),
    ("networkPolicy.apiServerPorts=[]", &["/networkPolicy/apiServerPorts", "minItems"]),
    ("networkPolicy.apiServerPorts=[70000]", &["/networkPolicy/apiServerPorts/0", "maximum"]),
    (r#"serviceMonitor.interval="often""#, &["/serviceMonitor/interval", "often"]),
    (r#"demo.hubName="1st""#, &["/demo/hubName", "1st"]),
];

#[test]
fn a_value_that_cannot_be_meant_is_refused_by_its_name() {
    for (value, words) in NOT_MEANT {
        let said = refusal(&["--set-json", value]);
        for word in *words {
            assert!(said.contains(word), "{value}: no {word} in {said}");
        }
    }
}

/// Values that are fine each by itself: the arguments, and what the message has to name.
const CONTRADICTIONS: &[(&[&str], &[&str])] = &[
    (&["leaderElection.enabled=false"], &["replicas is 2", "leaderElection.enabled", "Set replicas to 1"]),
    (&["serviceAccount.create=false"], &["serviceAccount.create is false", "serviceAccount.name"]),
    (&[r#"access=[{"namespace":"shop","secrets":["a"]},{"namespace":"shop","secrets":["b"]}]"#], &["access has two entries", "\"shop\""]),
    (
        &[r#"watchNamespaces=["billing"]"#, r#"access=[{"namespace":"shop","secrets":["a"]}]"#],
        &["access names the namespace \"shop\"", "watchNamespaces"],
    ),
];

#[test]
fn a_contradiction_is_refused_with_the_values_that_make_it() {
    for (values, words) in CONTRADICTIONS {
        let said = refusal(&values.iter().flat_map(|value| ["--set-json", value]).collect::<Vec<_>>());
        for word in *words {
            assert!(said.contains(word), "{values:?}: no {word} in {said}");
        }
    }
    let refusals = read(format!("{OPERATOR}/templates/_check.tpl")).matches("{{- fail ").count();
    assert_eq!(refusals, CONTRADICTIONS.len(), "refusals of _check.tpl, and those that are tried here");
    // What each contradiction says to do instead.
    for values in [
        &["leaderElection.enabled=false", "replicas=1"][..],
        &["serviceAccount.create=false", "serviceAccount.name=\"mine\""],
        &[r#"watchNamespaces=["shop"]"#, r#"access=[{"namespace":"shop","secrets":["a","b"]}]"#],
    ] {
        default_with(&values.iter().flat_map(|value| ["--set-json", value]).collect::<Vec<_>>()).unwrap();
    }
}

/// A value that the schema has and no template reads would be believed and ignored.
#[test]
fn every_value_is_read() {
    fn texts(folder: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { texts(&path, all) } else { *all += &std::fs::read_to_string(path).unwrap() }
        }
    }
    let mut templates = String::new();
    texts(&root().join(OPERATOR).join("templates"), &mut templates);
    let reads = |path: &str| {
        templates.match_indices(&format!(".Values.{path}")).any(|(at, found)| {
            let next = templates[at + found.len()..].chars().next().unwrap();
            !(next.is_ascii_alphanumeric() || next == '.')
        })
    };
    for leaf in all_leaves() {
        if ["enabled", "global"].contains(&leaf.path.as_str()) {
            assert!(!reads(&leaf.path), "{} says that it is not read", leaf.path);
            continue;
        }
        let whole = leaf.path.split("[]").next().unwrap();
        let mut path = whole;
        while !reads(path) {
            path = path.rsplit_once('.').unwrap_or_else(|| panic!("no template reads {}", leaf.path)).0;
        }
        let field = leaf.path[path.len()..].rsplit('.').next().unwrap_or_default();
        let field = field.trim_start_matches("[]");
        assert!(field.is_empty() || templates.contains(&format!(".{field}")) || whole == path, "no template reads {}", leaf.path);
    }
}

/// The page that explains the important ones names none that is not there.
#[test]
fn the_values_that_matter_exist() {
    let page = read("docs/install.md");
    let (_, section) = page.split_once("## Values that matter\n").unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
    let named: Vec<String> = rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap())).map(str::to_owned).collect();
    assert!(named.len() >= 8, "{named:?}");
    let leaves = all_leaves();
    for name in named {
        let is_there = leaves.iter().any(|leaf| leaf.path == name || leaf.path.starts_with(&format!("{name}.")));
        assert!(is_there, "docs/install.md names {name}, which is no value");
    }
}

/// As the documentation promises.
#[test]
fn the_versions_of_kubernetes_are_those_that_are_documented() {
    for chart in [OPERATOR, CRDS] {
        let on = |version: &str| rendered(OsStr::new(chart), NAMESPACE, &["--kube-version", version]).map_err(|error| error.to_string());
        for version in ["1.33.0", "1.37.2", "1.33.4-gke.100"] {
            on(version).unwrap_or_else(|error| panic!("{chart}: {error}"));
        }
        let refused = on("1.32.9").unwrap_err();
        assert!(refused.contains(">=1.33.0-0"), "{refused}");
    }
    for page in ["README.md", "docs/install.md"] {
        assert!(read(page).contains("Kubernetes 1.33 to 1.37"), "{page}");
    }
}
