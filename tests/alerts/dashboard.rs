//! Each query of the chart's dashboard gives something, over what an operator's `/metrics` said; what is deleted is not shown.
//!
//! The judge is the rule engine of Prometheus, to which each query is a rule that fires if it has a value. That the queries parse
//! and name what is documented is another test's (`tests/wire/alerts.rs`).

use std::collections::BTreeSet;
use std::time::Duration;

use durable_bed::azurite::Azurite;
use durable_bed::binaries;
use durable_bed::control_plane::ControlPlane;
use durable_bed::proxy::Fault;
use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::{World, eventually};
use crate::{judge, scrape};

/// Seconds between two scrapes, as far as Prometheus knows.
const APART: usize = 30;

/// The queries by panel and legend, as Grafana asks them.
fn queries() -> Vec<(String, String)> {
    let file = durable_bed::workspace_root().join("charts/durable-operator/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let values = [("$__rate_interval", "1h"), ("$__range", "1h"), ("$job", ".+"), ("$hub_namespace", ".+"), ("$task_hub", ".+")];
    let filled = |text: &Value| values.iter().fold(text.as_str().unwrap().to_owned(), |text, (name, value)| text.replace(name, value));
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten().map(move |target| (panel, target)));
    queries.map(|(panel, target)| (format!("{}: {}", panel["title"], target["legendFormat"]), filled(&target["expr"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_gives_something() {
    let world = World::new("dashboard").await;
    let _worker = world.worker().await;
    let proxy = world.azurite.with(Azurite::proxy).unwrap();
    let (gate, kubeconfig) = Gate::before_api_server(&world, "dashboard").await;
    let operator = world.start_operator(&binaries::operator().unwrap(), &[("KUBECONFIG", kubeconfig.to_str().unwrap())]);
    operator.until_ready().await;
    world.secret(&proxy.connection_string());
    world.task_hub();
    world.hub_reason("Connected").await;
    world.kubectl(&["wait", "--for=condition=WorkersActive", "taskhub/hub", "--timeout=60s"]);
    let mut scraped = vec![scrape(&operator).await.unwrap()];
    for (name, function, reason) in
        [("well", "Echo", "Completed"), ("sick", "Fail", "OrchestrationFailed"), ("waits", "Approval", "Running")]
    {
        world.orchestration(name, function, json!({}));
        world.reason(name, reason).await;
        scraped.push(scrape(&operator).await.unwrap());
    }
    // What fails has panels of its own.
    let until_counted = async |parts: &[&str]| {
        eventually(&format!("{parts:?} is counted"), async || {
            let text = scrape(&operator).await.unwrap();
            let counted = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if counted { Ok(text) } else { Err(text) }
        })
        .await
    };
    proxy.rule(|request| if request.is_write() { Fault::Answer(500, "InternalError") } else { Fault::Pass });
    world.orchestration("refused", "Echo", json!({}));
    let failed = ["durable_operator_reconciles_total{", "category=\"storage\""];
    scraped.push(until_counted(&failed).await);
    proxy.rule(|_| Fault::Pass);
    world.reason("refused", "Completed").await;
    gate.close();
    scraped.push(until_counted(&["durable_operator_api_requests_total{", "code=\"0\""]).await);
    gate.open();
    scraped.push(until_counted(&["durable_operator_task_hub_backlog_messages{"]).await);
    // Errors that were counted once have grown at the next one.
    gate.close();
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.open();
    scraped.push(scrape(&operator).await.unwrap());

    let queries = queries();
    let rules: Vec<Value> = queries.iter().map(|(name, query)| json!({"alert": name, "expr": format!("({query}) >= 0")})).collect();
    let file = world.control_plane.with(|plane: &ControlPlane| plane.folder().join("dashboard-as-rules.yaml"));
    std::fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    let scrapes: Vec<Value> =
        scraped.iter().enumerate().map(|(number, text)| json!({"at": number * APART, "instance": "10.0.0.1:8080", "text": text})).collect();
    let answers = judge("evaluate", &file, &Value::from(scrapes));
    let answered: BTreeSet<&str> = answers.as_array().unwrap().iter().map(|alert| alert["name"].as_str().unwrap()).collect();
    let silent: Vec<_> = queries.iter().filter(|(name, _)| !answered.contains(name.as_str())).collect();
    assert!(silent.is_empty() && queries.len() >= 20, "{silent:#?}");

    world.kubectl(&["delete", "taskhub", "hub"]);
    eventually("the TaskHub's series are gone", async || match scrape(&operator).await.unwrap() {
        text if !text.contains("task_hub=") => Ok(()),
        text => Err(text),
    })
    .await;
}
