//! Two operators and one lease: one works, the other takes over when the first is killed, stops, or is cut off.
//!
//! Real processes, real time. What is measured begins at the fault and ends when an Orchestration that was applied after it has
//! run to its end: that is what a user notices. A test binary of its own, which cargo runs by itself, and one test after the other,
//! so that nothing but the fault delays what has a limit of 3 s.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use durable_bed::binaries;
use durable_bed::guard::Signal;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use serde_json::json;
use tokio::sync::Mutex;

use crate::support::gate::Gate;
use crate::support::runs::Runs;
use crate::support::{OperatorProcess, PATIENCE, World, eventually};

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How long a failover may take when the leader could say nothing.
const FAILOVER: Duration = Duration::from_secs(20);
/// And when it stopped cleanly.
const HANDOVER: Duration = Duration::from_secs(3);

/// An operator of this identity in the lease, perhaps one that reaches the API server by a kubeconfig of its own.
fn start(world: &World, identity: &str, kubeconfig: Option<&Path>) -> OperatorProcess {
    let kubeconfig = kubeconfig.map(|file| file.to_string_lossy().into_owned());
    let mut environment = vec![("DURABLE_LEADER_ELECTION", "true"), ("DURABLE_LEASE_IDENTITY", identity)];
    environment.extend(kubeconfig.as_deref().map(|file| ("KUBECONFIG", file)));
    world.launcher(&binaries::operator().unwrap(), &environment).named(identity).start()
}

async fn until_says(operator: &OperatorProcess, what: &str) {
    eventually(&format!("/readyz says {what:?}"), async || match operator.get("/readyz").await {
        Ok((200, text)) if text.trim_end() == what => Ok(()),
        other => Err(format!("{other:?}; log:\n{}", operator.process.output())),
    })
    .await;
}

/// A leader `first`, by `kubeconfig`, and a standby `second`, on a hub that is served.
async fn pair(world: &World, kubeconfig: Option<&Path>) -> (OperatorProcess, OperatorProcess) {
    let first = start(world, "first", kubeconfig);
    until_says(&first, "ok: leader").await;
    let second = start(world, "second", None);
    until_says(&second, "ok: standby, first leads").await;
    world.ready_hub().await;
    (first, second)
}

async fn lease(world: &World) -> LeaseSpec {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    api.get("durable-operator").await.unwrap().spec.unwrap()
}

async fn is_leading(operator: &OperatorProcess) -> bool {
    operator.counter("durable_operator_leader", &[]).await == 1
}

/// Applies an Orchestration and waits for its end.
async fn run_to_its_end(world: &World, name: &str) {
    world.orchestration(name, "Echo", json!({}));
    world.reason(name, "Completed").await;
}

async fn assert_ran_once(world: &World, name: &str, activities: usize) {
    let object = world.orchestrations().get(name).await.unwrap();
    Runs::at_rest(world).await.assert_ran_once(&object, "Completed", activities);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_the_other_finishes_its_runs() {
    let _alone = ALONE.lock().await;
    let world = World::new("leader_killed").await;
    let _worker = world.worker().await;
    let (mut first, second) = pair(&world, None).await;
    run_to_its_end(&world, "before").await;
    world.orchestration("under-way", "Sleep", json!({"input": {"value": 20}}));
    world.reason("under-way", "Running").await;
    // Only one works, and everybody can see which.
    assert!(is_leading(&first).await && !is_leading(&second).await);
    assert_eq!(second.storage_requests().await.values().sum::<u64>(), 0);
    assert_eq!(second.api_writes().await.values().sum::<u64>(), 0);
    let shown = world.kubectl(&["get", "lease", "durable-operator"]);
    assert!(shown.contains("HOLDER") && shown.contains("first"), "{shown}");

    let killed = Instant::now();
    first.process.signal(Signal::Kill);
    first.process.wait(PATIENCE).unwrap();
    run_to_its_end(&world, "after").await;
    let elapsed = killed.elapsed();
    println!("killed: {elapsed:?} until a new Orchestration was completed");
    assert!(elapsed < FAILOVER, "{elapsed:?}");
    world.reason("under-way", "Completed").await;
    until_says(&second, "ok: leader").await;
    assert!(is_leading(&second).await);
    let record = lease(&world).await;
    assert_eq!((record.holder_identity.as_deref(), record.lease_transitions), (Some("second"), Some(1)));
    for name in ["before", "under-way", "after"] {
        assert_ran_once(&world, name, 0).await;
    }

    // A container that is started again in the same pod does not wait for its own lease, whoever stands by.
    let standby = start(&world, "third", None);
    until_says(&standby, "ok: standby, second leads").await;
    let mut second = second;
    second.process.signal(Signal::Kill);
    second.process.wait(PATIENCE).unwrap();
    let begun = Instant::now();
    let again = start(&world, "second", None);
    until_says(&again, "ok: leader").await;
    let elapsed = begun.elapsed();
    println!("restarted with its own identity: {elapsed:?} until it led");
    assert!(elapsed < HANDOVER, "{elapsed:?}");
    assert_eq!(lease(&world).await.lease_transitions, Some(1), "it is the same holder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_at_once() {
    let _alone = ALONE.lock().await;
    let world = World::new("leader_stops").await;
    let _worker = world.worker().await;
    let (mut first, second) = pair(&world, None).await;
    world.orchestration("under-way", "Sleep", json!({"input": {"value": 20}}));
    world.reason("under-way", "Running").await;

    let asked = Instant::now();
    first.process.signal(Signal::Term);
    run_to_its_end(&world, "after").await;
    let elapsed = asked.elapsed();
    println!("stopped: {elapsed:?} until a new Orchestration was completed");
    assert_eq!(first.process.wait(PATIENCE).unwrap().code(), Some(0), "{}", first.process.output());
    assert!(elapsed < HANDOVER, "{elapsed:?}");
    world.reason("under-way", "Completed").await;
    for name in ["under-way", "after"] {
        assert_ran_once(&world, name, 0).await;
    }

    // The last one leaves a lease that nobody holds, and a standby that stops leaves the leader alone.
    let mut standby = start(&world, "third", None);
    until_says(&standby, "ok: standby, second leads").await;
    standby.process.signal(Signal::Term);
    assert_eq!(standby.process.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(lease(&world).await.holder_identity.as_deref(), Some("second"));
    let mut second = second;
    second.process.signal(Signal::Term);
    assert_eq!(second.process.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(lease(&world).await.holder_identity.unwrap_or_default(), "");
}

/// The hard case: packets of the leader get lost, and nobody tells it. It must have ended before the other begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_has_ended_before_the_other_begins() {
    let _alone = ALONE.lock().await;
    let world = World::new("leader_cut_off").await;
    let _worker = world.worker().await;
    let (gate, kubeconfig) = Gate::before_api_server(&world, "first").await;
    let (mut first, second) = pair(&world, Some(&kubeconfig)).await;
    world.orchestration("under-way", "Sleep", json!({"input": {"value": 20}}));
    world.reason("under-way", "Running").await;
    assert!(first.storage_requests().await.values().sum::<u64>() > 0);

    let cut = Instant::now();
    gate.fall_silent();
    let end_of_first = tokio::task::spawn_blocking(move || {
        let ended = first.process.wait(PATIENCE).unwrap();
        (ended, Timestamp::now(), cut.elapsed(), first)
    });
    world.orchestration("after", "Echo", json!({}));
    // While it lasts, the other does nothing.
    while !end_of_first.is_finished() {
        assert_eq!(second.storage_requests().await.values().sum::<u64>(), 0, "both work");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (ended, ended_at, held_on, first) = end_of_first.await.unwrap();
    let output = first.process.output();
    assert_eq!(ended.code(), Some(1), "{output}");
    assert!(output.contains("not renewed for 8s") && output.contains("another may work now"), "{output}");
    world.reason("after", "Completed").await;
    let elapsed = cut.elapsed();
    let began = lease(&world).await.acquire_time.unwrap().0;
    let between = began.duration_since(ended_at);
    println!("cut off: ended after {held_on:?}, the other began {between:#} later, {elapsed:?} until a new Orchestration was completed");
    assert!(between.is_positive(), "both led: the first ended at {ended_at}, the other began at {began}");
    assert!(elapsed < FAILOVER, "{elapsed:?}");
    world.reason("under-way", "Completed").await;
    for name in ["under-way", "after"] {
        assert_ran_once(&world, name, 0).await;
    }

    // Started again, as the kubelet does, it stands by.
    gate.open();
    let again = start(&world, "first", Some(&kubeconfig));
    until_says(&again, "ok: standby, second leads").await;
}

/// As long as a restart of the API server takes. It begins when the leader has just renewed, which leaves it the most of its 8 s;
/// the worst moment is in the constants of `src/lease/`, and a unit test adds them up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_for_five_seconds_costs_no_lease() {
    let _alone = ALONE.lock().await;
    let world = World::new("api_server_away").await;
    let _worker = world.worker().await;
    let (gate, kubeconfig) = Gate::before_api_server(&world, "both").await;
    let first = start(&world, "first", Some(&kubeconfig));
    until_says(&first, "ok: leader").await;
    let second = start(&world, "second", Some(&kubeconfig));
    until_says(&second, "ok: standby, first leads").await;
    world.ready_hub().await;
    let renewed = lease(&world).await.renew_time;
    eventually("it is renewed", async || if lease(&world).await.renew_time == renewed { Err(format!("{renewed:?}")) } else { Ok(()) })
        .await;
    gate.close();
    tokio::time::sleep(Duration::from_secs(5)).await;
    gate.open();
    let reopened = Instant::now();
    run_to_its_end(&world, "after").await;
    let seen_after = reopened.elapsed();
    println!("API server away for 5 s: {seen_after:?} until a new Orchestration was completed");
    // Long enough for the other to have taken over, had it been able to.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let record = lease(&world).await;
    assert_eq!((record.holder_identity.as_deref(), record.lease_transitions), (Some("first"), Some(0)));
    assert!(is_leading(&first).await && !is_leading(&second).await);
    assert_eq!(second.storage_requests().await.values().sum::<u64>(), 0);
    let output = first.process.output();
    assert!(output.contains("the lease was not renewed; trying again"), "it never noticed: {output}");
}
