//! How instances are followed: many by scans, few by reads, and no hub at the cost of another.

use std::time::{Duration, Instant};

use durable_bed::proxy::Fault;
use durable_bed::{binaries, proxy};
use durable_operator::api::v1alpha1::Orchestration;
use durable_taskhub::Time;
use durable_taskhub::names::{HubName, escape_key};
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Condition, Entity};
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::support::growth::growth;
use crate::support::{OperatorProcess, World, bed, eventually};

impl World {
    /// Orchestrations `{prefix}-0` and so on, of `function` on the TaskHub `hub`.
    fn many(&self, prefix: &str, hub: &str, function: &str, input: &Value, count: usize) {
        let object = |number: usize| {
            json!({
                "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": format!("{prefix}-{number}")},
                "spec": {"taskHubRef": {"name": hub}, "functionName": function, "input": {"value": input}}
            })
        };
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": (0..count).map(object).collect::<Vec<_>>()}));
    }

    /// Waits until `count` objects whose name begins with `prefix` are as `wanted`; those.
    async fn until_all(&self, what: &str, prefix: &str, count: usize, wanted: impl Fn(&Orchestration) -> bool) -> Vec<Orchestration> {
        eventually(what, async || {
            let list = self.orchestrations().list(&ListParams::default()).await.unwrap();
            let named = |object: &Orchestration| object.metadata.name.as_deref().unwrap_or_default().starts_with(prefix);
            let found: Vec<_> = list.items.into_iter().filter(|object| named(object) && wanted(object)).collect();
            if found.len() == count { Ok(found) } else { Err(format!("{} of {count}", found.len())) }
        })
        .await
    }

    fn hub_at(&self, name: &str, hub_name: &HubName, connection_string: &str) {
        let secret = format!("{name}-storage");
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "stringData": {"connectionString": connection_string}
        }));
        self.apply(&json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": name},
            "spec": {
                "hubName": hub_name.as_str(), "connection": {"connectionStringSecretRef": {"name": secret, "key": "connectionString"}},
                "polling": {"minInterval": "200ms", "maxInterval": "1s"}
            }
        }));
    }
}

fn name(object: &Orchestration) -> String {
    object.metadata.name.clone().unwrap()
}

fn instance_id(object: &Orchestration) -> String {
    object.status.as_ref().and_then(|status| status.instance_id.clone()).unwrap_or_default()
}

fn is_running(object: &Orchestration) -> bool {
    reason(object).is_some_and(|reason| reason == "Running")
}

fn is_settled(object: &Orchestration) -> bool {
    object.status.as_ref().is_some_and(|status| status.settled)
}

fn reason(object: &Orchestration) -> Option<&str> {
    let ready = object.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(&ready.reason)
}

#[derive(Debug)]
struct Cost {
    scans: u64,
    pages: u64,
    rows: u64,
    reads: u64,
}

async fn cost(operator: &OperatorProcess) -> Cost {
    let counter = async |name: &str| operator.counter(&format!("durable_operator_poller_{name}_total"), &[]).await;
    Cost { scans: counter("scans").await, pages: counter("pages").await, rows: counter("rows").await, reads: counter("reads").await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_instances_are_followed_by_scans() {
    const WAITING: usize = 150;
    const SLEEPING: usize = 50;
    const AGAIN: usize = 200;
    const WINDOW: Duration = Duration::from_secs(5);
    let world = World::new("poller_many").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.ready_hub().await;
    world.many("waiting", "hub", "Approval", &json!("any"), WAITING);
    world.many("sleeping", "hub", "Sleep", &json!(3), SLEEPING);
    world.until_all("those that sleep settle", "sleeping", SLEEPING, is_settled).await;
    let waiting = world.until_all("those that wait for an event run", "waiting", WAITING, is_running).await;

    let (before, writes) = (cost(&operator).await, operator.api_writes().await);
    // The window is what is measured.
    tokio::time::sleep(WINDOW).await;
    let after = cost(&operator).await;
    println!("{WAITING} waiting in {WINDOW:?}: {before:?}, then {after:?}");
    assert!(after.scans - before.scans >= 5, "{before:?} {after:?}");
    assert!(after.pages - before.pages <= 60, "{before:?} {after:?}");
    assert!(after.rows - before.rows < (after.scans - before.scans) * WAITING as u64, "all rows again and again: {before:?} {after:?}");
    assert!(after.reads - before.reads <= 10, "they are read one by one: {before:?} {after:?}");
    let mut grown = growth(&writes, &operator.api_writes().await);
    // Its counts are the TaskHub's, once in ten seconds at most.
    grown.retain(|series, _| !series.contains("taskhubs/status"));
    assert_eq!(grown, Default::default());

    // Down to none, through the change from scans to reads.
    let hub = world.hub().await;
    let begun = Instant::now();
    for object in &waiting {
        hub.raise_event(&instance_id(object), "Approval", Some("true")).await.unwrap();
    }
    world.until_all("those that waited settle", "waiting", WAITING, is_settled).await;
    println!("{WAITING} events raised and shown in {:?}: {:?}", begun.elapsed(), cost(&operator).await);
    eventually("nothing is followed any more", async || {
        let tracked = operator.counter("durable_operator_poller_tracked_instances", &[]).await;
        let scanning = operator.counter("durable_operator_poller_scanning_hubs", &[]).await;
        if tracked == 0 && scanning == 0 { Ok(()) } else { Err(format!("{tracked} tracked, {scanning} scanned")) }
    })
    .await;

    // A new operator finds out with a few pages what there is, and not by reading each.
    drop(operator);
    world.many("again", "hub", "Approval", &json!("any"), AGAIN);
    let first = world.operator().await;
    world.until_all("they run", "again", AGAIN, is_running).await;
    first.process.stop(Duration::from_secs(10)).unwrap();
    let second = world.operator().await;
    let seen = eventually("all are followed", async || {
        let tracked = second.counter("durable_operator_poller_tracked_instances", &[]).await;
        let cost = cost(&second).await;
        if tracked == AGAIN as u64 && cost.scans >= 3 { Ok(cost) } else { Err(format!("{tracked} tracked, {cost:?}")) }
    })
    .await;
    println!("{AGAIN} running at the start: {seen:?}");
    assert!(seen.reads < AGAIN as u64 / 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_do_not_hide_what_was_deleted() {
    const COUNT: usize = 40;
    let world = World::new("poller_deleted").await;
    // The 5 minutes between two reads of a scanned instance become 15 s, the 30 s of the proof 1.5 s.
    let operator = world.start_operator(&binaries::operator_with_crash_points().unwrap(), &[("DURABLE_TIME_SCALE", "20")]);
    operator.until_ready().await;
    world.ready_hub().await;
    world.many("run", "hub", "Echo", &json!("any"), COUNT);
    let started = world.until_all("all are accepted", "run", COUNT, |object| !instance_id(object).is_empty()).await;
    eventually("the hub is scanned", async || match cost(&operator).await {
        Cost { scans: 3.., .. } => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let instances = world.storage().table(&world.hub_name.instances_table());
    let (gone, changed) = (instance_id(&started[7]), instance_id(&started[8]));
    assert!(instances.delete(&escape_key(&gone), "", Condition::Any).await.unwrap());
    world.reason(&name(&started[7]), "InstanceMissing").await;
    let row = Entity::new(escape_key(&changed), "")
        .with("RuntimeStatus", "Completed")
        .with("Output", "1")
        .with("LastUpdatedTime", Time::now())
        .with("CompletedTime", Time::now());
    instances.merge(&row, Condition::Any).await.unwrap();
    let changed_at = Instant::now();
    world.reason(&name(&started[8]), "Completed").await;
    println!("shown after {:?}", changed_at.elapsed());
    eventually("the others are still followed", async || match operator.counter("durable_operator_poller_tracked_instances", &[]).await {
        tracked if tracked == COUNT as u64 - 2 => Ok(()),
        tracked => Err(format!("{tracked} tracked")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_does_not_answer_delays_no_other() {
    const SICK: usize = 40;
    // More than the controller works on at once.
    const MORE: usize = 60;
    let world = World::new("poller_sick").await;
    let _worker = world.worker().await;
    let operator = world.operator().await;
    world.ready_hub().await;
    let sick_hub = HubName::new(&format!("{}Sick", world.hub_name)).unwrap();
    durable_worker::create::create_hub(&world.storage(), &sick_hub, PartitionCount::DEFAULT).await.unwrap();
    let proxy = bed().azurite.proxy().unwrap();
    world.hub_at("sick", &sick_hub, &proxy.connection_string());
    world.many("sick", "sick", "Echo", &json!("any"), SICK);
    let sick = world.until_all("those of the sick hub are accepted", "sick", SICK, |object| !instance_id(object).is_empty()).await;
    let instances = world.storage().table(&sick_hub.instances_table());

    for (number, (what, fault)) in
        [("busy", Fault::Answer(429, "TooManyRequests")), ("silent", Fault::Delay(Duration::from_secs(3600)))].into_iter().enumerate()
    {
        proxy.clear();
        proxy.rule({
            let fault = fault.clone();
            move |_: &proxy::Recorded| fault.clone()
        });
        // The sick hub has starts to fail, and the change of one of its instances to miss.
        let more = format!("more-{what}");
        world.many(&more, "sick", "Echo", &json!("any"), MORE);
        let ended = instance_id(&sick[number]);
        let row = Entity::new(escape_key(&ended), "").with("RuntimeStatus", "Completed").with("Output", "1");
        instances.merge(&row.with("CompletedTime", Time::now()), Condition::Any).await.unwrap();
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        for run in 0..5 {
            let name = format!("well-{what}-{run}");
            let begun = Instant::now();
            world.orchestration(&name, "Echo", json!({}));
            world.reason(&name, "Completed").await;
            slowest = slowest.max(begun.elapsed());
        }
        println!("{what}: the slowest of the other hub took {slowest:?}");
        // A request to the silent hub is given up after 10 s: who waited behind one took longer.
        assert!(slowest < Duration::from_secs(10), "{what}: {slowest:?}");
        if what == "busy" {
            // It is asked seldom while it asks for fewer requests.
            eventually("the hub is left alone", async || {
                if begun.elapsed() > Duration::from_secs(8) { Ok(()) } else { Err("measuring".to_owned()) }
            })
            .await;
            let requests = proxy.requests().len();
            println!("{requests} requests to the busy hub in {:?}", begun.elapsed());
            assert!(requests > 0 && requests < 60, "{requests} requests");
            let answers = operator.counter("durable_operator_limiter_throttled_total", &["cause=\"answer\""]).await;
            assert!(answers > 0);
        }
        let name = name(&sick[number]);
        assert!(!is_settled(&world.orchestrations().get(&name).await.unwrap()), "{name}");
        proxy.rule(|_: &proxy::Recorded| Fault::Pass);
        world.reason(&name, "Completed").await;
        world.until_all("what was asked for meanwhile is done", &more, MORE, |object| !instance_id(object).is_empty()).await;
    }
}
