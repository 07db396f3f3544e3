//! The alert rules and the dashboard: what they name is there, and each alert has a page that says what to do.
//!
//! That each alert fires is shown by `tests/alerts/main.rs`. The parser is Prometheus's own (`tests/bed/alerts`).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use durable_bed::assets;
use serde::Deserialize;
use serde_json::Value;

const RULES: &str = "charts/durable-operator/files/alerts.yaml";
const DASHBOARD: &str = "charts/durable-operator/files/dashboard.json";

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn ask(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut program = Command::new(assets::alerts().unwrap())
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    program.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = program.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The metrics that expressions name, as Prometheus parses them.
fn metrics_of(expressions: &[String]) -> Result<BTreeSet<String>, String> {
    let said = ask(&["expressions"], &serde_json::to_string(expressions).unwrap())?;
    let named: Vec<BTreeSet<String>> = serde_json::from_str(&said).unwrap();
    assert_eq!(named.len(), expressions.len());
    assert!(named.iter().all(|names| !names.is_empty()), "an expression names no metric: {expressions:?}");
    Ok(named.into_iter().flatten().collect())
}

/// The series of the metrics that docs/metrics.md lists; a histogram has several.
fn listed() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
    });
    rows.filter(|(name, _)| name.starts_with("durable_operator_"))
        .flat_map(|(name, kind)| {
            let series = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
            series.iter().map(move |suffix| format!("{name}{suffix}"))
        })
        .collect()
}

fn assert_listed(named: &BTreeSet<String>) {
    let unknown: Vec<_> = named.difference(&listed()).cloned().collect();
    assert!(unknown.is_empty(), "docs/metrics.md does not list {unknown:?}");
}

#[derive(Deserialize)]
struct Rule {
    name: String,
    expression: String,
    labels: std::collections::BTreeMap<String, String>,
    annotations: std::collections::BTreeMap<String, String>,
}

#[test]
fn each_alert_says_what_is_wrong_and_has_a_page_of_the_runbooks() {
    let rules: Vec<Rule> = serde_json::from_str(&ask(&["check", RULES], "").unwrap()).unwrap();
    assert_listed(&metrics_of(&rules.iter().map(|rule| rule.expression.clone()).collect::<Vec<_>>()).unwrap());
    let page = read("docs/runbooks.md");
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(sections, names, "sections of docs/runbooks.md, and alerts");
    for Rule { name, labels, annotations, .. } in &rules {
        assert!(["critical", "warning"].contains(&labels["severity"].as_str()), "{name}");
        assert!(annotations["summary"].ends_with('.') && annotations["description"].len() > 60, "{name}");
        let anchor = format!("/docs/runbooks.md#{}", name.to_lowercase());
        assert!(annotations["runbook_url"].ends_with(&anchor), "{name}: {}", annotations["runbook_url"]);
    }
}

/// Links within a page, and to a part of another, lead to a heading.
#[test]
fn anchors_of_the_pages_are_there() {
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    let mut seen = 0;
    for page in ["runbooks.md", "operations.md", "metrics.md", "install.md", "upgrade.md", "tracing.md"] {
        let text = read(&format!("docs/{page}"));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for (file, wanted) in targets.filter(|target| !target.contains("://")).filter_map(|target| target.split_once('#')) {
            seen += 1;
            let other = read(&format!("docs/{}", if file.is_empty() { page } else { file }));
            let headings = other.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
            assert!(headings.map(anchor).any(|found| found == wanted), "docs/{page}: {file}#{wanted} does not exist");
        }
    }
    assert!(seen >= 6, "{seen}");
}

/// All panels, those in rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut expressions = Vec::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title} has no description");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            // Grafana replaces these before Prometheus sees them.
            expressions.push(target["expr"].as_str().unwrap().replace("$__rate_interval", "5m"));
        }
    }
    // Variables in label matchers are texts to the parser.
    let named = metrics_of(&expressions).unwrap();
    assert_listed(&named);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let metric = query.strip_prefix("label_values(").unwrap().split([',', '{']).next().unwrap();
            assert!(listed().contains(metric), "{metric}");
        }
    }
    // Whatever an alert looks at can be looked at.
    let rules: Vec<Rule> = serde_json::from_str(&ask(&["check", RULES], "").unwrap()).unwrap();
    let of_alerts = metrics_of(&rules.iter().map(|rule| rule.expression.clone()).collect::<Vec<_>>()).unwrap();
    let missing: Vec<_> = of_alerts.difference(&named).filter(|name| !name.ends_with("build_info")).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    assert!(metrics_of(&["sum(durable_operator_leader".to_owned()]).is_err(), "what does not parse is told");
}

#[test]
fn no_panel_lies_over_another() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let places: Vec<(String, [u64; 4])> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| {
            let place = ["x", "y", "w", "h"].map(|part| panel["gridPos"][part].as_u64().unwrap());
            (panel["title"].as_str().unwrap().to_owned(), place)
        })
        .collect();
    for (number, (title, [x, y, w, h])) in places.iter().enumerate() {
        assert!(x + w <= 24, "{title} is wider than the page");
        for (other, [x2, y2, w2, h2]) in &places[number + 1..] {
            let apart = x + w <= *x2 || x2 + w2 <= *x || y + h <= *y2 || y2 + h2 <= *y;
            assert!(apart, "{title} lies over {other}");
        }
    }
    let identifiers: BTreeSet<u64> = dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(identifiers.len(), places.len(), "two panels have one ID");
}
