//! One page of figures: what a run costs, how long it takes, how much memory objects take.
//!
//! `cargo bench --bench figures` (with optimisation), or with `--profile dev` (as in the tests). Times are for
//! comparison with the bare client of the same run only; the thresholds on counts are in the tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
#[path = "../it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

mod measure;

use durable_bed::binaries;
use durable_operator::api::v1alpha1::{Orchestration, OrchestrationStatus, RuntimeStatus};
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::watcher;

use measure::{cpu_time, median, resident_kib, show};
use support::growth::growth;
use support::{World, bed, eventually};

const RUNS: usize = 30;
const SETTLED: usize = 1000;

/// A line of the table: what, and how much.
type Line = (String, String);

#[tokio::main]
async fn main() {
    let optimised = !cfg!(debug_assertions);
    let operator = if optimised { binaries::operator_optimised() } else { binaries::operator() }.unwrap();
    let mut page: Vec<Line> = vec![("operator".into(), if optimised { "with optimisation" } else { "without optimisation" }.into())];
    page.extend(bare_client().await);
    page.extend(runs(&operator, "1s").await);
    page.extend(runs(&operator, "200ms").await);
    page.extend(memory(&operator).await);
    let width = page.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
    for (what, how_much) in page {
        println!("{what:<width$}  {how_much}");
    }
}

/// What any client pays for two writes to this API server: create, PUT of the status.
async fn bare_client() -> Vec<Line> {
    let world = World::without_hub("bare_client").await;
    let api = world.orchestrations();
    let mut times = Vec::new();
    for number in 0..RUNS {
        let begun = Instant::now();
        settle(&api, &format!("bare-{number}")).await;
        times.push(begun.elapsed());
    }
    vec![("bare client: create and status PUT, median".into(), show(median(times)))]
}

/// Runs one after another, polled at first after `interval`.
async fn runs(operator: &std::path::Path, interval: &str) -> Vec<Line> {
    let world = World::new("figures").await;
    let _worker = world.worker().await;
    let operator = world.start_operator(operator, &[("DURABLE_LOG_FILTER", "info")]);
    operator.until_ready().await;
    world.secret(&bed().azurite.connection_string());
    world.task_hub_polled(interval);
    world.hub_reason("Connected").await;
    let api = world.orchestrations();
    // One run that does not count: connections are opened, code is paged in.
    run(&api, "warm").await;
    let (storage, writes, cpu) = (operator.storage_requests().await, operator.api_writes().await, cpu_time(&operator));
    let mut times = Vec::new();
    for number in 0..RUNS {
        times.push(run(&api, &format!("run-{number}")).await);
    }
    let storage = growth(&storage, &operator.storage_requests().await);
    let writes = growth(&writes, &operator.api_writes().await);
    let cpu = (cpu_time(&operator) - cpu) / u32::try_from(RUNS).unwrap();
    let column = |pick: fn(&(Duration, Duration)) -> Duration| times.iter().map(pick).collect::<Vec<_>>();
    let of = |what: &str| format!("HelloSequence, polled every {interval}: {what}");
    vec![
        (of("apply to Complete, median"), show(median(column(|(complete, _)| *complete)))),
        (of("apply to Complete, longest"), show(column(|(complete, _)| *complete).into_iter().max().unwrap())),
        (of("of it in the hub (created to completed), median"), show(median(column(|(_, hub)| *hub)))),
        (of("storage requests per run"), per_run(&storage)),
        (of("API writes per run"), per_run(&writes)),
        (of("CPU of the operator per run"), show(cpu)),
    ]
}

/// Creates the object and watches it: the time until Complete, and the hub's own part of it.
async fn run(api: &Api<Orchestration>, name: &str) -> (Duration, Duration) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let begun = Instant::now();
    api.create(&PostParams::default(), &orchestration(name)).await.unwrap();
    let mut events = watcher::watcher(api.clone(), config).boxed();
    while let Some(event) = events.try_next().await.unwrap() {
        if let watcher::Event::Apply(object) | watcher::Event::InitApply(object) = event
            && let Some(status) = object.status.filter(|status| status.settled)
        {
            assert_eq!(status.runtime_status, Some(RuntimeStatus::Completed), "{status:?}");
            return (begun.elapsed(), status.completed_time.unwrap().0.since(status.created_time.unwrap().0));
        }
    }
    panic!("the watch ended");
}

/// Resident memory with no object, and with settled ones that the operator finds at its start.
async fn memory(program: &std::path::Path) -> Vec<Line> {
    let mut lines = Vec::new();
    for count in [0, SETTLED] {
        let world = World::new("memory").await;
        let api = world.orchestrations();
        futures::stream::iter(0..count).for_each_concurrent(8, |number| settle_owned(api.clone(), format!("settled-{number}"))).await;
        let operator = world.start_operator(program, &[("DURABLE_LOG_FILTER", "info")]);
        operator.until_ready().await;
        world.ready_hub().await;
        eventually("all were looked at", async || {
            let looked = operator.counter("durable_operator_reconciles_total", &["kind=\"Orchestration\"", "outcome=\"ok\""]).await;
            if looked >= count as u64 { Ok(()) } else { Err(format!("{looked}")) }
        })
        .await;
        lines
            .push((format!("resident memory with {count} settled objects"), format!("{:.1} MiB", resident_kib(&operator) as f64 / 1024.0)));
    }
    lines
}

async fn settle_owned(api: Api<Orchestration>, name: String) {
    settle(&api, &name).await;
}

/// An object as a run leaves it, written without an operator.
async fn settle(api: &Api<Orchestration>, name: &str) {
    let mut object = api.create(&PostParams::default(), &orchestration(name)).await.unwrap();
    object.status = Some(OrchestrationStatus {
        instance_id: Some(name.to_owned()),
        execution_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
        runtime_status: Some(RuntimeStatus::Completed),
        settled: true,
        output: durable_operator::api::Json::parse(r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#.to_owned()),
        ..OrchestrationStatus::default()
    });
    api.replace_status(name, &PostParams::default(), &object).await.unwrap();
}

fn orchestration(name: &str) -> Orchestration {
    let spec = serde_json::from_value(serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": "HelloSequence"})).unwrap();
    Orchestration::new(name, spec)
}

/// All together, then series by series.
fn per_run(grown: &BTreeMap<String, u64>) -> String {
    let each = |count: u64| format!("{:.2}", count as f64 / RUNS as f64);
    let label = |series: &str| {
        series.replace(['"'], "").replace("operation=", "").replace(",code=", " ").replace("verb=", "").replace(",resource=", " ")
    };
    let parts: Vec<String> = grown.iter().map(|(series, count)| format!("{} {}", each(*count), label(series))).collect();
    format!("{} ({})", each(grown.values().sum()), parts.join(", "))
}
