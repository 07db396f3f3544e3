//! What README and docs/ show: each YAML block is an object that this version accepts.
//!
//! Judged by the Rust types that the CRDs are generated from. Invariant: a field
//! that the types do not know is a failure, also where parsing would skip it.

use std::path::{Path, PathBuf};

use durable_operator::api::v1alpha1::{Orchestration, OrchestrationEvent, TaskHub};
use k8s_openapi::api::core::v1::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README and the pages of docs/.
fn pages() -> Vec<PathBuf> {
    let pages = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}

/// The fenced blocks of `language` with the line that each begins after.
fn blocks(page: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, bool, String)> = None;
    for (number, line) in page.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(info)) => open = Some((number + 1, info.trim() == language, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|(_, wanted, _)| *wanted).map(|(at, _, text)| (at, text))),
            (Some((_, _, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block is not closed");
    blocks
}

/// The documents of a YAML text.
fn documents(yaml: &str) -> impl Iterator<Item = &str> {
    yaml.split("\n---\n").map(|document| document.trim_start_matches("---\n")).filter(|document| !document.trim().is_empty())
}

/// Parses `document` of `page` as what its `kind` says, all of it.
fn check(page: &Path, document: &str) -> Result<(), String> {
    let value: Value = serde_saphyr::from_str(document).map_err(|error| error.to_string())?;
    let kind = (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
    match kind {
        ("durable-operator.dev/v1alpha1", "Orchestration") => nothing_is_lost::<Orchestration>(&value),
        ("durable-operator.dev/v1alpha1", "OrchestrationEvent") => nothing_is_lost::<OrchestrationEvent>(&value),
        ("durable-operator.dev/v1alpha1", "TaskHub") => nothing_is_lost::<TaskHub>(&value),
        ("v1", "Secret") => nothing_is_lost::<Secret>(&value),
        // Judged by the tools' own CRDs: tests/it/gitops/page.rs applies what docs/gitops.md shows.
        ("argoproj.io/v1alpha1", "Application")
        | ("kustomize.toolkit.fluxcd.io/v1", "Kustomization")
        | ("source.toolkit.fluxcd.io/v1", "GitRepository")
            if page.ends_with("docs/gitops.md") =>
        {
            Ok(())
        }
        ("", "") if page.ends_with("docs/tracing.md") => collector(&value),
        (version, kind) => Err(format!("a {kind:?} of {version:?} is none of the kinds that the documentation may show")),
    }
}

/// A collector's configuration, whose pipelines name what is there, and which takes what the operator sends.
fn collector(value: &Value) -> Result<(), String> {
    let endpoint = &value["receivers"]["otlp"]["protocols"]["http"]["endpoint"];
    if endpoint.as_str().is_none_or(|endpoint| !endpoint.ends_with(":4318")) {
        return Err(format!("OTLP over HTTP is not received at port 4318 but at {endpoint}"));
    }
    let pipeline = value["service"]["pipelines"]["traces"].as_object().ok_or("no pipeline of traces")?;
    for (part, names) in pipeline {
        for name in names.as_array().ok_or(format!("{part} is no list"))? {
            value[part.as_str()].get(name.as_str().unwrap_or_default()).ok_or(format!("{part} has no {name}"))?;
        }
    }
    Ok(())
}

/// Parses `value` and compares what was understood with what was said.
fn nothing_is_lost<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(), String> {
    // Through text: raw JSON cannot be taken out of a parsed value.
    let object: T = serde_json::from_str(&value.to_string()).map_err(|error| error.to_string())?;
    let understood = serde_json::to_value(object).map_err(|error| error.to_string())?;
    lost(value, &understood).map_or(Ok(()), |path| Err(format!("the field {path} is not known")))
}

/// The path of what is in `said` and not in `understood`, which may have defaults besides.
fn lost(said: &Value, understood: &Value) -> Option<String> {
    let below = |key: String, said: &Value, understood: Option<&Value>| match understood {
        None => Some(format!(".{key}")),
        Some(understood) => lost(said, understood).map(|path| format!(".{key}{path}")),
    };
    match (said, understood) {
        (Value::Object(said), Value::Object(understood)) => {
            said.iter().find_map(|(key, value)| below(key.clone(), value, understood.get(key)))
        }
        (Value::Array(said), Value::Array(understood)) => {
            said.iter().enumerate().find_map(|(index, value)| below(index.to_string(), value, understood.get(index)))
        }
        (said, understood) => (said != understood).then(String::new),
    }
}

#[test]
fn every_example_is_an_object_that_this_version_accepts() {
    let mut seen = 0;
    for page in pages() {
        for (line, block) in blocks(&read(&page), "yaml") {
            for document in documents(&block) {
                seen += 1;
                check(&page, document).unwrap_or_else(|error| panic!("{}, block at line {line}: {error}", page.display()));
            }
        }
    }
    assert!(seen >= 4, "only {seen} examples were found");
}

#[test]
fn every_sample_of_the_demo_is_an_object_that_this_version_accepts() {
    for sample in ["hub", "hello", "echo", "fail"] {
        let file = root().join(format!("tests/demo/{sample}.yaml"));
        check(&file, &read(&file)).unwrap_or_else(|error| panic!("{sample}.yaml: {error}"));
    }
}

#[test]
fn the_first_sample_of_the_readme_is_the_demos() {
    let sample = read(&root().join("tests/demo/hello.yaml"));
    let shown = blocks(&read(&root().join("README.md")), "yaml");
    assert!(shown.iter().any(|(_, block)| *block == sample), "README.md does not show tests/demo/hello.yaml as it is");
}

#[test]
fn what_readme_and_docs_link_to_is_there() {
    for page in pages() {
        let text = read(&page);
        let folder = page.parent().unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(file.is_empty() || folder.join(file).exists(), "{}: {target} does not exist", page.display());
        }
    }
}

/// Each reason that a condition can have is explained, so that nobody has to read the source.
#[test]
fn troubleshooting_explains_every_reason() {
    let page = read(&root().join("docs/troubleshooting.md"));
    let mut files = vec![root().join("src/connection.rs")];
    let folders = ["orchestration", "orchestration/act", "orchestration_event", "task_hub"];
    for folder in folders.map(|folder| format!("src/controllers/{folder}")) {
        let found = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(found.filter(|file| file.is_file() && !file.to_string_lossy().ends_with("_tests.rs")));
    }
    let mut seen = 0;
    for file in files {
        let source = read(&file);
        for reason in reasons(source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()) {
            seen += 1;
            assert!(page.contains(&format!("`{reason}`")), "docs/troubleshooting.md does not explain {reason} of {}", file.display());
        }
    }
    assert!(seen >= 20, "only {seen} reasons were found: they are written in another way now");
}

#[tokio::test]
async fn every_metric_is_listed() {
    let page = read(&root().join("docs/metrics.md"));
    let text = metrics_in_use().await;
    let types: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| line.split_once(' ')).collect();
    assert!(types.len() >= 25, "{text}");
    let mut known = Vec::new();
    for (name, kind) in types {
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(page.contains(&format!("| `{name}{suffix}` | {kind} |")), "docs/metrics.md does not list {name}{suffix}, a {kind}");
        known.push(format!("{name}{suffix}"));
    }
    let listed = page.lines().filter_map(|line| line.strip_prefix("| `durable_operator_")?.split_once('`'));
    for (name, _) in listed {
        assert!(known.contains(&format!("durable_operator_{name}")), "docs/metrics.md lists durable_operator_{name}, which there is not");
    }
}

/// What `/metrics` says when everything was counted once: a metric with labels does not show before.
async fn metrics_in_use() -> String {
    use durable_operator::metrics::{ApiRequestLayer, HubBacklog, HubFigures, Metrics};
    use durable_taskhub::storage::{ObservedRequest, RequestObserver, Service};
    use tower::{Layer, ServiceExt, service_fn};
    let metrics = Metrics::new();
    let elapsed = std::time::Duration::from_millis(1);
    metrics.reconciles.observe("TaskHub", None, elapsed);
    drop(metrics.reconciles.begin("TaskHub"));
    metrics.task_hubs.update("shop", "orders", |figures| {
        let orchestrations = Some([("Running", 1); 6]);
        *figures = HubFigures { ready: true, workers_active: Some(true), orchestrations, backlog: Some(HubBacklog::default()) };
    });
    metrics.storage.observe(&ObservedRequest { service: Service::Table, operation: "table.get", status: Some(200), elapsed });
    metrics.limiter.waited("poll", elapsed);
    metrics.limiter.throttled("answer");
    metrics.traces.exported(200);
    let server = service_fn(async |_: http::Request<()>| Ok::<_, std::convert::Infallible>(http::Response::new(())));
    ApiRequestLayer::new(metrics.api.clone()).layer(server).oneshot(http::Request::new(())).await.unwrap();
    metrics.encode().unwrap()
}

/// The words in quotes that look like reasons and follow one of the calls that take one.
fn reasons(source: &str) -> Vec<String> {
    const BEFORE: [&str; 14] = [
        "NotReady::new(",
        "Verdict::in_progress(",
        "Verdict::stalled(",
        "Statement::yes(",
        "Statement::no(",
        "failed(",
        "refused(",
        "hold(",
        "reject(",
        "waits(",
        "stalled(",
        "reason: ",
        "READY, ",
        "=> (",
    ];
    let mut found = Vec::new();
    for (at, _) in source.match_indices('"') {
        let rest = &source[at + 1..];
        let Some((word, _)) = rest.split_once('"') else { break };
        let is_word =
            word.len() > 3 && word.starts_with(|first: char| first.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphabetic());
        let line = source[..at].rfind('\n').map_or(&source[..at], |end| &source[end + 1..at]);
        let before = source[..at].trim_end();
        // What the operator was doing is no reason.
        if is_word
            && !before.ends_with("action:")
            && (BEFORE.iter().any(|call| line.contains(call) || before.ends_with(call.trim_end())) || line.trim() == "(")
        {
            found.push(word.to_owned());
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn what_is_not_known_is_found() {
    let good = "apiVersion: durable-operator.dev/v1alpha1\nkind: Orchestration\nmetadata: {name: a}\nspec:\n  functionName: F\n  taskHubRef: {name: h}\n";
    let page = Path::new("docs/orchestrations.md");
    assert_eq!(check(page, good), Ok(()));
    assert!(check(page, "apiVersion: argoproj.io/v1alpha1\nkind: Application\n").is_err(), "nobody checks it on another page");
    let unknown = check(page, &format!("{good}  startsAt: never\n")).unwrap_err();
    assert!(unknown.contains(".spec.startsAt"), "{unknown}");
    assert!(check(page, "kind: Deployment\n").is_err());
    let traces = Path::new("docs/tracing.md");
    let pipeline = |receivers: &str| {
        let receiver = "receivers: {otlp: {protocols: {http: {endpoint: \"0.0.0.0:4318\"}}}}";
        format!("{receiver}\nservice: {{pipelines: {{traces: {{receivers: [{receivers}]}}}}}}\n")
    };
    assert_eq!(check(traces, &pipeline("otlp")), Ok(()));
    assert!(check(traces, &pipeline("other")).is_err());
    assert!(check(page, &pipeline("otlp")).is_err(), "only that page shows one");
    assert!(check(page, &good.replace("functionName: F", "functionName: [F]")).is_err());
    assert_eq!(blocks("a\n```yaml\nb: 1\n```\n```text\nc\n```\n", "yaml"), [(2, "b: 1\n".to_owned())]);
    assert_eq!(documents("---\na: 1\n---\nb: 2\n").collect::<Vec<_>>(), ["a: 1", "b: 2\n"]);
}
