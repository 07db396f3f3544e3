//! Finding changed instances: what is found, in which range, and for how many requests.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use durable_taskhub::changes::{ChangesRequest, InstanceKey, KeyRange};
use durable_taskhub::names::{InstanceId, escape_key};
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Admission, Answered, Condition, Entity, NotAdmitted, Operation, StorageErrorKind};
use durable_taskhub::{RuntimeStatus, TaskHub, Time};

use crate::support::{World, counted};

/// All pages: the IDs, and how many requests they took.
async fn scan(hub: &TaskHub, mut request: ChangesRequest) -> (Vec<String>, usize) {
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let page = hub.changes(&request).await.unwrap();
        assert!(page.date.is_some());
        ids.extend(page.changes.into_iter().map(|change| change.instance.id));
        pages += 1;
        request.continuation = page.continuation;
        if request.continuation.is_none() {
            return (ids, pages);
        }
    }
}

fn start(id: &str) -> StartRequest {
    StartRequest { instance_id: InstanceId::new(id).unwrap(), ..StartRequest::new("Echo") }
}

fn since(time: Time) -> ChangesRequest {
    ChangesRequest { since: Some(time), ..ChangesRequest::default() }
}

#[tokio::test]
async fn what_was_written_since_is_found_by_the_services_clock() {
    let world = World::new().await;
    // What a worker's clock says is of no interest: these are years off, both ways.
    for (id, worker_says) in [("a/1", "2001-01-01T00:00:00Z"), ("it's", "2101-01-01T00:00:00Z"), ("日本\t語", "2026-01-01T00:00:00Z")] {
        world.instance_of(id, "Pending", 0, "Echo", Time::parse(worker_says).unwrap()).await;
    }
    world.instance("@counter@k", "Running", 0).await;
    let (proxy, hub) = world.proxied().await;
    let page = hub.changes(&ChangesRequest { columns: vec!["KubernetesOwner".into()], ..ChangesRequest::default() }).await.unwrap();
    assert_eq!(counted(&proxy.requests()), "1 GET Table");
    let found: Vec<&str> = page.changes.iter().map(|change| change.instance.id.as_str()).collect();
    assert_eq!((found, page.rows), (vec!["a/1", "it's", "日本\t語"], 4));
    assert!(page.changes.iter().all(|change| change.instance.input.is_none() && change.instance.etag.is_some()));
    let latest = page.changes.iter().filter_map(|change| change.written_at).max().unwrap();

    // The row's version is the one that a point read gives: what was seen both ways is known to be the same.
    let read = hub.get_without_input("it's", &[]).await.unwrap().unwrap();
    assert_eq!(read.etag, page.changes[1].instance.etag);

    // The emulator compares milliseconds.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let later = latest.saturating_add(Duration::from_millis(10));
    assert_eq!(scan(&hub, since(later)).await, (vec![], 1));
    let change = Entity::new(escape_key("it's"), "").with("RuntimeStatus", "Running").with("KubernetesOwner", "n/o/u");
    world.table("Instances").merge(&change, Condition::Any).await.unwrap();
    let request = ChangesRequest { columns: vec!["KubernetesOwner".into()], ..since(later) };
    let changed = hub.changes(&request).await.unwrap().changes;
    assert_eq!(changed.len(), 1, "{changed:?}");
    let instance = &changed[0].instance;
    assert_eq!((instance.id.as_str(), instance.runtime_status), ("it's", RuntimeStatus::Running));
    assert_eq!(instance.column("KubernetesOwner"), Some("n/o/u"));
    assert!(changed[0].written_at > Some(latest) && instance.etag != read.etag);

    // A start by another client is a change too.
    hub.start(start("zz")).await.unwrap();
    assert_eq!(scan(&hub, since(later)).await, (vec!["it's".to_owned(), "zz".to_owned()], 1));
}

#[tokio::test]
async fn ranges_are_half_open_and_pages_are_followed() {
    let world = World::new().await;
    let ids: Vec<String> = (0..1100).map(|number| format!("run-{number:04}")).collect();
    for id in ["run-", "run-1099 ", "run-1099x", "sun"].into_iter().chain(ids.iter().map(String::as_str)) {
        let row = Entity::new(escape_key(id), "").with("Name", "Echo").with("RuntimeStatus", "Pending");
        world.table("Instances").transaction(&[Operation::Insert(row)]).await.unwrap();
    }
    let (proxy, hub) = world.proxied().await;
    let spanning = |first: &str, last: &str| KeyRange::spanning(InstanceKey::of(first), &InstanceKey::of(last));
    let request = ChangesRequest { range: Some(spanning("run-0000", "run-1099")), ..ChangesRequest::default() };
    assert_eq!(scan(&hub, request).await, (ids.clone(), 2));
    assert_eq!(counted(&proxy.requests()), "2 GET Table");
    let one = ChangesRequest { range: Some(spanning("run-0007", "run-0007")), ..ChangesRequest::default() };
    assert_eq!(scan(&hub, one).await, (vec!["run-0007".to_owned()], 1));
    let tricky = ChangesRequest { range: Some(spanning("' or PartitionKey ne '", "' or PartitionKey ne '")), ..ChangesRequest::default() };
    assert_eq!(scan(&hub, tricky).await, (vec![], 1));
}

#[derive(Default)]
struct Gatekeeper {
    asked: AtomicU32,
    answered: AtomicU32,
    shut: bool,
}

impl Admission for Gatekeeper {
    fn admit(&self) -> Pin<Box<dyn Future<Output = Result<(), NotAdmitted>> + Send + '_>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { if self.shut { Err(NotAdmitted) } else { Ok(()) } })
    }

    fn answered(&self, answer: Answered) {
        assert!(answer.status.is_some());
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_second_client_of_a_hub_asks_its_own_admission() {
    let world = World::new().await;
    let (proxy, hub) = world.proxied().await;
    let open = Arc::new(Gatekeeper::default());
    let polls = hub.with_admission(Some(open.clone())).unwrap();
    polls.start(start("one")).await.unwrap();
    assert_eq!(counted(&proxy.requests()), "1 POST Queue, 1 POST Table");
    assert_eq!((open.asked.load(Ordering::Relaxed), open.answered.load(Ordering::Relaxed)), (2, 2));
    // Starts of a second of both clients are counted together: a control message must not sort before one.
    hub.start(start("two")).await.unwrap();
    assert_eq!(open.asked.load(Ordering::Relaxed), 2);
    let numbers: Vec<bool> = [1, 2]
        .map(|number| {
            let wanted = format!("\"SequenceNumber\":{number}");
            proxy.requests().iter().filter(|request| request.path.ends_with("/messages")).any(|request| {
                use base64::Engine as _;
                let body = String::from_utf8_lossy(&request.body).into_owned();
                let text = body.split_once("<MessageText>").and_then(|(_, rest)| rest.split_once('<')).map(|(text, _)| text).unwrap();
                let decoded = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec());
                String::from_utf8_lossy(&decoded).contains(&wanted)
            })
        })
        .into();
    assert_eq!(numbers, [true, true]);

    proxy.clear();
    let shut = hub.with_admission(Some(Arc::new(Gatekeeper { shut: true, ..Gatekeeper::default() }))).unwrap();
    let error = shut.get("one").await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (StorageErrorKind::Throttled, None));
    assert!(error.to_string().contains("held back before it was sent"), "{error}");
    assert!(proxy.requests().is_empty());
}
