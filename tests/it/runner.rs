//! The runner on a real API server: kube's traps (`src/controllers/runner.rs`) stay closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use durable_bed::assets;
use durable_bed::control_plane::ControlPlane;
use durable_operator::api::v1alpha1::{Orchestration, OrchestrationStatus};
use durable_operator::controllers::status::{self, Written};
use futures::future::join_all;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::support::World;
use crate::support::gate::Gate;
use crate::support::probe::{Limits, Object, run};

fn orchestration(name: &str) -> Orchestration {
    let spec = serde_json::from_value(serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo"})).unwrap();
    Orchestration::new(name, spec)
}

async fn create(api: &Api<Orchestration>, name: &str) -> String {
    api.create(&PostParams::default(), &orchestration(name)).await.unwrap().metadata.uid.unwrap()
}

/// Writes `function` of nothing into the status, as a reconcile does; the copy that came back.
async fn write_status(client: &Client, object: &Object) -> Option<Object> {
    let text = format!("seen {}", object.resource_version());
    let status = OrchestrationStatus { instance_id: Some(text), ..OrchestrationStatus::default() };
    match status::write(client, object, &status).await.unwrap() {
        Written::New(copy) => Some(*copy),
        Written::Stale => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_reaches_no_other_object_and_is_tried_again_ever_more_slowly() {
    let world = World::without_hub("panics").await;
    let running = run(&world.client, &[&world.namespace], Limits::default(), |object| {
        assert_ne!(object.name(), "bad", "made by a test");
        Box::pin(async { None })
    });
    let api = world.orchestrations();
    create(&api, "bad").await;
    let calls = running.seen.until("bad", 4).await;
    create(&api, "good").await;
    running.seen.until("good", 1).await;
    let pauses: Vec<u128> = calls.windows(2).map(|pair| (pair[1].begun - pair[0].begun).as_millis()).collect();
    // 0.25 s, 0.5 s, 1 s; a busy machine makes them longer only.
    for (pause, at_least) in pauses.iter().zip([250, 500, 1000]) {
        assert!(*pause >= at_least, "{pauses:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconcile_that_hangs_is_given_up_and_tried_again() {
    let world = World::without_hub("hangs").await;
    let limits = Limits { concurrency: 1, time_out: Duration::from_millis(300) };
    let running = run(&world.client, &[&world.namespace], limits, |object| {
        let hangs = object.name() == "bad";
        Box::pin(async move { if hangs { std::future::pending().await } else { None } })
    });
    let api = world.orchestrations();
    create(&api, "bad").await;
    running.seen.until("bad", 1).await;
    create(&api, "good").await;
    // There is one place only, and the hanging object gives it back.
    running.seen.until("good", 1).await;
    let calls = running.seen.until("bad", 3).await;
    assert!(calls[1].begun - calls[0].begun >= Duration::from_millis(300), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_objects_at_once_than_allowed() {
    const AT_ONCE: usize = 3;
    let world = World::without_hub("at_once").await;
    let api = world.orchestrations();
    for number in 0..9 {
        create(&api, &format!("o-{number}")).await;
    }
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (full, released) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let limits = Limits { concurrency: AT_ONCE as u16, ..Limits::default() };
    let running = run(&world.client, &[&world.namespace], limits, {
        let (most, full, released) = (most.clone(), full.clone(), released.clone());
        move |_| {
            let (now, most, full, released) = (now.clone(), most.clone(), full.clone(), released.clone());
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                full.add_permits(1);
                released.acquire().await.unwrap().forget();
                now.fetch_sub(1, Ordering::SeqCst);
                None
            })
        }
    });
    // All places are taken before one is given back: else the bound could not show itself.
    full.acquire_many(AT_ONCE as u32).await.unwrap().forget();
    released.add_permits(9);
    for number in 0..9 {
        running.seen.until(&format!("o-{number}"), 1).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_status_writes_cause_no_reconcile_and_changes_of_others_do() {
    let world = World::without_hub("own_writes").await;
    let running = run(&world.client, &[&world.namespace], Limits::default(), {
        let client = world.client.clone();
        move |object| {
            let client = client.clone();
            Box::pin(async move { if object.name() == "one" { write_status(&client, &object).await } else { None } })
        }
    });
    let api = world.orchestrations();
    create(&api, "one").await;
    running.seen.until("one", 1).await;
    let written = crate::support::eventually("the status is written", async || {
        let object = api.get("one").await.unwrap();
        if object.status.is_some() { Ok(object) } else { Err("no status".to_owned()) }
    })
    .await;
    // Events of one watch come in order: when the second object is seen, the status write of the first was.
    create(&api, "two").await;
    running.seen.until("two", 1).await;
    assert_eq!(running.seen.calls("one").len(), 1);

    // An annotation of ours is something to look at; another's is not.
    world.kubectl(&["annotate", "orchestration/one", "example.com/x=1"]);
    create(&api, "three").await;
    running.seen.until("three", 1).await;
    assert_eq!(running.seen.calls("one").len(), 1);
    world.kubectl(&["annotate", "orchestration/one", "durable-operator.dev/reconcile-requested-at=now"]);
    let calls = running.seen.until("one", 2).await;
    assert!(calls[1].resource_version > written.metadata.resource_version.unwrap().parse().unwrap(), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_deleted_is_forgotten_and_a_namesake_is_another() {
    let world = World::without_hub("deleted").await;
    let running = run(&world.client, &[&world.namespace], Limits::default(), |_| Box::pin(async { None }));
    let api = world.orchestrations();
    let first = create(&api, "one").await;
    running.seen.until("one", 1).await;
    api.delete("one", &DeleteParams::default()).await.unwrap();
    running.seen.until_forgotten(&first).await;
    let second = create(&api, "one").await;
    running.seen.until("one", 2).await;
    assert_ne!(first, second);
    assert_eq!(*running.seen.forgotten.lock().unwrap(), [first]);
}

/// An object may go while it is being reconciled: what the reconcile remembers afterwards must go too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_deleted_while_it_is_reconciled_is_forgotten_after_that() {
    let world = World::without_hub("deleted_meanwhile").await;
    let released = Arc::new(tokio::sync::Semaphore::new(0));
    let running = run(&world.client, &[&world.namespace], Limits::default(), {
        let released = released.clone();
        move |_| {
            let released = released.clone();
            Box::pin(async move {
                released.acquire().await.unwrap().forget();
                None
            })
        }
    });
    let api = world.orchestrations();
    let uid = create(&api, "one").await;
    running.seen.until("one", 1).await;
    api.delete("one", &DeleteParams::default()).await.unwrap();
    running.seen.until_forgotten(&uid).await;
    released.add_permits(1);
    crate::support::eventually("it is forgotten again", async || {
        let forgotten = running.seen.forgotten.lock().unwrap().clone();
        if forgotten.len() == 2 { Ok(()) } else { Err(format!("{forgotten:?}")) }
    })
    .await;
}

/// A control plane of its own, since its API server is ended and started again; the runner reaches it through a gate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_and_nothing_older_decided_on_while_the_watch_is_down() {
    // More than a page of a list, 500 objects.
    const FILLERS: usize = 520;
    let mut control_plane = ControlPlane::start(&assets::ensure().unwrap()).unwrap();
    for arguments in [
        &["apply", "--filename=crds/"][..],
        &["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"],
        &["create", "namespace", "first"],
        &["create", "namespace", "second"],
        &["create", "namespace", "third"],
    ] {
        let answer = control_plane.kubectl(arguments).unwrap();
        assert!(answer.success, "{answer:?}");
    }
    let direct = control_plane.config().unwrap();
    let address = direct.cluster_url.authority().unwrap().as_str().parse().unwrap();
    let gate = Gate::before(address).await;
    let mut through = direct.clone();
    through.cluster_url = format!("https://{}", gate.address).parse().unwrap();
    let (direct, through) = (Client::try_from(direct).unwrap(), Client::try_from(through).unwrap());
    let api = |namespace: &str| Api::<Orchestration>::namespaced(direct.clone(), namespace);
    let fillers: Vec<String> = (0..FILLERS).map(|number| format!("m-filler-{number}")).collect();
    for some in fillers.chunks(20) {
        let first = api("first");
        join_all(some.iter().map(|name| create(&first, name))).await;
    }
    let gone = create(&api("first"), "gone").await;
    create(&api("first"), "written").await;
    create(&api("second"), "stays").await;
    create(&api("third"), "ignored").await;

    // The reconciles write through the way that is never cut.
    let one = run(&through, &["first"], Limits::default(), |_| Box::pin(async { None }));
    let two = run(&through, &["first", "second"], Limits::default(), {
        let direct = direct.clone();
        move |object| {
            let direct = direct.clone();
            Box::pin(async move { if object.name() == "written" { write_status(&direct, &object).await } else { None } })
        }
    });
    for running in [&one, &two] {
        for name in ["gone", "written", "m-filler-0", "m-filler-519"] {
            running.seen.until(name, 1).await;
        }
    }
    two.seen.until("stays", 1).await;

    gate.close();
    // The store cannot learn of these writes; each reconcile must be given the copy of the write before it.
    let mut versions = vec![two.seen.calls("written")[0].resource_version];
    for count in 2..5 {
        two.trigger("first", "written");
        versions.push(two.seen.until("written", count).await[count - 1].resource_version);
    }
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "decided on an older copy: {versions:?}");

    // What happens while nobody looks, and an API server that has forgotten what came when: a new list is needed.
    api("first").delete("gone", &DeleteParams::default()).await.unwrap();
    create(&api("first"), "a-new").await;
    create(&api("third"), "ignored-too").await;
    control_plane.interrupt_api_server();
    control_plane.resume_api_server().unwrap();
    gate.open();
    for running in [&one, &two] {
        running.seen.until_forgotten(&gone).await;
        // On the first page of the new list.
        running.seen.until("a-new", 1).await;
        assert_eq!(*running.seen.forgotten.lock().unwrap(), std::slice::from_ref(&gone));
    }
    two.trigger("second", "stays");
    two.seen.until("stays", 2).await;
    for name in ["ignored", "ignored-too"] {
        assert!(two.seen.calls(name).is_empty(), "{name}");
    }
    // What did not change is not looked at again because of a new list.
    assert_eq!(one.seen.calls("m-filler-1").len(), 1);
}
