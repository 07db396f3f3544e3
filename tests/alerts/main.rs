//! Every alert of the chart fires when what it is about is the case, and none where all is well.
//!
//! What goes wrong is made to go wrong; the texts are what `/metrics` said then; the judge is the rule engine of Prometheus
//! (`tests/bed/alerts`). Only time is simulated: a state that was seen is taken to last for some minutes, and what was counted
//! within seconds is spread over them. `tests/wire/alerts.rs` has what needs no operator.
//!
//! A test binary of its own, which cargo runs by itself: nine operators at once are enough for two cores.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
mod support;

mod dashboard;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use durable_bed::azurite::Azurite;
use durable_bed::guard::Signal;
use durable_bed::proxy::Fault;
use durable_bed::{assets, binaries};
use durable_operator::crash_points::at;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::probe::{Limits, run};
use crate::support::{OperatorProcess, PATIENCE, World, eventually};

/// Seconds between two scrapes, as in most configurations.
const EVERY: i64 = 30;
/// Longer than any alert waits.
const LONG: i64 = 20 * 60;

type Names = BTreeSet<String>;

fn names<const N: usize>(alerts: [&str; N]) -> Names {
    alerts.map(str::to_owned).into()
}

/// The rules of the chart.
fn rules() -> PathBuf {
    durable_bed::workspace_root().join("charts/durable-operator/files/alerts.yaml")
}

/// What the program says of the rules in `file`.
fn judge(verb: &str, file: &Path, input: &Value) -> Value {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut program = Command::new(assets::alerts().unwrap())
        .arg(verb)
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    program.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The alerts that fire at the end of `seconds` over which what was scraped is spread evenly. None is a scrape that failed.
fn firing(scraped: &[Option<String>], seconds: i64) -> Names {
    let count = i64::try_from(scraped.len()).unwrap();
    let scrapes: Vec<Value> = (0..seconds / EVERY)
        .map(|number| {
            let at = number * EVERY;
            let text = &scraped[usize::try_from(at * count / seconds).unwrap()];
            json!({"at": at, "instance": "10.0.0.1:8080", "text": text})
        })
        .collect();
    let fired = judge("evaluate", &rules(), &Value::from(scrapes));
    fired.as_array().unwrap().iter().map(|alert| alert["name"].as_str().unwrap().to_owned()).collect()
}

async fn scrape(operator: &OperatorProcess) -> Option<String> {
    let answer = eventually("/metrics answers", async || match operator.get("/metrics").await {
        Ok((200, text)) => Ok(text),
        other => Err(format!("{other:?}")),
    });
    Some(answer.await)
}

/// The sum over the series whose line contains all of `parts`.
fn sum(text: &str, parts: &[&str]) -> f64 {
    let lines = text.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Scrapes in each of which a counter has grown by at least `step`: what goes on, goes on over all the time that is simulated.
async fn scrapes_of_growth(operator: &OperatorProcess, count: usize, counter: &[&str], step: f64) -> Vec<Option<String>> {
    let mut scraped = vec![scrape(operator).await];
    while scraped.len() < count {
        let last = sum(scraped.iter().flatten().last().unwrap(), counter);
        let what = format!("{counter:?} grows beyond {last}");
        let next = eventually(&what, async || {
            let text = scrape(operator).await.unwrap();
            if sum(&text, counter) >= last + step { Ok(text) } else { Err(text) }
        })
        .await;
        scraped.push(Some(next));
    }
    scraped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_alert_fires_when_it_should_and_none_where_all_is_well() {
    let (of_operator, leader, of_hub, deletion, of_storage, of_api_server, lag, panics, stuck) = tokio::join!(
        an_operator_that_is_well_and_then_gone(),
        operators_of_which_none_leads(),
        a_hub_that_nobody_serves_and_then_cannot_be_reached(),
        a_deletion_that_is_given_up(),
        a_storage_account_that_fails(),
        an_api_server_that_is_away(),
        reads_that_are_late(),
        a_reconcile_that_panics(),
        a_reconcile_that_hangs(),
    );
    let fired: Names =
        [of_operator, leader, of_hub, deletion, of_storage, of_api_server, lag, panics, stuck].into_iter().flatten().collect();
    let known: Names =
        judge("check", &rules(), &Value::Null).as_array().unwrap().iter().map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(fired, known, "fired, and known");
}

async fn an_operator_that_is_well_and_then_gone() -> Names {
    let world = World::new("alerts_well").await;
    let _worker = world.worker().await;
    let mut operator = world.operator().await;
    world.ready_hub().await;
    let mut scraped = vec![scrape(&operator).await];
    for name in ["first", "second"] {
        world.orchestration(name, "HelloSequence", json!({}));
        world.reason(name, "Completed").await;
        scraped.push(scrape(&operator).await);
    }
    // It has been told who serves the hub.
    world.kubectl(&["wait", "--for=condition=WorkersActive", "taskhub/hub", "--timeout=60s"]);
    world.orchestration("waits", "Approval", json!({}));
    world.reason("waits", "Running").await;
    scraped.push(scrape(&operator).await);
    assert!(scraped.iter().flatten().last().unwrap().contains("durable_operator_task_hub_workers_active{"), "{scraped:?}");
    assert_eq!(firing(&scraped, LONG), Names::new(), "all is well");

    operator.process.signal(Signal::Kill);
    operator.process.wait(PATIENCE).unwrap();
    operator.get("/metrics").await.unwrap_err();
    scraped.extend(vec![None; scraped.len()]);
    let fired = firing(&scraped, 2 * LONG);
    assert_eq!(fired, names(["DurableOperatorDown"]));
    fired
}

async fn operators_of_which_none_leads() -> Names {
    let world = World::without_hub("alerts_standby").await;
    world.apply(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "durable-operator"},
        // Of one that is gone and left it for an hour.
        "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 3600, "renewTime": format!("{:.6}", Timestamp::now())}
    }));
    let standby = world.start_operator(&binaries::operator().unwrap(), &[("DURABLE_LEADER_ELECTION", "true")]);
    standby.until_ready().await;
    let fired = firing(&[scrape(&standby).await], LONG);
    assert_eq!(fired, names(["DurableOperatorNoLeader"]));
    fired
}

/// The operator looks at its hub twenty times as often as it would.
async fn a_hub_that_nobody_serves_and_then_cannot_be_reached() -> Names {
    const OLD: Duration = Duration::from_secs(60);
    const OLDEST: [&str; 2] = ["durable_operator_task_hub_oldest_message_seconds", "queue=\"control\""];
    let world = World::new("alerts_unserved").await;
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", "20")]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("waits", "Echo", json!({}));
    let begun = Instant::now();
    world.reason("waits", "NoActiveWorkers").await;
    let waiting = eventually("a message waits", async || {
        let text = scrape(&operator).await.unwrap();
        if sum(&text, &OLDEST) > 0.0 { Ok(text) } else { Err(text) }
    })
    .await;
    let mut fired = firing(&[Some(waiting)], LONG);
    assert_eq!(fired, names(["DurableTaskHubNoWorkers"]));

    tokio::time::sleep((OLD + Duration::from_secs(1)).saturating_sub(begun.elapsed())).await;
    let old = eventually("it has waited for a minute", async || {
        let text = scrape(&operator).await.unwrap();
        if sum(&text, &OLDEST) > OLD.as_secs_f64() { Ok(text) } else { Err(text) }
    })
    .await;
    let after = firing(&[Some(old)], LONG);
    assert_eq!(after, names(["DurableTaskHubBacklogOld", "DurableTaskHubNoWorkers"]));
    fired.extend(after);

    world.secret("nonsense");
    world.hub_reason("InvalidConnectionString").await;
    let after = firing(&[scrape(&operator).await], LONG);
    assert_eq!(after, names(["DurableTaskHubNotReady"]));
    fired.extend(after);
    fired
}

/// Nobody takes the terminate. Five minutes are three seconds here.
async fn a_deletion_that_is_given_up() -> Names {
    let world = World::new("alerts_deletion").await;
    let worker = world.worker().await;
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", "100")]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.orchestration("run", "Approval", json!({"deletionPolicy": "Purge"}));
    world.reason("run", "Running").await;
    let before = scrape(&operator).await;
    drop(worker);
    world.kubectl(&["delete", "orchestration", "run", "--timeout=60s"]);
    let fired = firing(&[before, scrape(&operator).await], LONG);
    assert_eq!(fired, names(["DurableOrchestrationDeletionsGivenUp"]));
    fired
}

/// The operator looks at its hub twenty times as often as it would.
async fn a_storage_account_that_fails() -> Names {
    let world = World::new("alerts_storage").await;
    let proxy = world.azurite.with(Azurite::proxy).unwrap();
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", "20")]);
    operator.until_ready().await;
    world.secret(&proxy.connection_string());
    world.task_hub();
    world.hub_reason("Connected").await;
    proxy.rule(|_| Fault::Answer(500, "InternalError"));
    world.orchestration("run", "Echo", json!({}));
    world.reason("run", "TaskHubNotReady").await;
    let fired = firing(&scrapes_of_growth(&operator, 6, &["durable_operator_storage_requests_total", "code=\"500\""], 1.0).await, LONG);
    assert_eq!(fired, names(["DurableOperatorStorageErrors", "DurableTaskHubNotReady"]));
    fired
}

/// Runs end meanwhile, and nobody can be told.
async fn an_api_server_that_is_away() -> Names {
    const RUNS: usize = 30;
    let world = World::new("alerts_api_server").await;
    let _worker = world.worker().await;
    let (gate, kubeconfig) = Gate::before_api_server(&world, "alerts").await;
    let operator = world.start_operator(&binaries::operator().unwrap(), &[("KUBECONFIG", kubeconfig.to_str().unwrap())]);
    operator.until_ready().await;
    world.ready_hub().await;
    let names_of_runs: Vec<String> = (0..RUNS).map(|number| format!("run-{number}")).collect();
    for name in &names_of_runs {
        world.orchestration(name, "Approval", json!({"instanceId": name}));
    }
    for name in &names_of_runs {
        world.reason(name, "Running").await;
    }
    gate.close();
    for name in &names_of_runs {
        world.hub().await.raise_event(name, "Approval", Some("\"yes\"")).await.unwrap();
    }
    let failed = ["durable_operator_reconciles_total", "outcome=\"failed\""];
    let fired = firing(&scrapes_of_growth(&operator, 6, &failed, 12.0).await, LONG);
    assert_eq!(fired, names(["DurableOperatorApiErrors", "DurableOperatorReconcilesFailing"]));
    fired
}

/// Each read takes nine seconds, and there are more than are made at once.
async fn reads_that_are_late() -> Names {
    const SLOW: Duration = Duration::from_secs(9);
    let world = World::new("alerts_late").await;
    let _worker = world.worker().await;
    let proxy = world.azurite.with(Azurite::proxy).unwrap();
    let operator = world.operator().await;
    world.secret(&proxy.connection_string());
    world.task_hub_with(&json!({"polling": {"minInterval": "200ms", "maxInterval": "500ms"}}));
    world.hub_reason("Connected").await;
    for number in 0..24 {
        world.orchestration(&format!("run-{number}"), "Approval", json!({}));
    }
    for number in 0..24 {
        world.reason(&format!("run-{number}"), "Running").await;
    }
    let instances = world.hub_name.instances_table();
    proxy.rule(move |request| if request.method == "GET" && request.path.contains(&instances) { Fault::Delay(SLOW) } else { Fault::Pass });
    // What was due before the third round was hardly late.
    let late = ["durable_operator_poller_lag_seconds_count"];
    let scraped = scrapes_of_growth(&operator, 6, &late, 8.0).await;
    let fired = firing(&scraped, 2 * LONG);
    assert_eq!(fired, names(["DurableOperatorPollLag"]));
    fired
}

/// A defect is made at the point where a run is started.
async fn a_reconcile_that_panics() -> Names {
    let world = World::new("alerts_panic").await;
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_PANIC_AT", at::BEFORE_ROW)]);
    operator.until_ready().await;
    world.ready_hub().await;
    let panics = ["durable_operator_reconciles_total", "category=\"panic\""];
    let before = scrape(&operator).await;
    assert_eq!(sum(before.as_deref().unwrap(), &panics), 0.0);
    world.orchestration("bad", "Echo", json!({}));
    let after = scrapes_of_growth(&operator, 2, &panics, 1.0).await.pop().unwrap();
    let fired = firing(&[before, after], LONG);
    assert_eq!(fired, names(["DurableOperatorPanicked"]));
    fired
}

/// Nothing else is looked at while one reconcile hangs.
async fn a_reconcile_that_hangs() -> Names {
    let world = World::without_hub("alerts_hang").await;
    let limits = Limits { concurrency: 1, time_out: Duration::from_secs(600) };
    let running = run(&world.client, &[&world.namespace], limits, |_| Box::pin(std::future::pending()));
    world.orchestration("first", "Echo", json!({}));
    running.seen.until("first", 1).await;
    world.orchestration("second", "Echo", json!({}));
    tokio::time::sleep(Duration::from_secs(63)).await;
    let text = running.metrics.encode().unwrap();
    let fired = firing(&[Some(text)], LONG);
    assert_eq!(fired, names(["DurableOperatorQueueStuck"]));
    fired
}
