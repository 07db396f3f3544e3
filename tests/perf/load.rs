//! What many objects cost: 5,000 runs at once, 1,000 that run, 10,000 that are settled.
//!
//! `cargo bench --bench load [-- PHASE...]`, the phases being `settle`, `running`, `memory`, `flat` and `wish`. The operator and the
//! worker are built with optimisation whatever the profile of this program is. Counts and memory have thresholds that fail the run;
//! times are only reported, side by side with a bare client on the same API server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
#[path = "../it/support/mod.rs"]
mod support;

mod measure;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use durable_bed::azurite::Azurite;
use durable_bed::proxy::{Fault, Recorded, Service};
use durable_bed::{assets, binaries};
use durable_operator::api::v1alpha1::{Orchestration, OrchestrationStatus, RuntimeStatus};
use durable_operator::telemetry::DEFAULT_FILTER;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

use measure::{cpu_time, median, resident_kib, show};
use support::growth::growth;
use support::runs::Runs;
use support::{OperatorProcess, Server, World, bed, eventually, eventually_within};

/// Runs at once, on as many hubs with an emulator of their own: one emulator stalls after some 8,000 queue messages.
const RUNS: usize = 5000;
const HUBS: usize = 2;
const ACTIVE: usize = 1000;
const SETTLED: usize = 10_000;
/// How long anything may take that takes minutes.
const LIMIT: Duration = Duration::from_secs(600);
/// The input of each of the settled ones: with their inputs kept they would not fit.
const INPUT_BYTES: usize = 4096;
/// Requests of the bare client that are under way at once.
const AT_ONCE: usize = 16;
/// How many times something is measured whose median is shown.
const SAMPLES: usize = 30;
/// What 1,000 running ones cost is counted for so long.
const WINDOW: Duration = Duration::from_secs(30);
/// Scans that an hour has with a `minInterval` of 2 s: they are twice as frequent.
const POLLS_OF_AN_HOUR: u64 = 3600;
/// A tenth of that.
const SHORT_INTERVAL: &str = "200ms";

const MOST_API_WRITES_PER_RUN: f64 = 3.0;
const MOST_STORAGE_REQUESTS_PER_RUN: f64 = 3.0;
const MOST_READS_PER_SECOND: f64 = 100.0;
const MOST_MIB_FOR_SETTLED: f64 = 64.0;
/// What an allocator keeps back or gives back within an hour is no leak.
const FLAT_WITHIN_MIB: f64 = 4.0;

/// The page that is printed, and the thresholds that were missed.
#[derive(Default)]
struct Page {
    lines: Vec<(String, String)>,
    missed: Vec<String>,
}

impl Page {
    fn line(&mut self, what: impl Into<String>, how_much: impl Into<String>) {
        let (what, how_much) = (what.into(), how_much.into());
        eprintln!("{what}: {how_much}");
        self.lines.push((what, how_much));
    }

    /// A line whose number must not be larger than `most`.
    fn at_most(&mut self, what: &str, number: f64, most: f64, unit: &str) {
        self.line(what, format!("{number:.2}{unit} (at most {most}{unit})"));
        if number > most {
            self.missed.push(format!("{what}: {number:.2}{unit}, more than {most}{unit}"));
        }
    }
}

#[tokio::main]
async fn main() {
    let phases: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |phase: &str| phases.is_empty() || phases.iter().any(|wanted| wanted == phase);
    binaries::operator_optimised().unwrap();
    binaries::worker_optimised().unwrap();
    let mut page = Page::default();
    if wanted("settle") {
        settle(&mut page).await;
    }
    if wanted("running") {
        running(&mut page).await;
    }
    if wanted("memory") || wanted("flat") {
        memory(&mut page, wanted("flat")).await;
    }
    if wanted("wish") {
        wish(&mut page).await;
    }
    println!("| What | How much |\n|---|---|");
    for (what, how_much) in &page.lines {
        println!("| {what} | {how_much} |");
    }
    assert!(page.missed.is_empty(), "missed: {:#?}", page.missed);
}

/// A namespace, and a hub in an emulator of its own.
async fn world(name: &str) -> World {
    let azurite = Azurite::start_in_memory(&assets::ensure().unwrap()).unwrap();
    let world = World::on(name, Server::Shared(&bed().control_plane), Server::own(azurite));
    world.create_hub().await;
    world
}

fn operator(worlds: &[&World]) -> OperatorProcess {
    let namespaces: Vec<&str> = worlds.iter().map(|world| world.namespace.as_str()).collect();
    let environment = [("DURABLE_LOG_FILTER", DEFAULT_FILTER), ("DURABLE_WATCH_NAMESPACE", &namespaces.join(","))];
    worlds[0].start_operator(&binaries::operator_optimised().unwrap(), &environment)
}

async fn connect(world: &World, spec: &Value) {
    world.secret(&world.connection_string());
    world.task_hub_with(spec);
    world.hub_reason("Connected").await;
}

fn orchestration(name: &str, function: &str, input: Value) -> Orchestration {
    let spec = json!({"taskHubRef": {"name": "hub"}, "functionName": function, "input": {"value": input}});
    Orchestration::new(name, serde_json::from_value(spec).unwrap())
}

/// What the operator has spent so far.
struct Spent {
    storage: BTreeMap<String, u64>,
    writes: BTreeMap<String, u64>,
    pages: u64,
    reads: u64,
    cpu: Duration,
}

impl Spent {
    async fn read(operator: &OperatorProcess) -> Spent {
        let writes = operator.api_writes().await.into_iter();
        Spent {
            storage: operator.storage_requests().await,
            // Its counts are the TaskHub's, whatever runs: one write in ten seconds.
            writes: writes.filter(|(series, _)| !series.contains("taskhubs")).collect(),
            pages: operator.counter("durable_operator_poller_pages_total", &[]).await,
            reads: operator.counter("durable_operator_poller_reads_total", &[]).await,
            cpu: cpu_time(operator),
        }
    }

    async fn since(&self, operator: &OperatorProcess) -> Spent {
        let now = Spent::read(operator).await;
        Spent {
            storage: growth(&self.storage, &now.storage),
            writes: growth(&self.writes, &now.writes),
            pages: now.pages - self.pages,
            reads: now.reads - self.reads,
            cpu: now.cpu.saturating_sub(self.cpu),
        }
    }

    fn storage_of(&self, operation: &str) -> u64 {
        self.storage.iter().filter(|(series, _)| series.contains(&format!("\"{operation}\""))).map(|(_, count)| count).sum()
    }

    /// Requests that are a hub's and no run's: pages of scans, who serves the hub, how many messages wait.
    fn of_hubs(&self) -> u64 {
        self.storage_of("table.query") + self.storage_of("queue.count")
    }
}

/// All together, then series by series.
fn per(spent: &BTreeMap<String, u64>, runs: f64) -> String {
    let label = |series: &str| {
        series.replace(['"'], "").replace("operation=", "").replace(",code=", " ").replace("verb=", "").replace(",resource=", " ")
    };
    let parts: Vec<String> = spent.iter().map(|(series, count)| format!("{:.3} {}", *count as f64 / runs, label(series))).collect();
    parts.join(", ")
}

/// Objects of the namespace that are not settled: none, or some.
async fn all_settled(world: &World, limit: Duration) -> Duration {
    let begun = Instant::now();
    let parameters = ListParams::default().fields("status.settled!=true").limit(1);
    loop {
        let left = world.orchestrations().list(&parameters).await.unwrap();
        if left.items.is_empty() {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < limit, "not settled within {limit:?}, for example {:?}", left.items.first());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Watches the object until it is as `wanted`; what it is then.
async fn until(api: &Api<Orchestration>, name: &str, wanted: impl Fn(&OrchestrationStatus) -> bool) -> OrchestrationStatus {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher::watcher(api.clone(), config).boxed();
    let arrives = async {
        while let Some(event) = events.try_next().await.unwrap() {
            if let watcher::Event::Apply(object) | watcher::Event::InitApply(object) = event
                && let Some(status) = object.status.filter(|status| wanted(status))
            {
                return status;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(Duration::from_secs(60), arrives).await.unwrap_or_else(|_| panic!("{name} does not get there"))
}

/// 5,000 runs at once.
async fn settle(page: &mut Page) {
    let worlds = [world("settle_one").await, world("settle_two").await];
    let program = binaries::worker_optimised().unwrap();
    let mut workers = Vec::new();
    for world in &worlds {
        workers.push(world.worker_of(&program, &[]).await);
    }
    let operator = operator(&worlds.iter().collect::<Vec<_>>());
    operator.until_ready().await;
    for world in &worlds {
        connect(world, &json!({})).await;
        let api = world.orchestrations();
        api.create(&PostParams::default(), &orchestration("warm", "Echo", json!("any"))).await.unwrap();
        until(&api, "warm", |status| status.settled).await;
    }
    // Nothing of the warming up is left to be counted.
    let before = Spent::read(&operator).await;
    let begun = Instant::now();
    let objects =
        (0..RUNS).map(|number| (worlds[number % HUBS].orchestrations(), orchestration(&format!("run-{number}"), "Echo", json!(number))));
    stream::iter(objects)
        .for_each_concurrent(AT_ONCE, async |(api, object)| drop(api.create(&PostParams::default(), &object).await.unwrap()))
        .await;
    let applied = begun.elapsed();
    for world in &worlds {
        all_settled(world, LIMIT).await;
    }
    let took = begun.elapsed();
    let spent = before.since(&operator).await;
    let runs = RUNS as f64;
    let each = |count: u64| count as f64 / runs;
    let writes = spent.writes.values().sum();
    let storage: u64 = spent.storage.values().sum();
    page.line(format!("{RUNS} runs of Echo on {HUBS} hubs: applied in"), format!("{:.1} s", applied.as_secs_f64()));
    page.line("all settled after", format!("{:.1} s: {:.0} runs a second", took.as_secs_f64(), runs / took.as_secs_f64()));
    page.at_most("API writes per run", each(writes), MOST_API_WRITES_PER_RUN, "");
    page.line("of these", per(&spent.writes, runs));
    page.at_most("storage requests per run", each(storage - spent.of_hubs()), MOST_STORAGE_REQUESTS_PER_RUN, "");
    page.line("of these, and for the hubs", per(&spent.storage, runs));
    page.line("pages of scans, reads of single instances", format!("{}, {}", spent.pages, spent.reads));
    page.line("CPU of the operator per run (aim: under 2 ms)", show(spent.cpu / u32::try_from(RUNS).unwrap()));
    page.line("resident memory after them", format!("{:.1} MiB", mib(&operator)));
    let mut events = 0;
    for world in &worlds {
        let api: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
        events += api.list(&ListParams::default()).await.unwrap().items.iter().filter(|event| is_of_run(event)).count();
        let runs = Runs::at_rest(world).await;
        let objects = world.orchestrations().list(&ListParams::default()).await.unwrap().items;
        assert_eq!(runs.instances().len(), objects.len());
        objects.iter().for_each(|object| runs.assert_ran_once(object, "Completed", 0));
    }
    page.at_most("Events", events as f64, 0.0, "");
}

fn is_of_run(event: &Event) -> bool {
    event.involved_object.kind.as_deref() == Some("Orchestration")
}

/// 1,000 that run and change nothing; then some of them end.
async fn running(page: &mut Page) {
    let world = world("running").await;
    let _worker = world.worker_of(&binaries::worker_optimised().unwrap(), &[]).await;
    let operator = operator(&[&world]);
    operator.until_ready().await;
    connect(&world, &json!({})).await;
    let api = world.orchestrations();
    let object = |number: usize| match number % 2 {
        0 => orchestration(&format!("run-{number}"), "Approval", json!("any")),
        _ => orchestration(&format!("run-{number}"), "Sleep", json!(36_000)),
    };
    stream::iter(0..ACTIVE)
        .for_each_concurrent(AT_ONCE, async |number| drop(api.create(&PostParams::default(), &object(number)).await.unwrap()))
        .await;
    eventually_within(LIMIT, "all run", async || {
        let running = api.list(&ListParams::default().fields("status.runtimeStatus=Running")).await.unwrap().items.len();
        if running == ACTIVE { Ok(()) } else { Err(format!("{running} run")) }
    })
    .await;
    let before = Spent::read(&operator).await;
    // The window is what is measured.
    tokio::time::sleep(WINDOW).await;
    let spent = before.since(&operator).await;
    let seconds = WINDOW.as_secs_f64();
    page.at_most(
        &format!("storage requests a second with {ACTIVE} running"),
        spent.storage.values().sum::<u64>() as f64 / seconds,
        MOST_READS_PER_SECOND,
        "",
    );
    page.line("of these", per(&spent.storage, seconds));
    page.at_most("API writes meanwhile, but for the TaskHub's counts", spent.writes.values().sum::<u64>() as f64, 0.0, "");
    page.line("CPU of the operator meanwhile", format!("{:.1} %", spent.cpu.as_secs_f64() / seconds * 100.0));

    let hub = world.hub().await;
    let mut times = Vec::new();
    for number in (0..SAMPLES).map(|sample| sample * 2) {
        let name = format!("run-{number}");
        let id = world.status(&name).await.instance_id.unwrap();
        let ends = tokio::spawn({
            let (api, name) = (api.clone(), name.clone());
            async move { (until(&api, &name, |status| status.settled).await, SystemTime::now()) }
        });
        hub.raise_event(&id, "Approval", Some("true")).await.unwrap();
        let (status, seen) = ends.await.unwrap();
        assert_eq!(status.runtime_status, Some(RuntimeStatus::Completed), "{status:?}");
        // The worker's clock is this machine's.
        let ended: SystemTime = status.completed_time.unwrap().0.into();
        times.push(seen.duration_since(ended).unwrap_or_default());
    }
    page.line(format!("end in the hub to the status with {ACTIVE} active, median (aim: under 1 s)"), show(median(times.clone())));
    page.line("the longest", show(times.into_iter().max().unwrap()));
    page.line(format!("resident memory with {ACTIVE} running"), format!("{:.1} MiB", mib(&operator)));
}

/// 10,000 settled objects, and a start among them.
async fn memory(page: &mut Page, flat: bool) {
    let world = world("memory").await;
    let api = world.orchestrations();
    let empty = {
        let operator = operator(&[&world]);
        operator.until_ready().await;
        connect(&world, &json!({})).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        mib(&operator)
    };
    let begun = Instant::now();
    stream::iter(0..SETTLED).for_each_concurrent(AT_ONCE, async |number| settled(&api, &format!("settled-{number}")).await).await;
    let rate = SETTLED as f64 / begun.elapsed().as_secs_f64();
    page.line("bare client: pairs of create and status PUT", format!("{rate:.0} a second"));
    let operator = operator(&[&world]);
    operator.until_ready().await;
    eventually("all were looked at", async || {
        let looked = operator.counter("durable_operator_reconciles_total", &["kind=\"Orchestration\"", "outcome=\"ok\""]).await;
        if looked >= SETTLED as u64 { Ok(()) } else { Err(format!("{looked}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = mib(&operator);
    page.line("resident memory without objects", format!("{empty:.1} MiB"));
    page.line(
        format!("resident memory with {SETTLED} settled objects"),
        format!("{full:.1} MiB: {:.1} KiB per object", (full - empty) * 1024.0 / SETTLED as f64),
    );
    page.at_most("growth", full - empty, MOST_MIB_FOR_SETTLED, " MiB");

    let _worker = world.worker_of(&binaries::worker_optimised().unwrap(), &[]).await;
    let (mut accepted, mut completed) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES {
        let name = format!("new-{number}");
        let begun = Instant::now();
        api.create(&PostParams::default(), &orchestration(&name, "Echo", json!("any"))).await.unwrap();
        until(&api, &name, |status| status.execution_id.is_some()).await;
        accepted.push(begun.elapsed());
        until(&api, &name, |status| status.settled).await;
        completed.push(begun.elapsed());
    }
    page.line(format!("start of a new object with {SETTLED} present: create to Enqueued, median (aim: under 1 s)"), show(median(accepted)));
    page.line("create to Complete, median", show(median(completed)));
    if flat {
        flat_for_an_hour(page, &world, &operator).await;
    }
}

/// As many polls as an hour has, at a tenth of the interval.
async fn flat_for_an_hour(page: &mut Page, world: &World, operator: &OperatorProcess) {
    const WAITING: usize = 40;
    world.task_hub_with(&json!({"polling": {"minInterval": SHORT_INTERVAL}}));
    let api = world.orchestrations();
    for number in 0..WAITING {
        api.create(&PostParams::default(), &orchestration(&format!("waiting-{number}"), "Approval", json!("any"))).await.unwrap();
    }
    let scans = async || operator.counter("durable_operator_poller_scans_total", &[]).await;
    let reach = async |count: u64| {
        eventually_within(LIMIT * 4, "polls", async || match scans().await {
            made if made >= count => Ok(()),
            made => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err(format!("{made} scans"))
            }
        })
        .await;
    };
    let begun = scans().await;
    // What the first scans need is not what an hour of them adds.
    reach(begun + POLLS_OF_AN_HOUR / 20).await;
    let first = mib(operator);
    reach(begun + POLLS_OF_AN_HOUR).await;
    page.at_most(&format!("growth of resident memory over {POLLS_OF_AN_HOUR} polls"), mib(operator) - first, FLAT_WITHIN_MIB, " MiB");
}

/// An object as a run leaves it, written without an operator.
async fn settled(api: &Api<Orchestration>, name: &str) {
    let mut object =
        api.create(&PostParams::default(), &orchestration(name, "HelloSequence", json!("x".repeat(INPUT_BYTES)))).await.unwrap();
    object.status = Some(settled_status(name));
    api.replace_status(name, &PostParams::default(), &object).await.unwrap();
}

fn settled_status(name: &str) -> OrchestrationStatus {
    let now = "2026-11-24T12:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Completed", "message": "the orchestration has completed", "lastTransitionTime": now, "observedGeneration": 1});
    let status = json!({
        "observedGeneration": 1, "instanceId": name, "executionId": "0123456789abcdef0123456789abcdef", "runtimeStatus": "Completed",
        "settled": true, "createdTime": now, "lastUpdatedTime": now, "completedTime": now,
        "output": ["Hello Tokyo!", "Hello Seattle!", "Hello London!"],
        "conditions": [condition("Ready"), condition("Started"), condition("Complete")]
    });
    serde_json::from_value(status).unwrap()
}

/// From a changed wish to its message, on an operator that has nothing else to do.
async fn wish(page: &mut Page) {
    let world = world("wish").await;
    let _worker = world.worker_of(&binaries::worker_optimised().unwrap(), &[]).await;
    let proxy = world.azurite.with(Azurite::proxy).unwrap();
    let (sent, mut sends) = tokio::sync::mpsc::unbounded_channel();
    let operator = operator(&[&world]);
    operator.until_ready().await;
    world.secret(&proxy.connection_string());
    world.task_hub_with(&json!({}));
    world.hub_reason("Connected").await;
    let api = world.orchestrations();
    api.create(&PostParams::default(), &orchestration("run", "Approval", json!("any"))).await.unwrap();
    until(&api, "run", |status| status.runtime_status == Some(RuntimeStatus::Running)).await;
    proxy.rule(move |request: &Recorded| {
        if request.service == Service::Queue && request.method == "POST" {
            let _ = sent.send(Instant::now());
        }
        Fault::Pass
    });
    let mut times = Vec::new();
    for number in 0..SAMPLES {
        let (state, shown) = if number % 2 == 0 { ("Suspended", RuntimeStatus::Suspended) } else { ("Running", RuntimeStatus::Running) };
        let begun = Instant::now();
        api.patch("run", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"desiredState": state}}))).await.unwrap();
        let message = tokio::time::timeout(Duration::from_secs(30), sends.recv()).await.expect("no message").unwrap();
        times.push(message.duration_since(begun));
        until(&api, "run", |status| status.runtime_status == Some(shown) && status.pending.is_none()).await;
    }
    page.line("patch of desiredState to the message in the queue, median (aim: under 100 ms)", show(median(times.clone())));
    page.line("the longest", show(times.into_iter().max().unwrap()));
    let begun = Instant::now();
    api.patch("run", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"desiredState": "Terminated"}}))).await.unwrap();
    until(&api, "run", |status| status.settled).await;
    page.line("patch to Terminated until it is settled", show(begun.elapsed()));
}

fn mib(operator: &OperatorProcess) -> f64 {
    resident_kib(operator) as f64 / 1024.0
}
