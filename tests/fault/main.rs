//! Everything goes wrong at once: the operator is killed every two seconds, storage fails or loses answers at a fifth of the
//! requests, the API server restarts; and of 1,000 starts none is lost, doubled or stuck.
//!
//! The hub's history is the judge. Only after it has spoken the status is compared with it.
//!
//! A test binary of its own, which cargo runs by itself, so that nothing but the faults delays what has to happen within two
//! seconds. Beside the other integration tests, on two cores, the operator hardly lived between its kills.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use durable_bed::azurite::Azurite;
use durable_bed::control_plane::ControlPlane;
use durable_bed::guard::Signal;
use durable_bed::proxy::{Fault, Recorded};
use durable_bed::{assets, binaries};
use durable_operator::api::v1alpha1::{Orchestration, OrchestrationStatus, RuntimeStatus};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::runs::{Runs, identity};
use crate::support::{Launcher, Server, World, eventually_within, install};

const STARTS: usize = 1000;
/// Objects of one `kubectl apply`.
const APPLIED_AT_ONCE: usize = 125;
/// One of so many is terminated.
const TERMINATED_OF: usize = 5;
/// From its launch.
const KILLED_EVERY: Duration = Duration::from_secs(2);
/// On a machine that is so busy that it takes longer to come up, it lives a moment all the same: else nothing could go wrong.
const LIVES_AT_LEAST: Duration = Duration::from_millis(500);
/// One of so many requests to storage fails.
const FAILS_OF: u64 = 5;
/// How long the starts may take under all that, and how long the rest may take after it.
const LIMIT: Duration = Duration::from_secs(240);

/// What object `number` runs: its function, input, and activities.
fn run(number: usize) -> (&'static str, Value, usize) {
    match (number % TERMINATED_OF, number / TERMINATED_OF % 4) {
        // Before it starts, or soon after.
        (0, 2) | (4, _) => ("HelloSequence", json!("any"), 3),
        (0, _) => ("Approval", json!("any"), 0),
        _ => ("Echo", json!(number), 0),
    }
}

/// True if object `number` is terminated right after it was applied, so that it may not have started; else it is while it runs.
fn is_terminated_early(number: usize) -> bool {
    (number / TERMINATED_OF).is_multiple_of(2)
}

fn name(number: usize) -> String {
    format!("run-{number}")
}

/// Kills the operator and starts it again until it is told to stop.
struct Killer {
    stop: Arc<AtomicBool>,
    kills: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Killer {
    fn start(launcher: Launcher) -> Killer {
        let (stop, kills) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (of_thread, counted) = (stop.clone(), kills.clone());
        let thread = std::thread::spawn(move || {
            while !of_thread.load(Ordering::Relaxed) {
                let launched = Instant::now();
                let mut operator = launcher.start();
                while !is_ready(operator.admin) && !of_thread.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                std::thread::sleep(KILLED_EVERY.saturating_sub(launched.elapsed()).max(LIVES_AT_LEAST));
                assert!(operator.process.ended().is_none(), "it ended by itself: {}", operator.process.output());
                operator.process.signal(Signal::Kill);
                operator.process.wait(Duration::from_secs(10)).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Killer { stop, kills, thread }
    }

    /// How often the operator was killed. None runs any more.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.kills.load(Ordering::Relaxed)
    }
}

/// `/readyz`, asked from a thread without a runtime.
fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: admin\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1) == Some("200"))
    };
    ask().unwrap_or(false)
}

/// Which requests fail, and how: the same ones in each run, as far as requests come in the same order.
fn faults() -> impl FnMut(&Recorded) -> Fault + Send + 'static {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |_| {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if !state.is_multiple_of(FAILS_OF) {
            return Fault::Pass;
        }
        // After 429 and 503 the hub is left alone for a moment, as it should be: with many of them little else would happen.
        match (state / FAILS_OF) % 16 {
            0 => Fault::Answer(429, "TooManyRequests"),
            1 => Fault::Answer(503, "ServerBusy"),
            2 | 3 => Fault::Answer(500, "InternalError"),
            4..=6 => Fault::AnswerAfter(500, "InternalError"),
            7..=9 => Fault::CutBefore,
            _ => Fault::CutAfter,
        }
    }
}

impl World {
    /// `kubectl apply` until it is accepted: the API server may be away.
    async fn apply_in_the_end(&self, what: &str, object: &Value) {
        eventually_within(LIMIT, what, async || match self.try_apply(object) {
            answer if answer.success => Ok(()),
            answer => Err(answer.errors),
        })
        .await;
    }

    async fn terminate_in_the_end(&self, number: usize) {
        let (api, patch) = (self.orchestrations(), json!({"spec": {"desiredState": "Terminated"}}));
        eventually_within(LIMIT, "desiredState is patched", async || {
            let patched = api.patch(&name(number), &PatchParams::default(), &Patch::Merge(&patch)).await;
            patched.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
}

fn batch(first: usize) -> Value {
    let object = |number: usize| {
        let (function, input, _) = run(number);
        json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": name(number)},
            "spec": {"taskHubRef": {"name": "hub"}, "functionName": function, "input": {"value": input}}
        })
    };
    let items: Vec<_> = (first..STARTS.min(first + APPLIED_AT_ONCE)).map(object).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

async fn orchestrations(world: &World) -> Vec<Orchestration> {
    world.orchestrations().list(&ListParams::default()).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_stuck_when_everything_fails() {
    let begun = Instant::now();
    let (assets, program) = (assets::ensure().unwrap(), binaries::operator().unwrap());
    binaries::worker().unwrap();
    let control_plane = ControlPlane::start(&assets).unwrap();
    install(&control_plane);
    let world = World::on("fault", Server::own(control_plane), Server::own(Azurite::start_in_memory(&assets).unwrap()));
    world.create_hub().await;
    let _worker = world.worker().await;
    let proxy = world.azurite.with(Azurite::proxy).unwrap();
    world.secret(&proxy.connection_string());
    world.task_hub();
    proxy.rule(faults());
    let killer = Killer::start(world.launcher(&program, &[]));

    for first in (0..STARTS).step_by(APPLIED_AT_ONCE) {
        world.apply_in_the_end("the objects are applied", &batch(first)).await;
        if first == STARTS / 2 {
            world.control_plane.change(ControlPlane::interrupt_api_server);
            tokio::task::block_in_place(|| world.control_plane.change(ControlPlane::resume_api_server)).unwrap();
        }
        for number in (first..first + APPLIED_AT_ONCE).filter(|number| number.is_multiple_of(TERMINATED_OF) && is_terminated_early(*number))
        {
            world.terminate_in_the_end(number).await;
        }
    }
    println!("all were applied after {:?}", begun.elapsed());
    // It goes on until nearly all were started under these conditions, and nearly all of those that shall be terminated while
    // they run were.
    let mut late: Vec<usize> = (0..STARTS).filter(|number| number.is_multiple_of(TERMINATED_OF) && !is_terminated_early(*number)).collect();
    eventually_within(LIMIT, "nine of ten are started, and of those that shall be while they run nine of ten terminated", async || {
        let objects = world.orchestrations().list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let known: BTreeMap<String, OrchestrationStatus> =
            objects.into_iter().filter_map(|object| Some((object.metadata.name?, object.status?))).collect();
        let (now, not_yet): (Vec<usize>, Vec<usize>) = late.drain(..).partition(|number| {
            known.get(&name(*number)).is_some_and(|status| status.settled || status.runtime_status == Some(RuntimeStatus::Running))
        });
        late = not_yet;
        for number in now {
            world.terminate_in_the_end(number).await;
        }
        let started = known.values().filter(|status| status.settled || status.execution_id.is_some()).count();
        if late.len() <= STARTS / TERMINATED_OF / 2 / 10 && started >= STARTS * 9 / 10 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        Err(format!("{started} are started, {} do not run yet", late.len()))
    })
    .await;
    for number in late {
        world.terminate_in_the_end(number).await;
    }
    let kills = killer.stop();
    let requests = proxy.requests();
    let lost = requests.iter().filter(|request| request.is_write() && request.status.is_none()).count();
    println!("{kills} kills, {} requests to storage, {lost} writes cut; after {:?}", requests.len(), begun.elapsed());
    assert!(kills >= 10 && lost >= 100, "{kills} kills, {lost} writes cut: the test shows nothing");
    proxy.rule(|_: &Recorded| Fault::Pass);

    let operator = world.launcher(&program, &[]).start();
    operator.until_ready().await;
    let objects = eventually_within(LIMIT, "all settle", async || {
        let objects = orchestrations(&world).await;
        let stuck: Vec<_> = objects.iter().filter(|object| object.status.as_ref().is_none_or(|status| !status.settled)).collect();
        if objects.len() == STARTS && stuck.is_empty() {
            return Ok(objects);
        }
        Err(format!(
            "{} of {STARTS} are not settled, the first: {:?}",
            stuck.len(),
            stuck.first().map(|object| (identity(object).0, &object.status))
        ))
    })
    .await;
    println!("all are settled after {:?}", begun.elapsed());
    let runs = Runs::at_rest(&world).await;
    let (mut never_started, mut terminated) = (0, 0);
    let mut expected = Vec::new();
    for object in &objects {
        let (id, _) = identity(object);
        let number: usize = object.metadata.name.as_deref().unwrap().trim_start_matches("run-").parse().unwrap();
        let (function, _, activities) = run(number);
        let is_terminated = number.is_multiple_of(TERMINATED_OF);
        let status = object.status.as_ref().unwrap();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        if is_terminated && runs.column(&id, "RuntimeStatus").is_none() {
            // It was terminated before it was started: there is nothing of it in the hub, and it says so.
            assert!(status.instance_id.is_none() && status.execution_id.is_none(), "{id}: {status:?}");
            assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Terminated"), "{id}: {status:?}");
            never_started += 1;
            continue;
        }
        expected.push(id.clone());
        let ended = runs.assert_started_once(object);
        match (is_terminated, ended.as_str()) {
            (true, "Terminated") => terminated += 1,
            (true, "Completed") if function != "Approval" => runs.assert_ran_once(object, "Completed", activities),
            (false, _) => runs.assert_ran_once(object, "Completed", activities),
            other => panic!("{id}, {function}: {other:?}"),
        }
        // What is shown is what the hub says.
        assert_eq!(serde_json::to_value(status.runtime_status).unwrap(), json!(ended), "{id}: {status:?}");
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", ended.as_str()), "{id}: {status:?}");
        assert!(status.pending.is_none(), "{id}: {status:?}");
        if function == "Echo" {
            let output = runs.column(&id, "Output");
            assert_eq!(output, Some(number.to_string()), "{id}");
            assert_eq!(status.output.as_ref().map(|output| output.text().to_owned()), output, "{id}");
        }
    }
    // Nobody's rows, and nobody's history.
    expected.sort();
    assert_eq!(runs.instances(), expected);
    assert_eq!(runs.instances_with_history(), expected);
    println!("{never_started} were terminated before they were started, {terminated} while they ran; in all {:?}", begun.elapsed());
    assert!(never_started > 0 && terminated > 0, "{never_started} and {terminated}: the test shows less than it says");
}
